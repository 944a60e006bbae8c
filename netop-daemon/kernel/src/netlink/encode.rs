//! Our types as route netlink requests.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::os::fd::RawFd;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoVeth, InfoVxlan,
    LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::neighbour::{
    NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteNextHop, RouteNextHopFlags,
    RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;
use slicewire_core::prefix::Family;

use crate::PROTOCOL;
use crate::model::{Address, Fdb, Hop, Mac, NextHops, Route, Rule, Vxlan};
use crate::op::{LinkChange, LinkEnd};

/// Finds a device's index by its name.
pub(crate) type Indexes<'a> = &'a mut dyn FnMut(&str) -> io::Result<u32>;

/// For an object that replaces another of the same identity.
const REPLACE: u16 = NLM_F_CREATE | NLM_F_REPLACE;
/// For an object that must not be there.
const ADD: u16 = NLM_F_CREATE | NLM_F_EXCL;

/// A request and the flags that say how to take it.
pub(crate) type Request = (RouteNetlinkMessage, u16);

/// Longest device name in bytes (`IFNAMSIZ` without its end).
const MAX_NAME: usize = 15;
/// Longest alias in bytes (`IFALIASZ` without its end).
const MAX_ALIAS: usize = 255;

/// Objects to list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dump {
    Links,
    Addresses,
    Routes(Family),
    Rules(Family),
    Neighbours(Family),
    Fdb,
}

/// The request for a list.
pub(crate) fn dump(what: Dump) -> RouteNetlinkMessage {
    match what {
        Dump::Links => {
            let mut message = LinkMessage::default();
            message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
            RouteNetlinkMessage::GetLink(message)
        }
        Dump::Addresses => RouteNetlinkMessage::GetAddress(AddressMessage::default()),
        Dump::Routes(family) => {
            let mut message = RouteMessage::default();
            message.header.address_family = netlink_family(family);
            message.header.protocol = RouteProtocol::Other(PROTOCOL);
            RouteNetlinkMessage::GetRoute(message)
        }
        Dump::Rules(family) => {
            let mut message = RuleMessage::default();
            message.header.family = netlink_family(family);
            RouteNetlinkMessage::GetRule(message)
        }
        Dump::Neighbours(family) => neighbours(netlink_family(family)),
        Dump::Fdb => neighbours(AddressFamily::Bridge),
    }
}

fn neighbours(family: AddressFamily) -> RouteNetlinkMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family;
    RouteNetlinkMessage::GetNeighbour(message)
}

/// The request for one device.
pub(crate) fn get_link(name: &str) -> io::Result<RouteNetlinkMessage> {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(device_name(name)?));
    message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    Ok(RouteNetlinkMessage::GetLink(message))
}

/// Both ends of a veth pair at once.
pub(crate) fn add_veth(end: &LinkEnd, peer: &LinkEnd, peer_ns: RawFd) -> io::Result<Request> {
    let mut other = link_end(peer)?;
    other.attributes.push(LinkAttribute::NetNsFd(peer_ns));
    let data = InfoData::Veth(InfoVeth::Peer(other));
    new_link(link_end(end)?, InfoKind::Veth, Some(data))
}

/// A VXLAN device in namespace `into`, its socket in the requesting one.
pub(crate) fn add_vxlan(end: &LinkEnd, into: RawFd, vxlan: &Vxlan) -> io::Result<Request> {
    let mut message = link_end(end)?;
    message.attributes.push(LinkAttribute::NetNsFd(into));
    let mut data = vec![
        InfoVxlan::Id(vxlan.vni),
        InfoVxlan::Port(vxlan.port),
        InfoVxlan::Learning(false),
        // Zero checksums over IPv6 are usual for VXLAN (RFC 6935); ours are computed, as the
        // underlay is not ours to trust.
        InfoVxlan::UDPCsum(true),
    ];
    data.extend(vxlan.local.map(|local| match local {
        IpAddr::V4(addr) => InfoVxlan::Local(addr),
        IpAddr::V6(addr) => InfoVxlan::Local6(addr),
    }));
    new_link(message, InfoKind::Vxlan, Some(InfoData::Vxlan(data)))
}

/// A WireGuard device.
pub(crate) fn add_wireguard(end: &LinkEnd) -> io::Result<Request> {
    new_link(link_end(&LinkEnd { mac: None, ..end.clone() })?, InfoKind::Wireguard, None)
}

