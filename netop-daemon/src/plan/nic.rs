//! Plans one pod's NIC and the router's port for it.
//!
//! The NIC's alias is set by the very last operation: whoever waits for the NIC waits for that.

use slicewire_core::prefix::Family;
use slicewire_kernel::{
    Address, Hop, Link, LinkChange, LinkEnd, LinkKind, MAIN_TABLE, Neighbour, NextHops, NsId, Op,
    Route, State,
};
use thiserror::Error;

use super::diff::{Paths, diff};
use super::router::{differing, port_neighbour, port_route};
use super::want::{ALIAS, PORT_MAC, next_hop};
use super::{At, NicWant, Settings, Step, alias_of_nic, alias_of_port};

/// The pod has a device of the NIC's name that is not ours.
#[derive(Debug, Error, PartialEq, Eq)]
#[error(
    "the pod already has a device named {0} that Slicewire did not make; remove it, or exclude the pod from slices"
)]
pub(crate) struct NameTaken(pub(crate) String);

impl NameTaken {
    /// One stable word for conditions, events and metrics.
    pub(crate) fn reason() -> &'static str {
        "InterfaceNameTaken"
    }
}

/// Steps after which the pod has its NIC. To be stopped at the first error.
///
/// `settings` are those observed in the pod.
pub(crate) fn plan(
    want: &NicWant,
    router: &State,
    pod: &State,
    settings: &Settings,
) -> Result<Vec<Step>, NameTaken> {
    let port = router.link(&want.port.device);
    let nic = pod.link(&want.nic);
    let pair = port.zip(nic).filter(|(port, nic)| paired(port, nic));
    let mut steps = Vec::new();
    Step::push(&mut steps, At::Pod, differing(&want.pod_settings(), settings));
    if pair.is_none() {
        remove_remains(port, nic, &mut steps)?;
    }
    Step::push(&mut steps, At::Router, port_ops(want, pair.map(|p| p.0), router));
    Step::push(&mut steps, At::Pod, pod_ops(want, pair.map(|p| p.1), pod, settings));
    if pair.is_none_or(|(port, nic)| !port.up || !nic.up) {
        Step::push(&mut steps, At::Router, vec![wake(&want.port.device)]);
    }
    Step::push(&mut steps, At::Pod, alias_ops(want, pair.map(|p| p.1)));
    Ok(steps)
}

/// A device drops packets for a while after its carrier has come, until the kernel gets round to
/// it, or is asked about the device (Linux, "net: core: synchronize link-watch when carrier is
/// queried"). Each step of a plan asks about every device that it names. For the NIC the alias's
/// step does it, for the port this one.
fn wake(device: &str) -> Op {
    let change = LinkChange { up: Some(true), ..LinkChange::default() };
    Op::SetLink { dev: device.to_owned(), change }
}

/// Whether the kernel forgets the device's neighbours at the change: it does with another MAC
/// address, the permanent ones, too.
fn forgets_neighbours(change: &LinkChange) -> bool {
    change.mac.is_some()
}

/// Whether two devices are the two ends of one cable. The numbers are those of two namespaces, so
/// both must agree.
fn paired(port: &Link, nic: &Link) -> bool {
    port.kind == LinkKind::Veth
        && nic.kind == LinkKind::Veth
        && port.peer == Some(nic.index)
        && nic.peer == Some(port.index)
}

fn remove_remains(
    port: Option<&Link>,
    nic: Option<&Link>,
    steps: &mut Vec<Step>,
) -> Result<(), NameTaken> {
    if let Some(nic) = nic {
        if !nic.alias.as_deref().is_some_and(|a| a.starts_with(ALIAS)) {
            return Err(NameTaken(nic.name.clone()));
        }
        Step::push(steps, At::Pod, vec![Op::DeleteLink { dev: nic.name.clone() }]);
    }
    if let Some(port) = port {
        Step::push(steps, At::Router, vec![Op::DeleteLink { dev: port.name.clone() }]);
    }
    Ok(())
}

