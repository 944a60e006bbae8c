//! What is told of this cluster.

use ipnet::IpNet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use slicewire_api::ClusterStatus;
use slicewire_api::condition::{self, READY};

use super::observe::Observed;

/// The status of the cluster.
pub(super) fn status(observed: &Observed, reserved: &[IpNet], now: Timestamp) -> ClusterStatus {
    let old = observed.told.status.clone().unwrap_or_default();
    let generation = observed.told.metadata.generation;
    let mut conditions = old.conditions;
    let missing = missing(observed);
    let (ready, reason, message) = if missing.is_empty() {
        (true, "ComponentsReady", "All components run.".to_owned())
    } else {
        let what = format!(
            "{}; see kubectl -n slicewire-system get pods in the cluster",
            missing.join("; ")
        );
        (false, "ComponentsNotReady", what)
    };
    let one = condition::condition(READY, ready, reason, message, generation, Time(now));
    condition::set(&mut conditions, one);
    ClusterStatus {
        observed_generation: generation,
        namespace: observed.told.metadata.namespace.clone(),
        cluster_uid: None,
        nodes: i32::try_from(observed.nodes.len()).ok(),
        kubernetes_version: observed.kubernetes.clone(),
        version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        reserved_prefixes: reserved.iter().map(IpNet::to_string).collect(),
        conditions,
    }
}

/// Components of which not all pods are ready.
fn missing(observed: &Observed) -> Vec<String> {
    let sets = observed.daemon_sets.iter().map(|d| {
        let status = d.status.clone().unwrap_or_default();
        (d.name_any(), status.number_ready, status.desired_number_scheduled)
    });
    let deployments = observed.deployments.iter().map(|d| {
        let ready = d.status.as_ref().and_then(|s| s.ready_replicas).unwrap_or(0);
        let wanted = d.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1);
        (d.name_any(), ready, wanted)
    });
    sets.chain(deployments)
        .filter(|(_, ready, wanted)| ready < wanted)
        .map(|(name, ready, wanted)| format!("{name}: {ready} of {wanted} ready"))
        .collect()
}
