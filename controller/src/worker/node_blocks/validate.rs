//! SliceNodes as domain values.

use std::collections::BTreeMap;

use slicewire_api::SliceNode;
use slicewire_core::ipam::blocks::NodeFacts;
use slicewire_core::prefix::Family;

use super::observe::Observed;

/// What is known of every node that is there to stay.
pub(super) fn validate(observed: &Observed) -> BTreeMap<String, NodeFacts> {
    observed.slice_nodes.iter().map(|n| (n.spec.node.clone(), facts(n))).collect()
}

/// What is known of a node. Blocks are written by us alone; one that is no prefix is none. What a
/// node said before it knew its last block says nothing about that block.
pub(in crate::worker) fn facts(node: &SliceNode) -> NodeFacts {
    let current = |about: Option<i64>| about == node.metadata.generation;
    let status = node.status.iter().filter(|s| current(s.observed_generation));
    let low = status.flat_map(|s| &s.low_families);
    NodeFacts {
        blocks: node.spec.blocks.iter().filter_map(|b| b.parse().ok()).collect(),
        low: low
            .filter_map(|f| match f.as_str() {
                "IPv4" => Some(Family::V4),
                "IPv6" => Some(Family::V6),
                _ => None,
            })
            .collect(),
    }
}
