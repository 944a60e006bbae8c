//! Which node gets which block.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use serde_json::json;
use slicewire_api::Slice;
use slicewire_api::labels::NODE_FINALIZER;
use slicewire_core::ipam::blocks::{self, BlockPlan, NodeFacts};
use slicewire_core::prefix::Family;

use super::observe::Observed;
use crate::kubernetes::change::{Change, Steps};

/// The next steps, and what the pools could not give.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Plan {
    pub(super) steps: Steps,
    pub(super) exhausted: BTreeSet<Family>,
}

/// Blocks of a slice's nodes.
pub(in crate::worker) fn blocks(
    slice: &Slice,
    nodes: &BTreeMap<String, NodeFacts>,
    resting: &[IpNet],
) -> BlockPlan {
    let pools: Vec<IpNet> = slice.spec.pools.iter().filter_map(|p| p.parse().ok()).collect();
    blocks::plan(&pools, nodes, resting)
}

/// Decides.
pub(super) fn plan(observed: &Observed, facts: &BTreeMap<String, NodeFacts>) -> Plan {
    let mut plan = Plan { steps: vec![forget(observed)], ..Plan::default() };
    let stays = |s: &&std::sync::Arc<Slice>| s.metadata.deletion_timestamp.is_none();
    let Some(slice) = observed.slice.as_ref().filter(stays) else { return plan };
    let wanted = blocks(slice, facts, &observed.resting);
    let changes = observed.slice_nodes.iter().filter_map(|node| {
        let blocks = wanted.blocks.get(&node.spec.node)?;
        let texts: Vec<String> = blocks.iter().map(IpNet::to_string).collect();
        let leaving = node.metadata.deletion_timestamp.is_some();
        (!leaving && texts != node.spec.blocks)
            .then(|| Change::merge(&**node, json!({"spec": {"blocks": texts}})))
    });
    plan.steps.push(changes.collect());
    plan.exhausted = wanted.exhausted;
    plan
}

/// SliceNodes of machines that are gone: nobody is left there to clean up and say so.
fn forget(observed: &Observed) -> Vec<Change> {
    if !observed.nodes_known {
        return Vec::new();
    }
    let gone = observed.slice_nodes.iter().filter(|n| !observed.nodes.contains(&n.spec.node));
    gone.flat_map(|n| {
        Change::delete(&**n).into_iter().chain(
            n.metadata
                .deletion_timestamp
                .is_some()
                .then(|| Change::release(&**n, NODE_FINALIZER))
                .flatten(),
        )
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use slicewire_api::{SliceNode, SliceNodeSpec, SliceNodeStatus, SliceSpec};

    use super::super::validate::validate;
    use super::*;
    use crate::kubernetes::change::Verb;

    fn observed(nodes: &[&str]) -> Observed {
        let pools = vec!["10.0.0.0/20".to_owned(), "fd00::/64".to_owned()];
        let slice = Slice::new("blue", SliceSpec { pools, ..SliceSpec::default() });
        let node = |name: &&str| {
            let spec = SliceNodeSpec { slice: "blue".into(), node: (*name).into(), blocks: vec![] };
            let mut node = SliceNode::new(&format!("blue.{name}"), spec);
            node.metadata.generation = Some(1);
            Arc::new(node)
        };
        Observed {
            slice: Some(Arc::new(slice)),
            slice_nodes: nodes.iter().map(node).collect(),
            nodes: nodes.iter().map(|n| (*n).to_owned()).collect(),
            nodes_known: true,
            resting: vec![],
        }
    }

    fn changes(observed: &Observed) -> Vec<Change> {
        plan(observed, &validate(observed)).steps.concat()
    }

    /// Carries a plan out, as the API server would.
    fn carry_out(observed: &mut Observed) {
        for change in changes(observed) {
            let Verb::Merge(patch) = change.verb else { continue };
            for node in &mut observed.slice_nodes {
                if node.metadata.name.as_deref() == Some(change.name.as_str()) {
                    let node = Arc::make_mut(node);
                    node.spec.blocks =
                        serde_json::from_value(patch["spec"]["blocks"].clone()).unwrap();
                    node.metadata.generation = node.metadata.generation.map(|g| g + 1);
                }
            }
        }
    }

    #[test]
    fn every_node_gets_a_block_of_each_family_and_then_nothing_more() {
        let mut observed = observed(&["n1", "n2"]);
        carry_out(&mut observed);
        for node in &observed.slice_nodes {
            assert_eq!(node.spec.blocks.len(), 2);
        }
        assert_eq!(changes(&observed), []);
    }

    #[test]
    fn a_node_that_runs_low_gets_one_more_block_once() {
        let mut observed = observed(&["n1"]);
        carry_out(&mut observed);
        let node = Arc::make_mut(&mut observed.slice_nodes[0]);
        node.status = Some(SliceNodeStatus {
            observed_generation: node.metadata.generation,
            low_families: vec!["IPv4".into()],
            ..SliceNodeStatus::default()
        });
        carry_out(&mut observed);
        assert_eq!(observed.slice_nodes[0].spec.blocks.len(), 3);
        assert_eq!(changes(&observed), []);
    }

    #[test]
    fn the_order_in_which_nodes_are_seen_does_not_matter() {
        let (mut a, mut b) = (observed(&["n1", "n2", "n3"]), observed(&["n3", "n1", "n2"]));
        carry_out(&mut a);
        carry_out(&mut b);
        b.slice_nodes.sort_by(|x, y| x.spec.node.cmp(&y.spec.node));
        let of =
            |o: &Observed| o.slice_nodes.iter().map(|n| n.spec.blocks.clone()).collect::<Vec<_>>();
        assert_eq!(of(&a), of(&b));
    }

    #[test]
    fn a_slice_on_its_way_out_gets_no_blocks() {
        let mut observed = observed(&["n1"]);
        let slice = Arc::make_mut(observed.slice.as_mut().unwrap());
        slice.metadata.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(
                k8s_openapi::jiff::Timestamp::UNIX_EPOCH,
            ));
        assert_eq!(changes(&observed), []);
    }

    #[test]
    fn what_is_left_of_a_machine_that_is_gone_is_forgotten() {
        let mut observed = observed(&["n1"]);
        observed.nodes.clear();
        assert!(changes(&observed).iter().any(|c| c.verb == Verb::Delete));
        observed.nodes_known = false;
        assert!(!changes(&observed).iter().any(|c| c.verb == Verb::Delete));
    }
}
