//! What there is of a token.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::ResourceExt;
use slicewire_api::labels::WORKER_ACCOUNT;
use slicewire_api::{Cluster, JOIN_ACCOUNT, JoinRequest, JoinToken};
use slicewire_core::name::{HubNamespace, ProjectName, hub_namespace, token_namespace};

use crate::hub::Hub;
use crate::kubernetes::cache::Key;

/// Name of the Role and RoleBinding of who joins.
pub(super) const ROLE: &str = "slicewire-joiner";

/// A token, its namespace, and the clusters that those who ask may clash with.
#[derive(Debug, Clone)]
pub(super) struct Observed {
    pub(super) token: Arc<JoinToken>,
    /// The project, by the namespace the token is in.
    pub(super) project: Option<ProjectName>,
    /// Its namespace, if it is there and ours.
    pub(super) namespace: Option<Arc<Namespace>>,
    pub(super) account: Option<Arc<ServiceAccount>>,
    pub(super) role: Option<Arc<Role>>,
    pub(super) binding: Option<Arc<RoleBinding>>,
    /// What is asked with it, oldest first.
    pub(super) requests: Vec<Arc<JoinRequest>>,
    /// The project's clusters.
    pub(super) clusters: Vec<Arc<Cluster>>,
    /// Their workers' accounts, by cluster.
    pub(super) workers: BTreeMap<String, Arc<ServiceAccount>>,
}

/// Reads the caches.
pub(super) fn observe(hub: &Hub, (namespace, name): &Key) -> Option<Observed> {
    let caches = &hub.caches;
    let token = caches.tokens.get(namespace, name)?;
    let project = match hub_namespace(namespace) {
        Some(HubNamespace::Project(project)) => Some(project),
        _ => None,
    };
    let own = project.as_ref().map(|p| token_namespace(p, name)).unwrap_or_default();
    let mut requests = caches.requests.list_in(&own);
    requests.sort_by_key(|r| (r.creation_timestamp(), r.name_any()));
    let clusters = caches.clusters.list_in(namespace);
    let worker = |cluster: &Arc<Cluster>| {
        let namespace = cluster.status.as_ref()?.namespace.clone()?;
        Some((cluster.name_any(), caches.accounts.get(&namespace, WORKER_ACCOUNT)?))
    };
    Some(Observed {
        namespace: caches.namespaces.get("", &own),
        account: caches.accounts.get(&own, JOIN_ACCOUNT),
        role: caches.roles.get(&own, ROLE),
        binding: caches.bindings.get(&own, ROLE),
        requests,
        workers: clusters.iter().filter_map(worker).collect(),
        clusters,
        token,
        project,
    })
}

impl Observed {
    pub(super) fn deleting(&self) -> bool {
        self.token.metadata.deletion_timestamp.is_some()
    }
}
