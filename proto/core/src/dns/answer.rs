//! The records of a name, or why there are none.

mod pointer;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::place::{Place, Zone, locate};
use super::view::{Host, Scope, Service, View};
use super::{MAX_ADDRESSES, MAX_NAME, MAX_SERVERS, NEGATIVE_TTL, SCHEMA_VERSION, TTL, reverse};
use crate::name::SliceName;
use crate::service::model::{self, Port};

/// Seconds the version of the schema may be kept, as the standard's example has it.
const VERSION_TTL: u32 = 28_800;

/// So many addresses are compared one by one.
const FEW: usize = 8;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// IPv4 addresses.
    A,
    /// IPv6 addresses.
    Aaaa,
    /// Servers and ports (RFC 2782).
    Srv,
    /// The name of an address.
    Ptr,
    /// Text.
    Txt,
    /// The zone's parameters.
    Soa,
    /// The zone's servers.
    Ns,
    /// Whatever there is of one type (RFC 8482).
    Any,
    /// A type we have nothing of.
    Other,
}

/// A question of class IN.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// The name's labels in lower case, the root left out.
    pub labels: &'a [&'a str],
    /// What is asked for.
    pub kind: Kind,
}

/// Who asks.
#[derive(Debug, Clone, Copy, Default)]
pub struct Asker<'a> {
    /// Its slices; `None` when nobody knows who asks, as behind the cluster's own DNS: then all
    /// slices are answered from, and nothing is reached that was not before.
    pub slices: Option<&'a BTreeSet<SliceName>>,
    /// A number that is another one with every question: it turns the order of addresses.
    pub turn: u64,
}

/// How the question ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// The name exists; without records it has none of the type.
    NoError,
    /// There is no such name, nor any below it.
    NxDomain,
    /// The name is in no zone of ours.
    Refused,
}

/// A record's data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    /// An IPv4 address.
    A(Ipv4Addr),
    /// An IPv6 address.
    Aaaa(Ipv6Addr),
    /// A server of a service.
    Srv {
        /// Lower ones first.
        priority: u16,
        /// How often it is chosen among those of its priority.
        weight: u16,
        /// Its port.
        port: u16,
        /// Its name.
        target: String,
    },
    /// A name of an address.
    Ptr(String),
    /// Text of at most 255 bytes.
    Txt(String),
    /// A name server.
    Ns(String),
    /// A zone's parameters; the rest of them are [`super::NEGATIVE_TTL`] and constants.
    Soa {
        /// The zone.
        zone: String,
        /// Changes with every change.
        serial: u32,
    },
}

/// A record of class IN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its name; `None`: the question's, as it was written.
    pub name: Option<String>,
    /// Seconds it may be kept.
    pub ttl: u32,
    /// What it says.
    pub data: Data,
}

/// An answer, with authority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// How it ends.
    pub code: Code,
    /// The records asked for.
    pub records: Vec<Record>,
    /// The zone's SOA where there are no records, for negative caching (RFC 2308).
    pub authority: Option<Record>,
    /// Addresses of what the records name, as far as they are known.
    pub additional: Vec<Record>,
}

impl Answer {
    fn refused() -> Self {
        Self { code: Code::Refused, records: vec![], authority: None, additional: vec![] }
    }
}

/// Answers a question from what the node knows.
pub fn answer(view: &View, question: &Question<'_>, asker: Asker<'_>) -> Answer {
    if let Some((zone, place)) = locate(question.labels) {
        let lookup = Lookup { view, zone, asker };
        return lookup.answer(lookup.node(place), question.kind);
    }
    match reverse::parse(question.labels) {
        Some(name) => pointer::answer(view, name, question.kind, asker),
        None => Answer::refused(),
    }
}

/// What there is at a name.
enum Node<'v> {
    /// Nothing, and nothing below.
    Absent,
    /// Nothing but names below.
    Empty,
    Apex,
    Version,
    Server,
    Services(Vec<&'v Service>),
    Hosts(Vec<&'v Host>),
    /// The service's name, and the port of each service of that name.
    Port(String, Vec<(&'v Service, &'v Port)>),
}

struct Lookup<'v> {
    view: &'v View,
    zone: Zone<'v>,
    asker: Asker<'v>,
}

