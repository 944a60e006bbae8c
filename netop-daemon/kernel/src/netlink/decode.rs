//! Route netlink answers as our types. Answers about what is not ours, or what our types do not
//! describe, are nothing.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::{
    InfoData, InfoKind, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteMetric, RouteProtocol, RouteType, RouteVia,
};
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use slicewire_core::prefix::Family;

use crate::PROTOCOL;
use crate::model::{
    Address, Fdb, Hop, Link, LinkKind, Mac, Neighbour, NextHops, Route, Rule, Vxlan,
};

/// Names of devices by index.
pub(crate) type Names = BTreeMap<u32, String>;

/// A device.
pub(crate) fn link(message: &RouteNetlinkMessage) -> Option<Link> {
    let RouteNetlinkMessage::NewLink(message) = message else { return None };
    let mut link = Link {
        name: String::new(),
        index: message.header.index,
        kind: link_kind(message),
        alias: None,
        mac: None,
        mtu: 0,
        up: message.header.flags.contains(LinkFlags::Up),
        peer: None,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::IfAlias(alias) if !alias.is_empty() => link.alias = Some(alias.clone()),
            LinkAttribute::Address(bytes) => link.mac = mac(bytes),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Link(peer) if link.kind == LinkKind::Veth => link.peer = Some(*peer),
            _ => {}
        }
    }
    Some(link)
}

fn link_kind(message: &LinkMessage) -> LinkKind {
    let info = message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(info) => Some(info.as_slice()),
        _ => None,
    });
    let info = info.unwrap_or_default();
    let kind = info.iter().find_map(|part| match part {
        LinkInfo::Kind(kind) => Some(kind),
        _ => None,
    });
    match kind {
        None => LinkKind::Other(String::new()),
        Some(InfoKind::Veth) => LinkKind::Veth,
        Some(InfoKind::Vxlan) => LinkKind::Vxlan(vxlan(info)),
        Some(InfoKind::Wireguard) => LinkKind::Wireguard,
        Some(InfoKind::Tun) => LinkKind::Tun,
        Some(other) => LinkKind::Other(other.to_string()),
    }
}

fn vxlan(info: &[LinkInfo]) -> Vxlan {
    let mut vxlan = Vxlan { vni: 0, port: 0, local: None };
    for part in info {
        let LinkInfo::Data(InfoData::Vxlan(settings)) = part else { continue };
        for setting in settings {
            match setting {
                InfoVxlan::Id(vni) => vxlan.vni = *vni,
                InfoVxlan::Port(port) => vxlan.port = *port,
                InfoVxlan::Local(addr) => vxlan.local = Some((*addr).into()),
                InfoVxlan::Local6(addr) => vxlan.local = Some((*addr).into()),
                _ => {}
            }
        }
    }
    vxlan
}

/// An address on a device that has a name.
pub(crate) fn address(message: &RouteNetlinkMessage, names: &Names) -> Option<Address> {
    let RouteNetlinkMessage::NewAddress(message) = message else { return None };
    let (mut local, mut other) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(addr) => local = Some(*addr),
            AddressAttribute::Address(addr) => other = Some(*addr),
            _ => {}
        }
    }
    let dev = names.get(&message.header.index)?.clone();
    let net = IpNet::new(local.or(other)?, message.header.prefix_len).ok()?;
    Some(Address { dev, net })
}

/// A route of ours.
pub(crate) fn route(message: &RouteNetlinkMessage, names: &Names) -> Option<Route> {
    let RouteNetlinkMessage::NewRoute(message) = message else { return None };
    let family = family(message.header.address_family)?;
    if message.header.protocol != RouteProtocol::Other(PROTOCOL) {
        return None;
    }
    let mut table = u32::from(message.header.table);
    let (mut dst, mut mtu, mut src) = (unspecified(family), None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Destination(addr) => dst = ip(addr)?,
            RouteAttribute::PrefSource(addr) => src = ip(addr),
            RouteAttribute::Metrics(metrics) => {
                mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) => Some(*mtu),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    let next = match message.header.kind {
        RouteType::Unreachable => NextHops::Unreachable,
        RouteType::Unicast => next_hops(&message.attributes, names)?,
        _ => return None,
    };
    let dst = IpNet::new(dst, message.header.destination_prefix_length).ok()?;
    Some(Route { table, dst, next, mtu, src })
}

fn next_hops(attributes: &[RouteAttribute], names: &Names) -> Option<NextHops> {
    let many = attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::MultiPath(hops) => Some(hops),
        _ => None,
    });
    let Some(many) = many else {
        return Some(NextHops::One(hop(attributes, None, 1, names)?));
    };
    let hops = many.iter().map(|next| {
        hop(&next.attributes, Some(next.interface_index), next.hops.saturating_add(1), names)
    });
    Some(NextHops::balanced(hops.collect::<Option<Vec<_>>>()?))
}

