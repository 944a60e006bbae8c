//! Tells how a token is.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use slicewire_api::condition::{self, ACCEPTED, READY};
use slicewire_api::{JoinToken, JoinTokenStatus};
use slicewire_core::name::token_namespace;
use slicewire_core::violation::{Violation, summary};

use super::observe::{Observed, observe};
use super::plan::{FLOODED, Plan};
use super::validate::{ValidatedToken, validate};
use crate::hub::Hub;
use crate::kubernetes::cache::Key;
use crate::kubernetes::change::Change;
use crate::kubernetes::write::{self, Outcome};

/// Writes the status when it says something new.
pub(super) async fn report(
    hub: &Hub,
    key: &Key,
    validated: &Result<ValidatedToken, Vec<Violation>>,
    plan: &Plan,
    outcome: &Outcome,
    now: Timestamp,
) -> Outcome {
    // The plan may have counted a use: tell of the token as it is now, and never take one back.
    let Some(current) = observe(hub, key) else {
        return hub.writer.run(Vec::new(), |_| {}).await;
    };
    let counted = validate(&current);
    let validated = if validated.is_ok() { &counted } else { validated };
    let new = status(&current, validated, plan, outcome, now);
    let changed = current.token.status.as_ref() != Some(&new);
    let change = changed.then(|| Change::status(&*current.token, &new));
    hub.writer.run(vec![change.into_iter().collect()], |object| hub.caches.note(object)).await
}

/// The status of a token.
pub(super) fn status(
    observed: &Observed,
    validated: &Result<ValidatedToken, Vec<Violation>>,
    plan: &Plan,
    outcome: &Outcome,
    now: Timestamp,
) -> JoinTokenStatus {
    let token: &JoinToken = &observed.token;
    let generation = token.metadata.generation;
    let mut new = token.status.clone().unwrap_or_default();
    new.observed_generation = generation;
    new.used = i32::try_from(new.joined.len()).unwrap_or(i32::MAX);
    if let Ok(valid) = validated {
        new.namespace = Some(token_namespace(&valid.project, &token.name_any()));
        new.expires = Timestamp::from_second(valid.token.expires).ok().map(Time);
    }
    let mut set = |type_, status, reason: &str, message: String| {
        let one = condition::condition(type_, status, reason, message, generation, Time(now));
        condition::set(&mut new.conditions, one);
    };
    match validated {
        Ok(_) => set(ACCEPTED, true, "Valid", "The token is valid.".into()),
        Err(faults) => {
            set(ACCEPTED, false, faults.first().map_or("Invalid", |f| f.reason), summary(faults));
        }
    }
    let (ready, reason, message) = readiness(observed, validated, plan, outcome, now);
    set(READY, ready, reason, message);
    new
}

fn readiness(
    observed: &Observed,
    validated: &Result<ValidatedToken, Vec<Violation>>,
    plan: &Plan,
    outcome: &Outcome,
    now: Timestamp,
) -> (bool, &'static str, String) {
    let no = |reason, message: &str| (false, reason, message.to_owned());
    let Ok(valid) = validated else {
        return no("NotAccepted", "Mend what condition Accepted lists.");
    };
    let token = &valid.token;
    if token.revoked {
        return no("TokenRevoked", "The token has been revoked.");
    }
    if token.expired(now.as_second()) {
        return no("TokenExpired", "The token has expired; make a new one.");
    }
    if plan.flooded {
        return no(
            FLOODED,
            "So much was asked with this token that it was taken back; make a new one, and mind who gets it.",
        );
    }
    if let Err(errors) = outcome
        && !errors.iter().all(write::WriteError::is_conflict)
    {
        let (reason, message) = write::summary(errors);
        return (false, reason, message);
    }
    let there = [observed.account.is_some(), observed.role.is_some(), observed.binding.is_some()];
    if there.contains(&false) {
        return no("Preparing", "Its namespace and account are being made.");
    }
    if token.used >= token.uses {
        return no("TokenUsedUp", "The token has been used as often as it may.");
    }
    (true, "Usable", "Clusters can join with it.".to_owned())
}
