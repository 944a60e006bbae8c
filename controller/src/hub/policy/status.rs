//! A SlicePolicy's status, as a pure function of what is known.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use slicewire_api::condition::{self, ACCEPTED, PROGRAMMED};
use slicewire_api::{
    Fault, PolicyClusterStatus, RuleHits, SlicePolicy, SlicePolicyStatus, WorkerPolicy,
};
use slicewire_core::member::sentence;
use slicewire_core::policy::Policy;
use slicewire_core::violation::{Violation, summary};

use super::observe::Observed;
use crate::kubernetes::write::{self, Outcome};

/// Most unused rules that are listed.
const MAX_UNUSED: usize = 64;
/// What a member is believed to have counted at most: sums stay far from overflowing.
const MAX_HITS: i64 = 1 << 53;

/// The status of a policy.
pub(super) fn status(
    observed: &Observed,
    name: &str,
    policy: &SlicePolicy,
    verdict: &Result<Policy, Vec<Violation>>,
    outcome: &Outcome,
    now: Timestamp,
) -> SlicePolicyStatus {
    let generation = policy.metadata.generation;
    let clusters = clusters(observed, name, policy);
    let mut conditions = policy.status.as_ref().map(|s| s.conditions.clone()).unwrap_or_default();
    let mut set = |type_, status, reason: &str, message: String| {
        let one = condition::condition(type_, status, reason, message, generation, Time(now));
        condition::set(&mut conditions, one);
    };
    let (accepted, reason, message) = accepted(observed, policy, verdict);
    set(ACCEPTED, accepted, reason, message);
    let (programmed, reason, message) = programmed(&clusters, verdict, outcome);
    set(PROGRAMMED, programmed, reason, message);
    let sum = |of: fn(&RuleHits) -> i64| {
        clusters.iter().flat_map(|c| &c.rules).fold(0i64, |sum, r| sum.saturating_add(of(r)))
    };
    SlicePolicyStatus {
        observed_generation: generation,
        programmed_clusters: Some(format!(
            "{}/{}",
            clusters.iter().filter(|c| c.programmed).count(),
            clusters.len()
        )),
        hits: sum(|rule| rule.hits),
        would_drop: sum(|rule| rule.would_drop),
        unused_rules: unused(policy, &clusters),
        clusters,
        violations: verdict
            .as_ref()
            .err()
            .into_iter()
            .flatten()
            .cloned()
            .map(Fault::from)
            .collect(),
        conditions,
    }
}

fn accepted(
    observed: &Observed,
    policy: &SlicePolicy,
    verdict: &Result<Policy, Vec<Violation>>,
) -> (bool, &'static str, String) {
    if let Err(faults) = verdict {
        let reason = faults.first().map_or("Invalid", |f| f.reason);
        let message = format!("{}. Where it was carried out, it is as it was.", summary(faults));
        return (false, reason, message);
    }
    if observed.config.is_none() {
        let message = format!("there is no SliceConfig {} in this project yet", policy.spec.slice);
        return (false, "UnknownSlice", message);
    }
    let on_slice = |namespace: &String| {
        let statuses = observed.slices.values().filter_map(|s| s.status.as_ref());
        statuses.into_iter().any(|s| s.namespaces.contains(namespace))
    };
    let named = policy.spec.namespace.iter().chain(&policy.spec.subject.namespaces);
    let away: Vec<&str> = named.filter(|n| !on_slice(n)).map(String::as_str).collect();
    if away.is_empty() {
        return (true, "Valid", "The spec is valid.".to_owned());
    }
    let message = format!(
        "The spec is valid; it applies to nobody in {}, which no cluster has on the slice now.",
        away.join(", ")
    );
    (true, "NamespaceNotOnSlice", message)
}

