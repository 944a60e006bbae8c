//! What changes the addresses, neighbours, routes and rules of a namespace into others, making
//! before breaking.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use slicewire_kernel::{Address, Fdb, Neighbour, Op, Route, Rule, State};

/// The part of a namespace that is compared.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Paths {
    pub(super) addresses: BTreeSet<Address>,
    pub(super) neighbours: BTreeSet<Neighbour>,
    pub(super) fdb: BTreeSet<Fdb>,
    pub(super) routes: BTreeSet<Route>,
    pub(super) rules: BTreeSet<Rule>,
}

impl Paths {
    /// The part of what was observed that is on one of our devices, or (routes) that `route`
    /// accepts. Link-local addresses are left out: the kernel gives and takes them by itself.
    pub(super) fn of(
        state: &State,
        device: impl Fn(&str) -> bool,
        route: impl Fn(&Route) -> bool,
    ) -> Self {
        Self {
            addresses: state
                .addresses
                .iter()
                .filter(|a| device(&a.dev) && !is_link_local(&a.net))
                .cloned()
                .collect(),
            neighbours: state.neighbours.iter().filter(|n| device(&n.dev)).cloned().collect(),
            fdb: state.fdb.iter().filter(|f| device(&f.dev)).cloned().collect(),
            routes: state.routes.iter().filter(|r| route(r)).cloned().collect(),
            rules: BTreeSet::new(),
        }
    }
}

fn is_link_local(net: &IpNet) -> bool {
    matches!(net.addr(), IpAddr::V6(address) if address.is_unicast_link_local())
}

/// Operations after which what is wanted is there and nothing else.
pub(super) fn diff(want: &Paths, have: &Paths) -> Vec<Op> {
    let mut ops = Vec::new();
    ops.extend(want.addresses.difference(&have.addresses).cloned().map(Op::ReplaceAddress));
    ops.extend(want.neighbours.difference(&have.neighbours).cloned().map(Op::ReplaceNeighbour));
    ops.extend(want.fdb.difference(&have.fdb).cloned().map(Op::ReplaceFdb));
    ops.extend(want.routes.difference(&have.routes).cloned().map(Op::ReplaceRoute));
    ops.extend(want.rules.difference(&have.rules).cloned().map(Op::AddRule));
    ops.extend(have.rules.difference(&want.rules).cloned().map(Op::DeleteRule));
    ops.extend(have.routes.iter().filter_map(|r| {
        let kept = want.routes.iter().any(|w| w.table == r.table && w.dst == r.dst);
        if kept { None } else { Some(Op::DeleteRoute { table: r.table, dst: r.dst }) }
    }));
    ops.extend(have.fdb.iter().filter_map(|f| {
        let kept = want.fdb.iter().any(|w| w.dev == f.dev && w.mac == f.mac);
        if kept { None } else { Some(Op::DeleteFdb(f.clone())) }
    }));
    ops.extend(have.neighbours.iter().filter_map(|n| {
        let kept = want.neighbours.iter().any(|w| w.dev == n.dev && w.addr == n.addr);
        let op = Op::DeleteNeighbour { dev: n.dev.clone(), addr: n.addr };
        if kept { None } else { Some(op) }
    }));
    ops.extend(have.addresses.difference(&want.addresses).cloned().map(Op::DeleteAddress));
    ops
}
