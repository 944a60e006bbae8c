//! Which change of which object asks for which reconcile.

use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client, Resource, ResourceExt};
use slicewire_api::Cluster;
use slicewire_api::labels::{CLUSTER, HUB_MANAGER, MANAGED_BY, PROJECT};
use slicewire_core::name::{
    ClusterName, HubNamespace, ProjectName, cluster_namespace, hub_namespace, project_namespace,
    token_of,
};
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
        queues.policies.add(key(config));
        add_project(&queues, &config.namespace().unwrap_or_default());
        // A cluster that leaves waits for the slices that name it.
        for cluster in &config.spec.clusters {
            queues.clusters.add((config.namespace().unwrap_or_default(), cluster.name.clone()));
        }
    });

    let (queues, endpoints) = (hub.queues.clone(), caches.endpoints.clone());
    Watch::new(Api::all(client.clone()), &caches.slices, stop).spawn(move |slice| {
        child_changed(&queues, slice);
        services_changed(&queues, slice, &slice.name_any());
        queues.live.add(key(slice));
        slice_told(&queues, &endpoints, slice);
    });
    policies(hub, client, stop);
    services(hub, client, stop);
    live(hub, client, stop);
    profiles(hub, client, stop);
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
    owned(hub, client, &caches.quotas, &ours, stop);
    tokens(hub, client, stop);
}

/// Policies, how clusters carry them out, and what clusters report of their pods.
fn policies(hub: &Hub, client: &Client, stop: &CancellationToken) {
    let caches = &hub.caches;
    let queues = hub.queues.clone();
    Watch::new(Api::all(client.clone()), &caches.policies, stop).spawn(move |policy| {
        let slice = (policy.namespace().unwrap_or_default(), policy.spec.slice.clone());
        // What it selects on, clusters have to tell of their pods.
        queues.slices.add(slice.clone());
        queues.policies.add(slice);
    });
    let queues = hub.queues.clone();
    Watch::new(Api::all(client.clone()), &caches.told_policies, stop).spawn(move |told| {
        if let Some((project, _)) = cluster_of(&told.namespace().unwrap_or_default()) {
            // When the last one goes, nothing is asked of pods any more.
            queues.slices.add((project.clone(), told.spec.slice.clone()));
            queues.policies.add((project, told.spec.slice.clone()));
        }
    });
    let queues = hub.queues.clone();
    Watch::new(Api::all(client.clone()), &caches.endpoints, stop).spawn(move |endpoints| {
        let namespace = endpoints.namespace().unwrap_or_default();
        let Some((project, cluster)) = cluster_of(&namespace) else { return };
        // A copy that somebody changed is put right with what it is a copy of.
        let reporter = match hub_namespace(&project) {
            Some(HubNamespace::Project(project)) => {
                ClusterName::parse(&endpoints.spec.cluster).map(|c| cluster_namespace(&project, &c))
            }
            _ => return,
        };
        if let Ok(reporter) = reporter {
            queues.endpoints.add((reporter, endpoints.name_any()));
        }
        if endpoints.spec.cluster == cluster {
            queues.policies.add((project.clone(), endpoints.spec.slice.clone()));
            queues.clusters.add((project, cluster));
        }
    });
}

/// What clusters tell of their Services, and what they are told.
fn services(hub: &Hub, client: &Client, stop: &CancellationToken) {
    let queues = hub.queues.clone();
    Watch::new(Api::all(client.clone()), &hub.caches.exports, stop)
        .spawn(move |place| services_changed(&queues, place, &place.spec.slice));
    let queues = hub.queues.clone();
    Watch::new(Api::all(client.clone()), &hub.caches.imports, stop)
        .spawn(move |told| services_changed(&queues, told, &told.spec.slice));
}

fn services_changed<K: Resource>(queues: &Queues, object: &K, slice: &str) {
    if let Some((project, _)) = cluster_of(&object.namespace().unwrap_or_default()) {
        queues.services.add((project, slice.to_owned()));
    }
}

/// A cluster is told something of a slice: what it asks of pods, and who is told of them, may be
/// otherwise.
fn slice_told(
    queues: &Queues,
    endpoints: &Cache<slicewire_api::WorkerEndpoints>,
    slice: &slicewire_api::WorkerSlice,
) {
    let namespace = slice.namespace().unwrap_or_default();
    let Some((project, _)) = cluster_of(&namespace) else { return };
    queues.policies.add((project.clone(), slice.name_any()));
    for report in endpoints.list().iter().filter(|e| e.spec.slice == slice.name_any()) {
        let own = report.namespace().unwrap_or_default();
        let reports =
            cluster_of(&own).is_some_and(|(of, c)| of == project && c == report.spec.cluster);
        if reports {
            queues.endpoints.add((own, report.name_any()));
        }
    }
}

/// What clusters tell people of slices.
fn live(hub: &Hub, client: &Client, stop: &CancellationToken) {
    let queues = hub.queues.clone();
    Watch::new(Api::all(client.clone()), &hub.caches.pods, stop).spawn(move |pods| {
        let namespace = pods.namespace().unwrap_or_default();
        // What its worker reports there may not be what can be taken.
        if let Some(cluster) = cluster_of(&namespace) {
            queues.clusters.add(cluster);
        }
        queues.live.add((namespace, pods.spec.slice.clone()));
    });
    let queues = hub.queues.clone();
    Watch::new(Api::all(client.clone()), &hub.caches.traffic, stop)
        .spawn(move |traffic| queues.live.add(key(traffic)));
}

/// Profiles, which change the slices that name them.
fn profiles(hub: &Hub, client: &Client, stop: &CancellationToken) {
    let (queues, configs) = (hub.queues.clone(), hub.caches.configs.clone());
    Watch::new(Api::all(client.clone()), &hub.caches.profiles, stop).spawn(move |profile| {
        for config in configs.list_in(&profile.namespace().unwrap_or_default()) {
            if super::slice::observe::profile_of(&config) == Some(profile.name_any().as_str()) {
                queues.slices.add(key(&*config));
            }
        }
    });
}

/// Tokens, and what is asked with them.
fn tokens(hub: &Hub, client: &Client, stop: &CancellationToken) {
    let queues = hub.queues.clone();
    Watch::new(Api::all(client.clone()), &hub.caches.tokens, stop).spawn(move |token| {
        queues.tokens.add(key(token));
        add_project(&queues, &token.namespace().unwrap_or_default());
    });
    let queues = hub.queues.clone();
    Watch::new(Api::all(client.clone()), &hub.caches.requests, stop).spawn(move |request| {
        if let Some(key) = token_key(&request.namespace().unwrap_or_default()) {
            queues.tokens.add(key);
        }
    });
}

/// Objects in clusters' and tokens' namespaces that belong to the cluster or the token.
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
        let namespace = object.namespace().unwrap_or_default();
        if let Some(key) = cluster_of(&namespace) {
            queues.clusters.add(key);
        }
        if let Some(key) = token_key(&namespace) {
            queues.tokens.add(key);
        }
    });
}

/// The JoinToken whose namespace this is.
fn token_key(namespace: &str) -> Option<Key> {
    token_of(namespace).map(|(project, token)| (project_namespace(&project), token))
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
    if let Some((project, cluster)) = cluster_of(&namespace) {
        queues.slices.add((project.clone(), child.name_any()));
        // What its worker reports there may not be what can be taken.
        queues.clusters.add((project, cluster));
    }
}

fn namespace_changed(queues: &Queues, namespace: &Namespace) {
    if let Some(key) = token_key(&namespace.name_any()) {
        queues.tokens.add(key);
    }
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