fn programmed(
    clusters: &[PolicyClusterStatus],
    verdict: &Result<Policy, Vec<Violation>>,
    outcome: &Outcome,
) -> (bool, &'static str, String) {
    if verdict.is_err() {
        return (false, "NotAccepted", "Mend what condition Accepted lists.".to_owned());
    }
    if let Err(errors) = outcome {
        let (reason, message) = write::summary(errors);
        return (false, reason, message);
    }
    let waiting = clusters.iter().filter(|c| !c.programmed);
    let told = waiting.map(|c| {
        let message = c.message.as_deref().unwrap_or("not carried out yet");
        format!("{}: {message}", c.name)
    });
    let told: Vec<String> = told.collect();
    match (told.is_empty(), clusters.is_empty()) {
        (_, true) => (false, "NoCluster", "no cluster has the slice yet".to_owned()),
        (true, false) => (true, "Programmed", "Every node of the slice carries it out.".to_owned()),
        (false, false) => (false, "Pending", told.join("; ")),
    }
}

fn clusters(observed: &Observed, name: &str, policy: &SlicePolicy) -> Vec<PolicyClusterStatus> {
    let one = |cluster: &slicewire_core::name::ClusterName| {
        let told = observed.told.get(&(cluster.clone(), name.to_owned()));
        let (programmed, message) = match told {
            None => (false, Some("has not been told of it yet".to_owned())),
            Some(told) => carried_out(told, policy.metadata.generation),
        };
        let hits = told.and_then(|t| t.status.as_ref()).map(|s| s.hits.as_slice());
        let rules = believed(policy, hits.unwrap_or_default());
        PolicyClusterStatus { name: cluster.to_string(), programmed, message, rules }
    };
    observed.slices.keys().map(one).collect()
}

fn carried_out(told: &WorkerPolicy, generation: Option<i64>) -> (bool, Option<String>) {
    let status = told.status.as_ref();
    let current = status.is_some_and(|s| s.revision == generation);
    let condition = status.and_then(|s| s.conditions.iter().find(|c| c.type_ == PROGRAMMED));
    match condition {
        Some(c) if c.status == "True" && current => (true, None),
        Some(c) if current => (false, Some(sentence(&c.message))),
        _ => (false, Some("its worker has not taken in the last change yet".to_owned())),
    }
}

/// A member's counts, as far as they can be about this policy.
fn believed(policy: &SlicePolicy, said: &[RuleHits]) -> Vec<RuleHits> {
    let mut sums: BTreeMap<(String, Option<i32>), (i64, i64)> = BTreeMap::new();
    for hits in said {
        let rules = match hits.direction.as_str() {
            "ingress" => policy.spec.ingress.as_ref(),
            "egress" => policy.spec.egress.as_ref(),
            _ => continue,
        };
        let Some(rules) = rules else { continue };
        let there = |index: i32| usize::try_from(index).is_ok_and(|i| i < rules.len());
        if hits.rule.is_none_or(there) {
            let sum = sums.entry((hits.direction.clone(), hits.rule)).or_default();
            sum.0 = (sum.0 + hits.hits.clamp(0, MAX_HITS)).min(MAX_HITS);
            sum.1 = (sum.1 + hits.would_drop.clamp(0, MAX_HITS)).min(MAX_HITS);
        }
    }
    let hits = sums.into_iter().map(|((direction, rule), (hits, would_drop))| RuleHits {
        direction,
        rule,
        hits,
        would_drop,
    });
    hits.collect()
}

fn unused(policy: &SlicePolicy, clusters: &[PolicyClusterStatus]) -> Vec<String> {
    let mut all = Vec::new();
    for (direction, rules) in [("ingress", &policy.spec.ingress), ("egress", &policy.spec.egress)] {
        for index in 0..rules.as_ref().map_or(0, Vec::len) {
            let number = i32::try_from(index).ok();
            let hit = clusters
                .iter()
                .flat_map(|c| &c.rules)
                .any(|r| r.direction == direction && r.rule == number && r.hits + r.would_drop > 0);
            if !hit {
                all.push(format!("{direction}[{index}]"));
            }
        }
    }
    all.truncate(MAX_UNUSED);
    all
}
