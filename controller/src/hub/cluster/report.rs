//! Tells how a cluster is: what its worker says, checked, and whether it says anything.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use slicewire_api::condition::{self, ACCEPTED, CONNECTED, LEFT, READY, REPORT_ACCEPTED};
use slicewire_api::labels::WORKER_MANAGER;
use slicewire_api::{Cluster, ClusterStatus};
use slicewire_core::member::{self, sentence, word};
use slicewire_core::name::cluster_namespace;
use slicewire_core::violation::{Violation, summary};

use super::deviations::{deviations, summary as summary_of};
use super::observe::Observed;
use super::plan::Plan;
use super::validate::ValidatedCluster;
use crate::hub::Hub;
use crate::hub::slice::desired::strings;
use crate::kubernetes::change::Change;
use crate::kubernetes::event::Notice;
use crate::kubernetes::write::{self, Outcome};

/// A difference of clocks that is not worth telling.
const MOST_SKEW: Duration = Duration::from_secs(30);

/// Writes the status when it says something new.
pub(super) async fn report(
    hub: &Hub,
    observed: &Observed,
    validated: &Result<ValidatedCluster, Vec<Violation>>,
    plan: &Plan,
    outcome: &Outcome,
    now: Timestamp,
) -> Outcome {
    let mut new = status(observed, validated, plan, outcome, now);
    let namespace = observed.cluster.namespace().unwrap_or_default();
    // The plan may have written the object, and so may have who let the cluster in: take it as it
    // is now.
    let current = hub.caches.clusters.get(&namespace, &observed.name());
    let current = current.filter(|c| c.metadata.uid == observed.cluster.metadata.uid);
    if let Some(current) = &current {
        new.cluster_uid = current.status.as_ref().and_then(|s| s.cluster_uid.clone());
        notify(hub, current, &new);
    }
    let change =
        current.filter(|c| c.status.as_ref() != Some(&new)).map(|c| Change::status(&*c, &new));
    let steps = vec![change.into_iter().collect()];
    hub.writer.run(steps, |object| hub.caches.note(object)).await
}

/// Says it where a person looks when a member begins to report what cannot be taken.
fn notify(hub: &Hub, cluster: &Cluster, new: &ClusterStatus) {
    let accepted = |status: &ClusterStatus| {
        status.conditions.iter().find(|c| c.type_ == REPORT_ACCEPTED).cloned()
    };
    let before = cluster.status.as_ref().and_then(accepted);
    let was = before.is_none_or(|c| c.status == "True");
    if let Some(now) = accepted(new).filter(|c| was && c.status != "True") {
        let notice = Notice { warning: true, reason: now.reason, note: now.message };
        hub.events.publish(cluster, vec![notice]);
    }
}

/// When the heartbeat runs out, or should have come.
pub(super) fn look_again(observed: &Observed, now: Timestamp) -> Option<Duration> {
    observed.copy.as_ref()?.status.as_ref()?;
    if left(observed) {
        return None;
    }
    match heard_until(observed) {
        Some(until) if until > now => {
            let left = until.duration_since(now);
            Some(Duration::try_from(left).unwrap_or_default() + Duration::from_millis(100))
        }
        // The first heartbeat follows the first report closely.
        None => Some(Duration::from_secs(1)),
        Some(_) => Some(Duration::from_secs(5)),
    }
}

/// Until when the last heartbeat counts, by the hub's clock.
fn heard_until(observed: &Observed) -> Option<Timestamp> {
    let lease = observed.heartbeat.as_ref()?;
    let spec = lease.spec.as_ref()?;
    let lasts = SignedDuration::from_secs(i64::from(spec.lease_duration_seconds?.clamp(1, 300)));
    let said = spec.renew_time.as_ref()?.0;
    written(lease).unwrap_or(said).checked_add(lasts).ok()
}

/// When the hub's API server took the last heartbeat: it stamps every write with its own clock, so
/// that the worker's does not matter.
fn written(lease: &Lease) -> Option<Timestamp> {
    let entries = lease.metadata.managed_fields.iter().flatten();
    let beats = entries.filter(|e| e.manager.as_deref() == Some(WORKER_MANAGER));
    beats.filter_map(|e| e.time.as_ref().map(|t| t.0)).max()
}

