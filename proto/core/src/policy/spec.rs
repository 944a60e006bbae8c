//! Policies as users write them → [`model`](super::model), or every fault.

mod check;
mod raw;

use std::collections::{BTreeMap, BTreeSet};

use self::check::{known_clusters, label_key, label_value, names, port_name, service_accounts};
use super::model::{Action, Mode, Peer, Policy, PortMatch, Ports, Protocol, Rule, Tier, Who};
use crate::name::ClusterName;
use crate::prefix::{self, Family};
use crate::selector::{Operator, Requirement, Selector};
use crate::violation::Violation;

pub use raw::{
    RawPeer, RawPolicy, RawPort, RawPortValue, RawRequirement, RawRule, RawSelector, RawWho,
};

/// Highest priority number of an admin policy.
pub const MAX_PRIORITY: i64 = 1000;
/// Most rules of a policy in one direction.
pub const MAX_RULES: usize = 1000;
/// Most peers, and most ports, of a rule; most values of a requirement; most exceptions.
pub const MAX_LIST: usize = 1000;

/// Checks a policy. `clusters` are the slice's.
///
/// # Errors
/// Every fault, in the order of fields.
pub fn parse(raw: &RawPolicy, clusters: &BTreeSet<ClusterName>) -> Result<Policy, Vec<Violation>> {
    let mut parser = Parser::new(clusters, raw.namespace.as_deref());
    let policy = parser.policy(raw);
    parser.finish(policy)
}

/// Faults of policies that are right each by itself: admin policies that share a priority, where
/// the order of their rules would be nobody's choice. The first by name is in its place, the
/// others are at fault.
pub fn conflicts(policies: &BTreeMap<String, Policy>) -> BTreeMap<String, Violation> {
    let mut taken: BTreeMap<u16, &str> = BTreeMap::new();
    let mut faults = BTreeMap::new();
    for (name, policy) in policies {
        let Tier::Admin { priority } = policy.tier else { continue };
        if let Some(other) = taken.get(&priority) {
            let fault = Violation::new(
                "spec.priority",
                priority.to_string(),
                "ConflictingPriority",
                format!("is {other}'s, too; give every admin policy of a slice its own"),
            );
            faults.insert(name.clone(), fault);
        } else {
            taken.insert(priority, name);
        }
    }
    faults
}

/// Parses one policy, collecting faults.
pub(super) struct Parser<'a> {
    clusters: &'a BTreeSet<ClusterName>,
    /// Where namespaced policies look for pods unless they say otherwise.
    namespace: Option<&'a str>,
    faults: Vec<Violation>,
}

impl<'a> Parser<'a> {
    pub(super) fn new(clusters: &'a BTreeSet<ClusterName>, namespace: Option<&'a str>) -> Self {
        Self { clusters, namespace, faults: Vec::new() }
    }

    pub(super) fn finish(self, policy: Policy) -> Result<Policy, Vec<Violation>> {
        if self.faults.is_empty() { Ok(policy) } else { Err(self.faults) }
    }

    pub(super) fn fault(
        &mut self,
        field: &str,
        value: impl Into<String>,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        self.faults.push(Violation::new(field, value, reason, message));
    }

