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
//! | 8303 | the pod's own | 55: remote prefixes → tunnels by the other keys | going on |
//! | 8304 | the pod's own | main | going on |
//! | 8305 | all others | 54 | unreachable |
//!
//! What is for the pod itself never gets here: the local table is asked first. The pod's own
//! packets and the kernel's reverse-path check look up as coming from `lo`.
//!
//! While keys are renewed there are two tunnels to a cluster, on two devices. Packets are sent by
//! the one that [`choose`](slicewire_core::rotation::choose) says, and received by both: the node's
//! daemon has the kernel's check of a pod with gateways be loose. WireGuard lets a peer send from its
//! own prefixes only, whichever device it comes by. Probes, which are bound to the other device,
//! find it in table 55.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use slicewire_core::gateway::{Tunnel, Tunnels};
use slicewire_core::name::GATEWAY_DEVICES;
use slicewire_core::prefix::Family;
use slicewire_core::rotation::Generation;
use slicewire_kernel::{Link, MAIN_TABLE, NextHops, Op, Route, Rule};

use super::{Devices, Links};

/// From the slice.
const OUT: u32 = 51;
/// From the tunnels.
const IN: u32 = 52;
/// From the pod itself.
const OWN: u32 = 53;
/// From anywhere else.
const REST: u32 = 54;
/// From the pod itself, bound to the device of the keys that are not sent by.
const OTHER: u32 = 55;
/// Priority of the first rule; the others follow.
const FIRST_RULE: u32 = 8300;

/// The generation of keys by which each cluster is sent to.
pub(crate) type Chosen = BTreeMap<String, Generation>;

/// The state to be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    routes: BTreeMap<(u32, IpNet), Route>,
    rules: BTreeSet<Rule>,
    pub(super) links: Links,
    /// Whether the tunnels are known. Before, ways that are there are a predecessor's, and used.
    known: bool,
    /// A device made anew takes its routes with it, even under the same name.
    numbers: Vec<u32>,
}

impl Wanted {
    /// What has to be, with these tunnels (none known yet: `None`), the generation of keys that
    /// each cluster is sent to by, and devices.
    pub(super) fn new(
        nic: &str,
        families: &[Family],
        tunnels: Option<&Tunnels>,
        chosen: &Chosen,
        links: &BTreeSet<Link>,
    ) -> Self {
        let up = |name: &str| links.iter().find(|link| link.name == name && link.up);
        let devices: Devices = GATEWAY_DEVICES
            .iter()
            .filter_map(|name| {
                let link = up(name)?;
                let mtu = u16::try_from(link.mtu).unwrap_or(u16::MAX);
                Some(((*name).to_owned(), (link.index, mtu)))
            })
            .collect();
        // The mark is set last by whoever plugs the NIC in: before, it is not ready.
        let nic_link = tunnels.and_then(|tunnels| {
            let mark = format!("slicewire/{}", tunnels.slice);
            up(nic).filter(|link| link.alias.as_deref() == Some(mark.as_str()))
        });
        let numbers = devices.values().map(|(number, _)| *number);
        let mut wanted = Self {
            routes: BTreeMap::new(),
            rules: rules(nic, families),
            known: tunnels.is_some(),
            numbers: numbers.chain(nic_link.map(|link| link.index)).collect(),
            links: Links { forwarding: nic_link.is_some() && !devices.is_empty(), devices },
        };
        for family in families {
            for table in [OUT, IN, REST] {
                wanted.route(table, all(*family), NextHops::Unreachable);
            }
        }
        if let Some(tunnels) = tunnels {
            wanted.slice_routes(tunnels, chosen, nic, nic_link.is_some());
        }
        wanted
    }

