//! Packet rules as plain values: named sets, maps, chains and counters, as nftables has them, in
//! the few forms that policies need. Who carries them out only translates.
//!
//! A chain is asked rule by rule. A rule is a list of steps, taken in order until one does not
//! hold. A verdict ends the chain.

mod diff;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::prefix::Family;

pub use diff::{Change, Delta};

/// What a set, chain or counter is called; unique among its kind in its table.
pub type Name = String;

/// Where packets come from or go to is a pod's port when its device's name begins so; see
/// [`crate::name::router_port`].
pub const PORT_PREFIX: &str = "swp";

/// Everything, by table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// IPv4 and IPv6 packets.
    pub inet: Table,
    /// ARP packets.
    pub arp: Table,
}

/// A table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    /// Counters of packets.
    pub counters: BTreeSet<Name>,
    /// Sets and maps.
    pub sets: BTreeMap<Name, Set>,
    /// Chains.
    pub chains: BTreeMap<Name, Chain>,
}

/// A chain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chain {
    /// Where packets enter it, other than from other chains.
    pub hook: Option<Hook>,
    /// Its rules, in order.
    pub rules: Vec<Rule>,
}

/// Steps in order.
pub type Rule = Vec<Step>;

/// Where packets enter a chain. What comes to its end goes on, unless said otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hook {
    /// What has come in, before connections are looked up.
    Arrived,
    /// What is to be forwarded; what comes to the chain's end is dropped.
    Forwarded,
    /// ARP packets that have come in.
    ArpArrived,
}

/// Something of a packet or of its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Datum {
    /// Name of the device it came in by.
    InDevice,
    /// Name of the device it leaves by.
    OutDevice,
    /// IPv4 or IPv6.
    Family,
    /// The sender's MAC address.
    SourceMac,
    /// The packet's source address.
    Source(Family),
    /// The packet's destination address.
    Destination(Family),
    /// Who opened the connection.
    FlowSource(Family),
    /// Who was reached by it, after translation.
    FlowDestination(Family),
    /// The connection's protocol number.
    FlowProtocol,
    /// The port that was reached, after translation.
    FlowPort,
    /// The connection's mark; 0 at first.
    FlowMark,
    /// Who an ARP packet says it is from.
    ArpMac,
    /// The IPv4 address that an ARP packet claims.
    ArpAddress,
}

/// What connection tracking says of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// It is left out of connection tracking.
    Untracked,
    /// It belongs to no connection and cannot open one.
    Invalid,
}

/// One step of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Holds for packets of this family.
    Family(Family),
    /// Holds if it came in by a pod's port.
    FromPort(bool),
    /// Holds if it leaves by a pod's port.
    ToPort(bool),
    /// Holds in this state.
    State(State),
    /// Holds for `ICMPv6` of a type between the two, both included.
    Icmpv6Type(u8, u8),
    /// Holds for what is not `ICMPv6`.
    NotIcmpv6,
    /// Holds if the connection is of this protocol.
    FlowProtocol(u8),
    /// Holds if the port that was reached is between the two, both included.
    FlowPort(u16, u16),
    /// Holds if the data are, together, an element of the set.
    In(Vec<Datum>, Name),
    /// Holds if they are none.
    NotIn(Vec<Datum>, Name),
    /// Marks the packet with what the map has for the data; holds if there is something.
    Mark(Vec<Datum>, Name),
    /// Takes the packet's mark off.
    Unmark,
    /// Marks the connection with the packet's mark.
    StampFlow,
    /// Leaves the packet out of connection tracking.
    Untrack,
    /// Counts it.
    Count(Name),
    /// Does what the map has for the data; holds if there is something.
    Decide(Vec<Datum>, Name),
    /// The same with two maps: the first one's answer is what the second is asked about.
    DecideBy(Datum, Name, Name),
    /// Does it.
    Do(Verdict),
}

