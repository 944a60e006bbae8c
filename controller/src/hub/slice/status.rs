//! A SliceConfig's status, as a pure function of what is known.

use ipnet::IpNet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use slicewire_api::condition::{self, ACCEPTED, CONNECTED, KEYS_CURRENT, QOS_HONOURED, READY};
use slicewire_api::{
    Cluster, Fault, SliceClusterStatus, SliceConfigStatus, WorkerGateway, WorkerSlice,
};
use slicewire_core::member::{self, sentence, word};
use slicewire_core::name::ClusterName;
use slicewire_core::prefix::overlap;
use slicewire_core::slice_spec::ValidatedSlice;
use slicewire_core::violation::{Violation, summary};

use super::keys;
use super::observe::{Observed, nets};
use super::plan::Plan;
use crate::kubernetes::write::{self, Outcome};

/// The status of a slice.
pub(super) fn status(
    observed: &Observed,
    validated: &Result<ValidatedSlice, Vec<Violation>>,
    plan: &Plan,
    outcome: &Outcome,
    now: Timestamp,
) -> SliceConfigStatus {
    let old = observed.config.status.clone().unwrap_or_default();
    let generation = observed.config.metadata.generation;
    let clusters = clusters(observed, plan);
    let mut conditions = old.conditions;
    let mut set = |type_, status, reason: &str, message: String| {
        let one = condition::condition(type_, status, reason, message, generation, Time(now));
        condition::set(&mut conditions, one);
    };
    let faults = validated.as_ref().err().cloned().unwrap_or_default();
    if let Some(first) = faults.first() {
        let runs = if observed.running() { " The slice runs on as it was." } else { "" };
        set(ACCEPTED, false, first.reason, format!("{}.{runs}", summary(&faults)));
    } else {
        set(ACCEPTED, true, "Valid", "The spec is valid.".into());
    }
    if let Some((honoured, reason, message)) = super::qos::honoured(observed) {
        set(QOS_HONOURED, honoured, &reason, message);
    }
    if let Some((current, reason, message)) = keys::current(observed) {
        set(KEYS_CURRENT, current, reason, message);
    }
    let (ready, reason, message) = readiness(observed, &faults, plan, outcome, &clusters);
    set(READY, ready, &reason, message);
    if observed.config.spec.qos.is_none() {
        conditions.retain(|c| c.type_ != QOS_HONOURED);
    }
    SliceConfigStatus {
        observed_generation: generation,
        attached_pods: clusters.iter().fold(0, |sum, c| sum.saturating_add(c.attached_pods)),
        tunnels: tunnels(observed),
        ready_clusters: Some(format!(
            "{}/{}",
            clusters.iter().filter(|c| c.ready).count(),
            clusters.len()
        )),
        clusters,
        keys: keys::told(observed),
        violations: faults.into_iter().map(Fault::from).collect(),
        conditions,
    }
}

fn readiness(
    observed: &Observed,
    faults: &[Violation],
    plan: &Plan,
    outcome: &Outcome,
    clusters: &[SliceClusterStatus],
) -> (bool, String, String) {
    let no = |reason: &str, message: String| (false, reason.to_owned(), message);
    let behind = || {
        let waits = clusters.iter().filter(|c| !c.ready);
        let told = waits.map(|c| {
            let message = c.message.as_deref().unwrap_or("not ready");
            format!("{}: {message}", c.name)
        });
        told.collect::<Vec<_>>().join("; ")
    };
    if observed.deleting() {
        let message = if plan.leaving.is_empty() {
            "Nothing is left in any cluster.".to_owned()
        } else {
            format!("Waiting for clusters to clean up. {}", behind())
        };
        return no("Deleting", message);
    }
    if let Err(errors) = outcome {
        let (reason, message) = write::summary(errors);
        return no(reason, message);
    }
    if !faults.is_empty() && !observed.running() {
        return no("NotAccepted", "Mend what condition Accepted lists.".to_owned());
    }
    if let Some(duplicate) = plan.duplicates.first() {
        return no(
            "DuplicatePublicKey",
            format!(
                "gateways {} of clusters {} and {} publish the same public key; the one of {} is not used. Delete Secret sw-gw-<slice>-keys there to get new keys",
                duplicate.lane, duplicate.holder, duplicate.refused, duplicate.refused
            ),
        );
    }
    match clusters.iter().find(|c| !c.ready) {
        None => (true, "Carried".to_owned(), "Every cluster carries the slice.".to_owned()),
        Some(first) => {
            let reason = first.reason.clone().unwrap_or_else(|| "NotReady".to_owned());
            no(&reason, behind())
        }
    }
}

