//! Tells how a cluster is: what its worker says, checked, and whether it says anything.

use std::time::Duration;

use ipnet::IpNet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use slicewire_api::ClusterStatus;
use slicewire_api::condition::{self, ACCEPTED, CONNECTED, READY};
use slicewire_core::name::cluster_namespace;
use slicewire_core::violation::{Violation, summary};

use super::observe::Observed;
use super::plan::Plan;
use super::validate::ValidatedCluster;
use crate::hub::Hub;
use crate::kubernetes::change::Change;
use crate::kubernetes::write::{self, Outcome};

/// Most prefixes that are taken from a worker.
const MAX_RESERVED: usize = 256;

/// Writes the status when it says something new.
pub(super) async fn report(
    hub: &Hub,
    observed: &Observed,
    validated: &Result<ValidatedCluster, Vec<Violation>>,
    plan: &Plan,
    outcome: &Outcome,
    now: Timestamp,
) -> Outcome {
    let new = status(observed, validated, plan, outcome, now);
    let namespace = observed.cluster.namespace().unwrap_or_default();
    // The plan may have written the object: take it as it is now.
    let current = hub.caches.clusters.get(&namespace, &observed.name());
    let change =
        current.filter(|c| c.status.as_ref() != Some(&new)).map(|c| Change::status(&*c, &new));
    let steps = vec![change.into_iter().collect()];
    hub.writer.run(steps, |object| hub.caches.note(object)).await
}

/// When the heartbeat runs out, or should have come.
pub(super) fn look_again(observed: &Observed, now: Timestamp) -> Option<Duration> {
    observed.copy.as_ref()?.status.as_ref()?;
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

/// Until when the last heartbeat counts.
fn heard_until(observed: &Observed) -> Option<Timestamp> {
    let spec = observed.heartbeat.as_ref()?.spec.as_ref()?;
    let lasts = SignedDuration::from_secs(i64::from(spec.lease_duration_seconds?.clamp(1, 300)));
    spec.renew_time.as_ref()?.0.checked_add(lasts).ok()
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
        nodes: told.nodes,
        kubernetes_version: told.kubernetes_version.map(|v| short(&v)),
        version: told.version.map(|v| short(&v)),
        reserved_prefixes: checked(&told.reserved_prefixes),
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
    let (connected, reason, message) = connection(observed, now);
    set(CONNECTED, connected, reason, message);
    let worker = told.conditions.iter().find(|c| c.type_ == READY);
    match (validated, outcome, &plan.waiting, worker) {
        (Err(_), ..) => {
            set(READY, false, "NotAccepted", "Mend what condition Accepted lists.".into())
        }
        (_, Err(errors), ..) => {
            let (reason, message) = refused(errors);
            set(READY, false, reason, message);
        }
        (_, _, Some((reason, message)), _) => set(READY, false, reason, message.clone()),
        _ if !connected => set(READY, false, "NotConnected", "See condition Connected.".into()),
        (.., Some(c)) => set(READY, c.status == "True", &word(&c.reason), short(&c.message)),
        (.., None) => set(
            READY,
            false,
            "NotReported",
            "The worker has not said yet whether it is ready.".into(),
        ),
    }
    new
}

fn connection(observed: &Observed, now: Timestamp) -> (bool, &'static str, String) {
    match heard_until(observed) {
        None => (
            false,
            "NeverConnected",
            format!("No worker has reported yet; connect it with: slicectl join {}", observed.name()),
        ),
        Some(until) if until > now => (true, "Reporting", "The worker reports.".into()),
        Some(_) => (
            false,
            "Silent",
            "The worker has stopped reporting; slices run on as they are. Check its pod in slicewire-system and its way to this API server.".into(),
        ),
    }
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

/// Takes what are prefixes from what a worker reports.
fn checked(prefixes: &[String]) -> Vec<String> {
    let nets: Vec<IpNet> =
        prefixes.iter().take(MAX_RESERVED).filter_map(|p| p.parse().ok()).collect();
    IpNet::aggregate(&nets).iter().map(IpNet::to_string).collect()
}

/// Bounds what a worker says.
fn short(text: &str) -> String {
    text.chars().take(512).collect()
}

/// A condition's reason must be a word.
fn word(text: &str) -> String {
    let word: String = text.chars().filter(char::is_ascii_alphanumeric).take(64).collect();
    if word.is_empty() { "Unknown".to_owned() } else { word }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
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
    fn what_a_worker_reports_is_bounded() {
        let told = ["10.0.0.0/24", "10.0.1.0/24", "nonsense"].map(String::from);
        assert_eq!(checked(&told), ["10.0.0.0/23"]);
        assert_eq!(word("Not a word!"), "Notaword");
        assert_eq!(word("!"), "Unknown");
    }
}
