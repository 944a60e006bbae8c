//! Addresses a node gives to its pods, out of the blocks it holds of a slice.
//!
//! Guarantees, whatever the order of calls:
//! - no address is held by two pods, nor by a pod and the node's own router;
//! - an address given back is not given again before [`QUARANTINE_MS`] have passed, so that nobody
//!   talks to a new pod believing it to be the old one;
//! - what was given back and waited is free again: nothing leaks.
//!
//! Addresses are given in turn through the blocks rather than lowest first, so that one comes back
//! as late as the blocks' size allows. Time is an input, in milliseconds of any clock that never
//! goes back while the node is up.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::prefix::Family;

/// How long an address rests after it was given back, in milliseconds.
pub const QUARANTINE_MS: u64 = 60_000;

/// Why a pod gets no address.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NoAddress {
    /// The node holds no block of a family of the slice.
    #[error(
        "the node has no {0:?} address block of the slice yet; the worker controller grants one"
    )]
    NoBlock(Family),
    /// Every address of the node's blocks is held or rests.
    #[error(
        "every {0:?} address of the node's blocks is in use or was until a minute ago; the worker controller grants another block"
    )]
    Exhausted(Family),
}

impl NoAddress {
    /// One stable word for conditions, events and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoBlock(_) => "NoAddressBlock",
            Self::Exhausted(_) => "AddressesExhausted",
        }
    }
}

/// A slice's addresses on one node. Pods are named by their UID.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeAddresses {
    #[serde(skip)]
    blocks: Vec<IpNet>,
    /// Pod to its addresses, at most one a family.
    held: BTreeMap<String, BTreeSet<IpAddr>>,
    /// Address to when it was given back.
    resting: BTreeMap<IpAddr, u64>,
    /// The address last given, per family: the search goes on behind it.
    #[serde(default)]
    last: BTreeSet<IpAddr>,
}

impl NodeAddresses {
    /// Sets the blocks. Addresses held outside of them stay held until they are given back.
    pub fn set_blocks(&mut self, blocks: &[IpNet]) {
        let mut seen = BTreeSet::new();
        self.blocks = blocks.iter().copied().filter(|b| seen.insert(*b)).collect();
    }

    /// The blocks, in the order they were granted.
    pub fn blocks(&self) -> &[IpNet] {
        &self.blocks
    }

    /// The slice router's own addresses: the first of the first block of each family.
    pub fn router_addresses(&self) -> Vec<IpAddr> {
        router_addresses(&self.blocks)
    }

    /// The pod's addresses.
    pub fn of(&self, pod: &str) -> Option<&BTreeSet<IpAddr>> {
        self.held.get(pod)
    }

    /// The pods that hold addresses.
    pub fn pods(&self) -> impl Iterator<Item = &str> {
        self.held.keys().map(String::as_str)
    }

    /// Whether nothing is held and nothing rests: the node can give its blocks back.
    pub fn is_idle(&self) -> bool {
        self.held.is_empty() && self.resting.is_empty()
    }

    /// The pod's addresses, one of each of `families`; given now where it holds none.
    ///
    /// # Errors
    /// A family has no free address; then nothing is given in the other family either.
    pub fn acquire(
        &mut self,
        pod: &str,
        families: &BTreeSet<Family>,
        now_ms: u64,
    ) -> Result<BTreeSet<IpAddr>, NoAddress> {
        let mut addresses = self.held.get(pod).cloned().unwrap_or_default();
        let has = |family: &Family| addresses.iter().any(|a| Family::of_addr(a) == *family);
        let lacking: Vec<Family> = families.iter().copied().filter(|f| !has(f)).collect();
        if lacking.is_empty() {
            return Ok(addresses);
        }
        self.expire(now_ms);
        let taken = self.taken();
        let given = lacking.into_iter().map(|family| self.next_free(family, &taken));
        for address in given.collect::<Result<Vec<_>, _>>()? {
            let family = Family::of_addr(&address);
            self.last.retain(|a| Family::of_addr(a) != family);
            self.last.insert(address);
            addresses.insert(address);
        }
        self.held.insert(pod.to_owned(), addresses.clone());
        Ok(addresses)
    }