fn port_ops(want: &NicWant, port: Option<&Link>, router: &State) -> Vec<Op> {
    let device = &want.port.device;
    let mut ops = Vec::new();
    if port.is_none() {
        ops.push(Op::AddVeth {
            end: LinkEnd::new(device).mac(PORT_MAC).mtu(want.mtu).up(),
            peer_ns: NsId::path(&want.netns),
            peer: LinkEnd::new(&want.nic).mac(want.mac()).mtu(want.mtu),
        });
        // A gateway's port is a way out of the node.
        if want.gateway {
            ops.push(Op::AddFilterPlace { dev: device.clone() });
        }
    }
    let alias = alias_of_port(&want.slice, &want.uid);
    let mut change = LinkChange::default();
    if port.and_then(|p| p.alias.as_deref()) != Some(alias.as_str()) {
        change.alias = Some(alias);
    }
    if let Some(port) = port {
        change.up = (!port.up).then_some(true);
        change.mtu = (port.mtu != want.mtu).then_some(want.mtu);
        change.mac = (port.mac != Some(PORT_MAC)).then_some(PORT_MAC);
    }
    let forgotten = forgets_neighbours(&change);
    if change != LinkChange::default() {
        ops.push(Op::SetLink { dev: device.clone(), change });
    }
    for address in &want.port.addresses {
        let neighbour = port_neighbour(device, *address);
        if port.is_none() || forgotten || !router.neighbours.contains(&neighbour) {
            ops.push(Op::ReplaceNeighbour(neighbour));
        }
        let route = port_route(device, *address);
        if port.is_none() || !router.routes.contains(&route) {
            ops.push(Op::ReplaceRoute(route));
        }
    }
    ops
}

fn pod_ops(want: &NicWant, nic: Option<&Link>, pod: &State, settings: &Settings) -> Vec<Op> {
    let fresh = Settings::new();
    let known = if nic.is_some() { settings } else { &fresh };
    let mut ops = differing(&want.nic_settings(), known);
    let mut change = LinkChange::default();
    if nic.is_none_or(|n| !n.up) {
        change.up = Some(true);
    }
    if let Some(nic) = nic {
        change.mtu = (nic.mtu != want.mtu).then_some(want.mtu);
        change.mac = (nic.mac != Some(want.mac())).then(|| want.mac());
    }
    let mut have = match nic {
        None => Paths::default(),
        Some(_) => Paths::of(pod, |dev| dev == want.nic, |r| leads_to(r, &want.nic)),
    };
    if forgets_neighbours(&change) {
        have.neighbours.clear();
    }
    if change != LinkChange::default() {
        ops.push(Op::SetLink { dev: want.nic.clone(), change });
    }
    ops.extend(diff(&desired(want), &have));
    ops
}

fn alias_ops(want: &NicWant, nic: Option<&Link>) -> Vec<Op> {
    let alias = alias_of_nic(&want.slice);
    if nic.and_then(|n| n.alias.as_deref()) == Some(alias.as_str()) {
        return Vec::new();
    }
    vec![Op::SetLink { dev: want.nic.clone(), change: LinkChange::alias(&alias) }]
}

/// Whether a route of the main table is one of this NIC's. Gateways have routes of their own, in
/// other tables and on other devices.
fn leads_to(route: &Route, nic: &str) -> bool {
    route.table == MAIN_TABLE && matches!(&route.next, NextHops::One(hop) if hop.dev == nic)
}

fn desired(want: &NicWant) -> Paths {
    let mut paths = Paths::default();
    for address in &want.port.addresses {
        let family = Family::of_addr(address);
        let via = next_hop(family);
        paths.addresses.insert(Address::host(&want.nic, *address));
        let dev = want.nic.clone();
        paths.neighbours.insert(Neighbour { dev, addr: via, mac: PORT_MAC });
        for prefix in want.prefixes.iter().filter(|p| Family::of(p) == family) {
            let next = NextHops::One(Hop::via(via, &want.nic));
            paths.routes.insert(Route::new(*prefix, next).with_src(*address));
        }
    }
    paths
}
