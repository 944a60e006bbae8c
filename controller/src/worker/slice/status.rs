//! How a slice is in this cluster, as a pure function of what is known.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use slicewire_api::condition::{self, ACCEPTED, QOS_HONOURED, READY, REMOVED};
use slicewire_api::{AttachFailure, Slice, SliceStatus, WorkerSliceStatus, convert};
use slicewire_core::onboarding::namespace_member;
use slicewire_core::prefix::Family;
use slicewire_core::violation::{Violation, summary};

use super::isolation;
use super::observe::Observed;
use super::plan::Plan;
use super::validate::Valid;
use crate::kubernetes::write::{self, Outcome};
use crate::worker::node_blocks;

/// Most failures that are listed.
const MAX_FAILURES: usize = 32;
/// Most namespaces that are listed.
const MAX_NAMESPACES: usize = 256;

/// What is to be said, in whatever place.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Verdict {
    ready: bool,
    reason: String,
    message: String,
}

/// Whether this cluster carries the slice, and if not, why and what to do.
pub(super) fn verdict(observed: &Observed, plan: &Plan, outcome: &Outcome) -> Verdict {
    let no =
        |reason: &str, message: String| Verdict { ready: false, reason: reason.into(), message };
    if let Err(errors) = outcome {
        let (reason, message) = write::summary(errors);
        return no(reason, message);
    }
    if let Some((reason, message)) = &plan.waiting {
        return no(reason, message.clone());
    }
    if observed.slice.is_none() {
        return no("NotMirrored", "the slice is not in this cluster".into());
    }
    let failing = observed
        .nodes
        .iter()
        .find_map(|n| Some((&n.spec.node, unready(&n.status.as_ref()?.conditions)?)));
    if let Some((node, why)) = failing {
        return no(&why.reason, format!("node {node}: {}", why.message));
    }
    let silent = observed.nodes.iter().find(|n| n.status.is_none());
    if let Some(node) = silent {
        let what = format!(
            "netop-daemon on node {} has not reported yet; see that its pod runs there",
            node.spec.node
        );
        return no("WaitingForNode", what);
    }
    if let Some(gateway) = observed.gateway.as_ref().filter(|g| !g.spec.lanes.is_empty()) {
        let conditions =
            gateway.status.as_ref().map(|s| s.conditions.as_slice()).unwrap_or_default();
        match conditions.iter().find(|c| c.type_ == READY) {
            Some(c) if c.status == "True" => {}
            Some(c) => return no(&c.reason, c.message.clone()),
            None => return no("WaitingForGateways", "the gateways are being started".into()),
        }
    }
    let taken = observed.slice.as_ref().map(|slice| isolation::foreign(observed, slice));
    if let Some(namespace) = taken.unwrap_or_default().first() {
        let name =
            isolation::name(&observed.slice.iter().map(|s| s.name_any()).collect::<String>());
        let what = format!(
            "namespace {namespace} is not isolated: the NetworkPolicy {name} there is not ours; rename or delete it"
        );
        return no("IsolationNameTaken", what);
    }
    Verdict {
        ready: true,
        reason: "Carried".into(),
        message: "Nodes and gateways carry the slice.".into(),
    }
}

fn unready(conditions: &[Condition]) -> Option<&Condition> {
    conditions.iter().find(|c| c.type_ == READY && c.status != "True")
}

/// The status of the mirror.
pub(super) fn local(observed: &Observed, verdict: &Verdict, now: Timestamp) -> SliceStatus {
    let Some(slice) = &observed.slice else { return SliceStatus::default() };
    let mut conditions = slice.status.as_ref().map(|s| s.conditions.clone()).unwrap_or_default();
    set(&mut conditions, READY, verdict, slice.metadata.generation, now);
    SliceStatus {
        observed_generation: slice.metadata.generation,
        nodes: i32::try_from(observed.nodes.len()).unwrap_or(i32::MAX),
        attached_pods: attached(observed),
        namespaces: namespaces(observed),
        failures: failures(observed),
        conditions,
    }
}