/// One entry for each cluster of the slice and for each that still holds addresses of it.
fn clusters(observed: &Observed, plan: &Plan) -> Vec<SliceClusterStatus> {
    let held = observed.held();
    let mut names: Vec<&str> =
        observed.config.spec.clusters.iter().map(|c| c.name.as_str()).collect();
    names.extend(observed.slices.keys().map(ClusterName::as_str));
    names.sort_unstable();
    names.dedup();
    names
        .into_iter()
        .map(|name| {
            let parsed = ClusterName::parse(name).ok();
            let holding = parsed.as_ref().and_then(|n| held.get(n)).cloned().unwrap_or_default();
            let slice = parsed.as_ref().and_then(|n| observed.slices.get(n)).map(|s| &**s);
            let gateway = parsed.as_ref().and_then(|n| observed.gateways.get(n)).map(|g| &**g);
            let leaving = parsed.as_ref().is_some_and(|n| plan.leaving.contains(n));
            let trouble = trouble(observed, name, slice, gateway, leaving);
            SliceClusterStatus {
                name: name.to_owned(),
                pools: super::desired::strings(&holding.pools),
                gateway_prefixes: super::desired::strings(&holding.gateways),
                attached_pods: slice
                    .and_then(|s| s.status.as_ref())
                    .map_or(0, |s| member::pods(s.attached_pods)),
                ready: trouble.is_none(),
                reason: trouble.as_ref().map(|(reason, _)| reason.clone()),
                message: trouble.map(|(_, message)| message),
            }
        })
        .collect()
}

/// Why a cluster does not carry the slice, and what to do.
fn trouble(
    observed: &Observed,
    name: &str,
    slice: Option<&WorkerSlice>,
    gateway: Option<&WorkerGateway>,
    leaving: bool,
) -> Option<(String, String)> {
    let say = |reason: &str, message: &str| Some((reason.to_owned(), message.to_owned()));
    let Some(cluster) = observed.clusters.get(name) else {
        return say("UnknownCluster", "is not registered in this project");
    };
    let Some(slice) = slice else {
        return match cluster.status.as_ref().and_then(|s| s.namespace.as_ref()) {
            None => say(
                "ClusterNotPrepared",
                "its namespace on the hub is not there yet; see the Cluster's conditions",
            ),
            Some(_) => say("NotPlanned", "has not been told of the slice yet"),
        };
    };
    let conditions = cluster.status.as_ref().map(|s| s.conditions.as_slice()).unwrap_or_default();
    let connected = conditions.iter().find(|c| c.type_ == CONNECTED);
    let status = slice.status.as_ref();
    let own = status.and_then(|s| s.conditions.iter().find(|c| c.type_ == READY));
    let current = status.is_some_and(|s| s.observed_generation == slice.metadata.generation);
    if let Some(lost) = connected.filter(|c| c.status != "True") {
        return Some((lost.reason.clone(), lost.message.clone()));
    }
    if let Some((own, prefix)) = shadowed(cluster, slice) {
        let message = format!(
            "its pods or services use {own}, which overlaps the slice's {prefix}: pods on the slice cannot reach them; give the slice other prefixes, or take the cluster out of it"
        );
        return say("ReservedPrefix", &message);
    }
    match own {
        _ if leaving => {
            let what = own.map_or("has not answered yet".to_owned(), |c| sentence(&c.message));
            say("Leaving", &format!("is leaving the slice: {what}"))
        }
        None => say("WaitingForWorker", "its worker has not answered yet"),
        Some(c) if c.status != "True" => Some((word(&c.reason), sentence(&c.message))),
        Some(_) if !current => say("Updating", "its worker has not taken in the last change yet"),
        Some(_) => gateway_trouble(gateway),
    }
}

/// A prefix of the cluster's own that the running slice hides from the cluster's pods.
fn shadowed(cluster: &Cluster, slice: &WorkerSlice) -> Option<(IpNet, IpNet)> {
    let reserved = nets(&cluster.status.as_ref()?.reserved_prefixes);
    let prefixes = nets(&slice.spec.prefixes);
    let pairs = reserved.iter().flat_map(|r| prefixes.iter().map(move |p| (*r, *p)));
    pairs.into_iter().find(|(r, p)| overlap(r, p))
}

fn gateway_trouble(gateway: Option<&WorkerGateway>) -> Option<(String, String)> {
    let gateway = gateway?;
    if gateway.spec.lanes.is_empty() {
        return None;
    }
    let conditions = gateway.status.as_ref().map(|s| s.conditions.as_slice()).unwrap_or_default();
    match conditions.iter().find(|c| c.type_ == READY) {
        Some(c) if c.status == "True" => None,
        Some(c) => Some((word(&c.reason), sentence(&c.message))),
        None => Some(("WaitingForGateways".into(), "its gateways have not reported yet".into())),
    }
}

/// Working tunnel ends of those that should be, over all lanes and clusters.
fn tunnels(observed: &Observed) -> Option<String> {
    let clusters = observed.gateways.len();
    let (mut up, mut planned) = (0, 0);
    for gateway in observed.gateways.values() {
        planned += gateway.spec.lanes.len() * clusters.saturating_sub(1);
        let lanes = gateway.status.iter().flat_map(|s| &s.lanes);
        up += lanes.flat_map(|l| &l.tunnels).filter(|t| t.up).count();
    }
    (planned > 0).then(|| format!("{}/{planned}", up.min(planned)))
}
