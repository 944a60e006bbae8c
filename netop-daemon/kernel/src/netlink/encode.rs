//! Our types as messages and requests of rtnetlink.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::RawFd;

use ipnet::IpNet;
use nix::errno::Errno;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use rtnetlink::packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoVeth, LinkAttribute, LinkExtentMask,
    LinkMessage,
};
use rtnetlink::packet_route::neighbour::{NeighbourFlags, NeighbourMessage};
use rtnetlink::packet_route::route::{
    RouteAttribute, RouteMessage, RouteMetric, RouteNextHop, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::{
    AddressAddRequest, AddressMessageBuilder, Handle, LinkMessageBuilder, LinkUnspec, LinkVeth,
    LinkVxlan, LinkWireguard, NeighbourAddRequest, RouteMessageBuilder, RouteNextHopBuilder,
    RuleAddRequest,
};
use slicewire_core::prefix::Family;

use crate::PROTOCOL;
use crate::error::Refusal;
use crate::model::{Address, Fdb, Hop, NextHops, Route, Rule, Vxlan};
use crate::op::{LinkChange, LinkEnd};

/// Finds a device's index by its name.
pub(crate) type Indexes<'a> = &'a mut dyn FnMut(&str) -> io::Result<u32>;

/// The mark on what is ours.
const OURS: RouteProtocol = RouteProtocol::Other(PROTOCOL);

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
            message.header.protocol = OURS;
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
    message.attributes.push(LinkAttribute::IfName(device_name(name)?.to_owned()));
    message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    Ok(RouteNetlinkMessage::GetLink(message))
}

/// Both ends of a veth pair at once.
pub(crate) fn veth(end: &LinkEnd, peer: &LinkEnd, peer_ns: RawFd) -> io::Result<LinkMessage> {
    let (name, peer_name) = (device_name(&end.name)?, device_name(&peer.name)?);
    let other = with_settings(LinkUnspec::new_with_name(peer_name), peer).setns_by_fd(peer_ns);
    // The builder's own peer has a name only.
    let data = InfoData::Veth(InfoVeth::Peer(other.build()));
    Ok(with_settings(LinkVeth::new(name, peer_name), end).set_info_data(data).build())
}

/// A VXLAN device in namespace `into`, its socket in the requesting one.
pub(crate) fn vxlan(end: &LinkEnd, into: RawFd, vxlan: &Vxlan) -> io::Result<LinkMessage> {
    let message = LinkVxlan::new(device_name(&end.name)?, vxlan.vni)
        .port(vxlan.port)
        .learning(false)
        // Zero checksums over IPv6 are usual for VXLAN (RFC 6935); ours are computed, as the
        // underlay is not ours to trust.
        .udp_csum(true);
    let message = match vxlan.local {
        None => message,
        Some(IpAddr::V4(addr)) => message.local(addr),
        Some(IpAddr::V6(addr)) => message.local6(addr),
    };
    Ok(with_settings(message, end).setns_by_fd(into).build())
}

/// A WireGuard device.
pub(crate) fn wireguard(end: &LinkEnd) -> io::Result<LinkMessage> {
    let settings = LinkEnd { mac: None, ..end.clone() };
    Ok(with_settings(LinkWireguard::new(device_name(&end.name)?), &settings).build())
}

fn with_settings<T>(mut link: LinkMessageBuilder<T>, end: &LinkEnd) -> LinkMessageBuilder<T> {
    if let Some(mac) = end.mac {
        link = link.address(mac.0.to_vec());
    }
    if let Some(mtu) = end.mtu {
        link = link.mtu(mtu);
    }
    if end.up { link.up() } else { link }
}

/// Changes to a device; `move_to` is the opened target namespace.
pub(crate) fn change_link(
    index: u32,
    change: &LinkChange,
    move_to: Option<RawFd>,
) -> io::Result<LinkMessage> {
    let mut link = LinkUnspec::new_with_index(index);
    if let Some(up) = change.up {
        link = if up { link.up() } else { link.down() };
    }
    if let Some(mac) = change.mac {
        link = link.address(mac.0.to_vec());
    }
    if let Some(mtu) = change.mtu {
        link = link.mtu(mtu);
    }
    if let Some(name) = &change.rename {
        link = link.name(device_name(name)?);
    }
    if let Some(alias) = &change.alias {
        if alias.len() > MAX_ALIAS || alias.contains('\0') {
            return Err(Errno::EINVAL.into());
        }
        link = link.alias(alias);
    }
    if let Some(wanted) = change.link_local {
        let mode = if wanted { In6AddrGenMode::Eui64 } else { In6AddrGenMode::None };
        let inet6 = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(mode)]);
        link = link.append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![inet6]));
    }
    if let Some(namespace) = move_to {
        link = link.setns_by_fd(namespace);
    }
    Ok(link.build())
}

