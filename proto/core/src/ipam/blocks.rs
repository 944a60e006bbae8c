//! Address blocks of nodes, out of their cluster's pools.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

use super::families;
use super::space::{Direction, find, host_bits};
use crate::prefix::{Family, overlap};

/// Host bits of a node's block where the pool is large: 64 addresses.
const BLOCK_BITS: u8 = 6;

/// What is known about a node's part of a slice.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// The blocks it has.
    pub blocks: Vec<IpNet>,
    /// Families in which it runs out of addresses.
    pub low: BTreeSet<Family>,
}

/// Blocks for nodes, and what the pools could not give.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BlockPlan {
    /// Every node's blocks, the ones it had first.
    pub blocks: BTreeMap<String, Vec<IpNet>>,
    /// Families in which some node did not get a whole block.
    pub exhausted: BTreeSet<Family>,
}

/// Gives every node a block in every family of the pools, and another one where it runs low.
///
/// Blocks a node has are never moved or taken, and nothing of `resting` is given: blocks given back
/// so lately that packets to their old addresses may still be on the way. No two blocks of the
/// result overlap, provided the blocks that were there do not.
pub fn plan(pools: &[IpNet], nodes: &BTreeMap<String, NodeFacts>, resting: &[IpNet]) -> BlockPlan {
    let held = nodes.values().flat_map(|n| &n.blocks);
    let mut used: Vec<IpNet> = held.chain(resting).copied().collect();
    let mut plan = BlockPlan {
        blocks: nodes.iter().map(|(name, n)| (name.clone(), n.blocks.clone())).collect(),
        exhausted: BTreeSet::new(),
    };
    for family in families(pools) {
        let own: Vec<IpNet> = pools.iter().copied().filter(|p| Family::of(p) == family).collect();
        // Nodes with nothing first: a pod there waits.
        let empty =
            |n: &&(&String, &NodeFacts)| !n.1.blocks.iter().any(|b| Family::of(b) == family);
        let (first, rest): (Vec<_>, Vec<_>) = nodes.iter().partition(|n| empty(&n));
        let low = rest.into_iter().filter(|(_, n)| n.low.contains(&family));
        let wanted = first.into_iter().map(|n| (n, 1)).chain(low.map(|n| (n, 0)));
        for ((name, _), least) in wanted {
            let (block, whole) = take(&own, &used, least);
            if !whole {
                plan.exhausted.insert(family);
            }
            if let Some(block) = block {
                used.push(block);
                plan.blocks.entry(name.clone()).or_default().push(block);
            }
        }
    }
    plan
}

/// Whether `blocks` of different nodes overlap: what [`plan`] never makes.
pub fn overlapping(nodes: &BTreeMap<String, Vec<IpNet>>) -> bool {
    let all: Vec<&IpNet> = nodes.values().flatten().collect();
    all.iter().enumerate().any(|(i, a)| all.iter().skip(i + 1).any(|b| overlap(a, b)))
}

/// A free block of a pool's usual size, else the largest smaller one of at least `least` host
/// bits; and whether it has the usual size.
fn take(pools: &[IpNet], used: &[IpNet], least: u8) -> (Option<IpNet>, bool) {
    let usual = |pool: &IpNet| {
        let bits = host_bits(pool);
        bits.saturating_sub(2).clamp(2, BLOCK_BITS).min(bits)
    };
    let free = |pool: &IpNet, bits: u8| find(pool, used, bits, Direction::FromStart);
    if let Some(block) = pools.iter().find_map(|p| free(p, usual(p))) {
        return (Some(block), true);
    }
    let smaller = (least..BLOCK_BITS).rev().find_map(|b| pools.iter().find_map(|p| free(p, b)));
    (smaller, false)
}
