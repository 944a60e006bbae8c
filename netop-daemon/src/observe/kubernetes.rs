//! Watches the API server; every object is trimmed to what is used before it is kept.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use futures::{Stream, StreamExt as _};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::Api;
use kube::core::PartialObjectMeta;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event};
use kube::{Client, ResourceExt as _};
use slicewire_api::labels::{DAEMON_CERTIFICATE, MANAGED_BY, WORKER_MANAGER};
use slicewire_core::onboarding::{GATEWAY_LABEL, SYSTEM_NAMESPACE};
use slicewire_core::selector::Labels;
use slicewire_core::violation::{self, Violation};
use slicewire_rpc::tls::Credentials;
use tokio::sync::watch;

use crate::validate;
use crate::world::{Shared, SliceEntry, Source, World};

/// Starts all watches; they end with the process.
pub(crate) fn watch(client: &Client, node: &str, shared: &Shared) {
    let all = watcher::Config::default;
    let slices = watcher::watcher(Api::<slicewire_api::Slice>::all(client.clone()), all());
    mirror(shared.clone(), Source::Slices, slices, |w| &mut w.slices, slice);

    let nodes = Api::<slicewire_api::SliceNode>::namespaced(client.clone(), SYSTEM_NAMESPACE);
    let own = node.to_owned();
    let nodes = watcher::watcher(nodes, all());
    mirror(
        shared.clone(),
        Source::SliceNodes,
        nodes,
        |w| &mut w.slice_nodes,
        move |o, _| {
            let name = o.name_any();
            let (node, faults) = validate::slice_node(o, &own);
            if !faults.is_empty() {
                tracing::warn!(slicenode = name, faults = violation::summary(&faults), "left out");
            }
            (name, Some(Arc::new(node)))
        },
    );

    // Asks for metadata only.
    let namespaces = Api::<PartialObjectMeta<core::Namespace>>::all(client.clone());
    let namespaces = watcher::watcher(namespaces, all());
    mirror(
        shared.clone(),
        Source::Namespaces,
        namespaces,
        |w| &mut w.namespaces,
        |o, _| {
            let name = o.name_any();
            (name, Some(o.metadata.labels.unwrap_or_default()))
        },
    );

    let on_node = watcher::Config::default().fields(&format!("spec.nodeName={node}"));
    let pods = watcher::watcher(Api::<core::Pod>::all(client.clone()), on_node);
    mirror(
        shared.clone(),
        Source::Pods,
        pods,
        |w| &mut w.pods,
        |o, _| (o.uid().unwrap_or_default(), Some(Arc::new(validate::pod(o)))),
    );

    policies(client, shared);
    services(client, shared);

    let gateways = watcher::Config::default().labels(GATEWAY_LABEL);
    let gateways =
        watcher::watcher(Api::<core::Pod>::namespaced(client.clone(), SYSTEM_NAMESPACE), gateways);
    mirror(
        shared.clone(),
        Source::Gateways,
        gateways,
        |w| &mut w.gateways,
        |o, _| (o.uid().unwrap_or_default(), validate::gateway(&o)),
    );
}

/// Follows this node's certificate. While there is none, or a broken one, the last one stays.
pub(crate) fn certificate(client: &Client) -> watch::Receiver<Option<Credentials>> {
    let (say, certificate) = watch::channel(None);
    let api = Api::<core::Secret>::namespaced(client.clone(), SYSTEM_NAMESPACE);
    let config = watcher::Config::default().fields(&format!("metadata.name={DAEMON_CERTIFICATE}"));
    tokio::spawn(async move {
        let events = watcher::watcher(api, config).default_backoff().applied_objects();
        let mut events = std::pin::pin!(events);
        while let Some(event) = events.next().await {
            let secret = match event {
                Ok(secret) => secret,
                Err(error) => {
                    tracing::warn!(%error, "watch of the certificate interrupted");
                    continue;
                }
            };
            let data = secret.data.unwrap_or_default();
            match Credentials::read(|entry| Some(data.get(entry)?.0.clone())) {
                Ok(new) => {
                    tracing::info!("new certificate");
                    say.send_replace(Some(new));
                }
                Err(error) => {
                    tracing::warn!(secret = DAEMON_CERTIFICATE, %error, "certificate not usable");
                }
            }
        }
    });
    certificate
}

