//! Kubernetes Events: where a person would look.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::Resource;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};

/// Publishes Events under one controller's name.
#[derive(Clone)]
pub(crate) struct Events {
    recorder: Recorder,
}

/// Something worth telling about an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Notice {
    /// Whether something is wrong.
    pub(crate) warning: bool,
    /// One `CamelCase` word.
    pub(crate) reason: String,
    /// What happened, and what to do when it is wrong.
    pub(crate) note: String,
}

impl Events {
    /// Events of `controller`, this process being `instance`.
    pub(crate) fn new(client: Client, controller: &str, instance: &str) -> Self {
        let reporter =
            Reporter { controller: controller.to_owned(), instance: Some(instance.to_owned()) };
        Self { recorder: Recorder::new(client, reporter) }
    }

    /// Publishes in the background: an Event that gets lost must not hold up anything.
    pub(crate) fn publish<K: Resource<DynamicType = ()>>(&self, about: &K, notices: Vec<Notice>) {
        if notices.is_empty() {
            return;
        }
        let reference: ObjectReference = about.object_ref(&());
        let recorder = self.recorder.clone();
        tokio::spawn(async move {
            for notice in notices {
                let event = Event {
                    type_: if notice.warning { EventType::Warning } else { EventType::Normal },
                    reason: notice.reason,
                    note: Some(shortened(&notice.note)),
                    action: "Reconcile".to_owned(),
                    secondary: None,
                };
                if let Err(error) = recorder.publish(&event, &reference).await {
                    tracing::debug!(%error, "event lost");
                }
            }
        });
    }
}

/// Events take a kilobyte.
fn shortened(note: &str) -> String {
    const MOST: usize = 1000;
    if note.len() <= MOST {
        return note.to_owned();
    }
    let end = (0..=MOST).rev().find(|i| note.is_char_boundary(*i)).unwrap_or(0);
    format!("{}…", &note[..end])
}
