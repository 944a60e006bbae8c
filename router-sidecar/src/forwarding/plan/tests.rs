//! What the pod's tables come to.

use slicewire_core::gateway::{Traffic, Tunnel};
use slicewire_core::name::SliceName;
use slicewire_kernel::LinkKind;

use super::*;

const BOTH: [Family; 2] = [Family::V4, Family::V6];

fn tunnels() -> Tunnels {
    let tunnel = |cluster: &str, prefixes: &[&str]| Tunnel {
        cluster: cluster.into(),
        generation: 0,
        device: "swwg0".into(),
        preshared: false,
        public_key: [1; 32],
        addresses: vec![],
        prefixes: prefixes.iter().map(|p| p.parse().unwrap()).collect(),
        endpoint: None,
        traffic: Traffic::default(),
    };
    Tunnels {
        slice: SliceName::parse("blue").unwrap(),
        cluster: "east".into(),
        lane: 0,
        device: "swwg0".into(),
        backend: "embedded".into(),
        addresses: vec![],
        prefixes: vec!["10.20.0.0/16".parse().unwrap(), "fd00:20::/48".parse().unwrap()],
        tunnels: vec![
            tunnel("west", &["10.20.64.0/18", "fd00:20:0:4000::/50"]),
            tunnel("south", &["10.20.128.0/18"]),
        ],
    }
}

fn link(name: &str, index: u32, alias: Option<&str>) -> Link {
    Link {
        name: name.into(),
        index,
        kind: LinkKind::Other(String::new()),
        alias: alias.map(str::to_owned),
        mac: None,
        mtu: 1400,
        up: true,
        peer: None,
    }
}

fn links() -> BTreeSet<Link> {
    BTreeSet::from([
        link("eth0", 2, None),
        link("slice0", 3, Some("slicewire/blue")),
        link("swwg0", 4, None),
    ])
}

/// Where a packet goes: the kernel's lookup over rules and tables.
fn lookup(wanted: &Wanted, main: &[Route], iif: &str, to: &str) -> Option<NextHops> {
    let to: IpAddr = to.parse().unwrap();
    let family = Family::of_addr(&to);
    let from =
        |rule: &&Rule| rule.family == family && rule.iif.as_deref().is_none_or(|name| name == iif);
    wanted.rules.iter().filter(from).find_map(|rule| {
        let routes = wanted.routes.values().chain(main);
        let fits = routes.filter(|r| r.table == rule.table && r.dst.contains(&to));
        fits.max_by_key(|r| r.dst.prefix_len()).map(|r| r.next.clone())
    })
}

fn main_table() -> Vec<Route> {
    let default = |dst: &str, via: &str| {
        Route::new(dst.parse().unwrap(), NextHops::via(via.parse().unwrap(), "eth0"))
    };
    let slice = |dst: &str, via: &str| {
        Route::new(dst.parse().unwrap(), NextHops::via(via.parse().unwrap(), "slice0"))
    };
    vec![
        default("0.0.0.0/0", "172.16.0.1"),
        default("::/0", "fd99::1"),
        slice("10.20.0.0/16", "169.254.1.1"),
        slice("fd00:20::/48", "fe80::1"),
    ]
}

fn device(next: Option<NextHops>) -> String {
    match next {
        Some(NextHops::One(hop)) => hop.dev,
        Some(NextHops::Unreachable) => "unreachable".into(),
        other => format!("{other:?}"),
    }
}

#[test]
fn every_packet_goes_where_it_may_and_nowhere_else() {
    let wanted = Wanted::new("slice0", &BOTH, Some(&tunnels()), &Chosen::new(), &links());
    assert!(wanted.links.forwarding);
    let cases = [
        ("slice0", "10.20.64.9", "swwg0"),
        ("slice0", "fd00:20:0:4000::9", "swwg0"),
        ("slice0", "10.20.128.9", "swwg0"),
        ("slice0", "10.20.0.9", "unreachable"),
        ("slice0", "192.0.2.1", "unreachable"),
        ("slice0", "2001:db8::1", "unreachable"),
        ("swwg0", "10.20.0.9", "slice0"),
        ("swwg0", "fd00:20::9", "slice0"),
        ("swwg0", "10.20.128.9", "unreachable"),
        ("swwg0", "192.0.2.1", "unreachable"),
        ("swwg0", "2001:db8::1", "unreachable"),
        ("lo", "10.20.64.1", "swwg0"),
        ("lo", "10.20.0.9", "slice0"),
        ("lo", "192.0.2.1", "eth0"),
        ("lo", "2001:db8::1", "eth0"),
        ("eth0", "10.20.0.9", "unreachable"),
        ("eth0", "10.20.64.9", "unreachable"),
        ("eth0", "192.0.2.1", "unreachable"),
        ("eth0", "fd00:20::9", "unreachable"),
    ];
    for (iif, to, expected) in cases {
        let got = device(lookup(&wanted, &main_table(), iif, to));
        assert_eq!(got, expected, "from {iif} to {to}");
    }
}

#[test]
fn nothing_is_forwarded_around_a_missing_device() {
    let some = |names: &[&str]| -> BTreeSet<Link> {
        links().into_iter().filter(|l| names.contains(&l.name.as_str())).collect()
    };
    let tunnels = tunnels();
    let cases = [
        (None, links()),
        (Some(&tunnels), some(&["eth0"])),
        (Some(&tunnels), some(&["eth0", "slice0"])),
        (Some(&tunnels), some(&["eth0", "swwg0"])),
    ];
    for (tunnels, links) in cases {
        let wanted = Wanted::new("slice0", &BOTH, tunnels, &Chosen::new(), &links);
        assert!(!wanted.links.forwarding);
        for iif in ["eth0", "slice0", "swwg0"] {
            for to in ["10.20.0.9", "192.0.2.1", "fd00:20::9", "2001:db8::1"] {
                let got = device(lookup(&wanted, &main_table(), iif, to));
                assert!(got != "eth0" && !(iif == "eth0" && got != "unreachable"), "{iif} {to}");
            }
        }
    }
}

