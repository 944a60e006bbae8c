//! What is the same on every node: where packets enter, who may send as whom, what is judged, and
//! the maps in between. And the changes to maps that need no new rules.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;

use super::endpoints::Endpoints;
use super::nets::Range;
use super::subject::Turn;
use super::{Port, Role, Situation, class_map};
use crate::policy::model::Direction;
use crate::policy::ruleset::{
    Chain, Change, Datum, Elements, Field, Hook, Key, Kind, Name, Rule, Ruleset, Set, State, Step,
    Table, Verdict,
};
use crate::prefix::Family;

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// Counts packets whose sender is not who they say it is from.
pub const SPOOFED: &str = "spoofed";
/// Counts neighbour discovery from pods, whose neighbours are all set by us.
pub const DISCOVERY: &str = "discovery";
/// Counts packets to pods whose rules are not there yet.
pub const NOT_READY: &str = "not-ready";
/// Counts packets that belong to no connection.
pub const INVALID: &str = "invalid";

/// Connections with a mark in here have been judged.
const JUDGED: &str = "judged";
/// The mark for connections that are being judged, by family.
const STAMP: &str = "stamp";

/// The map from ranges of addresses to classes.
pub(super) fn net_map(family: Family) -> &'static str {
    by(family, "net4", "net6")
}

/// The map from pods' addresses to their subjects' chains.
pub(super) fn entry_map(direction: Direction, family: Family) -> &'static str {
    match direction {
        Direction::Egress => by(family, "egress4", "egress6"),
        Direction::Ingress => by(family, "ingress4", "ingress6"),
    }
}

fn by(family: Family, v4: &'static str, v6: &'static str) -> &'static str {
    match family {
        Family::V4 => v4,
        Family::V6 => v6,
    }
}

/// Everything but classes, subjects and functions.
pub(super) fn ruleset(situation: &Situation, endpoints: &Endpoints, generation: u32) -> Ruleset {
    let ready: Vec<(&String, &Port)> = situation
        .ports
        .iter()
        .filter(|(_, port)| match &port.role {
            Role::Pod(id) => endpoints.get(id).is_some(),
            Role::Gateway => true,
        })
        .collect();
    let mut inet = Table::default();
    inet.counters.extend([SPOOFED, DISCOVERY, NOT_READY, INVALID].map(str::to_owned));
    for family in FAMILIES {
        sets(&mut inet, family, &ready, &situation.far);
        let (guard, port, judge) = (guard(family), port(family), judge(family));
        inet.chains.insert(by(family, "guard4", "guard6").to_owned(), guard);
        inet.chains.insert(by(family, "port4", "port6").to_owned(), port);
        inet.chains.insert(by(family, "judge4", "judge6").to_owned(), judge);
    }
    let gateways = ready.iter().filter(|(_, port)| port.role == Role::Gateway);
    let pairs = gateways.clone().map(|(dev, port)| vec![device(dev), Field::Mac(port.mac)]);
    put(&mut inet, "gateways", Set::plain(&[Kind::Device, Kind::Mac], pairs));
    let devices = gateways.map(|(dev, _)| vec![device(dev)]);
    put(&mut inet, "gateway-ports", Set::plain(&[Kind::Device], devices));
    let nobody = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    let nobody = Set::plain(&[Kind::Address(Family::V6)], [vec![Field::Address(nobody)]]);
    put(&mut inet, "nobody", nobody);
    put(&mut inet, JUDGED, Set::plain(&[Kind::Mark], []));
    put(&mut inet, STAMP, Set::marks(&[Kind::Family], []));
    inet.chains.insert("arrived".to_owned(), arrived());
    inet.chains.insert("forwarded".to_owned(), forwarded());
    let mut ruleset = Ruleset { inet, arp: arp(&ready) };
    set_generation(&mut ruleset, generation);
    ruleset
}

fn put(table: &mut Table, name: &str, set: Set) {
    table.sets.insert(name.to_owned(), set);
}

fn device(name: &str) -> Field {
    Field::Device(name.to_owned())
}

