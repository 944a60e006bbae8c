//! What there is of a cluster.

use std::sync::Arc;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Namespace, ResourceQuota, ServiceAccount};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::{Api, ResourceExt};
use slicewire_api::condition::{LEAVING, is_true};
use slicewire_api::labels::WORKER_ACCOUNT;
use slicewire_api::{
    Cluster, JoinToken, SliceConfig, WorkerEndpoints, WorkerGateway, WorkerPods, WorkerSlice,
};
use slicewire_core::name::{ClusterName, HubNamespace, cluster_namespace, hub_namespace};

use crate::hub::Hub;
use crate::kubernetes::cache::Key;

/// Name of the worker's Role and RoleBinding.
pub(super) const ROLE: &str = "slicewire-worker";
/// Name of what bounds a cluster's namespace.
pub(super) const QUOTA: &str = "slicewire-member";

/// A cluster and what belongs to it.
#[derive(Debug, Clone)]
pub(super) struct Observed {
    /// What people wrote.
    pub(super) cluster: Arc<Cluster>,
    /// Its namespace, if it is there and ours.
    pub(super) namespace: Option<Arc<Namespace>>,
    pub(super) account: Option<Arc<ServiceAccount>>,
    pub(super) role: Option<Arc<Role>>,
    pub(super) binding: Option<Arc<RoleBinding>>,
    pub(super) quota: Option<Arc<ResourceQuota>>,
    /// The copy in whose status the worker reports.
    pub(super) copy: Option<Arc<Cluster>>,
    /// The worker's heartbeat.
    pub(super) heartbeat: Option<Lease>,
    /// What the cluster is told of slices.
    pub(super) slices: Vec<Arc<WorkerSlice>>,
    /// What its gateways are told.
    pub(super) gateways: Vec<Arc<WorkerGateway>>,
    /// Where it reports its pods, for policies and for people.
    pub(super) endpoints: Vec<Arc<WorkerEndpoints>>,
    pub(super) pods: Vec<Arc<WorkerPods>>,
    /// Tokens it has joined with.
    pub(super) tokens: Vec<Arc<JoinToken>>,
    /// Slices of the project that name the cluster.
    pub(super) users: Vec<Arc<SliceConfig>>,
}

/// Reads the caches, and the heartbeat, which nobody watches because it changes all the time.
pub(super) async fn observe(hub: &Hub, (namespace, name): &Key) -> Option<Observed> {
    let caches = &hub.caches;
    let cluster = caches.clusters.get(namespace, name)?;
    let users = caches
        .configs
        .list_in(namespace)
        .into_iter()
        .filter(|c| c.spec.clusters.iter().any(|x| x.name == *name))
        .collect();
    let mut observed = Observed {
        cluster,
        namespace: None,
        account: None,
        role: None,
        binding: None,
        quota: None,
        copy: None,
        heartbeat: None,
        slices: Vec::new(),
        gateways: Vec::new(),
        endpoints: Vec::new(),
        pods: Vec::new(),
        tokens: tokens(hub, namespace, name),
        users,
    };
    if let Some(own) = own_namespace(namespace, name) {
        observed.namespace = caches.namespaces.get("", &own);
        observed.account = caches.accounts.get(&own, WORKER_ACCOUNT);
        observed.role = caches.roles.get(&own, ROLE);
        observed.binding = caches.bindings.get(&own, ROLE);
        observed.quota = caches.quotas.get(&own, QUOTA);
        observed.copy = caches.clusters.get(&own, name);
        observed.slices = caches.slices.list_in(&own);
        observed.gateways = caches.gateways.list_in(&own);
        observed.endpoints = caches.endpoints.list_in(&own);
        observed.endpoints.retain(|e| e.spec.cluster == *name);
        observed.pods = caches.pods.list_in(&own);
        if observed.copy.is_some() || observed.deleting() {
            observed.heartbeat = heartbeat(hub, &own).await;
        }
    }
    Some(observed)
}

/// The project's tokens that this cluster knows the secret of.
fn tokens(hub: &Hub, project: &str, name: &str) -> Vec<Arc<JoinToken>> {
    let knows = |token: &Arc<JoinToken>| {
        token.status.iter().flat_map(|s| &s.joined).any(|joined| joined.cluster == name)
    };
    hub.caches.tokens.list_in(project).into_iter().filter(knows).collect()
}

/// The namespace of the cluster `name` of the project whose namespace is `project`.
fn own_namespace(project: &str, name: &str) -> Option<String> {
    match hub_namespace(project)? {
        HubNamespace::Project(project) => {
            Some(cluster_namespace(&project, &ClusterName::parse(name).ok()?))
        }
        HubNamespace::Cluster(..) => None,
    }
}

async fn heartbeat(hub: &Hub, namespace: &str) -> Option<Lease> {
    let leases: Api<Lease> = Api::namespaced(hub.writer.client.clone(), namespace);
    match leases.get_opt(WORKER_ACCOUNT).await {
        Ok(lease) => lease,
        Err(error) => {
            tracing::warn!(%namespace, %error, "cannot read the heartbeat");
            None
        }
    }
}

impl Observed {
    pub(super) fn name(&self) -> String {
        self.cluster.name_any()
    }

    pub(super) fn deleting(&self) -> bool {
        self.cluster.metadata.deletion_timestamp.is_some()
    }

    /// Whether its worker has said, with its own credential, that it leaves for good.
    pub(super) fn leaves(&self) -> bool {
        let told = self.copy.as_ref().and_then(|c| c.status.as_ref());
        told.is_some_and(|status| is_true(&status.conditions, LEAVING))
    }
}
