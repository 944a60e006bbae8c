//! VXLAN network identifiers of slices inside one cluster (RFC 7348: 24 bits).

use std::collections::BTreeMap;

/// Lowest identifier handed out: small ones are what people and other software pick by hand.
const FIRST: u32 = 0x0010_0000;
/// One past the highest.
const END: u32 = 0x0100_0000;

/// The identifier of `slice`: the one it holds, else the first free one from a place that
/// follows from its name, so that a cluster set up anew gets the same.
///
/// `held` is what the slices of the cluster hold. `None` when all 15 million are taken.
pub fn assign(slice: &str, held: &BTreeMap<String, u32>) -> Option<u32> {
    let valid = |v: &u32| (1..END).contains(v);
    if let Some(vni) = held.get(slice).copied().filter(valid) {
        // Two slices with one identifier: the first by name keeps it.
        let first = held.iter().find(|(_, v)| **v == vni).map(|(name, _)| name.as_str());
        if first == Some(slice) {
            return Some(vni);
        }
    }
    let span = END - FIRST;
    let start = u32::try_from(crate::name::fnv1a(&[slice]) % u64::from(span)).unwrap_or(0);
    (0..span)
        .map(|i| FIRST + (start + i) % span)
        .find(|candidate| !held.iter().any(|(name, v)| name != slice && v == candidate))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn identifiers_are_unique_and_stay(names in prop::collection::btree_set("[a-z]{1,6}", 1..40)) {
            let mut held = BTreeMap::new();
            for name in &names {
                let vni = assign(name, &held).unwrap();
                prop_assert!((1..END).contains(&vni));
                prop_assert!(!held.values().any(|v| *v == vni));
                held.insert(name.clone(), vni);
            }
            for name in &names {
                prop_assert_eq!(assign(name, &held), Some(held[name]));
            }
        }
    }

    #[test]
    fn a_taken_identifier_is_stepped_over() {
        let free = assign("blue", &BTreeMap::new()).unwrap();
        let held = BTreeMap::from([("red".to_owned(), free)]);
        assert_eq!(assign("blue", &held), Some(free + 1));
        let both = BTreeMap::from([("blue".to_owned(), free), ("red".to_owned(), free)]);
        assert_eq!(assign("blue", &both), Some(free));
        assert_ne!(assign("red", &both), Some(free));
    }
}
