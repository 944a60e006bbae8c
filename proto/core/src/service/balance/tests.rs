use proptest::prelude::*;

use super::*;
use crate::service::model::{Kind, Protocol};

const ADDRESS: [u8; 2] = [10, 77];

fn cluster(i: usize) -> ClusterName {
    ClusterName::parse(&format!("c{i}")).unwrap()
}

fn port() -> Port {
    Port { name: "http".into(), protocol: Protocol::Tcp, port: 80, app_protocol: None }
}

fn endpoint(cluster: usize, i: usize, ready: bool) -> Endpoint {
    let address = [ADDRESS[0], ADDRESS[1], cluster as u8, i as u8 + 1];
    Endpoint {
        addresses: vec![IpAddr::from(address)],
        ports: BTreeMap::from([((Protocol::Tcp, "http".to_owned()), 8080)]).into(),
        node: Some(format!("n{i}")),
        ready,
        serving: ready,
        ..Endpoint::default()
    }
}

/// Clusters `c0`, `c1` … with so many endpoints, of which so many are ready.
fn endpoints(counts: &[(usize, usize)]) -> BTreeMap<ClusterName, Vec<Endpoint>> {
    let of =
        |c: usize, ready: usize, all: usize| (0..all).map(|i| endpoint(c, i, i < ready)).collect();
    counts.iter().enumerate().map(|(c, (ready, all))| (cluster(c), of(c, *ready, *all))).collect()
}

fn import(clusters: usize) -> Import {
    Import {
        kind: Kind::ClusterSetIp,
        ports: vec![port()],
        affinity: Affinity::None,
        internal_traffic: InternalTraffic::Cluster,
        distribution: None,
        families: BTreeSet::from([Family::V4]),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        clusters: (0..clusters).map(cluster).collect(),
        weights: BTreeMap::new(),
    }
}

fn run(
    import: &Import,
    endpoints: &BTreeMap<ClusterName, Vec<Endpoint>>,
    reach: &BTreeMap<ClusterName, Reach>,
    spread: Spread,
) -> Balance {
    let own = cluster(0);
    let here = Here { cluster: &own, node: "n0", zone: Some("z0"), reach, spread };
    balance(import, &port(), Family::V4, endpoints, here)
}

/// The same service with this `trafficDistribution`.
fn near(distribution: &str, clusters: usize) -> Import {
    Import { distribution: Some(distribution.to_owned()), ..import(clusters) }
}

/// Endpoints by clusters, each at a node and in a zone: `("n0", "z0")` is where the client is.
fn placed(all: &[&[(&str, &str)]]) -> BTreeMap<ClusterName, Vec<Endpoint>> {
    let one = |c: usize, i: usize, (node, zone): (&str, &str)| Endpoint {
        node: Some(node.to_owned()),
        zone: Some(zone.into()).filter(|z: &std::sync::Arc<str>| !z.is_empty()),
        ..endpoint(c, i, true)
    };
    let of = |c: usize, places: &[(&str, &str)]| -> Vec<Endpoint> {
        places.iter().enumerate().map(|(i, place)| one(c, i, *place)).collect()
    };
    all.iter().enumerate().map(|(c, places)| (cluster(c), of(c, places))).collect()
}

/// Cluster and number of every endpoint that gets something.
fn reached(balance: &Balance) -> Vec<(u8, u8)> {
    let number = |t: &Target| match t.address {
        IpAddr::V4(a) => (a.octets()[2], a.octets()[3] - 1),
        IpAddr::V6(_) => unreachable!(),
    };
    balance.targets.iter().map(number).collect()
}

/// Per mille of the traffic that a cluster gets.
fn part(balance: &Balance, c: usize) -> u64 {
    let of = |t: &&Target| matches!(t.address, IpAddr::V4(a) if a.octets()[2] == c as u8);
    let share: u64 = balance.targets.iter().filter(of).map(|t| u64::from(t.share)).sum();
    (share * 1000 + u64::from(balance.total) / 2) / u64::from(balance.total)
}