fn hop(
    attributes: &[RouteAttribute],
    mut index: Option<u32>,
    weight: u8,
    names: &Names,
) -> Option<Hop> {
    let mut gateway = None;
    for attribute in attributes {
        match attribute {
            RouteAttribute::Oif(oif) => index = Some(*oif),
            RouteAttribute::Gateway(addr) => gateway = ip(addr),
            RouteAttribute::Via(RouteVia::Inet6(addr)) => gateway = Some((*addr).into()),
            RouteAttribute::Via(RouteVia::Inet(addr)) => gateway = Some((*addr).into()),
            _ => {}
        }
    }
    Some(Hop { gateway, dev: names.get(&index?)?.clone(), weight })
}

/// A rule of ours.
pub(crate) fn rule(message: &RouteNetlinkMessage) -> Option<Rule> {
    let RouteNetlinkMessage::NewRule(message) = message else { return None };
    let family = family(message.header.family)?;
    let mut rule = Rule { priority: 0, family, iif: None, table: u32::from(message.header.table) };
    let mut ours = false;
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(priority) => rule.priority = *priority,
            RuleAttribute::Table(table) => rule.table = *table,
            RuleAttribute::Iifname(name) => rule.iif = Some(name.clone()),
            RuleAttribute::Protocol(protocol) => {
                ours = *protocol == RouteProtocol::Other(PROTOCOL);
            }
            _ => {}
        }
    }
    (ours && message.header.action == RuleAction::ToTable).then_some(rule)
}

/// A permanent neighbour.
pub(crate) fn neighbour(message: &RouteNetlinkMessage, names: &Names) -> Option<Neighbour> {
    let RouteNetlinkMessage::NewNeighbour(message) = message else { return None };
    if message.header.state != NeighbourState::Permanent {
        return None;
    }
    let (addr, mac) = neighbour_addresses(message);
    Some(Neighbour { dev: names.get(&message.header.ifindex)?.clone(), addr: addr?, mac: mac? })
}

/// A forwarding entry with a destination.
pub(crate) fn fdb(message: &RouteNetlinkMessage, names: &Names) -> Option<Fdb> {
    let RouteNetlinkMessage::NewNeighbour(message) = message else { return None };
    let (dst, mac) = neighbour_addresses(message);
    Some(Fdb { dev: names.get(&message.header.ifindex)?.clone(), mac: mac?, dst: dst? })
}

fn neighbour_addresses(message: &NeighbourMessage) -> (Option<IpAddr>, Option<Mac>) {
    let (mut addr, mut lladdr) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(dst) => addr = neighbour_ip(dst),
            NeighbourAttribute::LinkLayerAddress(bytes) => lladdr = mac(bytes),
            _ => {}
        }
    }
    (addr, lladdr)
}

/// Forwarding entries carry their destination in a message of the bridge family, so its family
/// shows in its length only.
fn neighbour_ip(addr: &NeighbourAddress) -> Option<IpAddr> {
    match addr {
        NeighbourAddress::Inet(addr) => Some((*addr).into()),
        NeighbourAddress::Inet6(addr) => Some((*addr).into()),
        NeighbourAddress::Other(bytes) => <[u8; 4]>::try_from(bytes.as_slice())
            .map(IpAddr::from)
            .or_else(|_| <[u8; 16]>::try_from(bytes.as_slice()).map(IpAddr::from))
            .ok(),
        _ => None,
    }
}

fn mac(bytes: &[u8]) -> Option<Mac> {
    bytes.try_into().ok().map(Mac)
}

fn ip(addr: &RouteAddress) -> Option<IpAddr> {
    match addr {
        RouteAddress::Inet(addr) => Some((*addr).into()),
        RouteAddress::Inet6(addr) => Some((*addr).into()),
        _ => None,
    }
}

fn family(family: AddressFamily) -> Option<Family> {
    match family {
        AddressFamily::Inet => Some(Family::V4),
        AddressFamily::Inet6 => Some(Family::V6),
        _ => None,
    }
}

fn unspecified(family: Family) -> IpAddr {
    match family {
        Family::V4 => std::net::Ipv4Addr::UNSPECIFIED.into(),
        Family::V6 => std::net::Ipv6Addr::UNSPECIFIED.into(),
    }
}
