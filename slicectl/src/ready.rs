//! Whether workloads run, and if not, why not.

use std::time::Duration;

use anyhow::Result;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::core::DynamicObject;
use kube::{Api, Client, ResourceExt};
use slicewire_api::labels::SYSTEM_NAMESPACE;

use crate::manifests::kind;
use crate::progress::{State, wait};

/// Waits until the workloads among these objects run in their newest version.
///
/// # Errors
/// After `limit`, what is not running and why.
pub(crate) async fn workloads(
    client: &Client,
    objects: &[DynamicObject],
    limit: Duration,
) -> Result<()> {
    for object in objects.iter().filter(|o| matches!(kind(o), "Deployment" | "DaemonSet")) {
        let name = object.name_any();
        let what = format!("{name} runs");
        if kind(object) == "DaemonSet" {
            wait(&what, limit, async || daemon_set(client, &name).await).await?;
        } else {
            wait(&what, limit, async || deployment(client, &name).await).await?;
        }
    }
    Ok(())
}

async fn deployment(client: &Client, name: &str) -> Result<State> {
    let api: Api<Deployment> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
    let found = api.get(name).await?;
    let wanted = found.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1);
    let status = found.status.unwrap_or_default();
    let current = status.observed_generation == found.metadata.generation;
    let ready = status.updated_replicas.unwrap_or(0).min(status.available_replicas.unwrap_or(0));
    let over = status.replicas.unwrap_or(0) > wanted;
    answer(client, name, current && !over, ready, wanted).await
}

/// Whether a DaemonSet's newest version is ready on every node.
pub(crate) async fn daemon_set(client: &Client, name: &str) -> Result<State> {
    let api: Api<DaemonSet> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
    let found = api.get(name).await?;
    let status = found.status.unwrap_or_default();
    let current = status.observed_generation == found.metadata.generation;
    let ready = status.updated_number_scheduled.unwrap_or(0).min(status.number_ready);
    answer(client, name, current, ready, status.desired_number_scheduled).await
}

async fn answer(
    client: &Client,
    name: &str,
    current: bool,
    ready: i32,
    wanted: i32,
) -> Result<State> {
    if current && ready >= wanted {
        return Ok(State::Done);
    }
    let pods: Api<Pod> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
    let selector = ListParams::default().labels(&format!("app.kubernetes.io/name={name}"));
    let pods = pods.list(&selector).await?.items;
    let mut reasons: Vec<String> = pods.iter().filter_map(why_not).collect();
    reasons.sort();
    reasons.dedup();
    if pods.is_empty() && wanted > 0 {
        reasons.push("no pod has been made yet".to_owned());
    }
    Ok(State::Waiting(format!("{ready} of {wanted} ready; {}", reasons.join("; "))))
}

/// Why a pod is not ready; `None` when it is.
fn why_not(pod: &Pod) -> Option<String> {
    let name = pod.name_any();
    let status = pod.status.as_ref()?;
    let condition = |type_: &str| status.conditions.iter().flatten().find(|c| c.type_ == type_);
    if condition("Ready").is_some_and(|c| c.status == "True") {
        return None;
    }
    for container in status.container_statuses.iter().flatten() {
        let state = container.state.as_ref()?;
        if let Some(waiting) = &state.waiting {
            let ended = container.last_state.as_ref().and_then(|s| s.terminated.as_ref());
            let last = ended.map(|t| format!(", last ended with status {}", t.exit_code));
            return Some(format!(
                "{name}: {} {}{}",
                waiting.reason.as_deref().unwrap_or("waiting"),
                waiting.message.as_deref().unwrap_or_default(),
                last.unwrap_or_default()
            ));
        }
        if let Some(ended) = &state.terminated {
            return Some(format!("{name}: ended with status {}", ended.exit_code));
        }
    }
    if let Some(unscheduled) = condition("PodScheduled").filter(|c| c.status == "False") {
        let message = unscheduled.message.as_deref().unwrap_or("no node takes it");
        return Some(format!("{name}: not scheduled: {message}"));
    }
    let node = pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or("a node");
    Some(format!("{name}: starting on {node}"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(status: Value) -> Pod {
        let pod = json!({ "metadata": { "name": "p" }, "spec": { "nodeName": "n1", "containers": [] }, "status": status });
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn a_ready_pod_needs_no_reason() {
        let ready = json!({ "conditions": [{ "type": "Ready", "status": "True" }] });
        assert_eq!(why_not(&pod(ready)), None);
    }

    #[test]
    fn the_reason_is_the_kubelets_or_the_schedulers_own() {
        let status =
            json!({ "name": "c", "ready": false, "restartCount": 0, "image": "", "imageID": "" });
        let mut waiting = status.clone();
        waiting["state"] =
            json!({ "waiting": { "reason": "ErrImageNeverPull", "message": "not here" } });
        let reason = why_not(&pod(json!({ "containerStatuses": [waiting] }))).unwrap();
        assert!(reason.contains("ErrImageNeverPull not here"), "{reason}");
        let reason = why_not(&pod(json!({ "conditions": [
            { "type": "PodScheduled", "status": "False", "message": "0/2 nodes are available" },
        ] })));
        assert_eq!(reason.unwrap(), "p: not scheduled: 0/2 nodes are available");
        assert_eq!(why_not(&pod(json!({}))).unwrap(), "p: starting on n1");
    }
}
