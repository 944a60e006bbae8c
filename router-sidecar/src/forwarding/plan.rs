//! What the pod's routing tables and rules have to be.
//!
//! Security property: **a packet from the slice leaves the pod only into a tunnel, one from a
//! tunnel only into the slice, and one from anywhere else not at all.** It holds whichever
//! devices are there, because every way ends in a route that is always there:
//!
//! | rule | packets | table | which ends in |
//! |---|---|---|---|
//! | 8300 | from the slice's NIC | 51: remote prefixes → tunnels | unreachable |
//! | 8301 | from the tunnels | 52: the slice's other prefixes → slice's NIC | unreachable |
//! | 8302 | the pod's own | 53: remote prefixes → tunnels | going on |
//! | 8303 | the pod's own | main | going on |
//! | 8304 | all others | 54 | unreachable |
//!
//! What is for the pod itself never gets here: the local table is asked first. The pod's own
//! packets and the kernel's reverse-path check look up as coming from `lo`; with table 53 before
//! main both get the answer that matches how packets really go, strict check or not.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use slicewire_core::gateway::Tunnels;
use slicewire_core::name::GATEWAY_DEVICE;
use slicewire_core::prefix::Family;
use slicewire_kernel::{Link, MAIN_TABLE, NextHops, Op, Route, Rule};

use super::Links;

/// From the slice.
const OUT: u32 = 51;
/// From the tunnels.
const IN: u32 = 52;
/// From the pod itself.
const OWN: u32 = 53;
/// From anywhere else.
const REST: u32 = 54;
/// Priority of the first rule; the others follow.
const FIRST_RULE: u32 = 8300;

/// The state to be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    routes: BTreeMap<(u32, IpNet), Route>,
    rules: BTreeSet<Rule>,
    pub(super) links: Links,
    /// A device made anew takes its routes with it, even under the same name.
    numbers: Vec<u32>,
}

impl Wanted {
    /// What has to be, with these tunnels (none known yet: `None`) and devices.
    pub(super) fn new(
        nic: &str,
        families: &[Family],
        tunnels: Option<&Tunnels>,
        links: &BTreeSet<Link>,
    ) -> Self {
        let device = tunnels.map_or(GATEWAY_DEVICE, |t| t.device.as_str());
        let up = |name: &str| links.iter().find(|link| link.name == name && link.up);
        let tunnel_link = up(device);
        // The mark is set last by whoever plugs the NIC in: before, it is not ready.
        let nic_link = tunnels.and_then(|tunnels| {
            let mark = format!("slicewire/{}", tunnels.slice);
            up(nic).filter(|link| link.alias.as_deref() == Some(mark.as_str()))
        });
        let mut wanted = Self {
            routes: BTreeMap::new(),
            rules: rules(nic, device, families),
            links: Links {
                device: tunnel_link
                    .map(|link| (link.index, u16::try_from(link.mtu).unwrap_or(u16::MAX))),
                forwarding: nic_link.is_some() && tunnel_link.is_some(),
            },
            numbers: tunnel_link.iter().chain(&nic_link).map(|link| link.index).collect(),
        };
        for family in families {
            for table in [OUT, IN, REST] {
                wanted.route(table, all(*family), NextHops::Unreachable);
            }
        }
        if let Some(tunnels) = tunnels {
            wanted.slice_routes(tunnels, device, tunnel_link.is_some(), nic, nic_link.is_some());
        }
        wanted
    }

    fn slice_routes(
        &mut self,
        tunnels: &Tunnels,
        device: &str,
        device_up: bool,
        nic: &str,
        nic_up: bool,
    ) {
        for prefix in &tunnels.prefixes {
            let next = NextHops::via(router(Family::of(prefix)), nic);
            self.route(IN, *prefix, if nic_up { next } else { NextHops::Unreachable });
        }
        for prefix in tunnels.tunnels.iter().flat_map(|tunnel| &tunnel.prefixes) {
            let next = || if device_up { NextHops::dev(device) } else { NextHops::Unreachable };
            self.route(OUT, *prefix, next());
            self.route(OWN, *prefix, next());
            // What comes from one tunnel goes to this cluster, not on to another one.
            self.route(IN, *prefix, NextHops::Unreachable);
        }
    }

    fn route(&mut self, table: u32, dst: IpNet, next: NextHops) {
        let route = Route::new(dst, next).in_table(table);
        self.routes.insert((table, route.dst), route);
    }

