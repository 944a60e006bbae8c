//! Blocks that were given back: nobody gets an address of theirs within a minute.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ipnet::IpNet;
use tokio::time::Instant;

/// How long a block rests.
pub(super) const REST: Duration = Duration::from_secs(60);

/// What every slice's nodes had when they were looked at last. A restart forgets it, which lasts
/// longer than most rests.
#[derive(Clone, Default)]
pub(in crate::worker) struct Resting {
    slices: Arc<Mutex<BTreeMap<String, Seen>>>,
}

#[derive(Default)]
struct Seen {
    held: BTreeSet<IpNet>,
    resting: BTreeMap<IpNet, Instant>,
}

impl Resting {
    /// Takes in what the nodes of a slice hold now; returns what rests.
    pub(super) fn observe(&self, slice: &str, held: BTreeSet<IpNet>, now: Instant) -> Vec<IpNet> {
        let mut slices = self.slices.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = slices.entry(slice.to_owned()).or_default();
        let given_back: Vec<IpNet> = seen.held.difference(&held).copied().collect();
        seen.resting.extend(given_back.into_iter().map(|block| (block, now + REST)));
        seen.resting.retain(|block, until| *until > now && !held.contains(block));
        seen.held = held;
        let resting = seen.resting.keys().copied().collect();
        if seen.held.is_empty() && seen.resting.is_empty() {
            slices.remove(slice);
        }
        resting
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_rests_for_a_minute_after_it_was_given_back() {
        let resting = Resting::default();
        let now = Instant::now();
        let block: IpNet = "10.0.0.0/26".parse().unwrap();
        assert_eq!(resting.observe("blue", [block].into(), now), []);
        assert_eq!(resting.observe("blue", BTreeSet::new(), now), [block]);
        assert_eq!(resting.observe("red", BTreeSet::new(), now), []);
        assert_eq!(resting.observe("blue", BTreeSet::new(), now + REST / 2), [block]);
        assert_eq!(resting.observe("blue", BTreeSet::new(), now + REST), []);
    }
}
