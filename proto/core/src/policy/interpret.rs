//! Carries rules out on packets in memory, as the kernel does, for testing the compiler.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::evaluate::Flow;
use super::ruleset::{
    Datum, Elements, Field, Hook, Key, PORT_PREFIX, Rule, Ruleset, Set, State, Step, Table, Verdict,
};
use crate::prefix::Family;

/// A packet with its connection.
#[derive(Debug, Clone)]
pub(super) struct Packet {
    pub(super) from: String,
    pub(super) to: String,
    pub(super) mac: [u8; 6],
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    /// The connection, as it was opened.
    pub(super) flow: Flow,
    pub(super) flow_mark: u32,
    mark: u32,
    untracked: bool,
}

/// What became of a packet.
#[derive(Debug, Default)]
pub(super) struct Fate {
    pub(super) passed: bool,
    pub(super) flow_mark: u32,
    pub(super) counted: BTreeMap<String, u32>,
}

impl Packet {
    /// The first packet of a flow.
    pub(super) fn first(flow: &Flow, from: &str, to: &str, mac: [u8; 6]) -> Self {
        Self {
            from: from.to_owned(),
            to: to.to_owned(),
            mac,
            source: flow.source,
            destination: flow.destination,
            flow: flow.clone(),
            flow_mark: 0,
            mark: 0,
            untracked: false,
        }
    }
}

enum End {
    Accept,
    Drop,
    Return,
}

/// Sends a packet through the router.
pub(super) fn send(ruleset: &Ruleset, packet: &Packet) -> Fate {
    let mut run = Run { table: &ruleset.inet, packet: packet.clone(), fate: Fate::default() };
    let arrived = !matches!(run.hook(Hook::Arrived), End::Drop);
    run.fate.passed = arrived && matches!(run.hook(Hook::Forwarded), End::Accept);
    run.fate.flow_mark = run.packet.flow_mark;
    run.fate
}

struct Run<'a> {
    table: &'a Table,
    packet: Packet,
    fate: Fate,
}