    /// The operations that lead from what is found to this; none if it is the same. Ways are
    /// made before they are used, and what blocks goes last.
    pub(super) fn changes(&self, routes: &BTreeSet<Route>, rules: &BTreeSet<Rule>) -> Vec<Op> {
        let ours = |route: &&Route| (OUT..=REST).contains(&route.table);
        let found: BTreeMap<_, _> =
            routes.iter().filter(ours).map(|route| ((route.table, route.dst), route)).collect();
        let missing = self.routes.iter().filter(|(key, route)| found.get(key) != Some(route));
        let mut ops: Vec<_> = missing.map(|(_, route)| Op::ReplaceRoute(route.clone())).collect();
        ops.extend(self.rules.difference(rules).cloned().map(Op::AddRule));
        let gone = found.keys().filter(|key| !self.routes.contains_key(key));
        ops.extend(gone.map(|(table, dst)| Op::DeleteRoute { table: *table, dst: *dst }));
        let ours = |rule: &&Rule| (FIRST_RULE..FIRST_RULE + 10).contains(&rule.priority);
        let gone = rules.difference(&self.rules).filter(ours);
        ops.extend(gone.cloned().map(Op::DeleteRule));
        ops
    }
}

fn rules(nic: &str, device: &str, families: &[Family]) -> BTreeSet<Rule> {
    let steps = [
        (Some(nic), OUT),
        (Some(device), IN),
        (Some("lo"), OWN),
        (Some("lo"), MAIN_TABLE),
        (None, REST),
    ];
    let of = |family: &Family| {
        let family = *family;
        (FIRST_RULE..).zip(steps).map(move |(priority, (iif, table))| Rule {
            priority,
            family,
            iif: iif.map(str::to_owned),
            table,
        })
    };
    families.iter().flat_map(of).collect()
}

fn all(family: Family) -> IpNet {
    match family {
        Family::V4 => IpNet::V4(Ipv4Net::default()),
        Family::V6 => IpNet::V6(Ipv6Net::default()),
    }
}

/// The slice router's address on every slice NIC's link.
fn router(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(169, 254, 1, 1).into(),
        Family::V6 => Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1).into(),
    }
}

#[cfg(test)]
mod tests {
    use slicewire_core::gateway::{Traffic, Tunnel};
    use slicewire_core::name::SliceName;
    use slicewire_kernel::LinkKind;

    use super::*;

    const BOTH: [Family; 2] = [Family::V4, Family::V6];

    fn tunnels() -> Tunnels {
        let tunnel = |cluster: &str, prefixes: &[&str]| Tunnel {
            cluster: cluster.into(),
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
        let from = |rule: &&Rule| {
            rule.family == family && rule.iif.as_deref().is_none_or(|name| name == iif)
        };
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
        let wanted = Wanted::new("slice0", &BOTH, Some(&tunnels()), &links());
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
            let wanted = Wanted::new("slice0", &BOTH, tunnels, &links);
            assert!(!wanted.links.forwarding);
            for iif in ["eth0", "slice0", "swwg0"] {
                for to in ["10.20.0.9", "192.0.2.1", "fd00:20::9", "2001:db8::1"] {
                    let got = device(lookup(&wanted, &main_table(), iif, to));
                    assert!(
                        got != "eth0" && !(iif == "eth0" && got != "unreachable"),
                        "{iif} {to}"
                    );
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
            let wanted = Wanted::new("slice0", &BOTH, Some(&tunnels()), &links);
            assert!(!wanted.links.forwarding);
            let got = device(lookup(&wanted, &main_table(), "swwg0", "10.20.0.9"));
            assert_eq!(got, "unreachable");
        }
    }

    #[test]
    fn changes_converge_and_leave_others_alone() {
        let wanted = Wanted::new("slice0", &BOTH, Some(&tunnels()), &links());
        let daemons = main_table();
        let stale = Route::new("10.99.0.0/16".parse().unwrap(), NextHops::Unreachable);
        let stale_rule = Rule { priority: 8305, family: Family::V4, iif: None, table: 99 };
        let mut routes: BTreeSet<_> = daemons.iter().cloned().collect();
        routes.insert(stale.clone().in_table(OUT));
        let mut rules = BTreeSet::from([stale_rule.clone()]);
        for op in wanted.changes(&routes, &rules) {
            match op {
                Op::ReplaceRoute(route) => {
                    routes.retain(|r| (r.table, r.dst) != (route.table, route.dst));
                    routes.insert(route);
                }
                Op::DeleteRoute { table, dst } => {
                    routes.retain(|r| (r.table, r.dst) != (table, dst))
                }
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
}
