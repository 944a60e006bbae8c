//! Tells how a project is.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use slicewire_api::ProjectStatus;
use slicewire_api::condition::{self, ACCEPTED, READY};
use slicewire_core::name::{ProjectName, project_namespace};
use slicewire_core::violation::{Violation, summary};

use super::observe::Observed;
use super::plan::Plan;
use crate::hub::Hub;
use crate::kubernetes::change::Change;
use crate::kubernetes::write::{self, Outcome};

/// Writes the status when it says something new.
pub(super) async fn report(
    hub: &Hub,
    observed: &Observed,
    validated: &Result<ProjectName, Vec<Violation>>,
    plan: &Plan,
    outcome: &Outcome,
    now: Timestamp,
) -> Outcome {
    let old = observed.project.status.clone().unwrap_or_default();
    let new = status(observed, validated, plan, outcome, now);
    if new == old {
        return hub.writer.run(Vec::new(), |_| {}).await;
    }
    // The plan may have written the object: take it as it is now.
    let name = observed.project.metadata.name.clone().unwrap_or_default();
    let Some(current) = hub.caches.projects.get("", &name) else {
        return hub.writer.run(Vec::new(), |_| {}).await;
    };
    let change = Change::status(&*current, &new);
    hub.writer.run(vec![vec![change]], |object| hub.caches.note(object)).await
}

fn status(
    observed: &Observed,
    validated: &Result<ProjectName, Vec<Violation>>,
    plan: &Plan,
    outcome: &Outcome,
    now: Timestamp,
) -> ProjectStatus {
    let generation = observed.project.metadata.generation;
    let mut new = observed.project.status.clone().unwrap_or_default();
    new.observed_generation = generation;
    new.clusters = i32::try_from(observed.clusters.len()).unwrap_or(i32::MAX);
    new.slices = i32::try_from(observed.configs.len()).unwrap_or(i32::MAX);
    let mut set = |type_, status, reason: &str, message: String| {
        let new_one = condition::condition(type_, status, reason, message, generation, Time(now));
        condition::set(&mut new.conditions, new_one);
    };
    match validated {
        Ok(_) => set(ACCEPTED, true, "Valid", "The project is valid.".into()),
        Err(faults) => {
            let reason = faults.first().map_or("Invalid", |f| f.reason);
            set(ACCEPTED, false, reason, summary(faults));
        }
    }
    match (validated, outcome, &plan.waiting) {
        (Err(_), ..) => {
            set(READY, false, "NotAccepted", "Mend what condition Accepted lists.".into())
        }
        (_, Err(errors), _) => {
            let (reason, message) = refused(errors);
            set(READY, false, reason, message);
        }
        (_, _, Some(waiting)) => set(READY, false, "Deleting", waiting.clone()),
        (Ok(_), Ok(_), None) => {
            set(READY, true, "NamespaceReady", "The project's namespace is there.".into())
        }
    }
    if let Ok(name) = validated {
        new.namespace = Some(project_namespace(name));
    }
    new
}

fn refused(errors: &[write::WriteError]) -> (&'static str, String) {
    if errors.iter().any(write::WriteError::is_taken) {
        return (
            "NamespaceTaken",
            "The project's namespace exists and was not made by Slicewire; delete it, label it app.kubernetes.io/managed-by=slicewire-hub to hand it over, or choose another project name.".into(),
        );
    }
    write::summary(errors)
}
