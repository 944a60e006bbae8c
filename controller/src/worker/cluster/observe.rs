//! What there is of this cluster.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use slicewire_api::Cluster;

use crate::worker::Worker;

/// A cluster, and the object on the hub it reports in.
#[derive(Debug, Clone)]
pub(super) struct Observed {
    pub(super) told: Arc<Cluster>,
    pub(super) nodes: Vec<Arc<Node>>,
    pub(super) services: Vec<Arc<ServiceCIDR>>,
    pub(super) daemon_sets: Vec<Arc<DaemonSet>>,
    pub(super) deployments: Vec<Arc<Deployment>>,
    /// The version of the API server; what it was before when it does not answer.
    pub(super) kubernetes: Option<String>,
}

/// Reads the caches, and asks the API server for its version.
pub(super) async fn observe(worker: &Worker) -> Option<Observed> {
    let session = worker.hub.session()?;
    let told = worker.told.clusters.get(&session.namespace, &session.cluster)?;
    let version = worker.writer.client.apiserver_version().await.ok().map(|v| v.git_version);
    let before = told.status.as_ref().and_then(|s| s.kubernetes_version.clone());
    let local = &worker.local;
    Some(Observed {
        told,
        nodes: local.nodes.list(),
        services: local.service_cidrs.list(),
        daemon_sets: local.daemon_sets.list(),
        deployments: local.deployments.list(),
        kubernetes: version.or(before),
    })
}
