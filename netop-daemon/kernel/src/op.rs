//! Changes to a network namespace, as plain values.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::model::{Address, Fdb, Mac, Neighbour, Route, Rule, Vxlan};
use crate::netns::NsId;

/// One change to the namespace it is applied in. Devices are named; names are looked up when the
/// operation is carried out, so a list may make a device and then use it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Makes a veth pair, one end here, the other in namespace `peer_ns`: neither end is ever seen
    /// in a wrong namespace or by a wrong name. A peer that is to be up takes a second step;
    /// [`Op::SetLink`] in its own namespace is cheaper.
    AddVeth {
        /// The end in this namespace.
        end: LinkEnd,
        /// Where the other end goes.
        peer_ns: NsId,
        /// The other end.
        peer: LinkEnd,
    },
    /// Makes a VXLAN device in namespace `into` whose UDP socket stays in this namespace.
    /// Learning is off: only forwarding entries count.
    AddVxlan {
        /// The device.
        end: LinkEnd,
        /// Where the device goes; this very namespace is fine too.
        into: NsId,
        /// Network identifier, port, source address.
        vxlan: Vxlan,
    },
    /// Makes a WireGuard device of the kernel. Fails with reason `Unsupported` where there is none.
    AddWireguard {
        /// The device; a MAC address is meaningless here.
        end: LinkEnd,
    },
    /// Changes a device.
    SetLink {
        /// Its name before the change.
        dev: String,
        /// What to change.
        change: LinkChange,
    },
    /// Removes a device, and with it the other end if it is a veth.
    DeleteLink {
        /// Its name.
        dev: String,
    },
    /// Adds an address without duplicate address detection and without a prefix route.
    ReplaceAddress(Address),
    /// Removes an address.
    DeleteAddress(Address),
    /// Adds a route, or replaces the one of the same table and destination, without a gap.
    ReplaceRoute(Route),
    /// Removes our route of this table and destination, with all its hops.
    DeleteRoute {
        /// Routing table.
        table: u32,
        /// Destination.
        dst: IpNet,
    },
    /// Adds a rule unless it is there.
    AddRule(Rule),
    /// Removes a rule.
    DeleteRule(Rule),
    /// Adds or replaces a permanent neighbour.
    ReplaceNeighbour(Neighbour),
    /// Removes a neighbour.
    DeleteNeighbour {
        /// The device.
        dev: String,
        /// The neighbour's address.
        addr: IpAddr,
    },
    /// Adds a forwarding entry of a VXLAN, or replaces the one of the same MAC address.
    ReplaceFdb(Fdb),
    /// Removes a forwarding entry of a VXLAN.
    DeleteFdb(Fdb),
    /// Makes the place at a device where shaping's filters hang (`clsact`). Making it stops the device
    /// for a moment, and packets are lost then: so it is made before there are any, and stays.
    AddFilterPlace {
        /// The device.
        dev: String,
    },
    /// Writes a setting below `/proc/sys/net` of this namespace.
    SetSysctl {
        /// Path below `/proc/sys/net`, with slashes: `ipv4/ip_forward`.
        key: String,
        /// The value.
        value: String,
    },
}

/// A device to be made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LinkEnd {
    /// Name, at most 15 bytes.
    pub name: String,
    /// Link-layer address; unset: the kernel draws one.
    pub mac: Option<Mac>,
    /// Largest packet, in bytes; unset: the kernel's default for the sort of device.
    pub mtu: Option<u32>,
    /// Up from the start.
    pub up: bool,
}

impl LinkEnd {
    /// A device of this name, down, with the kernel's defaults.
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }

    /// With a MAC address.
    #[must_use]
    pub fn mac(self, mac: Mac) -> Self {
        Self { mac: Some(mac), ..self }
    }

    /// With an MTU in bytes.
    #[must_use]
    pub fn mtu(self, mtu: u32) -> Self {
        Self { mtu: Some(mtu), ..self }
    }

    /// Up from the start.
    #[must_use]
    pub fn up(self) -> Self {
        Self { up: true, ..self }
    }
}