impl<'v> Lookup<'v> {
    fn scope(&self) -> Scope<'v> {
        let slice = match self.zone {
            Zone::Slice(slice) => slice,
            Zone::ClusterSet => None,
        };
        Scope { slices: self.asker.slices, slice, exported: self.zone == Zone::ClusterSet }
    }

    fn node(&self, place: Place<'v>) -> Node<'v> {
        let empty = |is: bool| if is { Node::Empty } else { Node::Absent };
        match place {
            Place::Apex => Node::Apex,
            Place::Version => Node::Version,
            Place::Server => Node::Server,
            Place::Between => Node::Empty,
            Place::Nowhere => Node::Absent,
            Place::SliceTop => empty(self.view.has_slice(self.scope())),
            Place::Namespace(name) => empty(self.view.has_namespace(self.scope(), name)),
            Place::Service { namespace, service, front } => {
                let mut services = self.view.find(self.scope(), namespace, service);
                // The standard: a headless service of which nothing is ready has no name.
                services.retain(|s| s.kind == model::Kind::ClusterSetIp || !s.hosts.is_empty());
                if services.is_empty() {
                    return Node::Absent;
                }
                let name = || format!("{service}.{namespace}.svc.{}", self.zone.suffix());
                self.below(services, front, name)
            }
        }
    }

    /// What stands in front of a service's name.
    fn below(
        &self,
        services: Vec<&'v Service>,
        front: &[&str],
        name: impl Fn() -> String,
    ) -> Node<'v> {
        match front {
            [] => Node::Services(services),
            [protocol] if protocol.starts_with('_') => {
                let of =
                    |p: &&Port| !p.name.is_empty() && Some(p.protocol.label()) == protocol.get(1..);
                let any = services.iter().flat_map(|s| &s.ports).any(|p| of(&p));
                if any { Node::Empty } else { Node::Absent }
            }
            [port, protocol] if port.starts_with('_') => {
                let (port, protocol) = (port.get(1..), protocol.strip_prefix('_'));
                let is = |p: &&Port| {
                    !p.name.is_empty()
                        && Some(p.name.as_str()) == port
                        && Some(p.protocol.label()) == protocol
                };
                let found: Vec<_> = services
                    .iter()
                    .filter_map(|s| s.ports.iter().find(is).map(|p| (*s, p)))
                    .collect();
                if found.is_empty() { Node::Absent } else { Node::Port(name(), found) }
            }
            [label] => {
                let hosts = || services.iter().flat_map(|s| &s.hosts);
                let cluster: Vec<_> = hosts().filter(|h| h.cluster == *label).collect();
                match (self.zone, cluster.is_empty()) {
                    (Zone::ClusterSet, true) => Node::Absent,
                    (Zone::ClusterSet, false) => Node::Empty,
                    (Zone::Slice(_), false) => Node::Hosts(cluster),
                    (Zone::Slice(_), true) => some(hosts().filter(|h| h.name == *label).collect()),
                }
            }
            [host, cluster] => {
                let is = |h: &&Host| h.name == *host && h.cluster == *cluster;
                some(services.iter().flat_map(|s| &s.hosts).filter(is).collect())
            }
            _ => Node::Absent,
        }
    }

    fn answer(&self, node: Node<'v>, kind: Kind) -> Answer {
        let soa = Data::Soa { zone: self.zone.apex().to_owned(), serial: self.view.serial() };
        if matches!(node, Node::Absent) {
            return nothing(Code::NxDomain, soa, self.zone.apex());
        }
        let mut additional = Vec::new();
        let records: Vec<Record> = match kind {
            Kind::Any => [Kind::A, Kind::Aaaa, Kind::Srv, Kind::Txt, Kind::Soa]
                .into_iter()
                .map(|kind| self.records(&node, kind, &mut additional))
                .find(|records| !records.is_empty())
                .unwrap_or_default(),
            kind => self.records(&node, kind, &mut additional),
        };
        if records.is_empty() {
            return nothing(Code::NoError, soa, self.zone.apex());
        }
        Answer { code: Code::NoError, records, authority: None, additional }
    }

    fn records(&self, node: &Node<'v>, kind: Kind, additional: &mut Vec<Record>) -> Vec<Record> {
        let zone = self.zone.apex();
        match (node, kind) {
            (Node::Apex, Kind::Soa) => {
                let serial = self.view.serial();
                vec![record(TTL, Data::Soa { zone: zone.to_owned(), serial })]
            }
            (Node::Apex, Kind::Ns) => {
                let name = format!("ns.dns.{zone}");
                additional.extend(both(&name, self.view.servers().iter().copied()));
                vec![record(TTL, Data::Ns(name))]
            }
            (Node::Version, Kind::Txt) => {
                vec![record(VERSION_TTL, Data::Txt(SCHEMA_VERSION.to_owned()))]
            }
            (Node::Server, Kind::A | Kind::Aaaa) => {
                addresses(self.view.servers().iter().copied(), kind)
            }
            (Node::Services(services), Kind::A | Kind::Aaaa) => {
                let hosts = services.iter().flat_map(|s| &s.hosts).collect();
                let hosts = turned(hosts, self.asker.turn);
                let ours = services.iter().flat_map(|s| &s.addresses).copied();
                addresses(ours.chain(hosts.into_iter().flat_map(|h| &h.addresses).copied()), kind)
            }
            (Node::Hosts(hosts), Kind::A | Kind::Aaaa) => {
                let hosts = turned(hosts.clone(), self.asker.turn);
                addresses(hosts.into_iter().flat_map(|h| &h.addresses).copied(), kind)
            }
            (Node::Port(service, found), Kind::Srv) => {
                servers(service, found, self.asker.turn, additional)
            }
            _ => Vec::new(),
        }
    }
}

