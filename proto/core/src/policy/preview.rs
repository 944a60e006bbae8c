//! What a change of policies would open and close, pair by pair, before anybody carries it out.
//!
//! Every pair is judged by [`evaluate`] as it is and as it would be. Endpoints that no policy could
//! tell apart are judged once, and so are ports between which no rule makes a difference.

mod traffic;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::evaluate::{Directory, Flow, Verdict, evaluate};
use super::keys::Keys;
use super::model::{
    Direction, Endpoint, EndpointId, Identity, Peer, Policy, PolicyName, PolicySet, Ports, Protocol,
};
use crate::prefix::Family;
pub use traffic::Traffic;

/// What a change makes of some traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// It was dropped, and passes.
    Opens,
    /// It passed, and is dropped.
    Closes,
    /// It passes as before, and is counted from now on: it would be dropped, were nothing in audit
    /// mode.
    Audits,
    /// It passes as before, and is no longer counted.
    AuditsNoMore,
}

/// What becomes of traffic from each of some endpoints to each of others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// Who opens connections.
    pub from: Vec<EndpointId>,
    /// Who is reached. Nobody sends to itself on a slice: who is in both lists has one pair less.
    pub to: Vec<EndpointId>,
    /// What happens to them.
    pub effect: Effect,
    /// Which connections.
    pub traffic: Traffic,
}

impl Changed {
    /// Every pair it is about.
    pub fn pairs(&self) -> impl Iterator<Item = (&EndpointId, &EndpointId)> {
        let all = self.from.iter().flat_map(|from| self.to.iter().map(move |to| (from, to)));
        all.filter(|(from, to)| from != to)
    }

    /// How many pairs it is about.
    pub fn count(&self) -> usize {
        let there: BTreeSet<&EndpointId> = self.to.iter().collect();
        let both = self.from.iter().filter(|id| there.contains(id)).count();
        self.from.len().saturating_mul(self.to.len()).saturating_sub(both)
    }
}

/// Compares what two sets of policies make of all connections among these endpoints. Addresses
/// that are no endpoint's are left out.
pub fn preview(
    before: &PolicySet,
    after: &PolicySet,
    endpoints: &BTreeMap<EndpointId, Endpoint>,
) -> Vec<Changed> {
    let directory = Directory::new(endpoints);
    let both = Both { before, after, directory: &directory };
    let changed = both.changed();
    if changed.is_none() {
        return Vec::new();
    }
    let cuts = both.cuts();
    let groups = groups(&both, endpoints);
    let mut all = Vec::new();
    for from in &groups {
        for to in &groups {
            let alone = std::ptr::eq(from, to) && from.members.len() == 1;
            if !alone && changed.as_ref().is_some_and(|changed| changed.concerns(from, to)) {
                all.extend(compare(&both, &cuts, from, to));
            }
        }
    }
    all.sort_by(|a, b| (a.effect, &a.from, &a.to).cmp(&(b.effect, &b.from, &b.to)));
    all
}

/// Endpoints that no policy tells apart.
struct Group<'a> {
    members: Vec<EndpointId>,
    identity: Identity,
    /// One of them.
    endpoint: &'a Endpoint,
    /// One address of every kind they have.
    addresses: Vec<IpAddr>,
}

/// Both sets of policies.
struct Both<'a> {
    before: &'a PolicySet,
    after: &'a PolicySet,
    directory: &'a Directory<'a>,
}

/// What is different in the second set.
enum Difference<'a> {
    /// What concerns everybody.
    Default,
    /// Policies that are only in one of them, or in each in another way.
    Policies(Vec<&'a Policy>),
}

impl Difference<'_> {
    /// Whether connections from one to the other can be concerned.
    fn concerns(&self, from: &Group<'_>, to: &Group<'_>) -> bool {
        let Self::Policies(policies) = self else { return true };
        policies.iter().any(|policy| {
            let judges = |direction, at: &Group<'_>| {
                policy.rules(direction).is_some() && policy.subject.matches(&at.identity)
            };
            judges(Direction::Egress, from) || judges(Direction::Ingress, to)
        })
    }
}

/// What happens to a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Passes,
    Audited,
    Dropped,
}