    fn slice_routes(&mut self, tunnels: &Tunnels, chosen: &Chosen, nic: &str, nic_up: bool) {
        for prefix in &tunnels.prefixes {
            let next = NextHops::via(router(Family::of(prefix)), nic);
            self.route(IN, *prefix, if nic_up { next } else { NextHops::Unreachable });
        }
        let mut clusters: BTreeMap<&str, Vec<&Tunnel>> = BTreeMap::new();
        for tunnel in &tunnels.tunnels {
            clusters.entry(&tunnel.cluster).or_default().push(tunnel);
        }
        for (cluster, ways) in clusters {
            let is_chosen = |t: &&&Tunnel| chosen.get(cluster) == Some(&t.generation);
            let Some(used) = ways.iter().find(is_chosen).or(ways.first()) else { continue };
            let other = ways.iter().find(|t| t.device != used.device);
            for prefix in &used.prefixes {
                // What comes from one tunnel goes to this cluster, not on to another one.
                self.route(IN, *prefix, NextHops::Unreachable);
                self.ways(*prefix, &used.device, other.map(|t| t.device.as_str()));
            }
        }
    }

    /// The ways to a prefix: for all packets, and by the other keys for what needs that.
    fn ways(&mut self, prefix: IpNet, used: &str, other: Option<&str>) {
        let there = |device: &&str| self.links.devices.contains_key(*device);
        let (used, other) = (Some(used).filter(there), other.filter(there));
        let next = || used.map_or(NextHops::Unreachable, NextHops::dev);
        self.route(OUT, prefix, next());
        self.route(OWN, prefix, next());
        if let Some(other) = other {
            self.route(OTHER, prefix, NextHops::dev(other));
        }
    }

    /// By which device packets to a prefix go, as routes that were found say.
    pub(super) fn found(routes: &BTreeSet<Route>, prefix: &IpNet) -> Option<String> {
        let found = routes.iter().find(|route| route.table == OUT && route.dst == *prefix)?;
        match &found.next {
            NextHops::One(hop) => Some(hop.dev.clone()),
            _ => None,
        }
    }

    fn route(&mut self, table: u32, dst: IpNet, next: NextHops) {
        let route = Route::new(dst, next).in_table(table);
        self.routes.insert((table, route.dst), route);
    }

    /// The operations that lead from what is found to this; none if it is the same. Ways are
    /// made before they are used, and what blocks goes last. No way is closed before the tunnels are
    /// known: a process that has just started does not interrupt what its predecessor made.
    pub(super) fn changes(&self, routes: &BTreeSet<Route>, rules: &BTreeSet<Rule>) -> Vec<Op> {
        let ours = |route: &&Route| (OUT..=OTHER).contains(&route.table);
        let found: BTreeMap<_, _> =
            routes.iter().filter(ours).map(|route| ((route.table, route.dst), route)).collect();
        let missing = self.routes.iter().filter(|(key, route)| found.get(key) != Some(route));
        let mut ops: Vec<_> = missing.map(|(_, route)| Op::ReplaceRoute(route.clone())).collect();
        ops.extend(self.rules.difference(rules).cloned().map(Op::AddRule));
        let gone = found.keys().filter(|key| self.known && !self.routes.contains_key(key));
        ops.extend(gone.map(|(table, dst)| Op::DeleteRoute { table: *table, dst: *dst }));
        let ours = |rule: &&Rule| (FIRST_RULE..FIRST_RULE + 10).contains(&rule.priority);
        let gone = rules.difference(&self.rules).filter(ours);
        ops.extend(gone.cloned().map(Op::DeleteRule));
        ops
    }
}

fn rules(nic: &str, families: &[Family]) -> BTreeSet<Rule> {
    let [even, odd] = GATEWAY_DEVICES;
    let steps = [
        (0, Some(nic), OUT),
        (1, Some(even), IN),
        (1, Some(odd), IN),
        (2, Some("lo"), OWN),
        (3, Some("lo"), OTHER),
        (4, Some("lo"), MAIN_TABLE),
        (5, None, REST),
    ];
    let of = |family: &Family| {
        let family = *family;
        steps.map(move |(place, iif, table)| Rule {
            priority: FIRST_RULE + place,
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
