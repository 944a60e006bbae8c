//! Writes differences to the API server.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};
use slicewire_api::{SliceNodeStatus, labels};
use slicewire_core::onboarding::SYSTEM_NAMESPACE;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Report, annotation, nodes};
use crate::decide::Node;
use crate::plan::NicWant;
use crate::shaping::Shaped;
use crate::world::{Pod, Shared, World};

/// Changes that come together are written together.
const SETTLE: Duration = Duration::from_millis(50);
/// After a refusal, and to heal what others changed.
const AGAIN: Duration = Duration::from_secs(5);

/// What has been written and not come back by the watch yet.
pub(crate) struct Writer {
    client: Client,
    node: Node,
    shared: Shared,
    shaped: watch::Receiver<Shaped>,
    /// By object name.
    statuses: BTreeMap<String, SliceNodeStatus>,
    /// By pod UID: the resource version and the NICs for which it was found right, or written.
    annotated: BTreeMap<String, (String, Vec<Arc<NicWant>>)>,
}

impl Writer {
    /// A writer that has written nothing.
    pub(crate) fn new(
        client: Client,
        node: Node,
        shared: Shared,
        shaped: watch::Receiver<Shaped>,
    ) -> Self {
        let (statuses, annotated) = (BTreeMap::new(), BTreeMap::new());
        Self { client, node, shared, shaped, statuses, annotated }
    }
}

/// Writes until `stop`.
pub(crate) async fn run(
    mut writer: Writer,
    mut reports: watch::Receiver<Arc<Report>>,
    stop: CancellationToken,
) {
    let mut changes = writer.shared.changes();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            changed = reports.changed() => if changed.is_err() { return },
            changed = changes.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(AGAIN) => {}
        }
        tokio::time::sleep(SETTLE).await;
        changes.mark_unchanged();
        let report = reports.borrow_and_update().clone();
        if report.valid {
            let world = writer.shared.snapshot();
            writer.nodes(&report, &world).await;
            writer.pods(&report, &world).await;
        }
    }
}

impl Writer {
    async fn nodes(&mut self, report: &Report, world: &World) {
        for slice in &report.wanted {
            let offered = world.slices.get(slice).is_some_and(|s| !s.deleting);
            let any =
                world.slice_nodes.values().any(|n| n.slice == *slice && n.node == self.node.name);
            if offered && !any {
                complain(nodes::claim(&self.client, slice, &self.node.name).await, "claim blocks");
            }
        }
        let own = world.slice_nodes.iter().filter(|(_, n)| n.node == self.node.name);
        for (object, node) in own {
            let slice = world.slices.get(&node.slice);
            let leaving = node.deleting || slice.is_none_or(|s| s.deleting);
            let unused = !report.wanted.contains(&node.slice) && report.idle.contains(&node.slice);
            if (leaving || unused) && !report.lingering.contains(&node.slice) {
                self.statuses.remove(object);
                let done = nodes::give_back(&self.client, object, node).await;
                complain(done, "give blocks back");
                continue;
            }
            let is_gateway = |uid: &str| world.gateways.contains_key(uid);
            let known = self.statuses.get(object).or(node.status.as_ref());
            let nothing = SliceNodeStatus::default();
            let old = known.unwrap_or(&nothing);
            let mut status = nodes::status(report, &self.node, node, is_gateway, old);
            nodes::add_qos(&mut status, self.shaped.borrow().slices.get(&node.slice), node);
            if Some(&status) == known {
                continue;
            }
            match nodes::write_status(&self.client, object, &status).await {
                Ok(()) => drop(self.statuses.insert(object.clone(), status)),
                Err(error) => {
                    self.statuses.remove(object);
                    complain(Err(error), "write a SliceNode's status");
                }
            }
        }
        self.statuses.retain(|object, _| world.slice_nodes.contains_key(object));
    }

    async fn pods(&mut self, report: &Report, world: &World) {
        let mut nics: BTreeMap<&str, Vec<Arc<NicWant>>> = BTreeMap::new();
        for ((_, uid), nic) in &report.nics {
            nics.entry(uid).or_default().push(nic.clone());
        }
        for (uid, pod) in world.pods.iter().filter(|(_, p)| !p.deleting && !p.finished) {
            let mut mine = nics.remove(uid.as_str()).unwrap_or_default();
            mine.sort_by(|a, b| a.nic.cmp(&b.nic));
            let known = self.annotated.get(uid);
            if known.is_some_and(|(v, nics)| *v == pod.resource_version && *nics == mine) {
                continue;
            }
            let annotation = annotation::merge(pod.network_status.as_deref(), &mine);
            let right = annotation == pod.network_status;
            if right || annotate(&self.client, pod, annotation).await {
                self.annotated.insert(uid.clone(), (pod.resource_version.clone(), mine));
            }
        }
        self.annotated.retain(|uid, _| world.pods.contains_key(uid));
    }
}

/// Writes the annotation, unless the pod has changed in the meantime: then the watch brings it
/// again. Returns whether there is nothing more to do for this version of the pod.
async fn annotate(client: &Client, pod: &Pod, annotation: Option<String>) -> bool {
    let api: Api<k8s_openapi::api::core::v1::Pod> = Api::namespaced(client.clone(), &pod.namespace);
    let value = annotation.map_or(Value::Null, Value::String);
    let patch = json!({"metadata": {
        "resourceVersion": pod.resource_version,
        "annotations": {labels::NETWORK_STATUS: value},
    }});
    let params = PatchParams {
        field_manager: Some(labels::DAEMON_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    match api.patch_metadata(&pod.name, &params, &Patch::Merge(patch)).await {
        Ok(_) => true,
        Err(kube::Error::Api(status)) if status.code == 409 || status.code == 404 => true,
        Err(error) => {
            tracing::debug!(pod = pod.name, %error, "cannot annotate a pod; it is tried again");
            false
        }
    }
}

fn complain(result: Result<(), kube::Error>, what: &'static str) {
    if let Err(error) = result {
        tracing::warn!(namespace = SYSTEM_NAMESPACE, %error, "cannot {what}; it is tried again");
    }
}
