//! What a network namespace holds, as values that planners compare.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use slicewire_core::prefix::Family;

use crate::MAIN_TABLE;

/// A link-layer address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Mac {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bytes: Option<Vec<u8>> = text
            .split(':')
            .map(|part| (part.len() == 2).then(|| u8::from_str_radix(part, 16).ok()).flatten())
            .collect();
        bytes
            .and_then(|bytes| bytes.try_into().ok())
            .map(Self)
            .ok_or_else(|| format!("{text:?} is not a MAC address; write it as 02:00:5e:10:00:01"))
    }
}

impl From<[u8; 6]> for Mac {
    fn from(bytes: [u8; 6]) -> Self {
        Self(bytes)
    }
}

/// A network device.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Link {
    /// Name, at most 15 bytes, unique in its namespace.
    pub name: String,
    /// Number, unique in its namespace.
    pub index: u32,
    /// What sort of device it is.
    pub kind: LinkKind,
    /// Free text somebody set (`IFALIAS`); ours is an ownership mark.
    pub alias: Option<String>,
    /// Link-layer address, where it has a six-byte one.
    pub mac: Option<Mac>,
    /// Largest packet, in bytes.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// Index of the other end of a veth pair, in the other end's namespace.
    pub peer: Option<u32>,
}

/// The sort of a device.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum LinkKind {
    /// One end of a virtual cable.
    Veth,
    /// A VXLAN endpoint.
    Vxlan(Vxlan),
    /// The kernel's WireGuard.
    Wireguard,
    /// TUN or TAP.
    Tun,
    /// Anything else by the kernel's name for it; empty for the loopback and for real hardware.
    Other(String),
}

/// What identifies a VXLAN endpoint.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Vxlan {
    /// Network identifier, 24 bits.
    pub vni: u32,
    /// UDP destination port.
    pub port: u16,
    /// Source address of the outer packets; unset: the kernel chooses.
    pub local: Option<IpAddr>,
}

/// An address on a device.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// The device.
    pub dev: String,
    /// Address and prefix length; host bits are kept.
    pub net: IpNet,
}

impl Address {
    /// An address on a device.
    pub fn new(dev: &str, net: IpNet) -> Self {
        Self { dev: dev.to_owned(), net }
    }

    /// One host address (/32 or /128) on a device.
    pub fn host(dev: &str, addr: IpAddr) -> Self {
        Self::new(dev, IpNet::from(addr))
    }
}

/// A route. Identified by `table` and `dst`: there is one route of ours a destination.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// Routing table; [`MAIN_TABLE`] or one of our own.
    pub table: u32,
    /// Destination, without host bits.
    pub dst: IpNet,
    /// Where to.
    pub next: NextHops,
    /// Path MTU in bytes that the kernel assumes for this destination.
    pub mtu: Option<u32>,
    /// Source address preferred for packets that start here.
    pub src: Option<IpAddr>,
}

impl Route {
    /// A route in the main table.
    pub fn new(dst: IpNet, next: NextHops) -> Self {
        Self { table: MAIN_TABLE, dst: dst.trunc(), next, mtu: None, src: None }
    }

    /// The same route in another table.
    #[must_use]
    pub fn in_table(self, table: u32) -> Self {
        Self { table, ..self }
    }

    /// The same route with a path MTU in bytes.
    #[must_use]
    pub fn with_mtu(self, mtu: u32) -> Self {
        Self { mtu: Some(mtu), ..self }
    }

    /// The same route with a preferred source address.
    #[must_use]
    pub fn with_src(self, src: IpAddr) -> Self {
        Self { src: Some(src), ..self }
    }

    /// Address family of the destination.
    pub fn family(&self) -> Family {
        Family::of(&self.dst)
    }
}

/// Where a route leads.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum NextHops {
    /// Nowhere: the sender gets "unreachable".
    Unreachable,
    /// One next hop.
    One(Hop),
    /// Several, each flow to one of them by its hash (ECMP). A set of one is the same as
    /// [`NextHops::One`] and is listed as such; an empty set is an error. IPv6 shares flows only
    /// over hops that have a gateway.
    Multi(BTreeSet<Hop>),
}