fn sets(table: &mut Table, family: Family, ready: &[(&String, &Port)], far: &BTreeSet<IpNet>) {
    let mine = |address: &&IpAddr| Family::of_addr(address) == family;
    let all = || {
        ready.iter().flat_map(move |(dev, port)| {
            port.addresses.iter().filter(mine).map(move |address| (*dev, *port, *address))
        })
    };
    let address = Kind::Address(family);
    for (gateway, name) in [
        (false, by(family, "senders4", "senders6")),
        (true, by(family, "gateway-senders4", "gateway-senders6")),
    ] {
        let senders = all().filter(|(_, port, _)| (port.role == Role::Gateway) == gateway);
        let senders = senders.map(|(dev, port, a)| sender(dev, port, a));
        put(table, name, Set::plain(&sender_key(address), senders));
    }
    let places = all().map(|(dev, _, a)| vec![device(dev), Field::Address(a)]);
    put(table, by(family, "places4", "places6"), Set::plain(&[Kind::Device, address], places));
    let local = all().map(|(_, _, a)| vec![Field::Address(a)]);
    put(table, by(family, "local4", "local6"), Set::plain(&[address], local));
    let pods = all().filter(|(_, port, _)| port.role != Role::Gateway);
    let pods = pods.map(|(_, _, a)| vec![Field::Address(a)]);
    put(table, by(family, "pods4", "pods6"), Set::plain(&[address], pods));
    let far = far.iter().filter(|net| Family::of(net) == family).copied().collect();
    let far = IpNet::aggregate(&far).into_iter();
    let far = far.map(|net| vec![Field::Addresses(net.network(), net.broadcast())]);
    put(table, by(family, "far4", "far6"), Set::plain(&[Kind::Addresses(family)], far));
    put(table, net_map(family), Set::marks(&[Kind::Addresses(family)], []));
    for direction in Direction::BOTH {
        put(table, entry_map(direction, family), Set::verdicts(&[address], []));
    }
    let classes = match family {
        Family::V4 => Elements::Marks4(std::collections::BTreeMap::new()),
        Family::V6 => Elements::Marks6(std::collections::BTreeMap::new()),
    };
    put(table, class_map(family), Set { key: vec![address], elements: classes });
}

/// Who may send what: a device, a MAC address and an address.
fn sender_key(address: Kind) -> [Kind; 3] {
    [Kind::Device, Kind::Mac, address]
}

fn sender(dev: &str, port: &Port, address: IpAddr) -> Key {
    vec![device(dev), Field::Mac(port.mac), Field::Address(address)]
}

/// What pods send as themselves, which most packets are, passes with as few steps as there can be:
/// nothing more is to be known about it, but for `ICMPv6`, which may be neighbour discovery.
fn arrived() -> Chain {
    let own = [
        vec![Step::Family(Family::V4), own(Family::V4), Step::Do(Verdict::Accept)],
        vec![Step::Family(Family::V6), Step::NotIcmpv6, own(Family::V6), Step::Do(Verdict::Accept)],
    ];
    let guards =
        FAMILIES.map(|family| vec![Step::Family(family), jump(family, "guard4", "guard6")]);
    Chain { hook: Some(Hook::Arrived), rules: own.into_iter().chain(guards).collect() }
}

/// Holds for what a pod sends as itself.
fn own(family: Family) -> Step {
    sent_from(family, by(family, "senders4", "senders6"))
}

/// Holds if device, MAC address and source address belong together.
fn sent_from(family: Family, senders: &str) -> Step {
    let sender = vec![Datum::InDevice, Datum::SourceMac, Datum::Source(family)];
    Step::In(sender, senders.to_owned())
}

fn jump(family: Family, v4: &'static str, v6: &'static str) -> Step {
    Step::Do(Verdict::Jump(by(family, v4, v6).to_owned()))
}

fn drop_as(counter: &str) -> [Step; 2] {
    [Step::Count(counter.to_owned()), Step::Do(Verdict::Drop)]
}

/// Nobody sends as a local pod but that pod. What neither comes from nor goes to a local pod is
/// on its way through this node: it is judged elsewhere, and its answers may take another way, so
/// its connections are not looked at.
fn guard(family: Family) -> Chain {
    let source = vec![Datum::Source(family)];
    let pods = by(family, "pods4", "pods6").to_owned();
    let local = by(family, "local4", "local6").to_owned();
    let mut borrowed = vec![Step::FromPort(false), Step::In(source, local)];
    borrowed.extend(drop_as(SPOOFED));
    let rules = vec![
        vec![Step::FromPort(true), jump(family, "port4", "port6")],
        borrowed,
        vec![Step::In(vec![Datum::Destination(family)], pods), Step::Do(Verdict::Accept)],
        vec![Step::Untrack],
    ];
    Chain { hook: None, rules }
}