impl Run<'_> {
    fn hook(&mut self, hook: Hook) -> End {
        let chains = &self.table.chains;
        let (name, _) = chains.iter().find(|(_, chain)| chain.hook == Some(hook)).unwrap();
        self.chain(name, 0)
    }

    fn chain(&mut self, name: &str, depth: usize) -> End {
        assert!(depth < 16, "the kernel's jump stack");
        for rule in &self.table.chains.get(name).unwrap_or_else(|| panic!("no {name}")).rules {
            match self.rule(rule) {
                None => {}
                Some(Verdict::Accept) => return End::Accept,
                Some(Verdict::Drop) => return End::Drop,
                Some(Verdict::Return) => return End::Return,
                Some(Verdict::Goto(next)) => return self.chain(&next, depth),
                Some(Verdict::Jump(next)) => match self.chain(&next, depth + 1) {
                    End::Return => {}
                    end => return end,
                },
            }
        }
        End::Return
    }

    fn rule(&mut self, rule: &Rule) -> Option<Verdict> {
        for step in rule {
            let holds = match step {
                Step::Family(family) => Family::of_addr(&self.packet.source) == *family,
                Step::FromPort(from) => self.packet.from.starts_with(PORT_PREFIX) == *from,
                Step::ToPort(to) => self.packet.to.starts_with(PORT_PREFIX) == *to,
                Step::State(state) => self.packet.untracked && *state == State::Untracked,
                // No packet here is of another type than echo.
                Step::Icmpv6Type(first, last) => {
                    self.packet.flow.protocol == 58 && (*first..=*last).contains(&128)
                }
                Step::NotIcmpv6 => self.packet.flow.protocol != 58,
                Step::FlowProtocol(number) => {
                    !self.packet.untracked && self.packet.flow.protocol == *number
                }
                Step::FlowPort(first, last) => (*first..=*last).contains(&self.packet.flow.port),
                Step::In(data, set) => self.find(data, set).is_some(),
                Step::NotIn(data, set) => {
                    self.read(data).is_some() && self.find(data, set).is_none()
                }
                Step::Mark(data, map) => match self.find(data, map) {
                    Some(Found::Mark(mark)) => {
                        self.packet.mark = mark;
                        true
                    }
                    _ => false,
                },
                Step::Unmark | Step::StampFlow | Step::Untrack | Step::Count(_) => self.act(step),
                Step::Do(verdict) => return Some(verdict.clone()),
                Step::Decide(data, map) => match self.find(data, map) {
                    Some(Found::Verdict(verdict)) => return Some(verdict),
                    _ => false,
                },
                Step::DecideBy(datum, first, second) => match self.find(&[*datum], first) {
                    Some(Found::Mark(mark)) => {
                        match look(&self.table.sets[second], &vec![Field::Mark(mark)]) {
                            Some(Found::Verdict(verdict)) => return Some(verdict),
                            _ => false,
                        }
                    }
                    _ => false,
                },
            };
            if !holds {
                return None;
            }
        }
        None
    }

    fn act(&mut self, step: &Step) -> bool {
        match step {
            Step::Unmark => self.packet.mark = 0,
            Step::StampFlow => self.packet.flow_mark = self.packet.mark,
            Step::Untrack => self.packet.untracked = true,
            Step::Count(name) => {
                assert!(self.table.counters.contains(name), "no {name}");
                *self.fate.counted.entry(name.clone()).or_default() += 1;
            }
            _ => panic!("{step:?} does nothing"),
        }
        true
    }

    fn find(&self, data: &[Datum], set: &str) -> Option<Found> {
        let set = self.table.sets.get(set).unwrap_or_else(|| panic!("no {set}"));
        look(set, &self.read(data)?)
    }

    fn read(&self, data: &[Datum]) -> Option<Key> {
        data.iter().map(|datum| self.datum(*datum)).collect()
    }

    fn datum(&self, datum: Datum) -> Option<Field> {
        let p = &self.packet;
        let address = |address: IpAddr, family| {
            (Family::of_addr(&address) == family).then_some(Field::Address(address))
        };
        if p.untracked
            && matches!(
                datum,
                Datum::FlowSource(_)
                    | Datum::FlowDestination(_)
                    | Datum::FlowMark
                    | Datum::FlowPort
                    | Datum::FlowProtocol
            )
        {
            return None;
        }
        match datum {
            Datum::InDevice => Some(Field::Device(p.from.clone())),
            Datum::OutDevice => Some(Field::Device(p.to.clone())),
            Datum::Family => Some(Field::Family(Family::of_addr(&p.source))),
            Datum::SourceMac => Some(Field::Mac(p.mac)),
            Datum::Source(family) => address(p.source, family),
            Datum::Destination(family) => address(p.destination, family),
            Datum::FlowSource(family) => address(p.flow.source, family),
            Datum::FlowDestination(family) => address(p.flow.destination, family),
            Datum::FlowProtocol => Some(Field::Protocol(p.flow.protocol)),
            Datum::FlowPort => Some(Field::Ports(p.flow.port, p.flow.port)),
            Datum::FlowMark => Some(Field::Mark(p.flow_mark)),
            Datum::ArpMac | Datum::ArpAddress => None,
        }
    }
}

enum Found {
    Yes,
    Mark(u32),
    Verdict(Verdict),
}

fn look(set: &Set, key: &Key) -> Option<Found> {
    assert_eq!(set.key.len(), key.len());
    let hit = |element: &&Key| element.iter().zip(key).all(|(e, k)| covers(e, k));
    match &set.elements {
        Elements::Plain(all) => all.iter().find(hit).map(|_| Found::Yes),
        Elements::Marks(all) => {
            let found = all.iter().find(|(element, _)| hit(element));
            found.map(|(_, mark)| Found::Mark(*mark))
        }
        Elements::Verdicts(all) => {
            let mut found = all.iter().filter(|(element, _)| hit(element));
            let first = found.next().map(|(_, verdict)| Found::Verdict(verdict.clone()));
            assert!(found.next().is_none(), "elements of a map overlap");
            first
        }
        Elements::Marks4(all) => match key.first() {
            Some(Field::Address(IpAddr::V4(address))) => all.get(address).copied().map(Found::Mark),
            _ => None,
        },
        Elements::Marks6(all) => match key.first() {
            Some(Field::Address(IpAddr::V6(address))) => all.get(address).copied().map(Found::Mark),
            _ => None,
        },
    }
}

fn covers(element: &Field, key: &Field) -> bool {
    match (element, key) {
        (Field::Addresses(first, last), Field::Address(address)) => {
            (*first..=*last).contains(address)
        }
        (Field::Ports(first, last), Field::Ports(port, _)) => (*first..=*last).contains(port),
        _ => element == key,
    }
}