fn local_first(counts: &[(usize, usize)]) -> Balance {
    run(&import(counts.len()), &endpoints(counts), &BTreeMap::new(), Spread::LocalFirst)
}

#[test]
fn the_own_cluster_serves_alone_while_enough_of_it_is_ready() {
    for ready in [5, 6, 7] {
        let got = local_first(&[(ready, 7), (3, 3)]);
        assert_eq!(got.targets.len(), ready);
        assert!(got.targets.iter().all(|t| t.share == 1 && t.port == 8080), "{got:?}");
    }
}

#[test]
fn what_it_is_short_of_goes_to_the_others() {
    let got = local_first(&[(1, 2), (3, 3), (1, 1)]);
    // 140 % of a half, and the rest by number of endpoints.
    assert_eq!((part(&got, 0), part(&got, 1), part(&got, 2)), (700, 225, 75));
    let gone = local_first(&[(0, 2), (1, 1)]);
    assert_eq!(part(&gone, 1), 1000);
}

#[test]
fn nobody_else_there_means_the_own_serve_whatever_is_left() {
    assert_eq!(part(&local_first(&[(1, 10), (0, 3)]), 0), 1000);
}

#[test]
fn weights_count_endpoints_and_none_empties_a_cluster() {
    let counts = [(2, 2), (2, 2), (2, 2)];
    let reach = |weights: [u16; 3]| -> BTreeMap<_, _> {
        let each = weights.into_iter().enumerate();
        each.map(|(c, weight)| (cluster(c), Reach { weight, up: true })).collect()
    };
    let even = |weights| run(&import(3), &endpoints(&counts), &reach(weights), Spread::Even);
    let parts = |b: &Balance| [part(b, 0), part(b, 1), part(b, 2)];
    assert_eq!(parts(&even([100, 100, 100])), [333; 3]);
    assert_eq!(parts(&even([100, 200, 100])), [250, 500, 250]);
    assert_eq!(parts(&even([0, 300, 100])), [0, 750, 250]);
    let drained = run(&import(3), &endpoints(&counts), &reach([0, 1, 1]), Spread::LocalFirst);
    assert_eq!(parts(&drained), [0, 500, 500]);
}

#[test]
fn a_services_own_weights_hold_unless_the_slice_empties_the_cluster() {
    let counts = [(2, 2), (2, 2), (2, 2)];
    let weighing = |weights: &[(usize, u16)]| Import {
        weights: weights.iter().map(|(c, weight)| (cluster(*c), *weight)).collect(),
        ..import(3)
    };
    let slice = BTreeMap::from([
        (cluster(1), Reach { weight: 300, up: true }),
        (cluster(2), Reach { weight: 0, up: true }),
    ]);
    let parts = |weights: &[(usize, u16)], reach: &BTreeMap<_, _>, spread| {
        let got = run(&weighing(weights), &endpoints(&counts), reach, spread);
        [part(&got, 0), part(&got, 1), part(&got, 2)]
    };
    let none = BTreeMap::new();
    assert_eq!(parts(&[(1, 200)], &none, Spread::Even), [250, 500, 250]);
    assert_eq!(parts(&[(0, 0)], &none, Spread::LocalFirst), [0, 500, 500]);
    assert_eq!(parts(&[(0, 0), (1, 3), (2, 1)], &none, Spread::LocalFirst), [0, 750, 250]);
    assert_eq!(parts(&[(1, 5)], &none, Spread::LocalFirst), [1000, 0, 0], "the own ones suffice");
    assert_eq!(parts(&[], &slice, Spread::Even), [250, 750, 0]);
    assert_eq!(parts(&[(1, 100), (2, 1000)], &slice, Spread::Even), [500, 500, 0]);
    let nobody =
        run(&weighing(&[(0, 0), (1, 0), (2, 0)]), &endpoints(&counts), &none, Spread::Even);
    assert_eq!(nobody, Balance::default(), "refused, as where the slice gives all of them 0");
}

