//! Which change of which object asks for which reconcile.

use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client, Resource, ResourceExt};
use slicewire_api::Cluster;
use slicewire_api::labels::{CLUSTER, HUB_MANAGER, MANAGED_BY, PROJECT};
use slicewire_core::name::{HubNamespace, ProjectName, hub_namespace, project_namespace};
use tokio_util::sync::CancellationToken;

use super::{Hub, Queues};
use crate::kubernetes::cache::{Cache, Key};
use crate::kubernetes::watch::Watch;

/// Starts every watch of the hub.
pub(super) fn start(hub: &Hub, client: &Client, stop: &CancellationToken) {
    let caches = hub.caches.clone();
    let ours = format!("{MANAGED_BY}={HUB_MANAGER}");

    let queues = hub.queues.clone();
    Watch::new(Api::all(client.clone()), &caches.projects, stop)
        .spawn(move |project| queues.projects.add(project.name_any()));

    let (queues, configs) = (hub.queues.clone(), caches.configs.clone());
    Watch::new(Api::all(client.clone()), &caches.clusters, stop)
        .spawn(move |cluster| cluster_changed(&queues, &configs, cluster));

    let queues = hub.queues.clone();
    Watch::new(Api::all(client.clone()), &caches.configs, stop).spawn(move |config| {
        queues.slices.add(key(config));
        add_project(&queues, &config.namespace().unwrap_or_default());
        // A cluster that leaves waits for the slices that name it.
        for cluster in &config.spec.clusters {
            queues.clusters.add((config.namespace().unwrap_or_default(), cluster.name.clone()));
        }
    });

    let queues = hub.queues.clone();
    Watch::new(Api::all(client.clone()), &caches.slices, stop).spawn(move |slice| {
        child_changed(&queues, slice);
        if slice.metadata.deletion_timestamp.is_some()
            && let Some(key) = cluster_of(&slice.namespace().unwrap_or_default())
        {
            queues.clusters.add(key);
        }
    });
    let queues = hub.queues.clone();
    Watch::new(Api::all(client.clone()), &caches.gateways, stop)
        .spawn(move |gateway| child_changed(&queues, gateway));

    let queues = hub.queues.clone();
    Watch::new(Api::all(client.clone()), &caches.namespaces, stop)
        .labels(&ours)
        .spawn(move |namespace| namespace_changed(&queues, namespace));
    owned(hub, client, &caches.accounts, &ours, stop);
    owned(hub, client, &caches.roles, &ours, stop);
    owned(hub, client, &caches.bindings, &ours, stop);
}

/// Objects in clusters' namespaces that belong to the cluster.
fn owned<K>(hub: &Hub, client: &Client, cache: &Cache<K>, ours: &str, stop: &CancellationToken)
where
    K: Resource<DynamicType = ()>
        + Clone
        + serde::de::DeserializeOwned
        + std::fmt::Debug
        + Send
        + Sync
        + 'static,
{
    let queues = hub.queues.clone();
    Watch::new(Api::all(client.clone()), cache, stop).labels(ours).spawn(move |object| {
        if let Some(key) = cluster_of(&object.namespace().unwrap_or_default()) {
            queues.clusters.add(key);
        }
    });
}

fn cluster_changed(
    queues: &Queues,
    configs: &Cache<slicewire_api::SliceConfig>,
    cluster: &Cluster,
) {
    let namespace = cluster.namespace().unwrap_or_default();
    if let Some(key) = cluster_of(&namespace) {
        queues.clusters.add(key);
        return;
    }
    queues.clusters.add(key(cluster));
    add_project(queues, &namespace);
    for config in configs.list_in(&namespace) {
        queues.slices.add(key(&*config));
    }
}

/// A WorkerSlice or WorkerGateway: its slice's turn.
fn child_changed<K: Resource>(queues: &Queues, child: &K) {
    let namespace = child.namespace().unwrap_or_default();
    if let Some((project, _)) = cluster_of(&namespace) {
        queues.slices.add((project, child.name_any()));
    }
}

fn namespace_changed(queues: &Queues, namespace: &Namespace) {
    match hub_namespace(&namespace.name_any()) {
        Some(HubNamespace::Project(project)) => queues.projects.add(project.to_string()),
        Some(HubNamespace::Cluster(..)) => {
            let labels = namespace.labels();
            let project = labels.get(PROJECT).and_then(|p| ProjectName::parse(p).ok());
            if let (Some(project), Some(cluster)) = (project, labels.get(CLUSTER)) {
                queues.clusters.add((project_namespace(&project), cluster.clone()));
            }
        }
        None => {}
    }
}

fn add_project(queues: &Queues, namespace: &str) {
    if let Some(HubNamespace::Project(project)) = hub_namespace(namespace) {
        queues.projects.add(project.to_string());
    }
}

/// The Cluster whose namespace this is.
pub(super) fn cluster_of(namespace: &str) -> Option<Key> {
    match hub_namespace(namespace)? {
        HubNamespace::Cluster(project, cluster) => {
            Some((project_namespace(&project), cluster.to_string()))
        }
        HubNamespace::Project(_) => None,
    }
}

fn key<K: Resource>(object: &K) -> Key {
    (object.namespace().unwrap_or_default(), object.name_any())
}
