//! Whether policies can be had as they are written; the reconciler and the webhook ask the same.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kube::ResourceExt;
use slicewire_api::{SliceConfig, SlicePolicy, WorkerPolicy};
use slicewire_core::name::ClusterName;
use slicewire_core::policy::keys::MAX_KEYS;
use slicewire_core::policy::{Keys, Policy, spec};
use slicewire_core::violation::Violation;

use super::observe::{Observed, observe};
use crate::hub::Caches;

/// Each policy by name: checked, or every fault.
pub(super) type Validated = BTreeMap<String, Result<Policy, Vec<Violation>>>;

/// Checks every policy of a slice.
pub(super) fn validate(observed: &Observed) -> Validated {
    let clusters = observed.config.as_deref().map(clusters);
    let mut validated: Validated = observed
        .policies
        .iter()
        .map(|(name, policy)| (name.clone(), one(policy, clusters.as_ref())))
        .collect();
    let good: BTreeMap<String, Policy> = validated
        .iter()
        .filter_map(|(name, policy)| Some((name.clone(), policy.as_ref().ok()?.clone())))
        .collect();
    for (name, conflict) in spec::conflicts(&good) {
        validated.insert(name, Err(vec![conflict]));
    }
    validated
}

/// The faults of a policy that somebody wants to store. That its slice is not there yet is none:
/// the two may come in any order.
pub(in crate::hub) fn admit(caches: &Caches, policy: SlicePolicy) -> Vec<Violation> {
    let (namespace, name) = (policy.namespace().unwrap_or_default(), policy.name_any());
    let mut observed = observe(caches, &(namespace, policy.spec.slice.clone()));
    let clusters = observed.config.as_deref().map(clusters);
    let mut faults = one(&policy, clusters.as_ref()).err().unwrap_or_default();
    let taken = observed.policies.values().find(|other| {
        let priority = policy.spec.priority;
        priority.is_some() && other.spec.priority == priority && other.name_any() != name
    });
    if let (Some(other), Some(priority)) = (taken, policy.spec.priority) {
        let message =
            format!("is {}'s, too; give every admin policy of a slice its own", other.name_any());
        let (field, value) = ("spec.priority", priority.to_string());
        faults.push(Violation::new(field, value, "ConflictingPriority", message));
    }
    observed.policies.insert(name, Arc::new(policy));
    let keys = Keys::of(validate(&observed).values().filter_map(|p| p.as_ref().ok()));
    if keys.is_too_much() {
        let message = format!(
            "makes the slice's policies select on more than {MAX_KEYS} label keys or port names; each is told of every pod to every cluster"
        );
        faults.push(Violation::new("spec", "", "TooManyKeys", message));
    }
    faults
}

fn one(
    policy: &SlicePolicy,
    clusters: Option<&BTreeSet<ClusterName>>,
) -> Result<Policy, Vec<Violation>> {
    match clusters {
        Some(clusters) => policy.spec.parse(clusters),
        None => policy.spec.parse_alone(),
    }
}

fn clusters(config: &SliceConfig) -> BTreeSet<ClusterName> {
    config.spec.clusters.iter().filter_map(|c| ClusterName::parse(&c.name).ok()).collect()
}

/// What is asked of the slice's pods: by policies as they are written, by those that clusters are
/// still told as they were, and by clusters' own NetworkPolicies where they hold. `None` where
/// nothing is asked, and so nothing is told.
pub(in crate::hub) fn keys<'a>(
    written: impl IntoIterator<Item = &'a SlicePolicy>,
    told: impl IntoIterator<Item = &'a WorkerPolicy>,
    members: impl IntoIterator<Item = Keys>,
) -> Option<Keys> {
    let written = written.into_iter().filter_map(|p| p.spec.parse_alone().ok());
    let told = told.into_iter().filter_map(|p| p.spec.rules.parse_alone().ok());
    let policies: Vec<Policy> = written.chain(told).collect();
    let members: Vec<Keys> = members.into_iter().collect();
    if policies.is_empty() && members.is_empty() {
        return None;
    }
    let mut keys = Keys::of(&policies);
    for member in members {
        // What one cluster asks must not make all the others tell more than there is room for.
        let with = keys.clone().and(member);
        if !with.is_too_much() {
            keys = with;
        }
    }
    Some(keys)
}
