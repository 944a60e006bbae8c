//! The virtual addresses of services: one per service and family, the same in every cluster.
//!
//! A slice keeps a prefix of each family for them, next to its gateways'. An address follows from
//! the service's name as long as nobody else has it, so that a hub that lost its memory gives the
//! same ones again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::model::ServiceName;
use crate::ipam::families;
use crate::ipam::space::{self, Direction};
use crate::name::fnv1a;
use crate::prefix::Family;

/// Most host bits of a prefix for virtual IPv4 addresses: 4,096; more prefixes are added as needed.
const MOST_BITS_V4: u8 = 12;
/// The same for IPv6: 65,536.
const MOST_BITS_V6: u8 = 16;
/// What is left of small slices for pods and gateways: 31 of 32 addresses.
const PART_BITS: u8 = 5;

/// The prefixes a slice keeps for virtual addresses: those it has, one in each family where it has
/// none, and one more in each family of `grow`, as far as there is room.
///
/// `used` is everything else of the slice that is held. Nothing of the result overlaps it, provided
/// `held` does not.
pub fn prefixes(
    slice: &[IpNet],
    held: &[IpNet],
    used: &[IpNet],
    grow: &BTreeSet<Family>,
) -> Vec<IpNet> {
    let mut prefixes: Vec<IpNet> =
        held.iter().copied().filter(|h| slice.iter().any(|s| s.contains(h))).collect();
    for family in families(slice) {
        let has = prefixes.iter().any(|p| Family::of(p) == family);
        if has && !grow.contains(&family) {
            continue;
        }
        let taken: Vec<IpNet> = used.iter().chain(&prefixes).copied().collect();
        let own = || slice.iter().filter(|s| Family::of(s) == family);
        let most = own().map(bits).max().unwrap_or(0);
        let found = (0..=most)
            .rev()
            .find_map(|bits| own().find_map(|s| space::find(s, &taken, bits, Direction::FromEnd)));
        prefixes.extend(found);
    }
    prefixes
}

fn bits(slice: &IpNet) -> u8 {
    let most = match Family::of(slice) {
        Family::V4 => MOST_BITS_V4,
        Family::V6 => MOST_BITS_V6,
    };
    space::host_bits(slice).saturating_sub(PART_BITS).min(most)
}

/// Virtual addresses, and who did not get one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Every wanted service's addresses, at most one of a family, IPv4 first.
    pub addresses: BTreeMap<ServiceName, Vec<IpAddr>>,
    /// Services that wait for an address, by family: the prefixes of the family are to grow.
    pub without: BTreeSet<(Family, ServiceName)>,
}

impl Plan {
    /// Families whose prefixes are full.
    pub fn exhausted(&self) -> BTreeSet<Family> {
        self.without.iter().map(|(family, _)| *family).collect()
    }
}

/// Gives every service an address in each family it wants.
///
/// What a service holds it keeps, save for what lies outside the prefixes or is held by a service
/// before it in the order of names, neither of which this function ever made. Nothing of `resting` is
/// given: addresses given back so lately that clients may still use them. A family that no prefix is
/// of is nobody's to want, and is left out.
pub fn allocate(
    prefixes: &[IpNet],
    held: &BTreeMap<ServiceName, Vec<IpAddr>>,
    wanted: &BTreeMap<ServiceName, BTreeSet<Family>>,
    resting: &BTreeSet<IpAddr>,
) -> Plan {
    let mut given = BTreeSet::new();
    let mut plan = Plan::default();
    for (service, wants) in wanted {
        let holds = held.get(service).map(Vec::as_slice).unwrap_or_default();
        let mut keep = |family: &Family| {
            let of = |p: &&IpNet| Family::of(p) == *family;
            let stands = |a: &&IpAddr| prefixes.iter().filter(of).any(|p| p.contains(*a));
            holds.iter().copied().filter(|a| stands(&a)).find(|a| given.insert(*a))
        };
        plan.addresses.insert(service.clone(), wants.iter().filter_map(&mut keep).collect());
    }
    for (service, wants) in wanted {
        for family in wants {
            let addresses = plan.addresses.entry(service.clone()).or_default();
            let own: Vec<&IpNet> = prefixes.iter().filter(|p| Family::of(p) == *family).collect();
            if own.is_empty() || addresses.iter().any(|a| Family::of_addr(a) == *family) {
                continue;
            }
            let free = |a: &IpAddr| !given.contains(a) && !resting.contains(a);
            let most = given.len() + resting.len() + 1;
            match own.iter().find_map(|p| candidates(p, service, most).find(free)) {
                Some(address) => {
                    given.insert(address);
                    addresses.push(address);
                    addresses.sort();
                }
                None => drop(plan.without.insert((*family, service.clone()))),
            }
        }
    }
    plan
}

