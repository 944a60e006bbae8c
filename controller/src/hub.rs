//! The hub: from what people write to what each cluster is told.

pub(crate) mod admission;
mod cluster;
mod project;
mod slice;
mod watches;

use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::Client;
use kube::api::DynamicObject;
use serde::de::DeserializeOwned;
use slicewire_api::labels::HUB_MANAGER;
use slicewire_api::{Cluster, Project, SliceConfig, WorkerGateway, WorkerSlice};
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
    slices: Cache<WorkerSlice>,
    gateways: Cache<WorkerGateway>,
    namespaces: Cache<Namespace>,
    accounts: Cache<ServiceAccount>,
    roles: Cache<Role>,
    bindings: Cache<RoleBinding>,
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
}

impl Caches {
    /// Takes in the answer to a write.
    fn note(&self, object: DynamicObject) {
        let kind = object.types.as_ref().map(|t| t.kind.clone()).unwrap_or_default();
        match kind.as_str() {
            "Project" => note(&self.projects, object),
            "Cluster" => note(&self.clusters, object),
            "SliceConfig" => note(&self.configs, object),
            "WorkerSlice" => note(&self.slices, object),
            "WorkerGateway" => note(&self.gateways, object),
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
        self.slices.wait_synced().await;
        self.gateways.wait_synced().await;
        self.namespaces.wait_synced().await;
        self.accounts.wait_synced().await;
        self.roles.wait_synced().await;
        self.bindings.wait_synced().await;
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
    watches::start(&hub, &client, &stop);
    let leadership = Leadership::new(client.clone(), &identity.namespace, LEASE, &identity.pod);
    let mut webhook = admission::start(&hub, client, &options, &identity, &health, &stop);
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
    }
    stop.cancel();
    webhook.await?
}

/// Runs every reconciler until `stop`.
async fn reconcile(hub: &Hub, stop: &CancellationToken) {
    let (a, b, c) = (hub.clone(), hub.clone(), hub.clone());
    tokio::join!(
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
    );
}