/// What else may come from pods: `ICMPv6` from their own addresses, and from gateways what other
/// clusters send.
fn port(family: Family) -> Chain {
    let mut rules: Vec<Rule> = Vec::new();
    if family == Family::V6 {
        // Sent by every kernel before it has an address; of no use here, and no forgery.
        let nobody = Step::In(vec![Datum::Source(family)], "nobody".to_owned());
        rules.push(vec![nobody, Step::Do(Verdict::Drop)]);
        // Router and neighbour solicitations and advertisements, and redirects (RFC 4861).
        let mut discovery = vec![Step::Icmpv6Type(133, 137)];
        discovery.extend(drop_as(DISCOVERY));
        rules.push(discovery);
        rules.push(vec![own(family), Step::Do(Verdict::Accept)]);
    }
    let gateways_own = sent_from(family, by(family, "gateway-senders4", "gateway-senders6"));
    rules.push(vec![gateways_own, Step::Do(Verdict::Return)]);
    let gateway = Step::In(vec![Datum::InDevice, Datum::SourceMac], "gateways".to_owned());
    let far = Step::In(vec![Datum::Source(family)], by(family, "far4", "far6").to_owned());
    rules.push(vec![gateway, far, Step::Do(Verdict::Return)]);
    rules.push(drop_as(SPOOFED).to_vec());
    Chain { hook: None, rules }
}

fn forwarded() -> Chain {
    let judged = Step::In(vec![Datum::FlowMark], JUDGED.to_owned());
    let mut rules: Vec<Rule> = vec![vec![judged, Step::Do(Verdict::Accept)]];
    for family in FAMILIES {
        let place = vec![Datum::OutDevice, Datum::Destination(family)];
        let mut unknown = vec![
            Step::ToPort(true),
            Step::Family(family),
            Step::NotIn(place, by(family, "places4", "places6").to_owned()),
            Step::NotIn(vec![Datum::OutDevice], "gateway-ports".to_owned()),
        ];
        unknown.extend(drop_as(NOT_READY));
        rules.push(unknown);
    }
    rules.push(vec![Step::State(State::Untracked), Step::Do(Verdict::Accept)]);
    let mut invalid = vec![Step::State(State::Invalid)];
    invalid.extend(drop_as(INVALID));
    rules.push(invalid);
    rules.push(vec![Step::Mark(vec![Datum::Family], STAMP.to_owned())]);
    for family in FAMILIES {
        rules.push(vec![Step::Family(family), jump(family, "judge4", "judge6")]);
    }
    rules.push(vec![Step::StampFlow, Step::Unmark, Step::Do(Verdict::Accept)]);
    Chain { hook: Some(Hook::Forwarded), rules }
}

/// Both ends, as far as they are here. A chain that lets the flow pass returns.
fn judge(family: Family) -> Chain {
    let at =
        |datum, direction| vec![Step::Decide(vec![datum], entry_map(direction, family).to_owned())];
    let rules = vec![
        at(Datum::FlowSource(family), Direction::Egress),
        at(Datum::FlowDestination(family), Direction::Ingress),
    ];
    Chain { hook: None, rules }
}

fn arp(ready: &[(&String, &Port)]) -> Table {
    let mut table = Table::default();
    table.counters.insert(SPOOFED.to_owned());
    let senders = ready.iter().flat_map(|(dev, port)| {
        let v4 = port.addresses.iter().filter(|a| a.is_ipv4());
        v4.map(|address| sender(dev, port, *address))
    });
    put(&mut table, "senders", Set::plain(&sender_key(Kind::Address(Family::V4)), senders));
    let claim = vec![Datum::InDevice, Datum::ArpMac, Datum::ArpAddress];
    let mut forged = vec![Step::FromPort(true), Step::NotIn(claim, "senders".to_owned())];
    forged.extend(drop_as(SPOOFED));
    let chain = Chain { hook: Some(Hook::ArpArrived), rules: vec![forged] };
    table.chains.insert("arrived".to_owned(), chain);
    table
}

/// Puts ranges of addresses into classes.
pub(super) fn set_ranges(ruleset: &mut Ruleset, ranges: &[(Range, u32)]) {
    for ((first, last), class) in ranges {
        let set = ruleset.inet.sets.get_mut(net_map(Family::of_addr(first)));
        if let Some(Elements::Marks(all)) = set.map(|set| &mut set.elements) {
            all.insert(vec![Field::Addresses(*first, *last)], *class);
        }
    }
}

/// Puts ranges into the classes that they are in, in another ruleset.
pub(super) fn copy_ranges(ruleset: &mut Ruleset, from: &Ruleset) {
    for name in FAMILIES.map(net_map) {
        if let Some(set) = from.inet.sets.get(name) {
            put(&mut ruleset.inet, name, set.clone());
        }
    }
}

/// The classes of all ranges.
pub(super) fn range_classes(ruleset: &Ruleset) -> Vec<u32> {
    let sets = FAMILIES.map(|family| ruleset.inet.sets.get(net_map(family)));
    let classes = sets.into_iter().flatten().flat_map(|set| match &set.elements {
        Elements::Marks(all) => all.values().copied().collect(),
        _ => Vec::new(),
    });
    classes.collect()
}