/// What becomes of a packet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// It goes on.
    Accept,
    /// It ends here.
    Drop,
    /// Back to where the chain was jumped at from.
    Return,
    /// To another chain, and back.
    Jump(Name),
    /// To another chain, and from there to where this one was jumped at from.
    Goto(Name),
}

/// A set or map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    /// What its keys are made of.
    pub key: Vec<Kind>,
    /// What is in it.
    pub elements: Elements,
}

/// What a part of a key is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// An address of this family.
    Address(Family),
    /// Addresses of this family from one to another.
    Addresses(Family),
    /// A MAC address.
    Mac,
    /// A device's name.
    Device,
    /// A mark.
    Mark,
    /// IPv4 or IPv6.
    Family,
    /// A protocol number.
    Protocol,
    /// Ports from one to another.
    Ports,
}

impl Kind {
    /// Whether elements say from where to where.
    pub fn is_interval(self) -> bool {
        matches!(self, Self::Addresses(_) | Self::Ports)
    }
}

/// A key: one field for each [`Kind`] of its set.
pub type Key = Vec<Field>;

/// A part of a key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Field {
    /// For [`Kind::Address`].
    Address(IpAddr),
    /// For [`Kind::Addresses`], both included.
    Addresses(IpAddr, IpAddr),
    /// For [`Kind::Mac`].
    Mac([u8; 6]),
    /// For [`Kind::Device`].
    Device(String),
    /// For [`Kind::Mark`].
    Mark(u32),
    /// For [`Kind::Family`].
    Family(Family),
    /// For [`Kind::Protocol`].
    Protocol(u8),
    /// For [`Kind::Ports`], both included.
    Ports(u16, u16),
}

/// What is in a set or map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Elements {
    /// Keys.
    Plain(BTreeSet<Key>),
    /// Keys with marks.
    Marks(BTreeMap<Key, u32>),
    /// Keys with verdicts.
    Verdicts(BTreeMap<Key, Verdict>),
    /// IPv4 addresses with marks; there may be very many.
    Marks4(BTreeMap<Ipv4Addr, u32>),
    /// IPv6 addresses with marks; there may be very many.
    Marks6(BTreeMap<Ipv6Addr, u32>),
}

impl Set {
    /// A set of keys.
    pub fn plain(key: &[Kind], elements: impl IntoIterator<Item = Key>) -> Self {
        Self { key: key.to_vec(), elements: Elements::Plain(elements.into_iter().collect()) }
    }

    /// A map to marks.
    pub fn marks(key: &[Kind], elements: impl IntoIterator<Item = (Key, u32)>) -> Self {
        Self { key: key.to_vec(), elements: Elements::Marks(elements.into_iter().collect()) }
    }

    /// A map to verdicts.
    pub fn verdicts(key: &[Kind], elements: impl IntoIterator<Item = (Key, Verdict)>) -> Self {
        Self { key: key.to_vec(), elements: Elements::Verdicts(elements.into_iter().collect()) }
    }

    /// Whether any part of its keys is an interval.
    pub fn has_intervals(&self) -> bool {
        self.key.iter().any(|kind| kind.is_interval())
    }

    /// The same set with nothing in it.
    #[must_use]
    pub fn emptied(&self) -> Self {
        let elements = match self.elements {
            Elements::Plain(_) => Elements::Plain(BTreeSet::new()),
            Elements::Marks(_) => Elements::Marks(BTreeMap::new()),
            Elements::Verdicts(_) => Elements::Verdicts(BTreeMap::new()),
            Elements::Marks4(_) => Elements::Marks4(BTreeMap::new()),
            Elements::Marks6(_) => Elements::Marks6(BTreeMap::new()),
        };
        Self { key: self.key.clone(), elements }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        match &self.elements {
            Elements::Plain(all) => all.len(),
            Elements::Marks(all) => all.len(),
            Elements::Verdicts(all) => all.len(),
            Elements::Marks4(all) => all.len(),
            Elements::Marks6(all) => all.len(),
        }
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