#[test]
fn a_cluster_that_no_probe_reaches_gets_nothing() {
    let down = BTreeMap::from([
        (cluster(1), Reach { up: false, ..Reach::default() }),
        (cluster(0), Reach { up: false, ..Reach::default() }),
    ]);
    let got = run(&import(3), &endpoints(&[(0, 1), (2, 2), (1, 1)]), &down, Spread::LocalFirst);
    assert_eq!(part(&got, 2), 1000);
    let own = run(&import(2), &endpoints(&[(1, 1), (2, 2)]), &down, Spread::Even);
    assert_eq!(part(&own, 0), 1000, "nobody needs a tunnel to his own cluster");
}

#[test]
fn who_does_not_export_it_has_no_endpoints() {
    let got = run(&import(1), &endpoints(&[(1, 1), (5, 5)]), &BTreeMap::new(), Spread::Even);
    assert_eq!(part(&got, 0), 1000);
}

#[test]
fn local_traffic_stays_on_the_node_or_is_refused() {
    let local = Import { internal_traffic: InternalTraffic::Local, ..import(2) };
    let got = run(&local, &endpoints(&[(3, 3), (3, 3)]), &BTreeMap::new(), Spread::Even);
    assert_eq!(got.targets.len(), 1);
    assert_eq!(got.targets[0].address, IpAddr::from([ADDRESS[0], ADDRESS[1], 0, 1]));
    let none = run(&local, &endpoints(&[(0, 3), (3, 3)]), &BTreeMap::new(), Spread::Even);
    assert_eq!(none, Balance::default());
}

#[test]
fn the_nearest_get_everything_and_whoever_is_next_takes_over() {
    let mut all = placed(&[
        &[("n0", "z0"), ("n1", "z0"), ("n2", "z1"), ("n3", "")],
        &[("n0", "z0"), ("n1", "z0")],
    ]);
    let get = |all: &BTreeMap<_, _>, distribution: &str, spread| {
        reached(&run(&near(distribution, 2), all, &BTreeMap::new(), spread))
    };
    for spread in [Spread::LocalFirst, Spread::Even] {
        assert_eq!(get(&all, "PreferSameNode", spread), [(0, 0)]);
        for zone in ["PreferSameZone", "PreferClose"] {
            assert_eq!(get(&all, zone, spread), [(0, 0), (0, 1)]);
        }
    }
    let fail = |all: &mut BTreeMap<ClusterName, Vec<Endpoint>>, i: usize| {
        all.get_mut(&cluster(0)).unwrap()[i].ready = false;
    };
    fail(&mut all, 0);
    assert_eq!(get(&all, "PreferSameNode", Spread::Even), [(0, 1)], "then its zone");
    fail(&mut all, 1);
    for distribution in ["PreferSameNode", "PreferSameZone"] {
        let far = get(&all, distribution, Spread::LocalFirst);
        assert_eq!(far, get(&all, "", Spread::LocalFirst), "then as without: {distribution}");
        assert_eq!(far, [(0, 2), (0, 3), (1, 0), (1, 1)]);
    }
}

#[test]
fn other_clusters_and_who_has_no_zone_are_not_near() {
    let all = placed(&[&[("n1", "")], &[("n0", "z0")]]);
    let own = cluster(0);
    let reach = BTreeMap::new();
    for zone in [None, Some("z0")] {
        let here = Here { cluster: &own, node: "n0", zone, reach: &reach, spread: Spread::Even };
        let got = balance(&near("PreferSameNode", 2), &port(), Family::V4, &all, here);
        assert_eq!(reached(&got), [(0, 0), (1, 0)], "{zone:?}");
    }
}