impl NextHops {
    /// Directly onto a device.
    pub fn dev(dev: &str) -> Self {
        Self::One(Hop::dev(dev))
    }

    /// By a gateway on a device.
    pub fn via(gateway: IpAddr, dev: &str) -> Self {
        Self::One(Hop::via(gateway, dev))
    }

    /// By any of these, [`NextHops::Unreachable`] if there are none.
    pub fn balanced(hops: impl IntoIterator<Item = Hop>) -> Self {
        let mut hops: BTreeSet<Hop> = hops.into_iter().collect();
        match (hops.len(), hops.pop_first()) {
            (1, Some(hop)) => Self::One(Hop { weight: 1, ..hop }),
            (_, Some(hop)) => {
                hops.insert(hop);
                Self::Multi(hops)
            }
            (_, None) => Self::Unreachable,
        }
    }
}

/// A next hop.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hop {
    /// The gateway, taken to be on the device's link whatever its addresses say (`onlink`); unset:
    /// the destination itself is on the link.
    pub gateway: Option<IpAddr>,
    /// The device.
    pub dev: String,
    /// Share of flows against the other hops of the route, 1 to 255; 1 where it is the only hop.
    pub weight: u8,
}

impl Hop {
    /// Directly onto a device.
    pub fn dev(dev: &str) -> Self {
        Self { gateway: None, dev: dev.to_owned(), weight: 1 }
    }

    /// By a gateway on a device.
    pub fn via(gateway: IpAddr, dev: &str) -> Self {
        Self { gateway: Some(gateway), dev: dev.to_owned(), weight: 1 }
    }

    /// The same hop with another weight.
    #[must_use]
    pub fn weighted(self, weight: u8) -> Self {
        Self { weight, ..self }
    }
}

/// A policy routing rule: packets of a family (that came in by a device) look in a table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// Lower is asked first; the main table is at 32766.
    pub priority: u32,
    /// Address family.
    pub family: Family,
    /// Only packets that came in by this device, by name; it need not exist yet.
    pub iif: Option<String>,
    /// The routing table to look in.
    pub table: u32,
}

/// A permanent neighbour: this address is at that MAC address, no need to ask.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Neighbour {
    /// The device.
    pub dev: String,
    /// The neighbour's address.
    pub addr: IpAddr,
    /// Its MAC address.
    pub mac: Mac,
}

/// A forwarding entry of a VXLAN: this MAC address is behind that node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fdb {
    /// The VXLAN device.
    pub dev: String,
    /// The MAC address.
    pub mac: Mac,
    /// The node's underlay address.
    pub dst: IpAddr,
}

/// All that is observed of a namespace at one time. Routes and rules: ours only; neighbours:
/// permanent only.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    /// Devices.
    pub links: BTreeSet<Link>,
    /// Addresses of all devices.
    pub addresses: BTreeSet<Address>,
    /// Our routes in all tables.
    pub routes: BTreeSet<Route>,
    /// Our rules.
    pub rules: BTreeSet<Rule>,
    /// Permanent neighbours.
    pub neighbours: BTreeSet<Neighbour>,
    /// VXLAN forwarding entries with a destination.
    pub fdb: BTreeSet<Fdb>,
}

impl State {
    /// The device of a name.
    pub fn link(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mac_survives_its_text() {
        let mac = Mac([2, 0, 0x5e, 0x10, 0, 0xff]);
        assert_eq!(mac.to_string(), "02:00:5e:10:00:ff");
        assert_eq!(mac.to_string().parse(), Ok(mac));
        for wrong in ["", "02:00:5e:10:00", "02:00:5e:10:00:ff:00", "2:0:5e:10:0:ff", "gg:0"] {
            assert!(wrong.parse::<Mac>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn balancing_over_one_or_none_is_the_plain_route() {
        let hop = Hop::via("10.1.0.1".parse().unwrap(), "swvx").weighted(7);
        assert_eq!(NextHops::balanced([]), NextHops::Unreachable);
        assert_eq!(NextHops::balanced([hop.clone()]), NextHops::One(hop.clone().weighted(1)));
        let two = NextHops::balanced([hop.clone(), Hop::dev("swwg0")]);
        assert_eq!(two, NextHops::Multi(BTreeSet::from([hop, Hop::dev("swwg0")])));
    }
}
