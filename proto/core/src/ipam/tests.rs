use proptest::prelude::*;

use super::blocks::{self, NodeFacts};
use super::*;

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn cluster(i: usize) -> ClusterName {
    ClusterName::parse(&format!("c{i}")).unwrap()
}

fn demand(clusters: usize, lanes: Lane) -> Demand {
    Demand { clusters: (0..clusters).map(cluster).collect(), lanes, ..Demand::default() }
}

fn disjoint(holdings: &Holdings) -> bool {
    let all: Vec<&IpNet> = holdings.values().flat_map(Holding::all).collect();
    all.iter().enumerate().all(|(i, a)| all.iter().skip(i + 1).all(|b| !overlap(a, b)))
}

fn slices() -> impl Strategy<Value = Vec<IpNet>> {
    let v4 = (8u8..=26).prop_map(|l| IpNet::new("10.0.0.0".parse().unwrap(), l).unwrap());
    let v6 = (32u8..=120).prop_map(|l| IpNet::new("fd00::".parse().unwrap(), l).unwrap());
    prop_oneof![
        v4.clone().prop_map(|p| vec![p]),
        v6.clone().prop_map(|p| vec![p]),
        (v4, v6).prop_map(|(a, b)| vec![a, b]),
    ]
}

#[test]
fn two_clusters_of_a_sixteen_get_large_pools_and_room_for_more() {
    let (got, refused) =
        allocate(&[net("10.77.0.0/16"), net("fd77::/48")], &Holdings::new(), &demand(2, 1));
    assert!(refused.is_empty());
    assert_eq!(got[&cluster(0)].pools, [net("10.77.0.0/20"), net("fd77::/64")]);
    assert_eq!(got[&cluster(1)].pools, [net("10.77.16.0/20"), net("fd77:0:0:1::/64")]);
    assert_eq!(got[&cluster(0)].gateways[0], net("10.77.255.248/29"));
    assert_eq!(got[&cluster(1)].gateways[0], net("10.77.255.240/29"));
}

#[test]
fn the_smallest_slice_of_two_clusters_fits_and_smaller_ones_are_told_so() {
    let (_, refused) = allocate(&[net("10.0.0.0/28")], &Holdings::new(), &demand(2, 1));
    assert_eq!(refused, []);
    assert_eq!(length_that_fits(&net("10.0.0.0/28"), 2, 1), None);
    assert_eq!(length_that_fits(&net("10.0.0.0/30"), 2, 1), Some(28));
    assert_eq!(length_that_fits(&net("fd00::/127"), 2, 1), Some(124));
}

#[test]
fn a_second_address_family_is_added_to_a_running_slice() {
    let one = [net("10.77.0.0/16")];
    let (before, _) = allocate(&one, &Holdings::new(), &demand(2, 1));
    let (after, refused) =
        allocate(&[net("10.77.0.0/16"), net("fd77::/48")], &before, &demand(2, 1));
    assert!(refused.is_empty());
    for (name, holding) in &before {
        assert!(holding.all().all(|p| after[name].all().any(|q| p == q)));
        assert_eq!(after[name].pools.len(), 2);
    }
}

#[test]
fn what_a_leaving_cluster_holds_is_not_given_to_others() {
    let prefixes = [net("10.0.0.0/24")];
    let (held, _) = allocate(&prefixes, &Holdings::new(), &demand(2, 1));
    let only_new = Demand { clusters: [cluster(7)].into(), ..demand(0, 1) };
    let (got, _) = allocate(&prefixes, &held, &only_new);
    assert_eq!(got.len(), 1);
    let mut all = held;
    all.extend(got);
    assert!(disjoint(&all));
}

#[test]
fn claims_outside_the_slice_or_on_anothers_part_do_not_stand() {
    let prefixes = [net("10.0.0.0/16")];
    let (mut held, _) = allocate(&prefixes, &Holdings::new(), &demand(2, 1));
    let stolen = held[&cluster(0)].pools[0];
    held.get_mut(&cluster(1)).unwrap().pools.extend([stolen, net("192.168.0.0/24")]);
    let (got, _) = allocate(&prefixes, &held, &demand(2, 1));
    assert!(disjoint(&got));
    assert_eq!(got[&cluster(0)].pools, [stolen]);
    assert_eq!(got[&cluster(1)].pools.len(), 1);
}

