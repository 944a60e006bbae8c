//! What runs: slices over their clusters as the members report it, their pods, traffic and services,
//! and Events.

mod events;
mod pods;
mod service;
mod services;
mod slot;
mod topology;
mod traffic;
mod views;
mod watcher;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use slicewire_api::{
    SliceConfig, WorkerGateway, WorkerPods, WorkerServiceExport, WorkerServiceImport, WorkerSlice,
    WorkerTraffic,
};
use tokio::sync::watch;

pub use events::Event;
pub(crate) use service::add_service;

/// What is known of slices, by the namespaces and names of the objects.
pub trait Reports: Send + Sync {
    /// A slice as it is wanted, and what the hub says of it.
    fn slice(&self, namespace: &str, name: &str) -> Option<Arc<SliceConfig>>;
    /// What a cluster is told and reports of a slice.
    fn worker_slice(&self, namespace: &str, name: &str) -> Option<Arc<WorkerSlice>>;
    /// What a cluster's gateways are told and report.
    fn worker_gateway(&self, namespace: &str, name: &str) -> Option<Arc<WorkerGateway>>;
    /// What a cluster tells of the services of a slice.
    fn service_exports(&self, namespace: &str, slice: &str) -> Vec<Arc<WorkerServiceExport>>;
    /// What a cluster is told of them.
    fn service_imports(&self, namespace: &str, slice: &str) -> Vec<Arc<WorkerServiceImport>>;
    /// What a cluster tells of the pods it has on a slice.
    fn pods(&self, namespace: &str, slice: &str) -> Vec<Arc<WorkerPods>>;
    /// What a cluster tells of what passes its tunnels.
    fn traffic(&self, namespace: &str, slice: &str) -> Option<Arc<WorkerTraffic>>;
}

/// A slice: its project's namespace and its name.
type SliceKey = (String, String);

/// What runs, and a bell for each slice that somebody watches.
pub struct Live {
    reports: Box<dyn Reports>,
    bells: Mutex<HashMap<SliceKey, watch::Sender<u64>>>,
}

impl Live {
    /// Looks into these reports.
    pub fn new(reports: impl Reports + 'static) -> Self {
        Self { reports: Box::new(reports), bells: Mutex::default() }
    }

    /// Something of a slice has changed: its namespace is the project's.
    pub fn ring(&self, namespace: &str, slice: &str) {
        let mut bells = self.bells.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (namespace.to_owned(), slice.to_owned());
        if let Some(bell) = bells.get(&key) {
            if bell.receiver_count() == 0 {
                bells.remove(&key);
            } else {
                bell.send_modify(|n| *n += 1);
            }
        }
    }

    fn listen(&self, namespace: &str, slice: &str) -> watch::Receiver<u64> {
        let mut bells = self.bells.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (namespace.to_owned(), slice.to_owned());
        bells.entry(key).or_insert_with(|| watch::Sender::new(0)).subscribe()
    }
}