fn new_link(
    mut message: LinkMessage,
    kind: InfoKind,
    data: Option<InfoData>,
) -> io::Result<Request> {
    let mut info = vec![LinkInfo::Kind(kind)];
    info.extend(data.map(LinkInfo::Data));
    message.attributes.push(LinkAttribute::LinkInfo(info));
    Ok((RouteNetlinkMessage::NewLink(message), ADD))
}

fn link_end(end: &LinkEnd) -> io::Result<LinkMessage> {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(device_name(&end.name)?));
    message.attributes.extend(end.mac.map(mac_attribute));
    message.attributes.extend(end.mtu.map(LinkAttribute::Mtu));
    if end.up {
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
    }
    Ok(message)
}

/// Changes to a device; `move_to` is the opened target namespace.
pub(crate) fn set_link(
    index: u32,
    change: &LinkChange,
    move_to: Option<RawFd>,
) -> io::Result<Request> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    if let Some(up) = change.up {
        message.header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
        message.header.change_mask = LinkFlags::Up;
    }
    let attributes = &mut message.attributes;
    attributes.extend(change.mac.map(mac_attribute));
    attributes.extend(change.mtu.map(LinkAttribute::Mtu));
    if let Some(name) = &change.rename {
        attributes.push(LinkAttribute::IfName(device_name(name)?));
    }
    if let Some(alias) = &change.alias {
        if alias.len() > MAX_ALIAS || alias.contains('\0') {
            return Err(Errno::EINVAL.into());
        }
        attributes.push(LinkAttribute::IfAlias(alias.clone()));
    }
    if let Some(wanted) = change.link_local {
        let mode = if wanted { In6AddrGenMode::Eui64 } else { In6AddrGenMode::None };
        let inet6 = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(mode)]);
        attributes.push(LinkAttribute::AfSpecUnspec(vec![inet6]));
    }
    attributes.extend(move_to.map(LinkAttribute::NetNsFd));
    Ok((RouteNetlinkMessage::SetLink(message), 0))
}

/// Removal of a device.
pub(crate) fn delete_link(index: u32) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = index;
    (RouteNetlinkMessage::DelLink(message), 0)
}

/// An address, to add or to delete.
pub(crate) fn address_message(address: &Address, index: u32, add: bool) -> Request {
    let mut message = AddressMessage::default();
    let addr = address.net.addr();
    message.header.family = netlink_family(Family::of(&address.net));
    message.header.prefix_len = address.net.prefix_len();
    message.header.index = index;
    message.attributes.push(AddressAttribute::Local(addr));
    message.attributes.push(AddressAttribute::Address(addr));
    if !add {
        return (RouteNetlinkMessage::DelAddress(message), 0);
    }
    let flags = match addr {
        IpAddr::V4(_) => AddressFlags::Noprefixroute,
        IpAddr::V6(_) => AddressFlags::Noprefixroute | AddressFlags::Nodad,
    };
    message.attributes.push(AddressAttribute::Flags(flags));
    (RouteNetlinkMessage::NewAddress(message), REPLACE)
}

/// A route, to add or to put in place of the one of the same table and destination.
pub(crate) fn replace_route(route: &Route, indexes: Indexes<'_>) -> io::Result<Request> {
    let mut message = route_message(route.table, &route.dst);
    message.header.kind = RouteType::Unicast;
    match &route.next {
        NextHops::Unreachable => message.header.kind = RouteType::Unreachable,
        NextHops::One(hop) => {
            message.header.scope = scope(&BTreeSet::from([hop.clone()]));
            message.attributes.push(RouteAttribute::Oif(indexes(&hop.dev)?));
            if let Some(gateway) = hop.gateway {
                message.header.flags = RouteFlags::Onlink;
                message.attributes.push(gateway_attribute(gateway, &route.dst));
            }
        }
        NextHops::Multi(hops) => {
            if hops.is_empty() {
                return Err(Errno::EINVAL.into());
            }
            message.header.scope = scope(hops);
            let hops = hops.iter().map(|hop| multipath_hop(hop, &route.dst, indexes));
            let hops = hops.collect::<io::Result<_>>()?;
            message.attributes.push(RouteAttribute::MultiPath(hops));
        }
    }
    if let Some(mtu) = route.mtu {
        message.attributes.push(RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)]));
    }
    message.attributes.extend(route.src.map(|src| RouteAttribute::PrefSource(src.into())));
    Ok((RouteNetlinkMessage::NewRoute(message), REPLACE))
}

