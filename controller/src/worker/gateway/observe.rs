//! What there is of a slice's gateways.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use kube::ResourceExt;
use slicewire_api::labels::{GATEWAY_LABEL, OF_SLICE};
use slicewire_api::{Slice, SliceGateway, WorkerGateway, WorkerSlice};
use slicewire_core::name::Lane;

use super::keys::Keys;
use super::streams::Report;
use crate::worker::Worker;

/// A slice's gateways, as told and as they are.
#[derive(Debug, Clone, Default)]
pub(super) struct Observed {
    pub(super) name: String,
    /// Where our components run.
    pub(super) namespace: String,
    /// What the hub says, if it says something.
    pub(super) told: Option<Arc<WorkerGateway>>,
    pub(super) told_slice: Option<Arc<WorkerSlice>>,
    /// The mirrors.
    pub(super) slice: Option<Arc<Slice>>,
    pub(super) gateway: Option<Arc<SliceGateway>>,
    /// What others may know of the keys, once there are some.
    pub(super) keys: Option<Keys>,
    pub(super) workload: Option<Arc<StatefulSet>>,
    /// Services of lanes.
    pub(super) services: Vec<Arc<Service>>,
    pub(super) pods: Vec<Arc<Pod>>,
    pub(super) nodes: BTreeMap<String, Arc<Node>>,
    /// What the gateways say of their tunnels.
    pub(super) reports: BTreeMap<Lane, Report>,
}

/// Reads the caches.
pub(super) fn observe(worker: &Worker, name: &str, keys: Option<Keys>) -> Observed {
    let local = &worker.local;
    let of_slice = |labels: &BTreeMap<String, String>, label: &str| {
        labels.get(label).is_some_and(|s| s == name)
    };
    let session = worker.hub.session();
    let hub = session.as_ref().map(|s| s.namespace.as_str());
    let pods = local.pods.list_in(&worker.namespace);
    let services = local.services.list_in(&worker.namespace);
    let workload = slicewire_core::name::SliceName::parse(name)
        .ok()
        .map(|n| slicewire_core::name::gateway_workload(&n));
    Observed {
        name: name.to_owned(),
        namespace: worker.namespace.clone(),
        told: hub.and_then(|ns| worker.told.gateways.get(ns, name)),
        told_slice: hub.and_then(|ns| worker.told.slices.get(ns, name)),
        slice: local.slices.get("", name),
        gateway: local.gateways.get(&worker.namespace, name),
        keys,
        workload: workload.and_then(|w| local.workloads.get(&worker.namespace, &w)),
        services: services.into_iter().filter(|s| of_slice(s.labels(), OF_SLICE)).collect(),
        pods: pods.into_iter().filter(|p| of_slice(p.labels(), GATEWAY_LABEL)).collect(),
        nodes: local.nodes.list().into_iter().map(|n| (n.name_any(), n)).collect(),
        reports: worker.streams.reports(name),
    }
}

impl Observed {
    /// The pod of a lane.
    pub(super) fn pod(&self, lane: Lane) -> Option<&Pod> {
        let slice = slicewire_core::name::SliceName::parse(&self.name).ok()?;
        let name = format!("{}-{lane}", slicewire_core::name::gateway_workload(&slice));
        self.pods.iter().find(|p| p.name_any() == name).map(|p| &**p)
    }

    /// The gateways' plan, unless they are on their way out.
    pub(super) fn plan(&self) -> Option<&SliceGateway> {
        self.gateway.as_deref().filter(|g| g.metadata.deletion_timestamp.is_none())
    }
}
