//! Which slice NICs a pod should have.
//!
//! NICs that a pod has keep their names: an application that bound to `slice0` must not find
//! another slice there because a third one came. A slice whose prefixes overlap those of another
//! slice of the same pod is refused on that pod, the one already attached wins; on different pods
//! the same prefix may be used by any number of slices.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

use crate::name;
use crate::onboarding::{PodFacts, Rule, pod_member};
use crate::prefix::overlap;

/// What attaching needs to know of a slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// The slice's name.
    pub slice: String,
    /// The whole slice's prefixes.
    pub prefixes: Vec<IpNet>,
    /// Which pods are members.
    pub rules: Vec<Rule>,
}

/// A slice the pod is a member of and cannot be attached to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Refusal {
    /// The slice.
    pub slice: String,
    /// One stable `CamelCase` word.
    pub reason: &'static str,
    /// What is wrong and what to do.
    pub message: String,
}

/// The NICs of a pod as they should be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Slice to the NIC's name in the pod.
    pub nics: BTreeMap<String, String>,
    /// Slices that are refused.
    pub refused: Vec<Refusal>,
}

/// Which slices the pod is a member of, in the order of their names.
pub fn memberships<'a>(offers: &'a [Offer], pod: &PodFacts<'_>) -> Vec<&'a Offer> {
    let mut slices: Vec<&Offer> =
        offers.iter().filter(|o| pod_member(&o.slice, &o.rules, pod)).collect();
    slices.sort_by(|a, b| a.slice.cmp(&b.slice));
    slices
}

/// The NICs the pod should have. `present` are those it has: slice to NIC name.
pub fn wanted(offers: &[Offer], pod: &PodFacts<'_>, present: &BTreeMap<String, String>) -> Wanted {
    let mut members = memberships(offers, pod);
    members.sort_by_key(|o| !present.contains_key(&o.slice));
    let names: BTreeSet<&str> =
        members.iter().filter_map(|o| present.get(&o.slice)).map(String::as_str).collect();
    let mut accepted: Vec<&Offer> = Vec::new();
    let mut wanted = Wanted::default();
    for offer in members {
        if let Some(other) = accepted.iter().find(|a| conflict(a, offer)) {
            wanted.refused.push(prefix_conflict(offer, other));
            continue;
        }
        let nic = match present.get(&offer.slice) {
            Some(nic) => nic.clone(),
            None => free_name(&names, &wanted),
        };
        wanted.nics.insert(offer.slice.clone(), nic);
        accepted.push(offer);
    }
    wanted
}

fn free_name(names: &BTreeSet<&str>, wanted: &Wanted) -> String {
    let taken = |n: &String| names.contains(n.as_str()) || wanted.nics.values().any(|x| x == n);
    let mut index = 0;
    while taken(&name::pod_nic(index)) {
        index += 1;
    }
    name::pod_nic(index)
}

fn conflict(a: &Offer, b: &Offer) -> bool {
    a.prefixes.iter().any(|x| b.prefixes.iter().any(|y| overlap(x, y)))
}

fn prefix_conflict(refused: &Offer, attached: &Offer) -> Refusal {
    Refusal {
        slice: refused.slice.clone(),
        reason: "PrefixConflict",
        message: format!(
            "slice {} shares addresses with slice {}, which this pod is attached to; a pod can be on only one of them: change the slice label of the pod or its namespace, or the prefixes of one slice",
            refused.slice, attached.slice
        ),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::onboarding::SLICE_LABEL;
    use crate::selector::Labels;

    fn offer(slice: &str, prefix: &str) -> Offer {
        Offer { slice: slice.into(), prefixes: vec![prefix.parse().unwrap()], rules: vec![] }
    }

    fn wants(offers: &[Offer], label: &str, present: &[(&str, &str)]) -> Wanted {
        let ns = Labels::from([(SLICE_LABEL.to_owned(), label.to_owned())]);
        let none = Labels::new();
        let pod = PodFacts {
            namespace: "shop",
            namespace_labels: &ns,
            labels: &none,
            host_network: false,
        };
        let present = present.iter().map(|(s, n)| ((*s).into(), (*n).into())).collect();
        wanted(offers, &pod, &present)
    }

    fn nics(wanted: &Wanted) -> Vec<(&str, &str)> {
        wanted.nics.iter().map(|(s, n)| (s.as_str(), n.as_str())).collect()
    }

    #[test]
    fn nics_are_numbered_in_the_order_of_the_slices() {
        let offers = [offer("red", "10.2.0.0/16"), offer("blue", "10.1.0.0/16")];
        assert_eq!(nics(&wants(&offers, "red.blue", &[])), [("blue", "slice0"), ("red", "slice1")]);
    }

    #[test]
    fn a_slice_that_comes_later_renames_nothing() {
        let offers = [offer("red", "10.2.0.0/16"), offer("blue", "10.1.0.0/16")];
        let wanted = wants(&offers, "red.blue", &[("red", "slice0")]);
        assert_eq!(nics(&wanted), [("blue", "slice1"), ("red", "slice0")]);
        let left = wants(&offers, "red", &[("blue", "slice0"), ("red", "slice1")]);
        assert_eq!(nics(&left), [("red", "slice1")]);
    }

    #[test]
    fn overlapping_slices_exclude_each_other_on_a_pod_and_the_attached_one_stays() {
        let offers = [offer("red", "10.1.4.0/24"), offer("blue", "10.1.0.0/16")];
        let fresh = wants(&offers, "red.blue", &[]);
        assert_eq!(nics(&fresh), [("blue", "slice0")]);
        assert_eq!(fresh.refused[0].reason, "PrefixConflict");
        let kept = wants(&offers, "red.blue", &[("red", "slice0")]);
        assert_eq!(nics(&kept), [("red", "slice0")]);
        assert_eq!(kept.refused[0].slice, "blue");
    }

    #[test]
    fn the_same_prefix_on_different_pods_is_fine() {
        let offers = [offer("red", "10.1.0.0/16"), offer("blue", "10.1.0.0/16")];
        assert!(wants(&offers, "red", &[]).refused.is_empty());
        assert!(wants(&offers, "blue", &[]).refused.is_empty());
    }

    proptest! {
        #[test]
        fn what_is_wanted_is_stable_once_it_is_there(
            prefixes in prop::collection::vec(0..6u8, 1..6),
            present in prop::collection::btree_map(0..6usize, 0..6usize, 0..3),
        ) {
            let offers: Vec<Offer> = prefixes
                .iter()
                .enumerate()
                .map(|(i, p)| offer(&format!("s{i}"), &format!("10.{p}.0.0/16")))
                .collect();
            let label: Vec<&str> = offers.iter().map(|o| o.slice.as_str()).collect();
            let mut seen = BTreeSet::new();
            let present: BTreeMap<String, String> = present
                .into_iter()
                .filter(|(_, n)| seen.insert(*n))
                .map(|(s, n)| (format!("s{s}"), format!("slice{n}")))
                .collect();
            let ns = Labels::from([(SLICE_LABEL.to_owned(), label.join("."))]);
            let none = Labels::new();
            let pod = PodFacts {
                namespace: "shop", namespace_labels: &ns, labels: &none, host_network: false,
            };
            let first = wanted(&offers, &pod, &present);
            let names: BTreeSet<&String> = first.nics.values().collect();
            prop_assert_eq!(names.len(), first.nics.len(), "a NIC name was given twice");
            let again = wanted(&offers, &pod, &first.nics);
            prop_assert_eq!(&again.nics, &first.nics);
            prop_assert_eq!(first.nics.len() + first.refused.len(), offers.len());
        }
    }
}
