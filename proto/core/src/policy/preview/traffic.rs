//! Protocols and ports, as few as say it all.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::policy::model::{Endpoint, Protocol};
use crate::prefix::Family;

/// Stands for all protocols that rules cannot name (RFC 3692: for experiments).
const OTHER: u8 = 253;
/// Protocols with a number of ports of their own.
const WITH_PORTS: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];

/// Ports of a protocol, over one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Item {
    pub(super) family: Family,
    /// None: all that rules cannot name.
    pub(super) protocol: Option<Protocol>,
    pub(super) first: u16,
    pub(super) last: u16,
}

impl Item {
    /// The number of its protocol in IP headers.
    pub(super) fn protocol_number(&self) -> u8 {
        self.protocol.map_or(OTHER, Protocol::number)
    }
}

/// All there is to ask about, in pieces of which every port is judged the same.
pub(super) fn items(
    family: Family,
    cuts: &BTreeMap<Protocol, BTreeSet<u16>>,
    destination: &Endpoint,
) -> Vec<Item> {
    let mut items = Vec::new();
    for protocol in WITH_PORTS {
        let mut starts = cuts.get(&protocol).cloned().unwrap_or_default();
        let named = destination.named_ports.iter().filter(|((p, _), _)| *p == protocol);
        for number in named.flat_map(|(_, numbers)| numbers) {
            starts.insert(*number);
            starts.extend(number.checked_add(1));
        }
        starts.insert(1);
        starts.remove(&0);
        let ends = starts.iter().skip(1).map(|next| next - 1).chain([u16::MAX]);
        let pieces = starts.iter().zip(ends);
        items.extend(pieces.map(|(first, last)| Item {
            family,
            protocol: Some(protocol),
            first: *first,
            last,
        }));
    }
    let icmp = match family {
        Family::V4 => Protocol::Icmp,
        Family::V6 => Protocol::Icmpv6,
    };
    let without = [Some(icmp), None];
    items.extend(without.map(|protocol| Item { family, protocol, first: 0, last: 0 }));
    items
}

/// Some protocols and ports; prints as `TCP 80-90, UDP 53`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Traffic {
    items: BTreeSet<Item>,
    /// The families that both ends have.
    families: BTreeSet<Family>,
}

impl Traffic {
    /// What these pieces are together.
    pub(super) fn of(pieces: &BTreeSet<Item>, families: &BTreeSet<Family>) -> Self {
        let mut items: BTreeSet<Item> = BTreeSet::new();
        let mut open: Option<Item> = None;
        for piece in pieces {
            open = Some(match open {
                Some(item) if joins(&item, piece) => Item { last: piece.last, ..item },
                before => {
                    items.extend(before);
                    *piece
                }
            });
        }
        items.extend(open);
        Self { items, families: families.clone() }
    }

    /// Whether a connection is among it; the protocol by its number.
    pub fn has(&self, family: Family, protocol: u8, port: u16) -> bool {
        let named = Protocol::of_number(protocol);
        self.items.iter().any(|item| {
            let ports = item.first == 0 || (item.first..=item.last).contains(&port);
            item.family == family && item.protocol == named && ports
        })
    }

    /// Whether it is all that there can be over a family.
    fn is_whole(&self, family: Family) -> bool {
        let own: Vec<&Item> = self.items.iter().filter(|item| item.family == family).collect();
        let all = |item: &&Item| item.first == 0 || (item.first == 1 && item.last == u16::MAX);
        own.len() == WITH_PORTS.len() + 2 && own.iter().all(all)
    }
}

/// Whether one piece goes on where another ends.
fn joins(one: &Item, next: &Item) -> bool {
    one.family == next.family
        && one.protocol == next.protocol
        && one.last.checked_add(1) == Some(next.first)
        && one.first != 0
}

impl fmt::Display for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole: Vec<Family> =
            self.families.iter().copied().filter(|family| self.is_whole(*family)).collect();
        if whole.len() == self.families.len() {
            return f.write_str("every protocol and port");
        }
        let mut parts: Vec<String> =
            whole.iter().map(|family| format!("all of {}", name(*family))).collect();
        let rest = self.items.iter().filter(|item| !whole.contains(&item.family));
        // The same over each family is said once.
        let mut by_words: BTreeMap<(Option<Protocol>, u16, u16), Vec<Family>> = BTreeMap::new();
        for item in rest {
            let key = (item.protocol, item.first, item.last);
            by_words.entry(key).or_default().push(item.family);
        }
        for ((protocol, first, last), over) in by_words {
            let words = spell(protocol, first, last);
            let icmp = matches!(protocol, Some(Protocol::Icmp | Protocol::Icmpv6));
            match over.as_slice() {
                [only] if self.families.len() > 1 && !icmp => {
                    parts.push(format!("{words} over {}", name(*only)));
                }
                _ => parts.push(words),
            }
        }
        f.write_str(&parts.join(", "))
    }
}

fn spell(protocol: Option<Protocol>, first: u16, last: u16) -> String {
    let Some(protocol) = protocol else { return "other protocols".to_owned() };
    let word = match protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
        Protocol::Sctp => "SCTP",
        Protocol::Icmp => "ICMP",
        Protocol::Icmpv6 => "ICMPv6",
    };
    match (first, last) {
        (0, _) | (1, u16::MAX) => word.to_owned(),
        (first, last) if first == last => format!("{word} {first}"),
        _ => format!("{word} {first}-{last}"),
    }
}

fn name(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}
