//! Queues and classes of one slice on one node.
//!
//! A slice has two shapers, one for what leaves the node and one for what arrives. Each is one class
//! with the slice's ceiling, and below it one class a pod and one for everybody else's packets (those
//! a gateway passes on for other nodes). Classes of pods borrow from the slice's in turn, so many
//! bytes each, so pods share fairly whatever their number of connections.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::rate::{MAX_RATE, MIN_RATE, Rate};
use super::spec::Qos;

/// The least a queue holds: two of the largest packets that a kernel hands over at once.
const QUEUE: u64 = 128 << 10;
/// The most it holds: some milliseconds of the fastest links.
const LONGEST_QUEUE: u64 = 8 << 20;
/// How long a queue may get, in milliseconds at the class's ceiling.
const QUEUE_TIME: u64 = 25;
/// How much may pass at once after silence, in milliseconds at the ceiling: as late as a timer may be.
const BURST_TIME: u64 = 4;
/// The same where somebody asks for less.
const LEAST_BURST_TIME: u64 = 1;
/// Bytes of two full packets.
const TWO_PACKETS: u64 = 3_028;
/// How much a pod sends in its turn: the largest packet that a kernel hands over at once. With less,
/// who hands over large ones would get more.
const TURN: u32 = 64 << 10;
/// The class of packets that are of no pod of the node.
pub const OTHERS: u16 = 2;
/// Pods' classes have numbers from here.
const FIRST_POD: u16 = 0x10;

/// What a slice's shapers on a node should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// The devices whose packets they take: all ways of the slice into and out of the node.
    pub devices: BTreeSet<String>,
    /// What leaves the node.
    pub leaving: Limit,
    /// What arrives.
    pub arriving: Limit,
    /// Most for one pod, each direction; unset: the slice's.
    pub pod_ceiling: Option<Rate>,
    /// Pods' addresses by the number of their class.
    pub pods: BTreeMap<u16, BTreeSet<IpAddr>>,
}

/// What a slice may send in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// Bits a second.
    pub rate: Rate,
    /// Bytes that may pass at once after silence; unset: what the rate needs to be reached.
    pub burst: Option<u64>,
}

/// A class, in the numbers that the kernel wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Class {
    /// What it has of its own.
    pub rate: Rate,
    /// What it may borrow up to.
    pub ceiling: Rate,
    /// Bytes at once at `rate`.
    pub burst: u64,
    /// Bytes at once at `ceiling`.
    pub ceiling_burst: u64,
    /// Bytes in a turn.
    pub quantum: u32,
    /// Bytes its queue holds.
    pub queue: u32,
}

impl Limit {
    /// A ceiling, or none.
    pub fn new(ceiling: Option<Rate>, qos: &Qos) -> Self {
        Self { rate: ceiling.unwrap_or(MAX_RATE), burst: qos.burst.map(|b| b.0) }
    }

    fn burst(self) -> u64 {
        let least = self.rate.bytes_in(LEAST_BURST_TIME).max(TWO_PACKETS);
        self.burst.unwrap_or_else(|| self.rate.bytes_in(BURST_TIME)).max(least)
    }

    /// The slice's own class.
    pub fn root(self) -> Class {
        Class {
            rate: self.rate,
            ceiling: self.rate,
            burst: self.burst(),
            ceiling_burst: self.burst(),
            quantum: 0,
            queue: 0,
        }
    }

    /// The class of one of `pods` pods with an own ceiling.
    pub fn leaf(self, ceiling: Option<Rate>, pods: usize) -> Class {
        let top = ceiling.unwrap_or(self.rate).min(self.rate);
        let own = Self { rate: top, burst: self.burst };
        let sharing = u64::try_from(pods).unwrap_or(u64::MAX).clamp(1, 8);
        let queue = (top.bytes_in(QUEUE_TIME) / sharing).clamp(QUEUE, LONGEST_QUEUE);
        Class {
            // A class without any of its own is refused; with more, it would not have to share it.
            rate: Rate(top.0 / 1_024).max(Rate(MIN_RATE.0 / 16)),
            ceiling: top,
            burst: TWO_PACKETS,
            ceiling_burst: own.burst(),
            quantum: TURN,
            queue: u32::try_from(queue).unwrap_or(u32::MAX),
        }
    }
}

/// Numbers of pods' classes: from their UIDs alone, so that a process that is started anew gives
/// the same ones.
pub fn class_numbers<'a>(uids: impl IntoIterator<Item = &'a str>) -> BTreeMap<&'a str, u16> {
    let sorted: BTreeSet<&str> = uids.into_iter().collect();
    let mut taken = BTreeSet::new();
    let mut numbers = BTreeMap::new();
    for uid in sorted {
        let hash =
            uid.bytes().fold(0x811c_9dc5_u32, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193));
        let [_, _, high, low] = (hash ^ (hash >> 16)).to_be_bytes();
        let mut number = u16::from_be_bytes([high, low]).clamp(FIRST_POD, u16::MAX - 1);
        while !taken.insert(number) {
            number = if number >= u16::MAX - 1 { FIRST_POD } else { number + 1 };
        }
        numbers.insert(uid, number);
    }
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;

    const M: u64 = 1_000_000;

    #[test]
    fn a_classes_numbers_follow_from_its_rate() {
        let limit = Limit { rate: Rate(100 * M), burst: None };
        let root = limit.root();
        assert_eq!((root.rate, root.ceiling, root.burst), (Rate(100 * M), Rate(100 * M), 50_000));
        let leaf = limit.leaf(Some(Rate(10 * M)), 3);
        assert_eq!((leaf.ceiling, leaf.ceiling_burst), (Rate(10 * M), 5_000));
        assert_eq!((leaf.quantum, leaf.queue), (65_536, 131_072));
        let alone = Limit { rate: Rate(1_000 * M), burst: None }.leaf(None, 1);
        assert_eq!(
            (alone.ceiling, alone.queue, alone.quantum),
            (Rate(1_000 * M), 3_125_000, 65_536)
        );
    }

    #[test]
    fn what_pods_have_of_their_own_is_less_than_the_slice_has() {
        for rate in [MIN_RATE, Rate(M), Rate(100 * M), MAX_RATE] {
            let limit = Limit { rate, burst: None };
            assert!(limit.leaf(None, 100).rate.0 * 10 <= rate.0, "{rate}");
        }
    }

    #[test]
    fn a_burst_may_be_larger_and_not_too_small_for_the_rate() {
        let burst = |burst| Limit { rate: Rate(100 * M), burst: Some(burst) }.root().burst;
        assert_eq!((burst(200_000), burst(3_000)), (200_000, 12_500));
    }

    #[test]
    fn classes_numbers_are_apart_and_the_same_every_time() {
        let uids: Vec<String> = (0..2_000).map(|i| format!("uid-{i}")).collect();
        let numbers = class_numbers(uids.iter().map(String::as_str));
        let distinct: BTreeSet<u16> = numbers.values().copied().collect();
        assert_eq!(distinct.len(), 2_000);
        assert!(distinct.iter().all(|n| (FIRST_POD..u16::MAX).contains(n)));
        assert_eq!(numbers, class_numbers(uids.iter().rev().map(String::as_str)));
    }
}