/// Adds an element to a map to verdicts.
pub(super) fn insert_verdict(ruleset: &mut Ruleset, map: &str, key: Key, verdict: Verdict) {
    let set = ruleset.inet.sets.get_mut(map);
    if let Some(Elements::Verdicts(all)) = set.map(|set| &mut set.elements) {
        all.insert(key, verdict);
    }
}

/// Has classes lead somewhere else in a map; the changes that this is.
pub(super) fn turn(ruleset: &mut Ruleset, map: &Name, turns: &[Turn]) -> Vec<Change> {
    let set = ruleset.inet.sets.get_mut(map);
    let Some(Elements::Verdicts(all)) = set.map(|set| &mut set.elements) else { return Vec::new() };
    let (mut stale, mut fresh) = (Vec::new(), Vec::new());
    for turn in turns {
        let key = vec![Field::Mark(turn.class)];
        let before = all.remove(&key);
        stale.extend(before.map(|verdict| (key.clone(), verdict)));
        if let Some(place) = turn.now {
            all.insert(key.clone(), place.verdict());
            fresh.push((key, place.verdict()));
        }
    }
    let part = |elements| Set::verdicts(&[Kind::Mark], elements);
    let mut changes = Vec::new();
    if !stale.is_empty() {
        changes.push(Change::Remove(map.clone(), part(stale)));
    }
    if !fresh.is_empty() {
        changes.push(Change::Insert(map.clone(), part(fresh)));
    }
    changes
}

/// The class that an endpoint's address is in.
pub(super) fn class_of(ruleset: &Ruleset, address: IpAddr) -> Option<u32> {
    let set = ruleset.inet.sets.get(class_map(Family::of_addr(&address)))?;
    match (&set.elements, address) {
        (Elements::Marks4(all), IpAddr::V4(address)) => all.get(&address).copied(),
        (Elements::Marks6(all), IpAddr::V6(address)) => all.get(&address).copied(),
        _ => None,
    }
}

/// Moves endpoints' addresses into other classes, or out of all; the changes that this is.
pub(super) fn move_addresses(
    ruleset: &mut Ruleset,
    moves: &[(IpAddr, Option<u32>)],
) -> Vec<Change> {
    let mut changes = Vec::new();
    for family in FAMILIES {
        let name = class_map(family);
        let Some(set) = ruleset.inet.sets.get_mut(name) else { continue };
        let (mut stale, mut fresh) = (set.emptied(), set.emptied());
        for (address, class) in moves {
            match (&mut set.elements, &mut stale.elements, &mut fresh.elements, address) {
                (
                    Elements::Marks4(all),
                    Elements::Marks4(stale),
                    Elements::Marks4(fresh),
                    IpAddr::V4(address),
                ) => transfer(all, stale, fresh, *address, *class),
                (
                    Elements::Marks6(all),
                    Elements::Marks6(stale),
                    Elements::Marks6(fresh),
                    IpAddr::V6(address),
                ) => transfer(all, stale, fresh, *address, *class),
                _ => {}
            }
        }
        if !stale.is_empty() {
            changes.push(Change::Remove(name.to_owned(), stale));
        }
        if !fresh.is_empty() {
            changes.push(Change::Insert(name.to_owned(), fresh));
        }
    }
    changes
}

type Marks<A> = std::collections::BTreeMap<A, u32>;

fn transfer<A: Ord + Copy>(
    all: &mut Marks<A>,
    stale: &mut Marks<A>,
    fresh: &mut Marks<A>,
    address: A,
    class: Option<u32>,
) {
    let before = match class {
        Some(class) => all.insert(address, class),
        None => all.remove(&address),
    };
    stale.extend(before.map(|class| (address, class)));
    fresh.extend(class.map(|class| (address, class)));
}

/// Makes this the present generation.
pub(super) fn set_generation(ruleset: &mut Ruleset, generation: u32) {
    for (name, set) in generation_sets(generation) {
        ruleset.inet.sets.insert(name, set);
    }
}

fn generation_sets(generation: u32) -> [(Name, Set); 2] {
    let stamps = FAMILIES.map(|family| (vec![Field::Family(family)], generation));
    [
        (JUDGED.to_owned(), Set::plain(&[Kind::Mark], [vec![Field::Mark(generation)]])),
        (STAMP.to_owned(), Set::marks(&[Kind::Family], stamps)),
    ]
}

/// What changes from one generation to the next.
pub(super) fn generation_changes(before: u32, now: u32) -> Vec<Change> {
    let gone = generation_sets(before).into_iter().map(|(name, set)| Change::Remove(name, set));
    let come = generation_sets(now).into_iter().map(|(name, set)| Change::Insert(name, set));
    gone.chain(come).collect()
}