#[test]
fn what_is_near_gets_nothing_where_its_cluster_has_weight_0_or_it_only_drains() {
    let mut all = placed(&[&[("n0", "z0"), ("n1", "z1")], &[("n1", "z1")]]);
    let emptied = BTreeMap::from([(cluster(0), Reach { weight: 0, up: true })]);
    let got = run(&near("PreferSameNode", 2), &all, &emptied, Spread::LocalFirst);
    assert_eq!(reached(&got), [(1, 0)]);
    let list = all.get_mut(&cluster(0)).unwrap();
    list[0] = Endpoint { ready: false, serving: true, terminating: true, ..list[0].clone() };
    let got = run(&near("PreferSameNode", 2), &all, &BTreeMap::new(), Spread::LocalFirst);
    assert_eq!(reached(&got), [(0, 1)]);
    all.remove(&cluster(1));
    all.get_mut(&cluster(0)).unwrap()[1].ready = false;
    let got = run(&near("PreferSameNode", 2), &all, &BTreeMap::new(), Spread::LocalFirst);
    assert_eq!(reached(&got), [(0, 0)], "the last one, though it drains");
}

#[test]
fn the_last_endpoint_serves_until_it_is_gone() {
    let mut all = endpoints(&[(0, 1), (0, 1)]);
    let leaving = Endpoint { serving: true, terminating: true, ..endpoint(1, 0, false) };
    all.insert(cluster(1), vec![leaving]);
    let got = run(&import(2), &all, &BTreeMap::new(), Spread::LocalFirst);
    assert_eq!(part(&got, 1), 1000);
}

#[test]
fn affinity_is_handed_on_with_its_time() {
    let sticky = Import { affinity: Affinity::ClientIp { timeout: 60 }, ..import(1) };
    let got = run(&sticky, &endpoints(&[(1, 1)]), &BTreeMap::new(), Spread::Even);
    assert_eq!(got.sticky, Some(60));
}

#[test]
fn flows_of_what_is_gone_are_cut_and_no_others() {
    let before = endpoints(&[(3, 3)]);
    let mut after = before.clone();
    let list = after.get_mut(&cluster(0)).unwrap();
    list.remove(0);
    list[0].ready = false;
    list[1] = Endpoint { ready: false, serving: false, ..list[1].clone() };
    let gone = |i: usize| before[&cluster(0)][i].addresses[0];
    assert_eq!(dead(&before, &after), BTreeSet::from([gone(0), gone(2)]));
}