/// How far the worker's clock is from the hub's, where that is worth telling.
fn skew(observed: &Observed) -> Option<SignedDuration> {
    let lease = observed.heartbeat.as_ref()?;
    let said = lease.spec.as_ref()?.renew_time.as_ref()?.0;
    // Stamps are whole seconds.
    let skew = said.duration_since(written(lease)?);
    (skew.unsigned_abs() > MOST_SKEW).then_some(skew)
}

fn status(
    observed: &Observed,
    validated: &Result<ValidatedCluster, Vec<Violation>>,
    plan: &Plan,
    outcome: &Outcome,
    now: Timestamp,
) -> ClusterStatus {
    let generation = observed.cluster.metadata.generation;
    let told = observed.copy.as_ref().and_then(|c| c.status.clone()).unwrap_or_default();
    let old = observed.cluster.status.clone().unwrap_or_default();
    let prepared = validated.is_ok() && outcome.is_ok() && plan.waiting.is_none();
    let mut new = ClusterStatus {
        observed_generation: generation,
        namespace: match validated {
            Ok(place) if prepared => Some(cluster_namespace(&place.project, &place.name)),
            _ => old.namespace,
        },
        cluster_uid: old.cluster_uid,
        nodes: told.nodes.map(|n| n.max(0)),
        kubernetes_version: told.kubernetes_version.map(|v| sentence(&v)),
        version: told.version.map(|v| sentence(&v)),
        reserved_prefixes: strings(&member::reserved(&told.reserved_prefixes).0),
        conditions: old.conditions,
    };
    let mut set = |type_, status, reason: &str, message: String| {
        let one = condition::condition(type_, status, reason, message, generation, Time(now));
        condition::set(&mut new.conditions, one);
    };
    match validated {
        Ok(_) => set(ACCEPTED, true, "Valid", "The cluster is valid.".into()),
        Err(faults) => {
            set(ACCEPTED, false, faults.first().map_or("Invalid", |f| f.reason), summary(faults));
        }
    }
    let deviations = deviations(observed);
    match deviations.first() {
        None => set(REPORT_ACCEPTED, true, "Plausible", "All that is reported is taken.".into()),
        Some(first) => set(REPORT_ACCEPTED, false, first.fault.reason(), summary_of(&deviations)),
    }
    let (connected, reason, message) = connection(observed, now);
    set(CONNECTED, connected, reason, message);
    let worker = told.conditions.iter().find(|c| c.type_ == READY);
    let (ready, reason, message) = readiness(validated, plan, outcome, connected, worker);
    set(READY, ready, &reason, message);
    new
}

fn readiness(
    validated: &Result<ValidatedCluster, Vec<Violation>>,
    plan: &Plan,
    outcome: &Outcome,
    connected: bool,
    worker: Option<&Condition>,
) -> (bool, String, String) {
    let no = |reason: &str, message: &str| (false, reason.to_owned(), message.to_owned());
    match (validated, outcome, &plan.waiting, worker) {
        (Err(_), ..) => no("NotAccepted", "Mend what condition Accepted lists."),
        (_, Err(errors), ..) => {
            let (reason, message) = refused(errors);
            no(reason, &message)
        }
        (_, _, Some((reason, message)), _) => no(reason, message),
        _ if !connected => no("NotConnected", "See condition Connected."),
        (.., Some(c)) => (c.status == "True", word(&c.reason), sentence(&c.message)),
        (.., None) => no("NotReported", "The worker has not said yet whether it is ready."),
    }
}

/// Whether the last the worker said was that it leaves.
fn left(observed: &Observed) -> bool {
    let told = observed.copy.as_ref().and_then(|c| c.status.as_ref());
    told.is_some_and(|t| t.conditions.iter().any(|c| c.type_ == READY && c.reason == LEFT))
}

