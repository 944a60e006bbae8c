//! What a subject's rules come to once it is known who the other end is: protocol and port →
//! decision.

use std::collections::{BTreeMap, BTreeSet};

use super::judge::{Entry, Judge};
use super::subjects::NamedPorts;
use crate::policy::evaluate::Decision;
use crate::policy::model::{PortMatch, Ports, Protocol};

/// Decisions by protocol number and range of ports.
pub(super) type ByPort = BTreeMap<(u8, u16, u16), Decision>;

/// Decisions about all flows.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Function {
    pub(super) by_port: ByPort,
    pub(super) otherwise: Decision,
}

impl Function {
    /// What rules come to, where the destination calls its ports `named`.
    pub(super) fn of(judge: &Judge, entries: &[Entry<'_>], named: &NamedPorts) -> Self {
        let otherwise = decide(judge, entries, |entry| entry.ports().is_empty());
        let mut by_port = ByPort::new();
        for protocol in Protocol::ALL.into_iter().filter(|p| mentioned(entries, *p)) {
            for (first, last) in pieces(entries, protocol, named) {
                let decision =
                    decide(judge, entries, |entry| lists(*entry, protocol, first, named));
                if decision != otherwise {
                    put(&mut by_port, protocol.number(), (first, last), decision);
                }
            }
        }
        Self { by_port, otherwise }
    }

    /// Where rules decide otherwise than this function, which is what they come to without `more`
    /// of them; `None` if one of these is about all ports. Only where one of `more` lists a flow
    /// can that be.
    pub(super) fn beyond(
        &self,
        judge: &Judge,
        entries: &[Entry<'_>],
        more: &[Entry<'_>],
        named: &NamedPorts,
    ) -> Option<ByPort> {
        if more.iter().any(|entry| entry.ports().is_empty()) {
            return None;
        }
        let mut differing = ByPort::new();
        for protocol in Protocol::ALL.into_iter().filter(|p| mentioned(more, *p)) {
            for (first, last) in pieces(entries, protocol, named) {
                if !more.iter().any(|entry| lists(*entry, protocol, first, named)) {
                    continue;
                }
                let decision =
                    decide(judge, entries, |entry| lists(*entry, protocol, first, named));
                if decision != *self.at(protocol.number(), first) {
                    put(&mut differing, protocol.number(), (first, last), decision);
                }
            }
        }
        Some(differing)
    }

    fn at(&self, protocol: u8, port: u16) -> &Decision {
        let below = self.by_port.range(..=(protocol, port, u16::MAX)).next_back();
        let found = below.filter(|((p, _, last), _)| *p == protocol && port <= *last);
        found.map_or(&self.otherwise, |(_, decision)| decision)
    }
}

fn decide(judge: &Judge, entries: &[Entry<'_>], lists: impl Fn(&Entry<'_>) -> bool) -> Decision {
    let listing: Vec<Entry<'_>> = entries.iter().copied().filter(|entry| lists(entry)).collect();
    judge.decide(&listing)
}

fn mentioned(entries: &[Entry<'_>], protocol: Protocol) -> bool {
    entries.iter().any(|entry| entry.ports().iter().any(|wanted| wanted.protocol == protocol))
}

fn lists(entry: Entry<'_>, protocol: Protocol, port: u16, named: &NamedPorts) -> bool {
    entry.ports().is_empty()
        || ranges(entry.ports(), protocol, named).any(|(a, b)| (a..=b).contains(&port))
}

/// Adds a piece, as part of the one just before it where that decides the same.
fn put(by_port: &mut ByPort, protocol: u8, (first, last): (u16, u16), decision: Decision) {
    let before = by_port.last_entry().filter(|entry| {
        let (other, _, end) = *entry.key();
        other == protocol && end.checked_add(1) == Some(first) && *entry.get() == decision
    });
    let start = before.map_or(first, |entry| entry.remove_entry().0.1);
    by_port.insert((protocol, start, last), decision);
}

/// The protocol's ports, cut wherever a rule begins or ends.
fn pieces(entries: &[Entry<'_>], protocol: Protocol, named: &NamedPorts) -> Vec<(u16, u16)> {
    let mut starts = BTreeSet::from([0u16]);
    for entry in entries {
        for (first, last) in ranges(entry.ports(), protocol, named) {
            starts.insert(first);
            starts.extend(last.checked_add(1));
        }
    }
    between(&starts)
}

/// From each start to the next.
fn between(starts: &BTreeSet<u16>) -> Vec<(u16, u16)> {
    let ends = starts.iter().skip(1).map(|next| next - 1).chain([u16::MAX]);
    starts.iter().copied().zip(ends).collect()
}

fn ranges<'a>(
    ports: &'a [PortMatch],
    protocol: Protocol,
    named: &'a NamedPorts,
) -> impl Iterator<Item = (u16, u16)> + 'a {
    ports.iter().filter(move |wanted| wanted.protocol == protocol).flat_map(move |wanted| {
        let (range, numbers) = match &wanted.ports {
            Ports::All => (Some((0, u16::MAX)), None),
            Ports::Range(first, last) => (Some((*first, *last)), None),
            Ports::Named(name) => (None, named.get(&(protocol, name.clone()))),
        };
        let numbers = numbers.into_iter().flatten().map(|port| (*port, *port));
        range.into_iter().chain(numbers)
    })
}
