//! The API for portals: what feeds it, and with which certificate it is served.

mod events;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client, Config};
use slicewire_api::{
    SliceConfig, WorkerGateway, WorkerPods, WorkerServiceExport, WorkerServiceImport, WorkerSlice,
    WorkerTraffic,
};
use slicewire_hub_api::Portal;
use slicewire_hub_api::feed::{Feed, Seen};
use slicewire_hub_api::kind::Kind;
use slicewire_hub_api::kinds::Feeds;
use slicewire_hub_api::limits::Bounds;
use slicewire_hub_api::live::{Live, Reports};
use slicewire_hub_api::server::{Options, serve};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::watches::cluster_of;
use super::{Caches, Hub};
use crate::hub::admission::Serving;
use crate::kubernetes::cache::Cache;
use crate::options::{ApiOptions, Identity};

/// How often a certificate of the user's own is looked at.
const CHECK: Duration = Duration::from_secs(60);
/// The same while there is none that can be used.
const CHECK_SOON: Duration = Duration::from_secs(3);

/// What the API tells of what runs.
struct Known(Caches);

impl Reports for Known {
    fn slice(&self, namespace: &str, name: &str) -> Option<Arc<SliceConfig>> {
        self.0.configs.get(namespace, name)
    }

    fn worker_slice(&self, namespace: &str, name: &str) -> Option<Arc<WorkerSlice>> {
        self.0.slices.get(namespace, name)
    }

    fn worker_gateway(&self, namespace: &str, name: &str) -> Option<Arc<WorkerGateway>> {
        self.0.gateways.get(namespace, name)
    }

    fn service_exports(&self, namespace: &str, slice: &str) -> Vec<Arc<WorkerServiceExport>> {
        let all = self.0.exports.list_in(namespace).into_iter();
        all.filter(|e| e.spec.slice == slice).collect()
    }

    fn service_imports(&self, namespace: &str, slice: &str) -> Vec<Arc<WorkerServiceImport>> {
        let all = self.0.imports.list_in(namespace).into_iter();
        all.filter(|i| i.spec.slice == slice).collect()
    }

    fn pods(&self, namespace: &str, slice: &str) -> Vec<Arc<WorkerPods>> {
        let all = self.0.pods.list_in(namespace).into_iter();
        all.filter(|p| p.spec.slice == slice).collect()
    }

    fn traffic(&self, namespace: &str, slice: &str) -> Option<Arc<WorkerTraffic>> {
        self.0.traffic.get(namespace, slice)
    }
}

/// Starts the API; `webhook` is the certificate it is served with unless the user has another.
///
/// # Errors
/// The address is none, or the way to the API server cannot be found.
pub(super) async fn start(
    hub: &Hub,
    client: &Client,
    webhook: Arc<Serving>,
    options: &ApiOptions,
    identity: &Identity,
    stop: &CancellationToken,
) -> anyhow::Result<JoinHandle<anyhow::Result<()>>> {
    if options.api_address.is_empty() {
        let stop = stop.clone();
        return Ok(tokio::spawn(async move {
            stop.cancelled().await;
            Ok(())
        }));
    }
    let address: SocketAddr =
        options.api_address.parse().context("--api-address is not an address and a port")?;
    let bounds = Bounds {
        calls_of_a_method: options.api_calls_of_a_method,
        calls: options.api_calls,
        streams: options.api_streams,
    };
    let config = Config::infer().await?;
    let live = Live::new(Known(hub.caches.clone()));
    let (metrics, ended) = (hub.metrics.clone(), stop.clone());
    let server = options.api_hub_server.clone();
    let portal = Portal::new(client.clone(), config, server, live, bounds, metrics, ended)?;
    feed(&portal, &hub.caches);
    events::hear(client, &portal.events, stop);
    let certificate = match options.api_certificate_secret.as_str() {
        "" => webhook,
        name => own(client, name, identity, stop),
    };
    let origins = options.api_origins.iter().filter(|o| !o.is_empty()).cloned().collect();
    let options = Options { address, origins, certificate };
    let stop = stop.clone();
    Ok(tokio::spawn(async move {
        let served = serve(portal, options, stop).await;
        served.map_err(|e| anyhow::anyhow!("cannot serve the API on {address}: {e}"))
    }))
}

/// Lets the API hear what the hub's watches say.
fn feed(portal: &Arc<Portal>, caches: &Caches) {
    // Every one by name: a kind that hears nothing could never be read.
    let Feeds { projects, clusters, slices, profiles, policies, tokens } = &portal.feeds;
    let quiet = |_: &(String, String)| {};
    hear(&caches.projects, projects, quiet);
    hear(&caches.clusters, clusters, quiet);
    hear(&caches.profiles, profiles, quiet);
    hear(&caches.policies, policies, quiet);
    hear(&caches.tokens, tokens, quiet);
    let to = portal.clone();
    hear(&caches.configs, slices, move |key| to.live.ring(&key.0, &key.1));
    ring(&caches.slices, portal);
    ring(&caches.gateways, portal);
    ring(&caches.exports, portal);
    ring(&caches.imports, portal);
    ring(&caches.pods, portal);
    ring(&caches.traffic, portal);
}

/// One kind; `also` is called for each object that changed.
fn hear<K: Kind>(
    cache: &Cache<K::Object>,
    feed: &Arc<Feed<K>>,
    also: impl Fn(&(String, String)) + Send + Sync + 'static,
) {
    let feed = feed.clone();
    cache.listen(move |seen, whole| {
        let keys: Vec<_> = seen.iter().map(|(key, ..)| key.clone()).collect();
        let seen = seen.into_iter().map(|(key, version, object)| Seen { key, version, object });
        feed.observe(seen.collect(), whole);
        keys.iter().for_each(&also);
    });
}

/// What members report and are told: whoever watches the slice is told. These objects' names begin
/// with the slice's, which holds no dot.
fn ring<K: kube::Resource + 'static>(cache: &Cache<K>, portal: &Arc<Portal>) {
    let portal = portal.clone();
    cache.listen(move |seen, _| {
        for ((namespace, name), ..) in &seen {
            if let Some((project, _)) = cluster_of(namespace) {
                portal.live.ring(&project, name.split('.').next().unwrap_or_default());
            }
        }
    });
}

/// The user's own certificate, looked at again and again.
fn own(client: &Client, name: &str, identity: &Identity, stop: &CancellationToken) -> Arc<Serving> {
    let serving = Arc::new(Serving::default());
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &identity.namespace);
    let (kept, name, stop) = (serving.clone(), name.to_owned(), stop.clone());
    tokio::spawn(async move {
        loop {
            let wait = match take(&secrets, &name, &kept).await {
                Ok(()) => CHECK,
                Err(error) => {
                    let error = format!("{error:#}");
                    tracing::warn!(secret = %name, %error, "the API's certificate cannot be used");
                    CHECK_SOON
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    });
    serving
}

async fn take(secrets: &Api<Secret>, name: &str, serving: &Serving) -> anyhow::Result<()> {
    let data = secrets.get(name).await?.data.unwrap_or_default();
    let entry = |key: &str| {
        data.get(key).map(|v| v.0.as_slice()).with_context(|| {
            format!("the Secret holds no {key}; it has to be of the type kubernetes.io/tls")
        })
    };
    serving.replace_pem(entry("tls.crt")?, entry("tls.key")?)
}