    /// Takes over an address that a pod was found to have. Returns false, and changes nothing, when
    /// another pod holds it or the pod holds another one of that family.
    pub fn adopt(&mut self, pod: &str, address: IpAddr) -> bool {
        let other = self.held.iter().any(|(p, a)| p != pod && a.contains(&address));
        let family = Family::of_addr(&address);
        let mine = self.held.get(pod);
        let differs =
            mine.is_some_and(|m| m.iter().any(|a| Family::of_addr(a) == family && *a != address));
        if other || differs {
            return false;
        }
        self.resting.remove(&address);
        self.held.entry(pod.to_owned()).or_default().insert(address);
        true
    }

    /// Takes the pod's addresses back; they rest from `now_ms` on. Returns whether it held any.
    pub fn release(&mut self, pod: &str, now_ms: u64) -> bool {
        let Some(addresses) = self.held.remove(pod) else { return false };
        self.resting.extend(addresses.into_iter().map(|a| (a, now_ms)));
        true
    }

    /// Frees what has rested long enough. Returns whether anything was freed.
    pub fn expire(&mut self, now_ms: u64) -> bool {
        let before = self.resting.len();
        self.resting.retain(|_, since| {
            // A clock that went back must not rest an address for ever.
            *since = (*since).min(now_ms);
            now_ms - *since < QUARANTINE_MS
        });
        self.resting.len() != before
    }

    /// Families of which fewer than a quarter of the addresses are free, or no block is there while
    /// there is one of the other family. A node that has no block at all has asked already.
    pub fn low(&self, families: &BTreeSet<Family>) -> BTreeSet<Family> {
        if self.blocks.is_empty() {
            return BTreeSet::new();
        }
        let taken = self.taken();
        families.iter().copied().filter(|f| self.is_low(*f, &taken)).collect()
    }

    fn is_low(&self, family: Family, taken: &BTreeSet<IpAddr>) -> bool {
        let blocks = self.blocks.iter().filter(|b| Family::of(b) == family);
        let total = blocks.clone().map(size).fold(0u128, u128::saturating_add);
        let gone = taken.iter().filter(|a| blocks.clone().any(|b| b.contains(*a))).count();
        total.saturating_sub(gone as u128).saturating_mul(4) < total || total == 0
    }

    fn taken(&self) -> BTreeSet<IpAddr> {
        let held = self.held.values().flatten();
        let mut taken: BTreeSet<IpAddr> = held.chain(self.resting.keys()).copied().collect();
        taken.extend(self.router_addresses());
        taken
    }

    /// The next free address behind the last given one, round through all blocks of the family.
    fn next_free(&self, family: Family, taken: &BTreeSet<IpAddr>) -> Result<IpAddr, NoAddress> {
        let blocks: Vec<&IpNet> = self.blocks.iter().filter(|b| Family::of(b) == family).collect();
        if blocks.is_empty() {
            return Err(NoAddress::NoBlock(family));
        }
        let last = self.last.iter().find(|a| Family::of_addr(a) == family);
        let start = last.and_then(|l| {
            let at = blocks.iter().position(|b| b.contains(l))?;
            Some((at, number(l) - number(&blocks[at].network()) + 1))
        });
        let (first, offset) = start.unwrap_or((0, 0));
        // The starting block's head is looked at last.
        let rounds = (0..=blocks.len()).map(|i| (blocks[(first + i) % blocks.len()], i));
        for (block, round) in rounds {
            let from = if round == 0 { offset } else { 0 };
            let free = free_in(block, from, taken);
            if let Some(address) = free {
                return Ok(address);
            }
        }
        Err(NoAddress::Exhausted(family))
    }
}

