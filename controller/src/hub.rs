//! The hub: from what people write to what each cluster is told.

pub(crate) mod admission;
mod api;
mod cluster;
mod endpoints;
mod live;
mod policy;
mod project;
mod rights;
mod services;
mod slice;
mod token;
mod watches;

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, ResourceQuota, ServiceAccount};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::Client;
use kube::api::DynamicObject;
use serde::de::DeserializeOwned;
use slicewire_api::labels::HUB_MANAGER;
use slicewire_api::{
    Cluster, JoinRequest, JoinToken, Project, SliceConfig, SlicePolicy, SliceQosProfile,
    WorkerEndpoints, WorkerGateway, WorkerPods, WorkerPolicy, WorkerServiceExport,
    WorkerServiceImport, WorkerSlice, WorkerTraffic,
};
use slicewire_runtime::reconcile::{Queue, drive};
use slicewire_runtime::{Health, Metrics};
use tokio_util::sync::CancellationToken;

use crate::kubernetes::cache::{Cache, Key};
use crate::kubernetes::event::Events;
use crate::kubernetes::lease::Leadership;
use crate::kubernetes::round::round;
use crate::kubernetes::write::Writer;
use crate::options::{HubOptions, Identity};

/// Name of the hub's Lease.
const LEASE: &str = "slicewire-hub";
/// Reconciles of one kind that run side by side.
const PARALLEL: usize = 8;

/// What every reconciler of the hub shares.
#[derive(Clone)]
pub(crate) struct Hub {
    writer: Writer,
    events: Events,
    metrics: Metrics,
    caches: Caches,
    queues: Queues,
}

/// What is known of the hub's API server.
#[derive(Clone, Default)]
pub(crate) struct Caches {
    projects: Cache<Project>,
    clusters: Cache<Cluster>,
    configs: Cache<SliceConfig>,
    profiles: Cache<SliceQosProfile>,
    slices: Cache<WorkerSlice>,
    gateways: Cache<WorkerGateway>,
    policies: Cache<SlicePolicy>,
    told_policies: Cache<WorkerPolicy>,
    endpoints: Cache<WorkerEndpoints>,
    exports: Cache<WorkerServiceExport>,
    imports: Cache<WorkerServiceImport>,
    pods: Cache<WorkerPods>,
    traffic: Cache<WorkerTraffic>,
    tokens: Cache<JoinToken>,
    requests: Cache<JoinRequest>,
    namespaces: Cache<Namespace>,
    accounts: Cache<ServiceAccount>,
    roles: Cache<Role>,
    bindings: Cache<RoleBinding>,
    quotas: Cache<ResourceQuota>,
}

/// What has to be looked at.
#[derive(Clone, Default)]
pub(crate) struct Queues {
    /// Projects by name.
    projects: Queue<String>,
    /// Clusters by project namespace and name.
    clusters: Queue<Key>,
    /// SliceConfigs by project namespace and name.
    slices: Queue<Key>,
    /// JoinTokens by project namespace and name.
    tokens: Queue<Key>,
    /// Policies of slices, by project namespace and the slice's name.
    policies: Queue<Key>,
    /// What clusters report their pods in, by namespace and name.
    endpoints: Queue<Key>,
    /// What clusters tell people of slices, by the cluster's namespace and the slice's name.
    live: Queue<Key>,
    /// Services of slices, by project namespace and the slice's name.
    services: Queue<Key>,
}

impl Caches {
    /// Takes in the answer to a write.
    fn note(&self, object: DynamicObject) {
        let kind = object.types.as_ref().map(|t| t.kind.clone()).unwrap_or_default();
        match kind.as_str() {
            "Project" => note(&self.projects, object),
            "Cluster" => note(&self.clusters, object),
            "SliceConfig" => note(&self.configs, object),
            "SliceQosProfile" => note(&self.profiles, object),
            "WorkerSlice" => note(&self.slices, object),
            "WorkerGateway" => note(&self.gateways, object),
            "SlicePolicy" => note(&self.policies, object),
            "WorkerPolicy" => note(&self.told_policies, object),
            "WorkerEndpoints" => note(&self.endpoints, object),
            "WorkerServiceExport" => note(&self.exports, object),
            "WorkerServiceImport" => note(&self.imports, object),
            "WorkerPods" => note(&self.pods, object),
            "WorkerTraffic" => note(&self.traffic, object),
            "JoinToken" => note(&self.tokens, object),
            "JoinRequest" => note(&self.requests, object),
            "ResourceQuota" => note(&self.quotas, object),
            "Namespace" => note(&self.namespaces, object),
            "ServiceAccount" => note(&self.accounts, object),
            "Role" => note(&self.roles, object),
            "RoleBinding" => note(&self.bindings, object),
            _ => {}
        }
    }