/// What the hub is told.
pub(super) fn for_hub(
    observed: &Observed,
    validated: &Option<Result<Valid, Vec<Violation>>>,
    verdict: &Verdict,
    plan: &Plan,
    now: Timestamp,
) -> Option<WorkerSliceStatus> {
    let told = observed.told.slice()?;
    let generation = told.metadata.generation;
    let mut conditions = told.status.as_ref().map(|s| s.conditions.clone()).unwrap_or_default();
    let faults = validated.as_ref().and_then(|v| v.as_ref().err());
    let accepted = match faults {
        None => Verdict {
            ready: true,
            reason: "Valid".into(),
            message: "The plan can be carried out.".into(),
        },
        Some(faults) => Verdict {
            ready: false,
            reason: faults.first().map_or("Invalid", |f| f.reason).into(),
            message: summary(faults),
        },
    };
    set(&mut conditions, ACCEPTED, &accepted, generation, now);
    let refused = Verdict { reason: "PlanRefused".into(), ..accepted.clone() };
    set(&mut conditions, READY, if accepted.ready { verdict } else { &refused }, generation, now);
    if told.metadata.deletion_timestamp.is_some() {
        let (reason, message) = if plan.removed {
            ("Clean", "Nothing of the slice is left in the cluster.".to_owned())
        } else {
            (verdict.reason.as_str(), verdict.message.clone())
        };
        let removed = Verdict { ready: plan.removed, reason: reason.into(), message };
        set(&mut conditions, REMOVED, &removed, generation, now);
    }
    match super::qos::honoured(observed) {
        Some((ready, reason, message)) => {
            let verdict = Verdict { ready, reason, message };
            set(&mut conditions, QOS_HONOURED, &verdict, generation, now);
        }
        None => conditions.retain(|c| c.type_ != QOS_HONOURED),
    }
    Some(WorkerSliceStatus {
        observed_generation: generation,
        attached_pods: attached(observed),
        namespaces: namespaces(observed),
        exhausted_families: exhausted(observed),
        policy_keys: super::network_policies::keys(observed),
        failures: failures(observed),
        qos: super::qos::traffic(observed),
        conditions,
    })
}

fn set(
    list: &mut Vec<Condition>,
    type_: &str,
    v: &Verdict,
    generation: Option<i64>,
    now: Timestamp,
) {
    let one =
        condition::condition(type_, v.ready, &v.reason, v.message.clone(), generation, Time(now));
    condition::set(list, one);
}

fn attached(observed: &Observed) -> i32 {
    observed.nodes.iter().filter_map(|n| n.status.as_ref()).map(|s| s.attached_pods).sum()
}

fn failures(observed: &Observed) -> Vec<AttachFailure> {
    let all = observed.nodes.iter().filter_map(|n| n.status.as_ref()).flat_map(|s| &s.failures);
    let mut list: Vec<AttachFailure> = all.cloned().collect();
    list.sort_by(|a, b| a.pod.cmp(&b.pod));
    list.truncate(MAX_FAILURES);
    list
}

fn namespaces(observed: &Observed) -> Vec<String> {
    member_namespaces(observed).take(MAX_NAMESPACES).collect()
}

/// Namespaces whose pods are or may be members.
pub(super) fn member_namespaces(observed: &Observed) -> impl Iterator<Item = String> + '_ {
    observed.slice.iter().flat_map(|slice| onboarded(observed, slice))
}

fn onboarded(observed: &Observed, slice: &Slice) -> Vec<String> {
    let name = slice.metadata.name.as_deref().unwrap_or_default();
    let rules = convert::rules("spec.namespaces", &slice.spec.namespaces, None).unwrap_or_default();
    let onboarded = observed.namespaces.iter().filter(|(ns, labels)| {
        !slicewire_core::onboarding::is_system_namespace(ns)
            && namespace_member(name, &rules, ns, labels)
    });
    onboarded.map(|(ns, _)| ns.clone()).collect()
}

/// Families in which a node did not get a whole block out of this cluster's pools.
fn exhausted(observed: &Observed) -> Vec<String> {
    let Some(slice) = observed.slice.as_ref().filter(|s| s.metadata.deletion_timestamp.is_none())
    else {
        return Vec::new();
    };
    let nodes: BTreeMap<_, _> =
        observed.nodes.iter().map(|n| (n.spec.node.clone(), node_blocks::facts(n))).collect();
    let plan = node_blocks::blocks(slice, &nodes, &[]);
    let name = |family: &Family| match family {
        Family::V4 => "IPv4".to_owned(),
        Family::V6 => "IPv6".to_owned(),
    };
    plan.exhausted.iter().map(name).collect()
}