/// The first address of the first block of each family: a node's slice router's own.
pub fn router_addresses(blocks: &[IpNet]) -> Vec<IpAddr> {
    let first = |f| blocks.iter().find(|b| Family::of(b) == f).map(IpNet::network);
    [Family::V4, Family::V6].into_iter().filter_map(first).collect()
}

/// Looks at no more than one address more than are taken, however large the block is.
fn free_in(block: &IpNet, from: u128, taken: &BTreeSet<IpAddr>) -> Option<IpAddr> {
    let base = number(&block.network());
    let family = Family::of(block);
    (from..size(block)).map(|i| address(family, base + i)).find(|a| !taken.contains(a))
}

/// Addresses in a prefix; one fewer for `::/0`, which nobody will miss.
fn size(block: &IpNet) -> u128 {
    1u128.checked_shl(u32::from(Family::of(block).bits() - block.prefix_len())).unwrap_or(u128::MAX)
}

fn number(address: &IpAddr) -> u128 {
    match address {
        IpAddr::V4(a) => u128::from(a.to_bits()),
        IpAddr::V6(a) => a.to_bits(),
    }
}

fn address(family: Family, number: u128) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::from_bits(u32::try_from(number).unwrap_or(u32::MAX))),
        Family::V6 => IpAddr::V6(Ipv6Addr::from_bits(number)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn both() -> BTreeSet<Family> {
        BTreeSet::from([Family::V4, Family::V6])
    }

    fn node(blocks: &[&str]) -> NodeAddresses {
        let blocks: Vec<IpNet> = blocks.iter().map(|b| b.parse().unwrap()).collect();
        let mut node = NodeAddresses::default();
        node.set_blocks(&blocks);
        node
    }

    #[test]
    fn a_pod_gets_one_address_of_each_family_and_keeps_it() {
        let mut node = node(&["10.77.3.0/26", "fd77:0:0:3::/122"]);
        let first = node.acquire("p1", &both(), 0).unwrap();
        let want: BTreeSet<IpAddr> =
            ["10.77.3.1", "fd77:0:0:3::1"].iter().map(|a| a.parse().unwrap()).collect();
        assert_eq!(first, want, "the first of each block is the router's own");
        assert_eq!(node.acquire("p1", &both(), 5).unwrap(), first);
        assert_ne!(node.acquire("p2", &both(), 5).unwrap(), first);
    }

    #[test]
    fn nothing_is_given_when_one_family_has_nothing() {
        let mut node = node(&["10.77.3.0/26"]);
        assert_eq!(node.acquire("p1", &both(), 0), Err(NoAddress::NoBlock(Family::V6)));
        assert!(node.is_idle());
    }

    #[test]
    fn an_address_rests_a_minute() {
        let v4 = BTreeSet::from([Family::V4]);
        let mut node = node(&["10.77.3.0/31"]);
        let only = node.acquire("p1", &v4, 0).unwrap();
        assert!(node.release("p1", 1_000));
        assert_eq!(
            node.acquire("p2", &v4, 60_999),
            Err(NoAddress::Exhausted(Family::V4)),
            "before a minute has passed"
        );
        assert_eq!(node.acquire("p2", &v4, 61_000).unwrap(), only);
    }

    #[test]
    fn a_second_block_is_used_when_the_first_is_full() {
        let v4 = BTreeSet::from([Family::V4]);
        let mut node = node(&["10.77.3.0/31"]);
        node.acquire("p1", &v4, 0).unwrap();
        assert_eq!(node.low(&v4), v4);
        node.set_blocks(&["10.77.3.0/31".parse().unwrap(), "10.77.9.0/30".parse().unwrap()]);
        let second = node.acquire("p2", &v4, 0).unwrap();
        assert_eq!(second, BTreeSet::from(["10.77.9.0".parse().unwrap()]));
    }

    #[test]
    fn a_node_without_blocks_does_not_ask_for_more() {
        assert!(node(&[]).low(&both()).is_empty());
        let v6 = BTreeSet::from([Family::V6]);
        assert_eq!(node(&["10.77.3.0/26"]).low(&both()), v6);
    }

    #[test]
    fn rest_outlives_the_process() {
        let v4 = BTreeSet::from([Family::V4]);
        let mut node = node(&["10.77.3.0/31"]);
        node.acquire("p1", &v4, 0).unwrap();
        node.release("p1", 1_000);
        let text = serde_json::to_string(&node).unwrap();
        let mut again: NodeAddresses = serde_json::from_str(&text).unwrap();
        again.set_blocks(node.blocks());
        assert!(again.acquire("p2", &v4, 30_000).is_err());
        assert!(again.acquire("p2", &v4, 61_000).is_ok());
    }

    #[test]
    fn an_address_found_on_a_pod_is_taken_over_once() {
        let mut node = node(&["10.77.3.0/26"]);
        let found = "10.77.3.7".parse().unwrap();
        assert!(node.adopt("p1", found));
        assert!(!node.adopt("p2", found));
        assert!(!node.adopt("p1", "10.77.3.8".parse().unwrap()));
    }

    #[test]
    fn the_largest_block_is_searched_as_fast_as_the_smallest() {
        let mut node = node(&["fd00::/8"]);
        let v6 = BTreeSet::from([Family::V6]);
        for i in 0..50 {
            node.acquire(&format!("p{i}"), &v6, 0).unwrap();
        }
        assert!(node.low(&v6).is_empty());
    }

    #[derive(Debug, Clone)]
    enum Step {
        Acquire(u8),
        Release(u8),
        Wait(u64),
        Grow,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..12u8).prop_map(Step::Acquire),
            3 => (0..12u8).prop_map(Step::Release),
            2 => (0..40_000u64).prop_map(Step::Wait),
            1 => Just(Step::Grow),
        ]
    }

    proptest! {
        #[test]
        fn addresses_are_unique_rest_and_come_back(steps in prop::collection::vec(step(), 1..120)) {
            let v4 = BTreeSet::from([Family::V4]);
            let mut blocks: Vec<IpNet> = vec!["10.9.0.0/29".parse().unwrap()];
            let mut node = NodeAddresses::default();
            node.set_blocks(&blocks);
            let mut now = 0u64;
            let mut released: BTreeMap<IpAddr, u64> = BTreeMap::new();
            let mut model: BTreeMap<String, IpAddr> = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Wait(ms) => now += ms,
                    Step::Grow if blocks.len() < 4 => {
                        blocks.push(format!("10.9.{}.0/29", blocks.len()).parse().unwrap());
                        node.set_blocks(&blocks);
                    }
                    Step::Grow => {}
                    Step::Release(p) => {
                        let pod = format!("p{p}");
                        if let Some(address) = model.remove(&pod) {
                            prop_assert!(node.release(&pod, now));
                            released.insert(address, now);
                        }
                    }
                    Step::Acquire(p) => {
                        let pod = format!("p{p}");
                        let size = blocks.len() * 8 - 1;
                        let resting =
                            released.values().filter(|t| now - **t < QUARANTINE_MS).count();
                        let room = model.len() + resting < size;
                        match node.acquire(&pod, &v4, now) {
                            Ok(got) => {
                                let address = *got.iter().next().unwrap();
                                prop_assert!(blocks.iter().any(|b| b.contains(&address)));
                                prop_assert!(!node.router_addresses().contains(&address));
                                if let Some(had) = model.get(&pod) {
                                    prop_assert_eq!(*had, address);
                                    continue;
                                }
                                prop_assert!(model.values().all(|a| *a != address), "given twice");
                                if let Some(t) = released.remove(&address) {
                                    prop_assert!(now - t >= QUARANTINE_MS, "reused too early");
                                }
                                model.insert(pod, address);
                            }
                            Err(_) => prop_assert!(!room && !model.contains_key(&pod), "leaked"),
                        }
                    }
                }
            }
            for pod in model.keys() {
                node.release(pod, now);
            }
            node.expire(now + QUARANTINE_MS);
            prop_assert!(node.is_idle());
        }
    }
}