    fn policy(&mut self, raw: &RawPolicy) -> Policy {
        let tier = self.tier(raw);
        let mode = match raw.enforce.as_str() {
            "" | "enforce" => Mode::Enforce,
            "audit" => Mode::Audit,
            other => {
                self.fault("spec.enforce", other, "Enforce", "must be 'enforce' or 'audit'");
                Mode::Enforce
            }
        };
        let mut subject = self.who("spec.subject", &raw.subject);
        if let Some(namespace) = self.namespace {
            let elsewhere = raw.subject.namespaces.iter().any(|n| n != namespace);
            if elsewhere || raw.subject.namespace_selector.is_some() {
                self.fault(
                    "spec.subject",
                    raw.subject.namespaces.join(", "),
                    "ForeignSubject",
                    format!("a namespaced policy applies to pods of its own namespace, {namespace}; leave namespaces out"),
                );
            }
            subject.namespaces = BTreeSet::from([namespace.to_owned()]);
        }
        if raw.ingress.is_none() && raw.egress.is_none() {
            let help = "has neither ingress nor egress and so says nothing; an empty list of rules allows nothing";
            self.fault("spec", "", "NoDirection", help);
        }
        let mut rules = |field: &str, rules: &Option<Vec<RawRule>>| {
            rules.as_ref().map(|rules| self.rules(field, rules, tier))
        };
        let ingress = rules("spec.ingress", &raw.ingress);
        let egress = rules("spec.egress", &raw.egress);
        Policy { tier, mode, subject, ingress, egress }
    }

    fn tier(&mut self, raw: &RawPolicy) -> Tier {
        match (raw.priority, &raw.namespace) {
            (None, Some(namespace)) => {
                names("metadata.namespace", std::slice::from_ref(namespace), &mut self.faults);
                Tier::Namespaced
            }
            (Some(priority), None) if (0..=MAX_PRIORITY).contains(&priority) => {
                Tier::Admin { priority: u16::try_from(priority).unwrap_or_default() }
            }
            (Some(priority), None) => {
                let help = format!("is outside 0 to {MAX_PRIORITY}");
                self.fault("spec.priority", priority.to_string(), "Priority", help);
                Tier::Admin { priority: 0 }
            }
            (Some(priority), Some(_)) => {
                let help = "belongs to admin policies; namespaced ones have no order among them";
                self.fault("spec.priority", priority.to_string(), "Priority", help);
                Tier::Namespaced
            }
            (None, None) => {
                let help = format!(
                    "is missing; admin policies need one from 0 (asked first) to {MAX_PRIORITY}"
                );
                self.fault("spec.priority", "", "Priority", help);
                Tier::Admin { priority: 0 }
            }
        }
    }

    fn too_many(&mut self, field: &str, count: usize, most: usize) {
        if count > most {
            let help = format!("has {count} entries; {most} are accepted");
            self.fault(field, "", "TooMany", help);
        }
    }

    pub(super) fn rules(&mut self, field: &str, rules: &[RawRule], tier: Tier) -> Vec<Rule> {
        self.too_many(field, rules.len(), MAX_RULES);
        let one = |(i, rule)| self.rule(&format!("{field}[{i}]"), rule, tier);
        rules.iter().enumerate().map(one).collect()
    }

    fn rule(&mut self, field: &str, raw: &RawRule, tier: Tier) -> Rule {
        let action = match (raw.action.as_str(), tier) {
            ("" | "Allow", _) => Action::Allow,
            ("Deny", Tier::Admin { .. }) => Action::Deny,
            ("Pass", Tier::Admin { .. }) => Action::Pass,
            (other, Tier::Admin { .. }) => {
                let help = "must be 'Allow', 'Deny' or 'Pass'";
                self.fault(&format!("{field}.action"), other, "Action", help);
                Action::Deny
            }
            (other, Tier::Namespaced) => {
                let help =
                    "must be 'Allow': namespaced policies list what passes, and the rest does not";
                self.fault(&format!("{field}.action"), other, "Action", help);
                Action::Allow
            }
        };
        self.too_many(&format!("{field}.peers"), raw.peers.len(), MAX_LIST);
        self.too_many(&format!("{field}.ports"), raw.ports.len(), MAX_LIST);
        let peers = raw.peers.iter().enumerate();
        let peers = peers.filter_map(|(i, p)| self.peer(&format!("{field}.peers[{i}]"), p));
        let peers = peers.collect();
        let ports = raw.ports.iter().enumerate();
        let ports = ports.filter_map(|(i, p)| self.port(&format!("{field}.ports[{i}]"), p));
        Rule { action, peers, ports: ports.collect() }
    }