proptest! {
    /// Whatever a service prefers: everybody who gets something is of the nearest ring that has
    /// anybody, all of that ring get the same, and it changes nothing where no ring has anybody.
    #[test]
    fn the_nearest_ring_that_has_anybody_gets_everything(
        places in prop::collection::vec(
            prop::collection::vec((0usize..3, 0usize..3, any::<bool>()), 0..5), 1..4),
        distribution in prop::sample::select(vec!["PreferSameNode", "PreferSameZone", "PreferClose"]),
        even in any::<bool>(),
    ) {
        let names = |&(n, z, _): &(usize, usize, bool)| (format!("n{n}"), format!("z{z}"));
        let named: Vec<Vec<(String, String)>> =
            places.iter().map(|all| all.iter().map(names).collect()).collect();
        let text: Vec<Vec<(&str, &str)>> = named.iter()
            .map(|all| all.iter().map(|(n, z)| (n.as_str(), z.as_str())).collect()).collect();
        let mut all = placed(&text.iter().map(Vec::as_slice).collect::<Vec<_>>());
        for (c, list) in &places.iter().enumerate().collect::<Vec<_>>() {
            for (i, (_, _, ready)) in list.iter().enumerate() {
                all.get_mut(&cluster(*c)).unwrap()[i].ready = *ready;
            }
        }
        let spread = if even { Spread::Even } else { Spread::LocalFirst };
        let got = run(&near(distribution, places.len()), &all, &BTreeMap::new(), spread);
        let own = all[&cluster(0)].iter().filter(|e| e.ready);
        let of = |node: bool| -> Vec<IpAddr> {
            let has = |e: &&Endpoint| if node {
                e.node.as_deref() == Some("n0")
            } else {
                e.zone.as_deref() == Some("z0")
            };
            own.clone().filter(has).map(|e| e.addresses[0]).collect()
        };
        let wanted: &[bool] = if distribution == "PreferSameNode" { &[true, false] } else { &[false] };
        match wanted.iter().map(|node| of(*node)).find(|ring| !ring.is_empty()) {
            Some(ring) => {
                prop_assert_eq!(got.targets.iter().map(|t| t.address).collect::<Vec<_>>(), ring);
                prop_assert!(got.targets.iter().all(|t| t.share == 1));
            }
            None => {
                let without = run(&import(places.len()), &all, &BTreeMap::new(), spread);
                prop_assert_eq!(got, without);
            }
        }
    }

    /// What an export says of its cluster does what the slice's saying it does, and 0 of either wins.
    #[test]
    fn an_exports_weight_counts_as_if_the_slice_had_said_it(
        counts in prop::collection::vec((0usize..5, 0usize..5), 1..6),
        slice in prop::collection::vec(prop::sample::select(vec![0u16, 1, 100, 1000]), 6),
        own in prop::collection::vec(prop::option::of(0u16..=1000), 6),
        up in prop::collection::vec(any::<bool>(), 6),
        even in any::<bool>(),
    ) {
        let counts: Vec<_> = counts.into_iter().map(|(a, b)| (a, a + b)).collect();
        let all = endpoints(&counts);
        let reach = |weight: &dyn Fn(usize) -> u16| -> BTreeMap<_, _> {
            (0..6).map(|c| (cluster(c), Reach { weight: weight(c), up: up[c] })).collect()
        };
        let spread = if even { Spread::Even } else { Spread::LocalFirst };
        let said = (0..6).filter_map(|c| Some((cluster(c), own[c]?))).collect();
        let weighing = Import { weights: said, ..import(counts.len()) };
        let got = run(&weighing, &all, &reach(&|c| slice[c]), spread);
        let oracle = |c: usize| if slice[c] == 0 { 0 } else { own[c].unwrap_or(slice[c]) };
        prop_assert_eq!(got, run(&import(counts.len()), &all, &reach(&oracle), spread));
    }

    /// Shares add up, ranges cover everything once, every target is a ready endpoint of a cluster
    /// that exports, and only those; the same input gives the same answer.
    #[test]
    fn shares_are_sound(
        counts in prop::collection::vec((0usize..5, 0usize..5), 1..6),
        weights in prop::collection::vec(0u16..500, 6),
        even in any::<bool>(),
    ) {
        let counts: Vec<_> = counts.into_iter().map(|(a, b)| (a, a + b)).collect();
        let all = endpoints(&counts);
        let reach: BTreeMap<_, _> = weights.iter().enumerate()
            .map(|(c, w)| (cluster(c), Reach { weight: *w, up: true })).collect();
        let spread = if even { Spread::Even } else { Spread::LocalFirst };
        let got = run(&import(counts.len()), &all, &reach, spread);
        prop_assert_eq!(&got, &run(&import(counts.len()), &all, &reach, spread));
        prop_assert_eq!(got.targets.iter().map(|t| t.share).sum::<u32>(), got.total);
        let mut next = 0;
        for (range, target) in got.ranges() {
            prop_assert_eq!(range.start, next);
            prop_assert!(range.end > range.start && target.share > 0);
            next = range.end;
        }
        prop_assert_eq!(next, got.total);
        let usable = |c: usize| weights[c] > 0 && counts[c].0 > 0;
        let any = (0..counts.len()).any(usable);
        prop_assert_eq!(got.targets.is_empty(), !any);
        for target in &got.targets {
            let ready = all.values().flatten().find(|e| e.addresses[0] == target.address).unwrap();
            prop_assert!(ready.ready);
        }
        if even && any {
            let sum: u64 = (0..counts.len())
                .map(|c| u64::from(weights[c]) * counts[c].0 as u64).sum();
            for c in 0..counts.len() {
                let wanted = u64::from(weights[c]) * counts[c].0 as u64 * 1000 / sum;
                prop_assert!(part(&got, c).abs_diff(wanted) <= 2, "{} {}", part(&got, c), wanted);
            }
        }
    }
}
