//! A worker cluster: carries out what the hub says, and reports.
//!
//! The hub's word is mirrored into this cluster's own API server, and everything here works from
//! the mirror. Without a hub nothing stops but changes.

mod certificates;
mod cluster;
mod corefile;
mod endpoints;
mod gateway;
mod hub_link;
mod live;
mod node_blocks;
mod policy;
mod services;
mod slice;
mod watches;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, Secret, Service};
use k8s_openapi::api::networking::v1::{NetworkPolicy, ServiceCIDR};
use kube::Client;
use kube::api::DynamicObject;
use kube::core::NamespaceResourceScope;
use serde::de::DeserializeOwned;
use slicewire_api::labels::WORKER_MANAGER;
use slicewire_api::{
    Cluster, Slice, SliceEndpoints, SliceGateway, SliceNode, SliceRules, WorkerEndpoints,
    WorkerGateway, WorkerPods, WorkerPolicy, WorkerSlice, WorkerTraffic,
};
use slicewire_runtime::reconcile::{Queue, drive};
use slicewire_runtime::{Health, Metrics};
use tokio_util::sync::CancellationToken;

use crate::kubernetes::cache::Cache;
use crate::kubernetes::event::Events;
use crate::kubernetes::lease::Leadership;
use crate::kubernetes::round::round;
use crate::kubernetes::write::Writer;
use crate::options::{Identity, Images, WorkerOptions};
use certificates::Own;
use gateway::streams::Streams;
use hub_link::HubLink;

/// Name of the worker's Lease.
const LEASE: &str = "slicewire-worker";
/// Reconciles of one kind that run side by side.
const PARALLEL: usize = 8;

/// What every reconciler of a worker shares.
#[derive(Clone)]
pub(crate) struct Worker {
    writer: Writer,
    events: Events,
    metrics: Metrics,
    /// Where our components run.
    namespace: String,
    images: Images,
    local: Local,
    told: Told,
    queues: Queues,
    hub: HubLink,
    own: Own,
    streams: Streams,
    resting: node_blocks::Resting,
    pods_told: endpoints::Told,
    pods_listed: endpoints::Told,
    meter: live::Meter,
    services: services::Services,
}

/// What is known of this cluster's API server.
#[derive(Clone, Default)]
pub(crate) struct Local {
    slices: Cache<Slice>,
    gateways: Cache<SliceGateway>,
    slice_nodes: Cache<SliceNode>,
    rules: Cache<SliceRules>,
    endpoints: Cache<SliceEndpoints>,
    nodes: Cache<Node>,
    namespaces: Cache<Namespace>,
    /// Gateway pods.
    pods: Cache<Pod>,
    /// Gateway services.
    services: Cache<Service>,
    /// Gateway workloads.
    workloads: Cache<StatefulSet>,
    service_cidrs: Cache<ServiceCIDR>,
    /// CoreDNS' own.
    corefiles: Cache<ConfigMap>,
    /// Everybody's.
    network_policies: Cache<NetworkPolicy>,
    daemon_sets: Cache<DaemonSet>,
    deployments: Cache<Deployment>,
    /// Certificates for what is spoken inside the cluster.
    certificates: Cache<Secret>,
    /// The way into the hub.
    credentials: Cache<Secret>,
}

/// What the hub has told.
#[derive(Clone, Default)]
pub(crate) struct Told {
    slices: Cache<WorkerSlice>,
    gateways: Cache<WorkerGateway>,
    clusters: Cache<Cluster>,
    policies: Cache<WorkerPolicy>,
    endpoints: Cache<WorkerEndpoints>,
    pods: Cache<WorkerPods>,
    traffic: Cache<WorkerTraffic>,
}

/// What has to be looked at; slices by name.
#[derive(Clone, Default)]
pub(crate) struct Queues {
    slices: Queue<String>,
    gateways: Queue<String>,
    blocks: Queue<String>,
    certificates: Queue<()>,
    policies: Queue<String>,
    /// Slices whose pods others may have to be told of.
    pods: Queue<String>,
    /// Slices whose attached pods people may have to be told of.
    listed: Queue<String>,
    /// Slices whose tunnels are counted.
    traffic: Queue<String>,
    /// Objects with other clusters' pods, by name.
    endpoints: Queue<String>,
    cluster: Queue<()>,
    corefile: Queue<()>,
}

