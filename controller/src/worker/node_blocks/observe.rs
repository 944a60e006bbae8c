//! The nodes a slice is on.

use std::collections::BTreeSet;
use std::sync::Arc;

use kube::ResourceExt;
use slicewire_api::{Slice, SliceNode};

use crate::worker::Worker;

/// A slice, its SliceNodes, and which nodes there are.
#[derive(Debug, Clone, Default)]
pub(super) struct Observed {
    pub(super) slice: Option<Arc<Slice>>,
    pub(super) slice_nodes: Vec<Arc<SliceNode>>,
    pub(super) nodes: BTreeSet<String>,
    /// Whether the list of nodes is whole.
    pub(super) nodes_known: bool,
}

/// Reads the caches.
pub(super) fn observe(worker: &Worker, slice: &str) -> Observed {
    let local = &worker.local;
    let all = local.slice_nodes.list_in(&worker.namespace);
    Observed {
        slice: local.slices.get("", slice),
        slice_nodes: all.into_iter().filter(|n| n.spec.slice == slice).collect(),
        nodes: local.nodes.list().iter().map(|n| n.name_any()).collect(),
        nodes_known: local.nodes.is_synced(),
    }
}