/// Changes to a device; what is unset stays. Applied in one request, so all or nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LinkChange {
    /// Administratively up or down.
    pub up: Option<bool>,
    /// Largest packet, in bytes.
    pub mtu: Option<u32>,
    /// Link-layer address.
    pub mac: Option<Mac>,
    /// Free text; empty removes it.
    pub alias: Option<String>,
    /// New name.
    pub rename: Option<String>,
    /// Whether the kernel gives the device an IPv6 link-local address by itself when it comes up.
    pub link_local: Option<bool>,
    /// Moves it into another namespace.
    pub move_to: Option<NsId>,
}

impl LinkChange {
    /// Up or down.
    pub fn up(up: bool) -> Self {
        Self { up: Some(up), ..Self::default() }
    }

    /// An alias.
    pub fn alias(alias: &str) -> Self {
        Self { alias: Some(alias.to_owned()), ..Self::default() }
    }

    /// An MTU in bytes.
    pub fn mtu(mtu: u32) -> Self {
        Self { mtu: Some(mtu), ..Self::default() }
    }
}

impl Op {
    /// What it does, as a verb and a noun: `add veth`.
    pub fn operation(&self) -> &'static str {
        match self {
            Self::AddVeth { .. } => "add veth",
            Self::AddVxlan { .. } => "add vxlan",
            Self::AddWireguard { .. } => "add wireguard",
            Self::SetLink { .. } => "change link",
            Self::DeleteLink { .. } => "delete link",
            Self::ReplaceAddress(_) => "replace address",
            Self::DeleteAddress(_) => "delete address",
            Self::ReplaceRoute(_) => "replace route",
            Self::DeleteRoute { .. } => "delete route",
            Self::AddRule(_) => "add rule",
            Self::DeleteRule(_) => "delete rule",
            Self::ReplaceNeighbour(_) => "replace neighbour",
            Self::DeleteNeighbour { .. } => "delete neighbour",
            Self::ReplaceFdb(_) => "replace forwarding entry",
            Self::DeleteFdb(_) => "delete forwarding entry",
            Self::AddFilterPlace { .. } => "add filter place",
            Self::SetSysctl { .. } => "write sysctl",
        }
    }

    /// What it is done to.
    pub fn object(&self) -> String {
        Object(self).to_string()
    }
}

struct Object<'a>(&'a Op);

impl fmt::Display for Object<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Op::AddVeth { end, peer_ns, peer } => {
                write!(f, "{} with {} in {peer_ns}", end.name, peer.name)
            }
            Op::AddVxlan { end, into, vxlan } => {
                write!(f, "{} (vni {}, port {}) into {into}", end.name, vxlan.vni, vxlan.port)
            }
            Op::AddWireguard { end } => f.write_str(&end.name),
            Op::SetLink { dev, .. } | Op::DeleteLink { dev } | Op::AddFilterPlace { dev } => {
                f.write_str(dev)
            }
            Op::ReplaceAddress(a) | Op::DeleteAddress(a) => write!(f, "{} on {}", a.net, a.dev),
            Op::ReplaceRoute(Route { table, dst, .. }) | Op::DeleteRoute { table, dst } => {
                write!(f, "{dst} in table {table}")
            }
            Op::AddRule(rule) | Op::DeleteRule(rule) => {
                write!(f, "{} ({:?}) to table {}", rule.priority, rule.family, rule.table)
            }
            Op::ReplaceNeighbour(Neighbour { dev, addr, .. })
            | Op::DeleteNeighbour { dev, addr } => write!(f, "{addr} on {dev}"),
            Op::ReplaceFdb(e) | Op::DeleteFdb(e) => {
                write!(f, "{} behind {} on {}", e.mac, e.dst, e.dev)
            }
            Op::SetSysctl { key, value } => write!(f, "net/{key} = {value}"),
        }
    }
}
