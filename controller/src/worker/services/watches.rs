//! Which change of which object asks for which round about services.

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{Api, Client, Resource, ResourceExt};
use slicewire_api::cluster_dns::SERVICE as DNS_SERVICE;
use slicewire_api::labels::{MANAGED_BY, WORKER_MANAGER};
use slicewire_api::{mcs, service};
use tokio_util::sync::CancellationToken;

use super::{Services, objects, shape};
use crate::kubernetes::cache::Key;
use crate::kubernetes::watch::Watch;
use crate::worker::{Worker, ours};

/// Names the Service that an EndpointSlice belongs to.
pub(super) const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Starts the watches of this cluster's own API server.
pub(in crate::worker) fn start(worker: &Worker, client: &Client, stop: &CancellationToken) {
    let services = &worker.services;
    let queue = services.exporting.clone();
    Watch::new(Api::all(client.clone()), &services.exports, stop)
        .spawn(move |export| queue.add(key(export)));
    let (queue, queues) = (services.exporting.clone(), worker.queues.clone());
    Watch::new(Api::all(client.clone()), &services.services, stop).trim(trim_service).spawn(
        move |service: &Service| {
            queue.add(key(service));
            if service.name_any() == DNS_SERVICE {
                queues.corefile.add(());
            }
        },
    );
    let queue = services.exporting.clone();
    Watch::new(Api::all(client.clone()), &services.endpoints, stop)
        .labels(SERVICE_NAME)
        .trim(trim_slice)
        .spawn(move |slice: &EndpointSlice| {
            if let Some(name) = slice.labels().get(SERVICE_NAME) {
                queue.add((slice.namespace().unwrap_or_default(), name.clone()));
            }
        });
    let (queue, told) = (services.importing.clone(), services.clone());
    Watch::new(Api::all(client.clone()), &services.imports, stop).spawn(
        move |import: &mcs::ServiceImport| {
            add_service(&told, &import.namespace().unwrap_or_default(), &import.name_any());
            if let Some(object) = import.annotations().get(objects::MADE_OF) {
                queue.add(object.clone());
            }
        },
    );
    let queue = services.importing.clone();
    Watch::new(Api::all(client.clone()), &services.made, stop)
        .labels(&format!("{MANAGED_BY}={WORKER_MANAGER},{}", mcs::SERVICE_NAME))
        .spawn(move |slice: &EndpointSlice| {
            if let Some(object) = slice.annotations().get(objects::MADE_OF) {
                queue.add(object.clone());
            }
        });
    let queue = services.importing.clone();
    Watch::new(ours(client, &worker.namespace), &services.mirrors, stop)
        .spawn(move |mirror: &service::SliceService| queue.add(mirror.name_any()));
}

/// Starts the watches of what the hub says.
pub(in crate::worker) fn watch_hub(
    worker: &Worker,
    client: &Client,
    namespace: &str,
    stop: &CancellationToken,
) {
    let services = &worker.services;
    let queue = services.exporting.clone();
    Watch::new(Api::namespaced(client.clone(), namespace), &services.places, stop).spawn(
        move |place: &service::WorkerServiceExport| {
            for said in place.status.iter().flat_map(|s| &s.services) {
                queue.add((said.namespace.clone(), said.name.clone()));
            }
        },
    );
    let queue = services.importing.clone();
    Watch::new(Api::namespaced(client.clone(), namespace), &services.told, stop)
        .spawn(move |told: &service::WorkerServiceImport| queue.add(told.name_any()));
    // What the hub does not tell any more is found out only when its whole lists are there.
    let (services, ended) = (services.clone(), stop.clone());
    tokio::spawn(async move {
        let synced = async {
            services.places.wait_synced().await;
            services.told.wait_synced().await;
        };
        tokio::select! {
            () = ended.cancelled() => {}
            () = synced => touch(&services),
        }
    });
}

/// Asks for everything about services: something changed that concerns any of them.
pub(in crate::worker) fn touch(services: &Services) {
    services.exports.list().iter().for_each(|export| services.exporting.add(key(&**export)));
    let exposed = services.services.list().into_iter().filter(|s| shape::exposed(s));
    exposed.for_each(|service| services.exporting.add(key(&*service)));
    for place in services.places.list() {
        for said in place.status.iter().flat_map(|s| &s.services) {
            services.exporting.add((said.namespace.clone(), said.name.clone()));
        }
    }
    services.told.list().iter().for_each(|told| services.importing.add(told.name_any()));
    services.mirrors.list().iter().for_each(|mirror| services.importing.add(mirror.name_any()));
}

/// What is told of a service of this name on any slice.
fn add_service(services: &Services, namespace: &str, name: &str) {
    let ending = format!(".{namespace}.{name}");
    for told in services.told.list().into_iter().filter(|t| t.name_any().ends_with(&ending)) {
        services.importing.add(told.name_any());
    }
}

fn key<K: Resource>(object: &K) -> Key {
    (object.namespace().unwrap_or_default(), object.name_any())
}

/// What is said of Services that nobody exports is not read.
fn trim_service(service: &mut Service) {
    service.status = None;
    let kept = shape::exposed(service);
    service.metadata.labels = None;
    service.metadata.annotations =
        kept.then(|| [(shape::EXPOSE.to_owned(), "true".to_owned())].into());
}

/// Hints are not read: every node finds its own way.
fn trim_slice(slice: &mut EndpointSlice) {
    slice.metadata.annotations = None;
    for endpoint in &mut slice.endpoints {
        endpoint.hints = None;
        endpoint.addresses.clear();
    }
}