impl Worker {
    /// Takes in the answer to a write.
    fn note(&self, object: DynamicObject) {
        let kind = object.types.as_ref().map(|t| t.kind.clone()).unwrap_or_default();
        match kind.as_str() {
            "Slice" => note(&self.local.slices, object),
            "SliceGateway" => note(&self.local.gateways, object),
            "SliceNode" => note(&self.local.slice_nodes, object),
            "Service" => note(&self.local.services, object),
            "StatefulSet" => note(&self.local.workloads, object),
            "ConfigMap" => note(&self.local.corefiles, object),
            "NetworkPolicy" => note(&self.local.network_policies, object),
            "SliceRules" => note(&self.local.rules, object),
            "SliceEndpoints" => note(&self.local.endpoints, object),
            "WorkerPolicy" => note(&self.told.policies, object),
            "WorkerEndpoints" => note(&self.told.endpoints, object),
            "WorkerPods" => note(&self.told.pods, object),
            "WorkerTraffic" => note(&self.told.traffic, object),
            "WorkerSlice" => note(&self.told.slices, object),
            "WorkerGateway" => note(&self.told.gateways, object),
            "Cluster" => note(&self.told.clusters, object),
            _ => self.services.note(object),
        }
    }
}

impl Queues {
    /// Asks for everything of a slice.
    fn touch(&self, slice: &str) {
        self.slices.add(slice.to_owned());
        self.gateways.add(slice.to_owned());
        self.blocks.add(slice.to_owned());
        self.policies.add(slice.to_owned());
        self.pods.add(slice.to_owned());
        self.corefile.add(());
        self.listed.add(slice.to_owned());
        self.traffic.add(slice.to_owned());
    }
}

impl Local {
    async fn wait_synced(&self) {
        self.slices.wait_synced().await;
        self.gateways.wait_synced().await;
        self.slice_nodes.wait_synced().await;
        self.rules.wait_synced().await;
        self.endpoints.wait_synced().await;
        self.nodes.wait_synced().await;
        self.namespaces.wait_synced().await;
        self.pods.wait_synced().await;
        self.services.wait_synced().await;
        self.workloads.wait_synced().await;
        self.network_policies.wait_synced().await;
        self.certificates.wait_synced().await;
    }
}

fn note<K>(cache: &Cache<K>, object: DynamicObject)
where
    K: kube::Resource<DynamicType = ()> + DeserializeOwned,
{
    match object.try_parse() {
        Ok(object) => cache.note(object),
        // The watch tells it, a little later.
        Err(error) => tracing::debug!(%error, "an answer of the API server is not understood"),
    }
}

/// An API of this cluster's objects in our own namespace.
fn ours<K>(client: &Client, namespace: &str) -> kube::Api<K>
where
    K: kube::Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
{
    kube::Api::namespaced(client.clone(), namespace)
}

/// Runs the worker until `stop`.
///
/// # Errors
/// None at present; the signature is that of the hub.
pub(crate) async fn run(
    client: Client,
    options: WorkerOptions,
    identity: Identity,
    health: Health,
    metrics: Metrics,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let queues = Queues::default();
    let own = Own::default();
    let worker = Worker {
        writer: Writer { client: client.clone(), manager: WORKER_MANAGER },
        events: Events::new(client.clone(), WORKER_MANAGER, &identity.pod),
        metrics,
        namespace: identity.namespace.clone(),
        images: options.images,
        local: Local::default(),
        told: Told::default(),
        streams: Streams::new(queues.clone(), own.clone()),
        own,
        queues,
        hub: HubLink::default(),
        resting: node_blocks::Resting::default(),
        pods_told: endpoints::Told::default(),
        pods_listed: endpoints::Told::default(),
        meter: live::Meter::default(),
        services: services::Services::default(),
    };
    let synced = health.wait_for("first lists from the API server");
    watches::start(&worker, &client, &stop);
    let credentials = hub_link::watch_credentials(&worker, &client, &options.hub_secret, &stop);
    let leadership = Leadership::new(client, &identity.namespace, LEASE, &identity.pod);
    let (led, ()) = tokio::join!(leadership.acquire(&stop), async {
        tokio::select! {
            () = worker.local.wait_synced() => drop(synced),
            () = stop.cancelled() => {}
        }
    });
    if led && !stop.is_cancelled() {
        tracing::info!("leading");
        let ends = stop.child_token();
        tokio::join!(
            leadership.keep(&stop, &ends),
            hub_link::run(&worker, &options.hub_secret, credentials, &ends),
            reconcile(&worker, &ends),
        );
    }
    stop.cancel();
    Ok(())
}