/// Policies, and what other clusters tell of their pods. What does not parse is left as it was.
fn policies(client: &Client, shared: &Shared) {
    let all = watcher::Config::default;
    let api = Api::<slicewire_api::SliceRules>::namespaced(client.clone(), SYSTEM_NAMESPACE);
    let watched = watcher::watcher(api, all());
    mirror(
        shared.clone(),
        Source::Rules,
        watched,
        |w| &mut w.policies,
        |o, old| {
            let name = o.name_any();
            let entry = valid_or_old(&name, validate::rules(&o).map(Arc::new), old);
            (name, entry)
        },
    );
    let api = Api::<slicewire_api::SliceEndpoints>::namespaced(client.clone(), SYSTEM_NAMESPACE);
    let watched = watcher::watcher(api, all());
    mirror(
        shared.clone(),
        Source::FarPods,
        watched,
        |w| &mut w.far_pods,
        |o, old| {
            let name = o.name_any();
            let entry = valid_or_old(&name, validate::far_pods(&o), old);
            (name, entry)
        },
    );
    let watched = watcher::watcher(Api::<NetworkPolicy>::all(client.clone()), all());
    mirror(
        shared.clone(),
        Source::NetworkPolicies,
        watched,
        |w| &mut w.network_policies,
        |o, old| {
            let name = format!("{}/{}", o.namespace().unwrap_or_default(), o.name_any());
            // Those that isolate a slice's namespaces are about the pod network only.
            if o.labels().get(MANAGED_BY).is_some_and(|by| by == WORKER_MANAGER) {
                return (name, None);
            }
            let entry = valid_or_old(&name, validate::network_policy(&o).map(Arc::new), old);
            (name, entry)
        },
    );
}

/// Services of slices. What does not parse is left as it was.
fn services(client: &Client, shared: &Shared) {
    let api = Api::<slicewire_api::SliceService>::namespaced(client.clone(), SYSTEM_NAMESPACE);
    mirror(
        shared.clone(),
        Source::Services,
        watcher::watcher(api, watcher::Config::default()),
        |w| &mut w.services,
        |o, old| {
            let name = o.name_any();
            let entry = valid_or_old(&name, validate::service(&o).map(Arc::new), old);
            (name, entry)
        },
    );
}

fn valid_or_old<V: Clone>(
    name: &str,
    valid: Result<V, Vec<Violation>>,
    old: &BTreeMap<String, V>,
) -> Option<V> {
    match valid {
        Ok(valid) => Some(valid),
        Err(faults) => {
            tracing::warn!(name, faults = violation::summary(&faults), "kept as it was");
            old.get(name).cloned()
        }
    }
}

/// A slice that was valid once stays as it was until it is valid again.
fn slice(
    object: slicewire_api::Slice,
    old: &BTreeMap<String, SliceEntry>,
) -> (String, Option<SliceEntry>) {
    let name = object.name_any();
    let deleting = object.metadata.deletion_timestamp.is_some();
    let valid = match validate::slice(&object) {
        Ok(slice) => Some(slice),
        Err(faults) => {
            tracing::warn!(slice = name, faults = violation::summary(&faults), "kept as it was");
            old.get(&name).and_then(|o| o.valid.clone())
        }
    };
    (name, Some(SliceEntry { valid, deleting }))
}

/// Keeps one table of the world equal to what a watch tells.
///
/// While a list comes in, the table stays as it was, so that a broken watch never looks like a
/// deletion.
fn mirror<K, V>(
    shared: Shared,
    source: Source,
    events: impl Stream<Item = Result<Event<K>, watcher::Error>> + Send + 'static,
    table: impl Fn(&mut World) -> &mut BTreeMap<String, V> + Send + 'static,
    convert: impl Fn(K, &BTreeMap<String, V>) -> (String, Option<V>) + Send + 'static,
) where
    K: Send + Debug + 'static,
    V: PartialEq + Clone + Send + 'static,
{
    tokio::spawn(async move {
        let mut events = std::pin::pin!(events.default_backoff());
        let mut list: BTreeMap<String, V> = BTreeMap::new();
        while let Some(event) = events.next().await {
            match event {
                Err(error) => tracing::warn!(?source, %error, "watch interrupted"),
                Ok(Event::Init) => list.clear(),
                Ok(Event::InitApply(object)) => {
                    shared.change(|world| {
                        if let (key, Some(value)) = convert(object, table(world)) {
                            list.insert(key, value);
                        }
                        false
                    });
                }
                Ok(Event::InitDone) => {
                    let list = std::mem::take(&mut list);
                    shared.change(|world| {
                        world.listed.insert(source);
                        *table(world) = list;
                        true
                    });
                }
                Ok(Event::Apply(object)) => shared.change(|world| {
                    let table = table(world);
                    let (key, value) = convert(object, table);
                    put(table, key, value)
                }),
                Ok(Event::Delete(object)) => shared.change(|world| {
                    let table = table(world);
                    let (key, _) = convert(object, table);
                    table.remove(&key).is_some()
                }),
            }
        }
    });
}

fn put<V: PartialEq>(table: &mut BTreeMap<String, V>, key: String, value: Option<V>) -> bool {
    match value {
        None => table.remove(&key).is_some(),
        Some(value) if table.get(&key) == Some(&value) => false,
        Some(value) => {
            table.insert(key, value);
            true
        }
    }
}

/// A namespace's labels, asked for directly: the watch may be a moment behind the runtime.
pub(crate) async fn namespace(client: &Client, name: &str) -> Option<Labels> {
    let api = Api::<core::Namespace>::all(client.clone());
    let object = api.get_metadata_opt(name).await.ok()??;
    Some(object.metadata.labels.unwrap_or_default())
}