#[test]
fn lanes_have_addresses_of_their_own_across_gateway_prefixes() {
    let gateways = [net("10.0.0.8/31"), net("10.0.0.2/31"), net("fd00::8/125")];
    let mut seen = BTreeSet::new();
    for lane in 0..4 {
        let addresses = lane_addresses(&gateways, lane);
        assert_eq!(addresses.len(), 2, "lane {lane}");
        for address in addresses {
            assert!(seen.insert(address));
        }
    }
    assert_eq!(lane_addresses(&gateways, 4).len(), 1);
}

#[test]
fn a_block_that_rests_is_not_given() {
    let pools = [net("10.0.0.0/24")];
    let facts = BTreeMap::from([("n".to_owned(), NodeFacts::default())]);
    let first = blocks::plan(&pools, &facts, &[]).blocks["n"].clone();
    let second = blocks::plan(&pools, &facts, &first).blocks["n"].clone();
    assert!(!overlap(&first[0], &second[0]));
}

proptest! {
    #[test]
    fn nothing_overlaps_and_everything_lies_inside(prefixes in slices(), n in 1usize..12, lanes in 1u8..=8) {
        let (got, refused) = allocate(&prefixes, &Holdings::new(), &demand(n, lanes));
        prop_assert!(disjoint(&got));
        prop_assert!(got.values().flat_map(Holding::all).all(|h| prefixes.iter().any(|p| p.contains(h))));
        for (name, holding) in &got {
            if refused.iter().any(|r| r.cluster == *name) { continue; }
            prop_assert_eq!(families(&holding.pools), families(&prefixes));
            for lane in 0..lanes {
                prop_assert_eq!(lane_addresses(&holding.gateways, lane).len(), families(&prefixes).len());
            }
        }
    }

    #[test]
    fn a_prefix_that_is_said_to_fit_does(length in 8u8..=32, n in 1usize..20, lanes in 1u8..=8) {
        let prefix = IpNet::new("10.0.0.0".parse().unwrap(), length).unwrap().trunc();
        let fits = length_that_fits(&prefix, n, lanes);
        let prefix = fits.map_or(prefix, |l| IpNet::new(prefix.addr(), l).unwrap().trunc());
        let (_, refused) = allocate(&[prefix], &Holdings::new(), &demand(n, lanes));
        prop_assert_eq!(refused, vec![]);
    }

    #[test]
    fn what_is_held_stays_while_clusters_come_and_pools_grow(
        prefixes in slices(), steps in prop::collection::vec((1usize..8, any::<bool>()), 1..6),
    ) {
        let mut held = Holdings::new();
        for (n, grow) in steps {
            let mut wanted = demand(n, 1);
            wanted.clusters.extend(held.keys().cloned());
            if grow {
                wanted.grow = held.keys().map(|c| (c.clone(), families(&prefixes))).collect();
            }
            let (next, _) = allocate(&prefixes, &held, &wanted);
            prop_assert!(disjoint(&next));
            for (name, before) in &held {
                prop_assert!(next[name].pools.starts_with(&before.pools));
                prop_assert!(next[name].gateways.starts_with(&before.gateways));
            }
            let settled = Demand { grow: BTreeMap::new(), ..wanted };
            prop_assert_eq!(&allocate(&prefixes, &next, &settled).0, &next);
            held = next;
        }
    }

    #[test]
    fn node_blocks_are_disjoint_sticky_and_settle(
        bits in 1u8..14, nodes in 1usize..20, low in prop::collection::vec(any::<bool>(), 20),
    ) {
        let pools = [IpNet::new("10.1.0.0".parse().unwrap(), 32 - bits).unwrap()];
        let mut facts: BTreeMap<String, NodeFacts> =
            (0..nodes).map(|i| (format!("n{i}"), NodeFacts::default())).collect();
        let first = blocks::plan(&pools, &facts, &[]);
        prop_assert!(!blocks::overlapping(&first.blocks));
        for (i, (name, fact)) in facts.iter_mut().enumerate() {
            fact.blocks = first.blocks[name].clone();
            if low[i] { fact.low.insert(Family::V4); }
        }
        let second = blocks::plan(&pools, &facts, &[]);
        prop_assert!(!blocks::overlapping(&second.blocks));
        for (name, fact) in &facts {
            prop_assert!(second.blocks[name].starts_with(&fact.blocks));
        }
        let all_have = second.blocks.values().all(|b| !b.is_empty());
        prop_assert!(all_have || second.exhausted.contains(&Family::V4));
    }
}