/// Runs the reconcilers of policies, and of what they ask of pods, until `stop`.
async fn policies(worker: &Worker, stop: &CancellationToken) {
    let (a, b, c) = (worker.clone(), worker.clone(), worker.clone());
    tokio::join!(
        drive(worker.queues.policies.clone(), PARALLEL, stop.clone(), move |key| {
            let worker = a.clone();
            async move { round(&worker.metrics, "policy", &key, policy::reconcile(&worker, &key)).await }
        }),
        drive(worker.queues.pods.clone(), PARALLEL, stop.clone(), move |key| {
            let worker = b.clone();
            async move { round(&worker.metrics, "pods", &key, endpoints::publish(&worker, &key)).await }
        }),
        drive(worker.queues.endpoints.clone(), PARALLEL, stop.clone(), move |key| {
            let worker = c.clone();
            async move {
                round(&worker.metrics, "endpoints", &key, endpoints::mirror(&worker, &key)).await
            }
        }),
    );
}

/// Tells people what runs until `stop`.
async fn live(worker: &Worker, stop: &CancellationToken) {
    let (a, b) = (worker.clone(), worker.clone());
    tokio::join!(
        drive(worker.queues.listed.clone(), PARALLEL, stop.clone(), move |key| {
            let worker = a.clone();
            async move {
                round(&worker.metrics, "listed", &key, live::publish_pods(&worker, &key)).await
            }
        }),
        drive(worker.queues.traffic.clone(), PARALLEL, stop.clone(), move |key| {
            let worker = b.clone();
            async move {
                round(&worker.metrics, "traffic", &key, live::publish_traffic(&worker, &key)).await
            }
        }),
    );
}

/// Runs every reconciler until `stop`.
async fn reconcile(worker: &Worker, stop: &CancellationToken) {
    let (a, b, c, d) = (worker.clone(), worker.clone(), worker.clone(), worker.clone());
    let (e, f) = (worker.clone(), worker.clone());
    worker.queues.certificates.add(());
    tokio::join!(
        policies(worker, stop),
        live(worker, stop),
        services::run(worker, stop),
        drive(worker.queues.slices.clone(), PARALLEL, stop.clone(), move |key| {
            let worker = a.clone();
            async move { round(&worker.metrics, "slice", &key, slice::reconcile(&worker, &key)).await }
        }),
        drive(worker.queues.gateways.clone(), PARALLEL, stop.clone(), move |key| {
            let worker = b.clone();
            async move {
                round(&worker.metrics, "gateway", &key, gateway::reconcile(&worker, &key)).await
            }
        }),
        drive(worker.queues.blocks.clone(), PARALLEL, stop.clone(), move |key| {
            let worker = c.clone();
            async move {
                round(&worker.metrics, "blocks", &key, node_blocks::reconcile(&worker, &key)).await
            }
        }),
        drive(worker.queues.cluster.clone(), 1, stop.clone(), move |()| {
            let worker = d.clone();
            async move { round(&worker.metrics, "cluster", "", cluster::reconcile(&worker)).await }
        }),
        drive(worker.queues.corefile.clone(), 1, stop.clone(), move |()| {
            let worker = f.clone();
            async move { round(&worker.metrics, "corefile", "", corefile::reconcile(&worker)).await }
        }),
        drive(worker.queues.certificates.clone(), 1, stop.clone(), move |()| {
            let worker = e.clone();
            async move {
                let one = certificates::reconcile(&worker);
                round(&worker.metrics, "certificates", "", one).await
            }
        }),
    );
}
