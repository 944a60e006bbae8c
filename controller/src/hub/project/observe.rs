//! What there is of a project.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Namespace;
use slicewire_api::{Cluster, JoinToken, Project, SliceConfig};

use crate::hub::Hub;

/// A project and what is in it.
#[derive(Debug, Clone)]
pub(super) struct Observed {
    pub(super) project: Arc<Project>,
    /// The project's namespace, if it is there and ours.
    pub(super) namespace: Option<Arc<Namespace>>,
    pub(super) clusters: Vec<Arc<Cluster>>,
    pub(super) configs: Vec<Arc<SliceConfig>>,
    pub(super) tokens: Vec<Arc<JoinToken>>,
}

/// Reads the caches.
pub(super) fn observe(hub: &Hub, name: &str) -> Option<Observed> {
    let caches = &hub.caches;
    let namespace = format!("slicewire-{name}");
    Some(Observed {
        project: caches.projects.get("", name)?,
        clusters: caches.clusters.list_in(&namespace),
        configs: caches.configs.list_in(&namespace),
        tokens: caches.tokens.list_in(&namespace),
        namespace: caches.namespaces.get("", &namespace),
    })
}
