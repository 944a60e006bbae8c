//! Plans a slice router.
//!
//! Everything in the router's namespace is ours. Ports of pods that should be there and are not are
//! [`super::nic`]'s work; here are the ones that should not be.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use slicewire_core::name::VXLAN_DEVICE;
use slicewire_core::prefix::{Family, overlap};
use slicewire_core::routes::Via;
use slicewire_kernel::{
    Address, Fdb, Hop, Link, LinkChange, LinkKind, MAIN_TABLE, Mac, Neighbour, NextHops, NsId, Op,
    Route, Rule, State,
};

use super::diff::{Paths, diff};
use super::want::{FABRIC_TABLE, RULE_PRIORITY};
use super::{At, RouterWant, Settings, Step, pod_mac};

/// Settings, the VXLAN device, and the removal of ports that should not be; then the paths.
pub(crate) fn plan(want: &RouterWant, have: &State, settings: &Settings) -> Vec<Step> {
    let mut steps = Vec::new();
    Step::push(&mut steps, At::Router, differing(&want.settings(), settings));
    let vxlan = have.link(VXLAN_DEVICE);
    let right = vxlan.is_some_and(|link| same_vxlan(want, link));
    match vxlan {
        Some(link) if right => Step::push(&mut steps, At::Router, adjust(want, link)),
        Some(link) => {
            Step::push(&mut steps, At::Router, vec![Op::DeleteLink { dev: link.name.clone() }]);
        }
        None => {}
    }
    if !right {
        let add = Op::AddVxlan {
            end: want.vxlan_end(),
            into: NsId::named(&want.netns),
            vxlan: want.vxlan.clone(),
        };
        Step::push(&mut steps, At::Host, vec![add]);
        // Before any route leads there.
        let place = Op::AddFilterPlace { dev: VXLAN_DEVICE.to_owned() };
        Step::push(&mut steps, At::Router, vec![place]);
    }
    let stale = stale_ports(want, have);
    let gone: BTreeSet<&str> =
        stale.iter().copied().chain((!right).then_some(VXLAN_DEVICE)).collect();
    let delete = |dev: &&str| Op::DeleteLink { dev: (*dev).to_owned() };
    Step::push(&mut steps, At::Router, stale.iter().map(delete).collect());
    Step::push(&mut steps, At::Router, paths(want, have, &gone));
    steps
}

/// Settings to be written.
pub(super) fn differing(want: &Settings, have: &Settings) -> Vec<Op> {
    want.iter()
        .filter(|(key, value)| have.get(*key) != Some(value))
        .map(|(key, value)| Op::SetSysctl { key: key.clone(), value: value.clone() })
        .collect()
}

fn same_vxlan(want: &RouterWant, link: &Link) -> bool {
    link.kind == LinkKind::Vxlan(want.vxlan.clone()) && link.mac == Some(want.vxlan_mac)
}

fn adjust(want: &RouterWant, link: &Link) -> Vec<Op> {
    let mut change = LinkChange::default();
    if link.mtu != want.mtu {
        change.mtu = Some(want.mtu);
    }
    if !link.up {
        change.up = Some(true);
    }
    if change == LinkChange::default() {
        return Vec::new();
    }
    vec![Op::SetLink { dev: link.name.clone(), change }]
}

fn stale_ports<'a>(want: &RouterWant, have: &'a State) -> Vec<&'a str> {
    let wanted: BTreeSet<&str> = want.ports.values().map(|p| p.device.as_str()).collect();
    have.links
        .iter()
        .filter(|l| l.kind == LinkKind::Veth && !wanted.contains(l.name.as_str()))
        .map(|l| l.name.as_str())
        .collect()
}

/// Addresses, neighbours, routes and rules, for the ports that are there. What is on a device that
/// an earlier step removed is gone with it.
fn paths(want: &RouterWant, have: &State, gone: &BTreeSet<&str>) -> Vec<Op> {
    let there = |dev: &str| have.link(dev).is_some() && !gone.contains(dev);
    let survives = |hops: &NextHops| match hops {
        NextHops::Unreachable => true,
        NextHops::One(hop) => !gone.contains(hop.dev.as_str()),
        NextHops::Multi(hops) => hops.iter().all(|h| !gone.contains(h.dev.as_str())),
    };
    let ours = |dev: &str| dev != "lo" && !gone.contains(dev);
    let frozen = |dst: &IpNet| want.frozen.iter().any(|f| overlap(f, dst));
    let mut now = Paths::of(have, ours, |r| survives(&r.next));
    now.rules = have.rules.clone();
    let mut then = desired(want, there);
    // Frozen: what is there stays, what is missing may come.
    let kept: Vec<Route> = now.routes.iter().filter(|r| frozen(&r.dst)).cloned().collect();
    then.routes.retain(|r| !kept.iter().any(|k| k.table == r.table && k.dst == r.dst));
    then.routes.extend(kept);
    diff(&then, &now)
}

fn desired(want: &RouterWant, there: impl Fn(&str) -> bool) -> Paths {
    let mut paths = Paths::default();
    let mut devices: BTreeMap<IpAddr, &str> = BTreeMap::new();
    for port in want.ports.values().filter(|p| there(&p.device)) {
        for address in &port.addresses {
            devices.insert(*address, &port.device);
            paths.routes.insert(port_route(&port.device, *address));
            paths.neighbours.insert(port_neighbour(&port.device, *address));
        }
    }
    for address in &want.addresses {
        paths.addresses.insert(Address::host(VXLAN_DEVICE, *address));
    }
    for n in &want.routes.neighbours {
        let mac = Mac(n.mac);
        let dev = VXLAN_DEVICE.to_owned();
        paths.neighbours.insert(Neighbour { dev: dev.clone(), addr: n.address, mac });
        paths.fdb.insert(Fdb { dev, mac, dst: n.underlay });
    }
    for (prefix, via) in &want.routes.main {
        let hops: Vec<Hop> = via.iter().filter_map(|v| hop(*v, &devices)).collect();
        if !hops.is_empty() {
            paths.routes.insert(Route::new(*prefix, NextHops::balanced(hops)));
        }
    }
    for (prefix, via) in &want.routes.fabric {
        let hops = via.iter().filter_map(|v| hop(*v, &devices));
        let route = Route::new(*prefix, NextHops::balanced(hops));
        paths.routes.insert(route.in_table(FABRIC_TABLE));
    }
    for family in &want.families {
        paths.rules.insert(fabric_rule(*family));
    }
    paths
}

fn hop(via: Via, devices: &BTreeMap<IpAddr, &str>) -> Option<Hop> {
    match via {
        Via::Pod(address) => Some(Hop::via(address, devices.get(&address)?)),
        Via::Router(address) => Some(Hop::via(address, VXLAN_DEVICE)),
    }
}

/// Packets from other nodes look into the fabric's table first.
fn fabric_rule(family: Family) -> Rule {
    Rule {
        priority: RULE_PRIORITY,
        family,
        iif: Some(VXLAN_DEVICE.to_owned()),
        table: FABRIC_TABLE,
    }
}

/// The route to a pod.
pub(super) fn port_route(device: &str, address: IpAddr) -> Route {
    debug_assert_eq!(Route::new(IpNet::from(address), NextHops::dev(device)).table, MAIN_TABLE);
    Route::new(IpNet::from(address), NextHops::dev(device))
}

/// A pod as the router's neighbour.
pub(super) fn port_neighbour(device: &str, address: IpAddr) -> Neighbour {
    Neighbour { dev: device.to_owned(), addr: address, mac: pod_mac(device) }
}