/// Removal of our route of a table and destination, whatever its hops.
pub(crate) fn delete_route(table: u32, dst: &IpNet) -> Request {
    let mut message = route_message(table, dst);
    message.header.scope = RouteScope::NoWhere;
    (RouteNetlinkMessage::DelRoute(message), 0)
}

fn route_message(table: u32, dst: &IpNet) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = netlink_family(Family::of(dst));
    message.header.destination_prefix_length = dst.prefix_len();
    message.header.protocol = RouteProtocol::Other(PROTOCOL);
    // Table numbers beyond a byte travel in the attribute only.
    message.header.table = u8::try_from(table).unwrap_or_default();
    message.attributes.push(RouteAttribute::Table(table));
    message.attributes.push(RouteAttribute::Destination(dst.network().into()));
    message
}

/// The kernel wants to know whether a route leads through somebody or ends on the link.
fn scope(hops: &BTreeSet<Hop>) -> RouteScope {
    let through = hops.iter().any(|hop| hop.gateway.is_some());
    if through { RouteScope::Universe } else { RouteScope::Link }
}

fn multipath_hop(hop: &Hop, dst: &IpNet, indexes: Indexes<'_>) -> io::Result<RouteNextHop> {
    let mut next = RouteNextHop::default();
    next.interface_index = indexes(&hop.dev)?;
    next.hops = hop.weight.checked_sub(1).ok_or(Errno::EINVAL)?;
    if let Some(gateway) = hop.gateway {
        next.flags = RouteNextHopFlags::Onlink;
        next.attributes.push(gateway_attribute(gateway, dst));
    }
    Ok(next)
}

/// A gateway of the other family than the destination (RFC 5549) has an attribute of its own.
fn gateway_attribute(gateway: IpAddr, dst: &IpNet) -> RouteAttribute {
    match (gateway, dst) {
        (IpAddr::V6(via), IpNet::V4(_)) => RouteAttribute::Via(via.into()),
        _ => RouteAttribute::Gateway(gateway.into()),
    }
}

/// A rule, to add or to delete.
pub(crate) fn rule_message(rule: &Rule, add: bool) -> Request {
    let mut message = RuleMessage::default();
    message.header.family = netlink_family(rule.family);
    message.header.action = RuleAction::ToTable;
    message.header.table = u8::try_from(rule.table).unwrap_or_default();
    message.attributes.push(RuleAttribute::Priority(rule.priority));
    message.attributes.push(RuleAttribute::Table(rule.table));
    message.attributes.push(RuleAttribute::Protocol(RouteProtocol::Other(PROTOCOL)));
    message.attributes.extend(rule.iif.clone().map(RuleAttribute::Iifname));
    if add {
        (RouteNetlinkMessage::NewRule(message), ADD)
    } else {
        (RouteNetlinkMessage::DelRule(message), 0)
    }
}

/// A permanent neighbour to add, or one to delete if there is no MAC address.
pub(crate) fn neighbour_message(addr: IpAddr, mac: Option<Mac>, index: u32) -> Request {
    let mut message = NeighbourMessage::default();
    message.header.family = netlink_family(Family::of_addr(&addr));
    message.header.ifindex = index;
    message.attributes.push(NeighbourAttribute::Destination(addr.into()));
    let Some(mac) = mac else {
        return (RouteNetlinkMessage::DelNeighbour(message), 0);
    };
    message.header.state = NeighbourState::Permanent;
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
    (RouteNetlinkMessage::NewNeighbour(message), REPLACE)
}

/// A forwarding entry of a VXLAN, to add or to delete.
pub(crate) fn fdb_message(entry: &Fdb, index: u32, add: bool) -> Request {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    message.header.flags = NeighbourFlags::Own;
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(entry.mac.0.to_vec()));
    message.attributes.push(NeighbourAttribute::Destination(entry.dst.into()));
    if add {
        (RouteNetlinkMessage::NewNeighbour(message), REPLACE)
    } else {
        (RouteNetlinkMessage::DelNeighbour(message), 0)
    }
}

fn device_name(name: &str) -> io::Result<String> {
    let bad = |c: char| c == '/' || c == '\0' || c.is_whitespace();
    if name.is_empty() || name.len() > MAX_NAME || name.contains(bad) {
        return Err(Errno::EINVAL.into());
    }
    Ok(name.to_owned())
}

fn mac_attribute(mac: Mac) -> LinkAttribute {
    LinkAttribute::Address(mac.0.to_vec())
}

fn netlink_family(family: Family) -> AddressFamily {
    match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    }
}
