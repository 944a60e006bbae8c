//! What there is of a slice in this cluster.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::ResourceExt;
use slicewire_api::{Slice, SliceGateway, SliceNode, WorkerSlice};
use slicewire_core::selector::Labels;

use crate::worker::Worker;

/// A slice, as told and as it is.
#[derive(Debug, Clone, Default)]
pub(super) struct Observed {
    /// What the hub says.
    pub(super) told: Word,
    /// The mirror.
    pub(super) slice: Option<Arc<Slice>>,
    /// VXLAN identifiers of the cluster's slices.
    pub(super) vnis: BTreeMap<String, u32>,
    /// The slice on the nodes.
    pub(super) nodes: Vec<Arc<SliceNode>>,
    pub(super) gateway: Option<Arc<SliceGateway>>,
    /// Namespaces and their labels.
    pub(super) namespaces: BTreeMap<String, Labels>,
    /// Everybody's.
    pub(super) network_policies: Vec<Arc<NetworkPolicy>>,
}

/// What the hub says of a slice.
#[derive(Debug, Clone, Default)]
pub(super) enum Word {
    /// Nothing is known: there is no hub, or it has not been heard yet. What is, stays.
    #[default]
    Unknown,
    /// It says that there is no such slice here.
    Absent,
    /// It says this, to the cluster of this name.
    Told(String, Arc<WorkerSlice>),
}

impl Word {
    /// What it says, if it says something.
    pub(super) fn slice(&self) -> Option<&WorkerSlice> {
        match self {
            Self::Told(_, slice) => Some(slice),
            _ => None,
        }
    }
}

/// Reads the caches.
pub(super) fn observe(worker: &Worker, name: &str) -> Observed {
    let local = &worker.local;
    let slices = local.slices.list();
    let nodes = local.slice_nodes.list_in(&worker.namespace);
    let vni = |s: &Slice| u32::try_from(s.spec.vni).ok();
    Observed {
        told: told(worker, name),
        slice: local.slices.get("", name),
        vnis: slices.iter().filter_map(|s| Some((s.name_any(), vni(s)?))).collect(),
        nodes: nodes.into_iter().filter(|n| n.spec.slice == name).collect(),
        gateway: local.gateways.get(&worker.namespace, name),
        namespaces: local
            .namespaces
            .list()
            .iter()
            .map(|n| (n.name_any(), n.labels().clone()))
            .collect(),
        network_policies: local.network_policies.list(),
    }
}

fn told(worker: &Worker, name: &str) -> Word {
    let Some(session) = worker.hub.session() else { return Word::Unknown };
    match worker.told.slices.get(&session.namespace, name) {
        Some(slice) => Word::Told(session.cluster.clone(), slice),
        None if worker.told.slices.is_synced() => Word::Absent,
        None => Word::Unknown,
    }
}