#[test]
fn a_nic_that_is_not_this_slices_or_not_ready_is_not_used() {
    for alias in [None, Some("slicewire/red"), Some("slicewire/blu")] {
        let mut links = links();
        links.retain(|l| l.name != "slice0");
        links.insert(link("slice0", 3, alias));
        let wanted = Wanted::new("slice0", &BOTH, Some(&tunnels()), &Chosen::new(), &links);
        assert!(!wanted.links.forwarding);
        let got = device(lookup(&wanted, &main_table(), "swwg0", "10.20.0.9"));
        assert_eq!(got, "unreachable");
    }
}

#[test]
fn changes_converge_and_leave_others_alone() {
    let wanted = Wanted::new("slice0", &BOTH, Some(&tunnels()), &Chosen::new(), &links());
    let daemons = main_table();
    let stale = Route::new("10.99.0.0/16".parse().unwrap(), NextHops::Unreachable);
    let stale_rule = Rule { priority: 8307, family: Family::V4, iif: None, table: 99 };
    let mut routes: BTreeSet<_> = daemons.iter().cloned().collect();
    routes.insert(stale.clone().in_table(OUT));
    let mut rules = BTreeSet::from([stale_rule.clone()]);
    for op in wanted.changes(&routes, &rules) {
        match op {
            Op::ReplaceRoute(route) => {
                routes.retain(|r| (r.table, r.dst) != (route.table, route.dst));
                routes.insert(route);
            }
            Op::DeleteRoute { table, dst } => routes.retain(|r| (r.table, r.dst) != (table, dst)),
            Op::AddRule(rule) => assert!(rules.insert(rule)),
            Op::DeleteRule(rule) => assert!(rules.remove(&rule)),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(wanted.changes(&routes, &rules), []);
    assert!(!rules.contains(&stale_rule));
    assert!(daemons.iter().all(|route| routes.contains(route)));
    assert!(!routes.contains(&stale.in_table(OUT)));
}

#[test]
fn a_process_that_has_just_started_closes_no_way_of_its_predecessor() {
    let before = Wanted::new("slice0", &BOTH, Some(&tunnels()), &Chosen::new(), &links());
    let routes: BTreeSet<_> = before.routes.values().cloned().collect();
    let started = Wanted::new("slice0", &BOTH, None, &Chosen::new(), &links());
    assert_eq!(started.changes(&routes, &before.rules), []);
}

/// As [`tunnels`], while keys are renewed: every tunnel twice.
fn renewing() -> Tunnels {
    let mut both = tunnels();
    let next = both.tunnels.clone().into_iter();
    both.tunnels.extend(next.map(|t| slicewire_core::gateway::Tunnel {
        generation: 1,
        device: "swwg1".into(),
        public_key: [2; 32],
        ..t
    }));
    both
}

#[test]
fn while_keys_are_renewed_both_devices_receive_and_the_chosen_one_sends() {
    let mut links = links();
    links.insert(link("swwg1", 5, None));
    for (generation, used, other) in [(0, "swwg0", "swwg1"), (1, "swwg1", "swwg0")] {
        let chosen = Chosen::from([("west".into(), generation), ("south".into(), generation)]);
        let wanted = Wanted::new("slice0", &BOTH, Some(&renewing()), &chosen, &links);
        assert!(wanted.links.forwarding);
        for to in ["10.20.64.9", "fd00:20:0:4000::9"] {
            assert_eq!(device(lookup(&wanted, &main_table(), "slice0", to)), used);
        }
        for iif in ["swwg0", "swwg1"] {
            assert_eq!(device(lookup(&wanted, &main_table(), iif, "10.20.0.9")), "slice0");
            assert_eq!(device(lookup(&wanted, &main_table(), iif, "fd00:20::9")), "slice0");
            assert_eq!(device(lookup(&wanted, &main_table(), iif, "192.0.2.1")), "unreachable");
        }
        for to in ["10.20.64.1", "fd00:20:0:4000::1"] {
            assert_eq!(device(lookup(&wanted, &main_table(), "lo", to)), used);
        }
        // A probe that is bound to the other device finds a way there.
        let bound = |route: &&Route| route.table == OTHER && route.next == NextHops::dev(other);
        assert_eq!(wanted.routes.values().filter(bound).count(), 3);
    }
}

#[test]
fn the_change_of_keys_is_one_replacement_a_route() {
    let mut links = links();
    links.insert(link("swwg1", 5, None));
    let of = |generation| {
        let chosen = Chosen::from([("west".into(), generation)]);
        Wanted::new("slice0", &BOTH, Some(&renewing()), &chosen, &links)
    };
    let (before, after) = (of(0), of(1));
    let routes: BTreeSet<_> = before.routes.values().cloned().collect();
    let changes = after.changes(&routes, &before.rules);
    assert!(changes.iter().all(|op| matches!(op, Op::ReplaceRoute(_))), "{changes:?}");
    let west = "10.20.64.0/18".parse().unwrap();
    assert_eq!(Wanted::found(&routes, &west).as_deref(), Some("swwg0"));
}
