//! Tells how policies are.

use k8s_openapi::jiff::Timestamp;

use super::observe::observe;
use super::status::status;
use super::validate::Validated;
use crate::hub::Hub;
use crate::kubernetes::cache::Key;
use crate::kubernetes::change::Change;
use crate::kubernetes::write::Outcome;

/// Writes the statuses that say something new.
pub(super) async fn report(
    hub: &Hub,
    key: &Key,
    validated: &Validated,
    outcome: &Outcome,
    now: Timestamp,
) -> Outcome {
    // The plan has changed things: tell how they are now.
    let observed = observe(&hub.caches, key);
    let mut step = Vec::new();
    for (name, policy) in &observed.policies {
        let Some(verdict) = validated.get(name) else { continue };
        let new = status(&observed, name, policy, verdict, outcome, now);
        if policy.status.as_ref() != Some(&new) {
            measure(hub, key, name, &new);
            step.push(Change::status(&**policy, &new));
        }
    }
    hub.writer.run(vec![step], |object| hub.caches.note(object)).await
}

fn measure(hub: &Hub, key: &Key, policy: &str, status: &slicewire_api::SlicePolicyStatus) {
    let labels = [("namespace", key.0.as_str()), ("slice", key.1.as_str()), ("policy", policy)];
    let what = "Connections that a policy has decided about, in all clusters.";
    hub.metrics.set("slicewire_policy_hits", what, &labels, status.hits as f64);
    let what = "Connections that passed and would have been dropped, were nothing in audit mode.";
    hub.metrics.set("slicewire_policy_would_drop", what, &labels, status.would_drop as f64);
}