    async fn wait_synced(&self) {
        self.projects.wait_synced().await;
        self.clusters.wait_synced().await;
        self.configs.wait_synced().await;
        self.profiles.wait_synced().await;
        self.slices.wait_synced().await;
        self.gateways.wait_synced().await;
        self.policies.wait_synced().await;
        self.told_policies.wait_synced().await;
        self.endpoints.wait_synced().await;
        self.exports.wait_synced().await;
        self.imports.wait_synced().await;
        self.pods.wait_synced().await;
        self.traffic.wait_synced().await;
        self.namespaces.wait_synced().await;
        self.accounts.wait_synced().await;
        self.roles.wait_synced().await;
        self.bindings.wait_synced().await;
        self.quotas.wait_synced().await;
        self.tokens.wait_synced().await;
        self.requests.wait_synced().await;
    }
}

fn note<K: kube::Resource<DynamicType = ()> + DeserializeOwned>(
    cache: &Cache<K>,
    object: DynamicObject,
) {
    match object.try_parse() {
        Ok(object) => cache.note(object),
        // The watch tells it, a little later.
        Err(error) => tracing::debug!(%error, "an answer of the API server is not understood"),
    }
}

/// Runs the hub until `stop`.
///
/// # Errors
/// The webhook cannot be served.
pub(crate) async fn run(
    client: Client,
    options: HubOptions,
    identity: Identity,
    health: Health,
    metrics: Metrics,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let hub = Hub {
        writer: Writer { client: client.clone(), manager: HUB_MANAGER },
        events: Events::new(client.clone(), HUB_MANAGER, &identity.pod),
        metrics,
        caches: Caches::default(),
        queues: Queues::default(),
    };
    let synced = health.wait_for("first lists from the API server");
    let certificate = Arc::new(admission::Serving::default());
    // It listens to the watches, so it is there before them.
    let mut api =
        api::start(&hub, &client, certificate.clone(), &options.api, &identity, &stop).await?;
    watches::start(&hub, &client, &stop);
    let leadership = Leadership::new(client.clone(), &identity.namespace, LEASE, &identity.pod);
    let mut webhook =
        admission::start(&hub, certificate, client, &options, &identity, &health, &stop);
    let lead = async {
        let (led, ()) = tokio::join!(leadership.acquire(&stop), async {
            tokio::select! {
                () = hub.caches.wait_synced() => drop(synced),
                () = stop.cancelled() => {}
            }
        });
        if led && !stop.is_cancelled() {
            tracing::info!("leading");
            let ends = stop.child_token();
            tokio::join!(leadership.keep(&stop, &ends), reconcile(&hub, &ends));
        }
    };
    tokio::select! {
        () = lead => {}
        ended = &mut webhook => return ended?,
        ended = &mut api => return ended?,
    }
    stop.cancel();
    api.await??;
    webhook.await?
}

/// Runs every reconciler until `stop`.
async fn reconcile(hub: &Hub, stop: &CancellationToken) {
    let (a, b, c, d) = (hub.clone(), hub.clone(), hub.clone(), hub.clone());
    let (e, f, g, h) = (hub.clone(), hub.clone(), hub.clone(), hub.clone());
    tokio::join!(
        drive(hub.queues.policies.clone(), PARALLEL, stop.clone(), move |key| {
            let hub = e.clone();
            async move {
                let name = format!("{}/{}", key.0, key.1);
                round(&hub.metrics, "policy", name, policy::reconcile(&hub, &key)).await
            }
        }),
        drive(hub.queues.endpoints.clone(), PARALLEL, stop.clone(), move |key| {
            let hub = f.clone();
            async move {
                let name = format!("{}/{}", key.0, key.1);
                round(&hub.metrics, "endpoints", name, endpoints::reconcile(&hub, &key)).await
            }
        }),
        drive(hub.queues.services.clone(), PARALLEL, stop.clone(), move |key| {
            let hub = g.clone();
            async move {
                let name = format!("{}/{}", key.0, key.1);
                round(&hub.metrics, "services", name, services::reconcile(&hub, &key)).await
            }
        }),
        drive(hub.queues.live.clone(), PARALLEL, stop.clone(), move |key| {
            let hub = h.clone();
            async move {
                let name = format!("{}/{}", key.0, key.1);
                round(&hub.metrics, "live", name, live::reconcile(&hub, &key)).await
            }
        }),
        drive(hub.queues.projects.clone(), PARALLEL, stop.clone(), move |key| {
            let hub = a.clone();
            async move { round(&hub.metrics, "project", &key, project::reconcile(&hub, &key)).await }
        }),
        drive(hub.queues.clusters.clone(), PARALLEL, stop.clone(), move |key| {
            let hub = b.clone();
            async move {
                let name = format!("{}/{}", key.0, key.1);
                round(&hub.metrics, "cluster", name, cluster::reconcile(&hub, &key)).await
            }
        }),
        drive(hub.queues.slices.clone(), PARALLEL, stop.clone(), move |key| {
            let hub = c.clone();
            async move {
                let name = format!("{}/{}", key.0, key.1);
                round(&hub.metrics, "slice", name, slice::reconcile(&hub, &key)).await
            }
        }),
        // One at a time for a token: its uses are counted by its own rounds only.
        drive(hub.queues.tokens.clone(), PARALLEL, stop.clone(), move |key| {
            let hub = d.clone();
            async move {
                let name = format!("{}/{}", key.0, key.1);
                round(&hub.metrics, "token", name, token::reconcile(&hub, &key)).await
            }
        }),
    );
}