fn connection(observed: &Observed, now: Timestamp) -> (bool, &'static str, String) {
    if left(observed) {
        return (
            false,
            LEFT,
            "The worker's credential was removed and it has left; delete this Cluster, or let it join again with a new token: slicectl token create.".into(),
        );
    }
    match heard_until(observed) {
        None => (
            false,
            "NeverConnected",
            format!(
                "No worker has reported yet; make a token for it here with slicectl token create --cluster {}, and give it to slicectl join in the cluster",
                observed.name()
            ),
        ),
        Some(until) if until > now => (true, "Reporting", reporting(skew(observed))),
        Some(_) => (
            false,
            "Silent",
            "The worker has stopped reporting; slices run on as they are. Check its pod in slicewire-system and its way to this API server.".into(),
        ),
    }
}

fn reporting(skew: Option<SignedDuration>) -> String {
    let Some(skew) = skew else { return "The worker reports.".to_owned() };
    let how = if skew.is_negative() { "behind" } else { "ahead of" };
    format!(
        "The worker reports, but its clock is {} s {how} the hub's: certificates and times it writes may be taken for wrong; set the clock of its nodes.",
        skew.as_secs().abs()
    )
}

fn refused(errors: &[write::WriteError]) -> (&'static str, String) {
    if errors.iter().any(write::WriteError::is_taken) {
        return (
            "NamespaceTaken",
            "The cluster's namespace exists and was not made by Slicewire; delete it or choose another cluster name.".into(),
        );
    }
    write::summary(errors)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use k8s_openapi::api::coordination::v1::LeaseSpec;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

    use super::super::plan::tests::observed;
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_heartbeat_counts_until_it_runs_out() {
        let mut observed = observed();
        assert_eq!(connection(&observed, at(100)).1, "NeverConnected");
        let spec = LeaseSpec {
            lease_duration_seconds: Some(40),
            renew_time: Some(MicroTime(at(100))),
            ..LeaseSpec::default()
        };
        observed.heartbeat = Some(Lease { spec: Some(spec), ..Lease::default() });
        assert_eq!(connection(&observed, at(139)).1, "Reporting");
        assert_eq!(connection(&observed, at(141)).1, "Silent");
    }

    #[test]
    fn a_worker_that_says_goodbye_is_believed_at_once() {
        let mut observed = observed();
        let spec = LeaseSpec {
            lease_duration_seconds: Some(40),
            renew_time: Some(MicroTime(at(100))),
            ..LeaseSpec::default()
        };
        observed.heartbeat = Some(Lease { spec: Some(spec), ..Lease::default() });
        let goodbye = condition::condition(READY, false, LEFT, "", None, Time(at(101)));
        let told = ClusterStatus { conditions: vec![goodbye], ..ClusterStatus::default() };
        observed.copy =
            Some(Arc::new(Cluster { status: Some(told), ..(*observed.cluster).clone() }));
        assert_eq!(connection(&observed, at(102)).1, LEFT);
        assert_eq!(look_again(&observed, at(102)), None);
    }

    #[test]
    fn the_hubs_clock_decides_not_the_workers() {
        use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
        let mut observed = observed();
        let spec = LeaseSpec {
            lease_duration_seconds: Some(40),
            renew_time: Some(MicroTime(at(4_000))),
            ..LeaseSpec::default()
        };
        let mut lease = Lease { spec: Some(spec), ..Lease::default() };
        lease.metadata.managed_fields = Some(vec![ManagedFieldsEntry {
            manager: Some(WORKER_MANAGER.to_owned()),
            time: Some(Time(at(1_000))),
            ..ManagedFieldsEntry::default()
        }]);
        observed.heartbeat = Some(lease);
        let (connected, _, message) = connection(&observed, at(1_039));
        assert!(connected && message.contains("3000 s ahead of"), "{message}");
        assert_eq!(connection(&observed, at(1_041)).1, "Silent");
    }

    #[test]
    fn who_has_joined_stays_booked() {
        let mut observed = observed();
        let cluster = Arc::make_mut(&mut observed.cluster);
        let status = ClusterStatus { cluster_uid: Some("u".into()), ..ClusterStatus::default() };
        cluster.status = Some(status);
        let validated = super::super::validate::validate(&observed);
        let plan = super::super::plan::plan(&observed, &validated);
        let failed = Err(Vec::new());
        let new = super::status(&observed, &validated, &plan, &failed, at(1));
        assert_eq!(new.cluster_uid.as_deref(), Some("u"));
    }
}
