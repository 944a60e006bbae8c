//! The nodes a slice is on.

use std::collections::BTreeSet;
use std::sync::Arc;

use ipnet::IpNet;
use kube::ResourceExt;
use slicewire_api::{Slice, SliceNode};

use tokio::time::Instant;

use super::validate::facts;
use crate::worker::Worker;

/// A slice, its SliceNodes, and which nodes there are.
#[derive(Debug, Clone, Default)]
pub(super) struct Observed {
    pub(super) slice: Option<Arc<Slice>>,
    pub(super) slice_nodes: Vec<Arc<SliceNode>>,
    pub(super) nodes: BTreeSet<String>,
    /// Whether the list of nodes is whole.
    pub(super) nodes_known: bool,
    /// Blocks given back less than a minute ago.
    pub(super) resting: Vec<IpNet>,
}

/// Reads the caches.
pub(super) fn observe(worker: &Worker, slice: &str) -> Observed {
    let local = &worker.local;
    let all = local.slice_nodes.list_in(&worker.namespace);
    let slice_nodes: Vec<_> = all.into_iter().filter(|n| n.spec.slice == slice).collect();
    let blocks = slice_nodes.iter().flat_map(|n| facts(n).blocks).collect();
    Observed {
        slice: local.slices.get("", slice),
        slice_nodes,
        nodes: local.nodes.list().iter().map(|n| n.name_any()).collect(),
        nodes_known: local.nodes.is_synced(),
        resting: worker.resting.observe(slice, blocks, Instant::now()),
    }
}