/// The addresses of a prefix in the order in which a service tries them, `most` at most.
fn candidates(
    prefix: &IpNet,
    service: &ServiceName,
    most: usize,
) -> impl Iterator<Item = IpAddr> + use<> {
    let size = space::size(prefix);
    // The first and the last address look like a network's and a broadcast's.
    let (first, count) = if size > 4 { (1, size - 2) } else { (0, size) };
    let start = u128::from(fnv1a(&[&service.namespace, &service.name])) % count;
    let prefix = *prefix;
    (0..count.min(most as u128))
        .filter_map(move |i| space::address(&prefix, first + (start + i) % count))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::prefix::overlap;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn service(i: usize) -> ServiceName {
        ServiceName::new("shop", format!("s{i}"))
    }

    fn both() -> BTreeSet<Family> {
        BTreeSet::from([Family::V4, Family::V6])
    }

    fn wanted(services: impl Iterator<Item = usize>) -> BTreeMap<ServiceName, BTreeSet<Family>> {
        services.map(|i| (service(i), both())).collect()
    }

    #[test]
    fn a_slice_keeps_a_small_part_of_each_family_for_services() {
        let slice = [net("10.77.0.0/16"), net("fd77::/48")];
        let used = [net("10.77.255.248/29"), net("10.77.0.0/20")];
        let got = prefixes(&slice, &[], &used, &BTreeSet::new());
        assert_eq!(got, [net("10.77.240.0/21"), net("fd77:0:0:ffff:ffff:ffff:ffff:0/112")]);
        assert_eq!(prefixes(&slice, &got, &used, &BTreeSet::new()), got, "what is held stays");
        let grown = prefixes(&slice, &got, &used, &BTreeSet::from([Family::V4]));
        assert_eq!(grown.len(), 3);
        assert!(grown.starts_with(&got));
    }

    #[test]
    fn a_full_slice_gives_what_is_left_and_then_nothing() {
        let slice = [net("10.0.0.0/29")];
        let got =
            prefixes(&slice, &[], &[net("10.0.0.0/30"), net("10.0.0.4/31")], &BTreeSet::new());
        assert_eq!(got, [net("10.0.0.7/32")]);
        assert_eq!(prefixes(&slice, &[], &[net("10.0.0.0/29")], &BTreeSet::new()), []);
    }

    #[test]
    fn who_gets_no_address_is_named_and_gets_one_when_there_is_room() {
        let wants = wanted(0..5);
        let small = [net("10.0.0.0/30")];
        let plan = allocate(&small, &BTreeMap::new(), &wants, &BTreeSet::new());
        assert_eq!(plan.without.len(), 1, "families without prefixes are nobody's to want");
        assert_eq!(plan.exhausted(), BTreeSet::from([Family::V4]));
        let larger = [small[0], net("10.0.1.0/28")];
        let plan = allocate(&larger, &plan.addresses, &wants, &BTreeSet::new());
        assert_eq!(plan.without, BTreeSet::new());
    }

    #[test]
    fn an_address_rests_and_returns_to_its_service_unless_it_does() {
        let prefix = [net("10.0.0.0/24")];
        let one = allocate(&prefix, &BTreeMap::new(), &wanted(0..1), &BTreeSet::new());
        let address = one.addresses[&service(0)][0];
        let again = allocate(&prefix, &BTreeMap::new(), &wanted(0..1), &BTreeSet::new());
        assert_eq!(again, one);
        let rests = BTreeSet::from([address]);
        let other = allocate(&prefix, &BTreeMap::new(), &wanted(0..1), &rests);
        assert_ne!(other.addresses[&service(0)][0], address);
    }

    proptest! {
        #[test]
        fn addresses_are_unique_inside_and_stay(
            first in prop::collection::btree_set(0usize..200, 0..80),
            then in prop::collection::btree_set(0usize..200, 0..80),
            bits in 1u8..9,
        ) {
            let prefixes = [
                IpNet::new("10.0.0.0".parse().unwrap(), 32 - bits).unwrap(),
                net("fd00::/112"),
            ];
            let before = allocate(&prefixes, &BTreeMap::new(), &wanted(first.iter().copied()), &BTreeSet::new());
            let after = allocate(&prefixes, &before.addresses, &wanted(then.iter().copied()), &BTreeSet::new());
            for plan in [&before, &after] {
                let all: Vec<IpAddr> = plan.addresses.values().flatten().copied().collect();
                let distinct: BTreeSet<IpAddr> = all.iter().copied().collect();
                prop_assert_eq!(all.len(), distinct.len());
                prop_assert!(all.iter().all(|a| prefixes.iter().any(|p| p.contains(a))));
                for (service, addresses) in &plan.addresses {
                    let waits = plan.without.iter().filter(|(_, s)| s == service).count();
                    prop_assert_eq!(addresses.len() + waits, 2);
                }
            }
            for i in first.intersection(&then) {
                for address in &before.addresses[&service(*i)] {
                    prop_assert!(after.addresses[&service(*i)].contains(address));
                }
            }
            let settled = allocate(&prefixes, &after.addresses, &wanted(then.iter().copied()), &BTreeSet::new());
            prop_assert_eq!(settled, after);
        }

        #[test]
        fn prefixes_overlap_nothing(length in 8u8..=30, pools in 0u8..4, growths in 0usize..4) {
            let slice = [IpNet::new("10.0.0.0".parse().unwrap(), length).unwrap()];
            let used: Vec<IpNet> = slice[0]
                .subnets((length + 2).min(32)).unwrap().take(usize::from(pools)).collect();
            let mut held = Vec::new();
            for _ in 0..=growths {
                let next = prefixes(&slice, &held, &used, &BTreeSet::from([Family::V4]));
                prop_assert!(next.starts_with(&held));
                held = next;
            }
            for (i, a) in held.iter().enumerate() {
                prop_assert!(slice[0].contains(a));
                prop_assert!(!used.iter().any(|u| overlap(u, a)));
                prop_assert!(!held.iter().skip(i + 1).any(|b| overlap(a, b)));
            }
        }
    }
}
