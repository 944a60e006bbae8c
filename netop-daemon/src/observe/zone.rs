//! The zone of this node, by its label.

use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::{Api, Client, ResourceExt as _};
use slicewire_api::labels::ZONE;

use crate::world::Shared;

/// How often it is looked up: nodes hardly ever move, and the right to watch them is not needed.
const PAUSE: Duration = Duration::from_secs(60);
/// How soon after the API server did not answer.
const RETRY: Duration = Duration::from_secs(2);

/// Keeps the world's zone; ends with the process. What was known goes on while nobody answers.
pub(crate) async fn keep(client: Client, node: String, shared: Shared) {
    let nodes: Api<Node> = Api::all(client);
    loop {
        let pause = match nodes.get_metadata_opt(&node).await {
            Ok(found) => {
                let zone = found.and_then(|n| n.labels().get(ZONE).cloned());
                let zone = zone.filter(|zone| !zone.is_empty());
                shared.change(|world| {
                    let changed = world.zone != zone;
                    world.zone = zone;
                    changed
                });
                PAUSE
            }
            Err(error) => {
                tracing::debug!(%error, "cannot read the node's labels");
                RETRY
            }
        };
        tokio::time::sleep(pause).await;
    }
}