/// An address to add.
pub(crate) fn add_address(handle: &Handle, address: &Address, index: u32) -> AddressAddRequest {
    let addr = address.net.addr();
    let mut request = handle.address().add(index, addr, address.net.prefix_len()).replace();
    let flags = match addr {
        IpAddr::V4(_) => AddressFlags::Noprefixroute,
        IpAddr::V6(_) => AddressFlags::Noprefixroute | AddressFlags::Nodad,
    };
    let attributes = &mut request.message_mut().attributes;
    // A broadcast address would bring a route of its own.
    attributes.retain(|attribute| !matches!(attribute, AddressAttribute::Broadcast(_)));
    attributes.push(AddressAttribute::Flags(flags));
    request
}

/// An address to delete.
pub(crate) fn delete_address(address: &Address, index: u32) -> AddressMessage {
    let length = address.net.prefix_len();
    match address.net.addr() {
        IpAddr::V4(addr) => {
            AddressMessageBuilder::<Ipv4Addr>::new().index(index).address(addr, length).build()
        }
        IpAddr::V6(addr) => {
            AddressMessageBuilder::<Ipv6Addr>::new().index(index).address(addr, length).build()
        }
    }
}

/// A route to add, or to put in place of the one of the same table and destination.
pub(crate) fn new_route(route: &Route, indexes: Indexes<'_>) -> io::Result<RouteMessage> {
    let mut message = our_route(route.table, &route.dst)?;
    match &route.next {
        NextHops::Unreachable => message = message.kind(RouteType::Unreachable),
        NextHops::One(hop) => {
            message = message
                .scope(scope(&BTreeSet::from([hop.clone()])))
                .output_interface(indexes(&hop.dev)?);
            if let Some(gateway) = hop.gateway {
                message = message.onlink().gateway(gateway).map_err(invalid)?;
            }
        }
        NextHops::Multi(hops) => {
            if hops.is_empty() {
                return Err(Errno::EINVAL.into());
            }
            let family = netlink_family(Family::of(&route.dst));
            let next = hops.iter().map(|hop| next_hop(hop, family, indexes));
            message = message.scope(scope(hops)).multipath(next.collect::<io::Result<_>>()?);
        }
    }
    if let Some(src) = route.src {
        message = message.pref_source(src).map_err(invalid)?;
    }
    if let Some(mtu) = route.mtu {
        let metrics = RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)]);
        message.get_mut().attributes.push(metrics);
    }
    Ok(message.build())
}

/// Our route of a table and destination to delete, whatever its sort and hops.
pub(crate) fn old_route(table: u32, dst: &IpNet) -> io::Result<RouteMessage> {
    Ok(our_route(table, dst)?.kind(RouteType::Unspec).scope(RouteScope::NoWhere).build())
}

fn our_route(table: u32, dst: &IpNet) -> io::Result<RouteMessageBuilder<IpAddr>> {
    RouteMessageBuilder::<IpAddr>::new()
        .table_id(table)
        .protocol(OURS)
        .destination_prefix(dst.network(), dst.prefix_len())
        .map_err(invalid)
}

/// The kernel wants to know whether a route leads through somebody or ends on the link.
fn scope(hops: &BTreeSet<Hop>) -> RouteScope {
    let through = hops.iter().any(|hop| hop.gateway.is_some());
    if through { RouteScope::Universe } else { RouteScope::Link }
}

fn next_hop(hop: &Hop, family: AddressFamily, indexes: Indexes<'_>) -> io::Result<RouteNextHop> {
    let next = RouteNextHopBuilder::new(family)
        .interface(indexes(&hop.dev)?)
        .weight(hop.weight.checked_sub(1).ok_or(Errno::EINVAL)?);
    match hop.gateway {
        None => Ok(next.build()),
        Some(gateway) => Ok(next.onlink().via(gateway).map_err(invalid)?.build()),
    }
}

/// What a builder would not build, in the words it has for it.
fn invalid(error: impl fmt::Display) -> io::Error {
    Refusal { errno: Errno::EINVAL, words: error.to_string() }.into_io()
}

/// A rule to add; to delete it takes the same message.
pub(crate) fn add_rule(handle: &Handle, rule: &Rule) -> RuleAddRequest {
    let mut request = handle
        .rule()
        .add()
        .action(RuleAction::ToTable)
        .priority(rule.priority)
        .table_id(rule.table);
    if let Some(iif) = &rule.iif {
        request = request.input_interface(iif);
    }
    let message = request.message_mut();
    message.header.family = netlink_family(rule.family);
    message.attributes.push(RuleAttribute::Protocol(OURS));
    request
}

/// A forwarding entry of a VXLAN to add; to delete it takes the same message.
pub(crate) fn fdb_entry(handle: &Handle, entry: &Fdb, index: u32) -> NeighbourAddRequest {
    handle
        .neighbours()
        .add_bridge(index, &entry.mac.0)
        .destination(entry.dst)
        .flags(NeighbourFlags::Own)
        .replace()
}

fn device_name(name: &str) -> io::Result<&str> {
    let bad = |c: char| c == '/' || c == '\0' || c.is_whitespace();
    if name.is_empty() || name.len() > MAX_NAME || name.contains(bad) {
        return Err(Errno::EINVAL.into());
    }
    Ok(name)
}

fn netlink_family(family: Family) -> AddressFamily {
    match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    }
}
