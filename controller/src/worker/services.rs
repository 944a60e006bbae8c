//! Services over slices in this cluster.
//!
//! | module | does |
//! |---|---|
//! | [`export`] | ServiceExports, and Services that are exposed → places on the hub, and conditions |
//! | [`shape`] | Services and EndpointSlices as Kubernetes has them → the domain |
//! | [`import`] | what the hub tells → SliceServices for the nodes, ServiceImports for people |
//! | [`standard`] | a ServiceExport as anybody may write it |
//! | [`objects`] | a service → the standard's objects |
//! | [`watches`] | which change asks for which round |

mod export;
mod import;
mod objects;
mod shape;
mod standard;
mod watches;

use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::DynamicObject;
use slicewire_api::mcs::ServiceImport;
use slicewire_api::{SliceService, WorkerServiceExport, WorkerServiceImport};
use slicewire_runtime::reconcile::{Queue, drive};
use tokio_util::sync::CancellationToken;

use standard::ServiceExport;

use super::{PARALLEL, Worker, note};
use crate::kubernetes::cache::{Cache, Key};
use crate::kubernetes::round::round;
pub(super) use watches::{start, touch, watch_hub};

/// What is known of services, here and from the hub.
#[derive(Clone, Default)]
pub(super) struct Services {
    exports: Cache<ServiceExport>,
    /// Every Service of the cluster, trimmed.
    services: Cache<Service>,
    /// The pods behind Services; what we make for imports is not among them.
    endpoints: Cache<EndpointSlice>,
    imports: Cache<ServiceImport>,
    /// EndpointSlices that we made.
    made: Cache<EndpointSlice>,
    mirrors: Cache<SliceService>,
    /// Where the hub lets us report.
    places: Cache<WorkerServiceExport>,
    told: Cache<WorkerServiceImport>,
    /// Services that may have to be told of, by namespace and name.
    exporting: Queue<Key>,
    /// What is told of services, by the name of the hub's object.
    importing: Queue<String>,
}

impl Services {
    /// A Service of the cluster.
    pub(super) fn service(&self, namespace: &str, name: &str) -> Option<Arc<Service>> {
        self.services.get(namespace, name)
    }

    /// Takes in the answer to a write.
    pub(super) fn note(&self, object: DynamicObject) {
        let kind = object.types.as_ref().map(|t| t.kind.clone()).unwrap_or_default();
        match kind.as_str() {
            "ServiceExport" => note(&self.exports, object),
            "ServiceImport" => note(&self.imports, object),
            "EndpointSlice" => note(&self.made, object),
            "SliceService" => note(&self.mirrors, object),
            "WorkerServiceExport" => note(&self.places, object),
            _ => {}
        }
    }
}

/// Runs the reconcilers of services until `stop`.
pub(super) async fn run(worker: &Worker, stop: &CancellationToken) {
    let (a, b) = (worker.clone(), worker.clone());
    let services = &worker.services;
    tokio::join!(
        drive(services.exporting.clone(), PARALLEL, stop.clone(), move |key: Key| {
            let worker = a.clone();
            async move {
                let name = format!("{}/{}", key.0, key.1);
                round(&worker.metrics, "export", name, export::reconcile(&worker, &key)).await
            }
        }),
        drive(services.importing.clone(), PARALLEL, stop.clone(), move |key: String| {
            let worker = b.clone();
            async move { round(&worker.metrics, "import", &key, import::reconcile(&worker, &key)).await }
        }),
    );
}
