//! Kubernetes Events on pods.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use slicewire_api::labels;
use tokio::sync::mpsc;

use super::Notice;

/// Publishes notices until nobody sends any more.
pub(crate) async fn publish(client: Client, node: String, mut notices: mpsc::Receiver<Notice>) {
    let reporter = Reporter { controller: labels::DAEMON_MANAGER.to_owned(), instance: Some(node) };
    let recorder = Recorder::new(client, reporter);
    while let Some(notice) = notices.recv().await {
        let reference = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            namespace: Some(notice.namespace),
            name: Some(notice.pod),
            uid: Some(notice.uid),
            ..ObjectReference::default()
        };
        let event = Event {
            type_: if notice.warning { EventType::Warning } else { EventType::Normal },
            reason: notice.reason.to_owned(),
            // An Event's note holds a kilobyte.
            note: Some(notice.message.chars().take(1_000).collect()),
            action: "Attach".to_owned(),
            secondary: None,
        };
        if let Err(error) = recorder.publish(&event, &reference).await {
            tracing::debug!(%error, "cannot publish an Event");
        }
    }
}