    fn peer(&mut self, field: &str, raw: &RawPeer) -> Option<Peer> {
        let chosen = [raw.slice, !raw.who.is_empty(), raw.cidr.is_some()];
        let count = chosen.into_iter().filter(|chosen| *chosen).count();
        if count != 1 {
            let help = "must be one of: slice, a cidr, or endpoints by clusters, namespaces, serviceAccounts and selectors";
            self.fault(field, "", "Peer", help);
            return None;
        }
        if let Some(cidr) = &raw.cidr {
            return self.addresses(field, cidr, &raw.except);
        }
        if !raw.except.is_empty() {
            let help = "needs a cidr that it is taken out of";
            self.fault(&format!("{field}.except"), raw.except.join(", "), "Except", help);
        }
        let mut who = self.who(field, &raw.who);
        // As in a NetworkPolicy: pods alone are those of the policy's own namespace.
        let says_where = !raw.who.namespaces.is_empty() || raw.who.namespace_selector.is_some();
        if let Some(namespace) = self.namespace.filter(|_| !raw.slice && !says_where) {
            let pods = raw.who.pod_selector.is_some() || !raw.who.service_accounts.is_empty();
            if pods {
                who.namespaces = BTreeSet::from([namespace.to_owned()]);
            }
        }
        Some(Peer::Endpoints(who))
    }

    fn addresses(&mut self, field: &str, cidr: &str, except: &[String]) -> Option<Peer> {
        self.too_many(&format!("{field}.except"), except.len(), MAX_LIST);
        let net = prefix::parse(&format!("{field}.cidr"), cidr);
        let net = net.map_err(|fault| self.faults.push(fault)).ok();
        let mut out = BTreeSet::new();
        for (i, text) in except.iter().enumerate() {
            let field = format!("{field}.except[{i}]");
            match (prefix::parse(&field, text), net) {
                (Err(fault), _) => self.faults.push(fault),
                (Ok(one), Some(net)) if Family::of(&one) != Family::of(&net) => {
                    let help = format!("is not of the same address family as {net}");
                    self.fault(&field, text, "Family", help);
                }
                (Ok(one), Some(net)) if !net.contains(&one) || one == net => {
                    let help = format!("does not lie within {net} and leave something of it");
                    self.fault(&field, text, "Except", help);
                }
                (Ok(one), _) => {
                    out.insert(one);
                }
            }
        }
        net.map(|net| Peer::Addresses { net, except: out })
    }

    fn who(&mut self, field: &str, raw: &RawWho) -> Who {
        let clusters = format!("{field}.clusters");
        let clusters = known_clusters(&clusters, &raw.clusters, self.clusters, &mut self.faults);
        names(&format!("{field}.namespaces"), &raw.namespaces, &mut self.faults);
        let accounts = format!("{field}.serviceAccounts");
        service_accounts(&accounts, &raw.service_accounts, &mut self.faults);
        let mut selector = |name: &str, raw: &Option<RawSelector>| {
            let field = format!("{field}.{name}");
            raw.as_ref().map(|raw| self.selector(&field, raw)).unwrap_or_default()
        };
        let namespace_selector = selector("namespaceSelector", &raw.namespace_selector);
        let pods = selector("podSelector", &raw.pod_selector);
        Who {
            clusters,
            namespaces: raw.namespaces.iter().cloned().collect(),
            namespace_selector,
            service_accounts: raw.service_accounts.iter().cloned().collect(),
            pods,
        }
    }

    pub(super) fn selector(&mut self, field: &str, raw: &RawSelector) -> Selector {
        let mut requirements = Vec::new();
        for (key, value) in &raw.match_labels {
            let field = format!("{field}.matchLabels");
            label_key(&field, key, &mut self.faults);
            label_value(&field, value, &mut self.faults);
            let (key, values) = (key.clone(), vec![value.clone()]);
            requirements.push(Requirement { key, operator: Operator::In, values });
        }
        for (i, raw) in raw.match_expressions.iter().enumerate() {
            let field = format!("{field}.matchExpressions[{i}]");
            requirements.extend(self.requirement(&field, raw));
        }
        Selector { requirements }
    }

