//! Kubernetes' NetworkPolicy (`networking.k8s.io/v1`), as plain values → [`model`](super::model),
//! or every fault.
//!
//! On a slice such a policy applies to the pods of its namespace in the cluster it was written in.
//! Its peers are meant across clusters: a namespace is the same namespace in every cluster of the
//! slice, as in the multi-cluster services API.

use std::collections::BTreeSet;

use super::model::{Action, Mode, Policy, Tier, Who};
use super::spec::{Parser, RawPeer, RawPort, RawRule, RawSelector, RawWho};
use crate::name::ClusterName;
use crate::violation::Violation;

/// A NetworkPolicy.
#[derive(Debug, Clone, Default)]
pub struct NetworkPolicy {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `spec.podSelector`.
    pub pod_selector: RawSelector,
    /// `spec.policyTypes`: `Ingress`, `Egress`; empty: ingress, and egress if it has rules.
    pub policy_types: Vec<String>,
    /// `spec.ingress`, with `from` as peers.
    pub ingress: Vec<NetworkRule>,
    /// `spec.egress`, with `to` as peers.
    pub egress: Vec<NetworkRule>,
}

/// A rule of a NetworkPolicy.
#[derive(Debug, Clone, Default)]
pub struct NetworkRule {
    /// `from` or `to`.
    pub peers: Vec<NetworkPeer>,
    /// `ports`.
    pub ports: Vec<RawPort>,
}

/// A peer of a NetworkPolicy.
#[derive(Debug, Clone, Default)]
pub struct NetworkPeer {
    /// `podSelector`.
    pub pod_selector: Option<RawSelector>,
    /// `namespaceSelector`.
    pub namespace_selector: Option<RawSelector>,
    /// `ipBlock.cidr`.
    pub cidr: Option<String>,
    /// `ipBlock.except`.
    pub except: Vec<String>,
}

/// Checks a NetworkPolicy of `cluster`.
///
/// # Errors
/// Every fault, in the order of fields.
pub fn parse(raw: &NetworkPolicy, cluster: &ClusterName) -> Result<Policy, Vec<Violation>> {
    let none = BTreeSet::new();
    let mut parser = Parser::new(&none, Some(&raw.namespace));
    let pods = parser.selector("spec.podSelector", &raw.pod_selector);
    let subject = Who {
        clusters: BTreeSet::from([cluster.clone()]),
        namespaces: BTreeSet::from([raw.namespace.clone()]),
        pods,
        ..Who::default()
    };
    for (i, name) in raw.policy_types.iter().enumerate() {
        if !["Ingress", "Egress"].contains(&name.as_str()) {
            let field = format!("spec.policyTypes[{i}]");
            parser.fault(&field, name, "PolicyType", "must be 'Ingress' or 'Egress'");
        }
    }
    let named = |name: &str| raw.policy_types.iter().any(|one| one == name);
    let unnamed = raw.policy_types.is_empty();
    let mut rules = |field: &str, wanted: bool, rules: &[NetworkRule]| {
        let raw: Vec<RawRule> = rules.iter().map(RawRule::from).collect();
        let rules = parser.rules(field, &raw, Tier::Namespaced);
        debug_assert!(rules.iter().all(|rule| rule.action == Action::Allow));
        wanted.then_some(rules)
    };
    let ingress = rules("spec.ingress", unnamed || named("Ingress"), &raw.ingress);
    let wanted = named("Egress") || (unnamed && !raw.egress.is_empty());
    let egress = rules("spec.egress", wanted, &raw.egress);
    let policy = Policy { tier: Tier::Namespaced, mode: Mode::Enforce, subject, ingress, egress };
    parser.finish(policy)
}

impl From<&NetworkRule> for RawRule {
    fn from(rule: &NetworkRule) -> Self {
        let peers = rule.peers.iter().map(RawPeer::from).collect();
        Self { action: String::new(), peers, ports: rule.ports.clone() }
    }
}

impl From<&NetworkPeer> for RawPeer {
    fn from(peer: &NetworkPeer) -> Self {
        let who = RawWho {
            namespace_selector: peer.namespace_selector.clone(),
            pod_selector: peer.pod_selector.clone(),
            ..RawWho::default()
        };
        Self { slice: false, who, cidr: peer.cidr.clone(), except: peer.except.clone() }
    }
}

#[cfg(test)]
mod tests;