fn some<'v>(hosts: Vec<&'v Host>) -> Node<'v> {
    if hosts.is_empty() { Node::Absent } else { Node::Hosts(hosts) }
}

fn nothing(code: Code, soa: Data, zone: &str) -> Answer {
    let authority = Some(Record { name: Some(zone.to_owned()), ttl: NEGATIVE_TTL, data: soa });
    Answer { code, records: vec![], authority, additional: vec![] }
}

fn record(ttl: u32, data: Data) -> Record {
    Record { name: None, ttl, data }
}

fn data(address: IpAddr) -> Data {
    match address {
        IpAddr::V4(a) => Data::A(a),
        IpAddr::V6(a) => Data::Aaaa(a),
    }
}

/// The addresses of one family, each once.
fn addresses(addresses: impl Iterator<Item = IpAddr>, kind: Kind) -> Vec<Record> {
    let mut records: Vec<Record> = Vec::new();
    // Most names have few, which are looked through faster than a set is made.
    let mut more = BTreeSet::new();
    for address in addresses.filter(|a| a.is_ipv4() == (kind == Kind::A)) {
        let one = record(TTL, data(address));
        let known = records.iter().take(FEW).any(|record| record.data == one.data);
        if !known && (records.len() < FEW || more.insert(address)) {
            records.push(one);
        }
        if records.len() == MAX_ADDRESSES {
            break;
        }
    }
    records
}

/// The addresses of a name in the additional section.
fn both<'a>(
    name: &'a str,
    addresses: impl Iterator<Item = IpAddr> + 'a,
) -> impl Iterator<Item = Record> + 'a {
    addresses.map(|a| Record { name: Some(name.to_owned()), ttl: TTL, data: data(a) })
}

/// The SRV records of a port: the service's own name where it has a virtual address, else every
/// pod's, those of the client's cluster at the better priority.
fn servers(
    service: &str,
    found: &[(&Service, &Port)],
    turn: u64,
    additional: &mut Vec<Record>,
) -> Vec<Record> {
    let mut seen = BTreeSet::new();
    let mut records = Vec::new();
    for (entry, port) in found {
        let mut add = |(priority, weight): (u16, u16), port: u16, target: String, of: &[IpAddr]| {
            let fits = target.len() <= MAX_NAME && records.len() < MAX_SERVERS;
            if fits && seen.insert((target.clone(), port)) {
                additional.extend(both(&target, of.iter().copied()));
                records.push(record(TTL, Data::Srv { priority, weight, port, target }));
            }
        };
        if entry.kind == model::Kind::ClusterSetIp {
            add((0, 100), port.port, service.to_owned(), &entry.addresses);
        }
        for host in turned(entry.hosts.iter().collect(), turn) {
            let key = (port.protocol, port.name.clone());
            let number = host.ports.get(&key).copied().unwrap_or(port.port);
            let target = format!("{}.{}.{service}", host.name, host.cluster);
            add((u16::from(!host.near), host.weight), number, target, &host.addresses);
        }
    }
    records
}

/// Those of the client's cluster first; among equals every question begins with another one, the
/// more often the more it weighs.
fn turned(mut hosts: Vec<&Host>, turn: u64) -> Vec<&Host> {
    hosts.sort_by_key(|h| !h.near);
    let near = hosts.partition_point(|h| h.near);
    let (near, far) = hosts.split_at_mut(near);
    for tier in [near, far] {
        let total: u64 = tier.iter().map(|h| u64::from(h.weight)).sum();
        // Multiples of the golden ratio spread evenly over any range (Knuth, volume 3, 6.4).
        let mut at = (turn.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) % total.max(1);
        let first = tier.iter().position(|h| {
            let weight = u64::from(h.weight);
            let found = at < weight;
            at = at.saturating_sub(weight);
            found
        });
        tier.rotate_left(first.unwrap_or(0));
    }
    hosts
}

#[cfg(test)]
mod tests;