    fn requirement(&mut self, field: &str, raw: &RawRequirement) -> Option<Requirement> {
        label_key(&format!("{field}.key"), &raw.key, &mut self.faults);
        let values = format!("{field}.values");
        self.too_many(&values, raw.values.len(), MAX_LIST);
        for value in &raw.values {
            label_value(&values, value, &mut self.faults);
        }
        let (operator, wants_values) = match raw.operator.as_str() {
            "In" => (Operator::In, true),
            "NotIn" => (Operator::NotIn, true),
            "Exists" => (Operator::Exists, false),
            "DoesNotExist" => (Operator::DoesNotExist, false),
            other => {
                let help = "must be 'In', 'NotIn', 'Exists' or 'DoesNotExist'";
                self.fault(&format!("{field}.operator"), other, "Operator", help);
                return None;
            }
        };
        if wants_values == raw.values.is_empty() {
            let help = if wants_values { "must not be empty" } else { "must be empty" };
            let help = format!("{help} with operator {}", raw.operator);
            self.fault(&values, raw.values.join(", "), "Values", help);
        }
        Some(Requirement { key: raw.key.clone(), operator, values: raw.values.clone() })
    }

    fn port(&mut self, field: &str, raw: &RawPort) -> Option<PortMatch> {
        let protocol = match raw.protocol.as_str() {
            "" | "TCP" => Protocol::Tcp,
            "UDP" => Protocol::Udp,
            "SCTP" => Protocol::Sctp,
            "ICMP" => Protocol::Icmp,
            "ICMPv6" => Protocol::Icmpv6,
            other => {
                let help = "must be 'TCP', 'UDP', 'SCTP', 'ICMP' or 'ICMPv6'";
                self.fault(&format!("{field}.protocol"), other, "Protocol", help);
                return None;
            }
        };
        if !protocol.has_ports() && (raw.port.is_some() || raw.end_port.is_some()) {
            let help = format!("{} has no ports; leave port and endPort out", raw.protocol);
            self.fault(&format!("{field}.port"), "", "PortWithoutPorts", help);
            return None;
        }
        let ports = self.ports(field, raw)?;
        Some(PortMatch { protocol, ports })
    }

    fn ports(&mut self, field: &str, raw: &RawPort) -> Option<Ports> {
        let last = raw.end_port;
        let last = last.map(|end| self.number(&format!("{field}.endPort"), end));
        match (&raw.port, last) {
            (None, None) => Some(Ports::All),
            (Some(RawPortValue::Number(first)), last) => {
                let first = self.number(&format!("{field}.port"), *first)?;
                let last = last.unwrap_or(Some(first))?;
                if last < first {
                    let help = format!("is below port, which is {first}");
                    self.fault(&format!("{field}.endPort"), last.to_string(), "PortRange", help);
                }
                Some(Ports::Range(first, last))
            }
            (Some(RawPortValue::Name(name)), None) => {
                port_name(&format!("{field}.port"), name, &mut self.faults);
                Some(Ports::Named(name.clone()))
            }
            (_, Some(_)) => {
                let end = raw.end_port.unwrap_or_default().to_string();
                let help = "needs a port with a number to begin with";
                self.fault(&format!("{field}.endPort"), end, "PortRange", help);
                None
            }
        }
    }

    fn number(&mut self, field: &str, number: i64) -> Option<u16> {
        let port = u16::try_from(number).ok().filter(|port| *port != 0);
        if port.is_none() {
            self.fault(field, number.to_string(), "Port", "is outside 1 to 65535");
        }
        port
    }
}

#[cfg(test)]
mod tests;