impl<'a> Both<'a> {
    fn policies(&self) -> impl Iterator<Item = &'a Policy> {
        self.before.policies.values().chain(self.after.policies.values()).map(|policy| &**policy)
    }

    fn changed(&self) -> Option<Difference<'a>> {
        let default = |set: &PolicySet| (set.default, set.default_mode);
        if default(self.before) != default(self.after) {
            return Some(Difference::Default);
        }
        let only = |one: &'a PolicySet, other: &'a PolicySet| {
            let differs = move |(name, policy): &(&PolicyName, &Arc<Policy>)| {
                other.policies.get(*name) != Some(*policy)
            };
            one.policies.iter().filter(differs).map(|(_, policy)| &**policy)
        };
        let all: Vec<&Policy> =
            only(self.before, self.after).chain(only(self.after, self.before)).collect();
        (!all.is_empty()).then_some(Difference::Policies(all))
    }

    /// First ports of ranges in which no rule makes a difference, by protocol.
    fn cuts(&self) -> BTreeMap<Protocol, BTreeSet<u16>> {
        let mut cuts: BTreeMap<Protocol, BTreeSet<u16>> = BTreeMap::new();
        let directions = Direction::BOTH;
        let rules = self.policies().flat_map(|p| directions.iter().filter_map(|d| p.rules(*d)));
        for port in rules.flatten().flat_map(|rule| &rule.ports) {
            if let Ports::Range(first, last) = port.ports {
                let own = cuts.entry(port.protocol).or_default();
                own.insert(first);
                own.extend(last.checked_add(1));
            }
        }
        cuts
    }

    /// Every prefix that a rule names.
    fn nets(&self) -> Vec<IpNet> {
        let directions = Direction::BOTH;
        let rules = self.policies().flat_map(|p| directions.iter().filter_map(|d| p.rules(*d)));
        let mut nets = BTreeSet::new();
        for peer in rules.flatten().flat_map(|rule| &rule.peers) {
            if let Peer::Addresses { net, except } = peer {
                nets.insert(*net);
                nets.extend(except.iter().copied());
            }
        }
        nets.into_iter().collect()
    }

    /// What a change makes of one connection.
    fn effect(&self, flow: &Flow) -> Option<Effect> {
        let (before, after) = (self.fate(self.before, flow), self.fate(self.after, flow));
        match (before, after) {
            _ if before == after => None,
            (_, Fate::Dropped) => Some(Effect::Closes),
            (Fate::Dropped, _) => Some(Effect::Opens),
            (_, Fate::Audited) => Some(Effect::Audits),
            (_, Fate::Passes) => Some(Effect::AuditsNoMore),
        }
    }

    fn fate(&self, set: &PolicySet, flow: &Flow) -> Fate {
        let outcome = evaluate(set, self.directory, flow);
        let ends = [&outcome.egress, &outcome.ingress];
        match outcome.verdict() {
            Verdict::Deny => Fate::Dropped,
            Verdict::Allow if ends.into_iter().flatten().any(|end| end.audit.is_some()) => {
                Fate::Audited
            }
            Verdict::Allow => Fate::Passes,
        }
    }
}

/// Puts endpoints together that are selected by the same policies and lie in the same prefixes.
fn groups<'a>(both: &Both<'_>, endpoints: &'a BTreeMap<EndpointId, Endpoint>) -> Vec<Group<'a>> {
    let (keys, nets) = (Keys::of(both.policies()), both.nets());
    let kind = |address: &IpAddr| -> (bool, Vec<bool>) {
        (address.is_ipv6(), nets.iter().map(|net| net.contains(address)).collect())
    };
    let mut groups: BTreeMap<_, Group<'a>> = BTreeMap::new();
    for (id, endpoint) in endpoints {
        // An address that two claim is the first one's.
        let own = |address: &IpAddr| {
            both.directory.find(*address).is_some_and(|e| std::ptr::eq(e, endpoint))
        };
        let addresses = endpoint.addresses.iter().copied().filter(own);
        let kinds: BTreeMap<_, IpAddr> = addresses.map(|a| (kind(&a), a)).collect();
        let mut identity = (*endpoint.identity).clone();
        identity.labels = keys.of_pod(&identity.labels);
        identity.namespace_labels = keys.of_namespace(&identity.namespace_labels);
        let ports: BTreeMap<_, _> =
            endpoint.named_ports.iter().filter(|((_, name), _)| keys.has_port(name)).collect();
        let key = (identity.clone(), ports, kinds.keys().cloned().collect::<Vec<_>>());
        let group = groups.entry(key).or_insert_with(|| Group {
            members: Vec::new(),
            identity,
            endpoint,
            addresses: kinds.into_values().collect(),
        });
        group.members.push(id.clone());
    }
    groups.into_values().collect()
}

/// Judges everything that one group can send to another.
fn compare(
    both: &Both<'_>,
    cuts: &BTreeMap<Protocol, BTreeSet<u16>>,
    from: &Group<'_>,
    to: &Group<'_>,
) -> Vec<Changed> {
    let mut families = BTreeSet::new();
    let mut effects: BTreeMap<Effect, BTreeSet<traffic::Item>> = BTreeMap::new();
    for source in &from.addresses {
        for destination in to.addresses.iter().filter(|a| a.is_ipv6() == source.is_ipv6()) {
            let family = if source.is_ipv6() { Family::V6 } else { Family::V4 };
            families.insert(family);
            for item in traffic::items(family, cuts, to.endpoint) {
                let flow = Flow {
                    source: *source,
                    destination: *destination,
                    protocol: item.protocol_number(),
                    port: item.first,
                };
                if let Some(effect) = both.effect(&flow) {
                    effects.entry(effect).or_default().insert(item);
                }
            }
        }
    }
    let one = |(effect, items): (Effect, BTreeSet<traffic::Item>)| Changed {
        from: from.members.clone(),
        to: to.members.clone(),
        effect,
        traffic: Traffic::of(&items, &families),
    };
    effects.into_iter().map(one).collect()
}

#[cfg(test)]
mod tests;
