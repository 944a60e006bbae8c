//! Many endpoints in objects of bounded size, so that the change of one is a small write.

use std::collections::BTreeMap;

/// Most endpoints in one object.
pub const PART: usize = 100;
/// Most objects a cluster tells its endpoints of one slice in.
pub const MAX_PARTS: usize = 1_024;

/// How many objects are to be there for so many endpoints: some room is left, so that not every
/// pod more waits for another object.
pub fn parts_for(endpoints: usize) -> usize {
    (endpoints + endpoints / 4).div_ceil(PART).clamp(1, MAX_PARTS)
}

/// Spreads `wanted` over the objects there are, whose contents `now` is. What is there stays where
/// it is; what is new goes to the first with room. What finds none is left out.
pub fn spread<V: Clone>(
    now: &[BTreeMap<String, V>],
    wanted: &BTreeMap<String, V>,
) -> Vec<BTreeMap<String, V>> {
    let mut homeless = wanted.clone();
    let mut next: Vec<BTreeMap<String, V>> = Vec::with_capacity(now.len());
    for part in now {
        let keep = part.keys().filter_map(|key| homeless.remove_entry(key)).take(PART);
        next.push(keep.collect());
    }
    let mut homeless = homeless.into_iter();
    for part in &mut next {
        let room = PART.saturating_sub(part.len());
        part.extend(homeless.by_ref().take(room));
    }
    next
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn endpoints(numbers: &BTreeSet<u16>) -> BTreeMap<String, u16> {
        numbers.iter().map(|n| (format!("pod-{n:05}"), n % 7)).collect()
    }

    proptest! {
        #[test]
        fn nobody_is_lost_doubled_or_moved(
            before in prop::collection::btree_set(0..2_000u16, 0..700),
            after in prop::collection::btree_set(0..2_000u16, 0..700),
        ) {
            let (before, after) = (endpoints(&before), endpoints(&after));
            let parts = parts_for(before.len().max(after.len()));
            let first = spread(&vec![BTreeMap::new(); parts], &before);
            let second = spread(&first, &after);
            let mut all = BTreeMap::new();
            for (old, new) in first.iter().zip(&second) {
                prop_assert!(new.len() <= PART);
                for (key, value) in new {
                    prop_assert_eq!(all.insert(key.clone(), *value), None);
                    let was_elsewhere = before.contains_key(key) && !old.contains_key(key);
                    prop_assert!(!was_elsewhere, "{} has moved", key);
                }
            }
            prop_assert_eq!(all, after);
        }
    }

    #[test]
    fn there_is_always_room_and_never_too_much_of_it() {
        assert_eq!((parts_for(0), parts_for(80), parts_for(81)), (1, 1, 2));
        assert_eq!(parts_for(10_000_000), MAX_PARTS);
    }
}
