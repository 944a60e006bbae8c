//! Tells how a slice is.

use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use slicewire_api::condition::{ACCEPTED, READY};
use slicewire_api::{SliceConfig, SliceConfigStatus};
use slicewire_core::slice_spec::ValidatedSlice;
use slicewire_core::violation::Violation;

use super::observe::observe;
use super::plan::Plan;
use super::status::status;
use crate::hub::Hub;
use crate::kubernetes::cache::Key;
use crate::kubernetes::change::Change;
use crate::kubernetes::event::Notice;
use crate::kubernetes::write::Outcome;

/// Writes the status when it says something new, and Events when something has turned.
pub(super) async fn report(
    hub: &Hub,
    key: &Key,
    validated: &Result<ValidatedSlice, Vec<Violation>>,
    plan: &Plan,
    outcome: &Outcome,
    now: Timestamp,
) -> Outcome {
    // The plan has changed things: tell how they are now.
    let Some(current) = observe(hub, key) else {
        return hub.writer.run(Vec::new(), |_| {}).await;
    };
    let old = current.config.status.clone().unwrap_or_default();
    let new = status(&current, validated, plan, outcome, now);
    if new == old {
        return hub.writer.run(Vec::new(), |_| {}).await;
    }
    measure(hub, &current.config, &new);
    hub.events.publish(&*current.config, notices(&old, &new));
    let change = Change::status(&*current.config, &new);
    hub.writer.run(vec![vec![change]], |object| hub.caches.note(object)).await
}

/// Conditions that turned, as Events.
fn notices(old: &SliceConfigStatus, new: &SliceConfigStatus) -> Vec<Notice> {
    let find = |status: &SliceConfigStatus, type_: &str| {
        status.conditions.iter().find(|c| c.type_ == type_).map(|c| (c.status.clone(), c.clone()))
    };
    let mut notices = Vec::new();
    for type_ in [ACCEPTED, READY] {
        let Some((now, condition)) = find(new, type_) else { continue };
        let before = find(old, type_).map(|(status, _)| status);
        let bad = now != "True";
        // What starts well, or starts by not being ready, is no news.
        let news = match before.as_deref() {
            Some(before) => before != now,
            None => bad && type_ == ACCEPTED,
        };
        if news {
            notices.push(Notice {
                warning: bad,
                reason: if bad { condition.reason } else { format!("{type_}Again") },
                note: condition.message,
            });
        }
    }
    for notice in &mut notices {
        if notice.reason == "ReadyAgain" {
            notice.reason = "SliceReady".to_owned();
        }
    }
    notices
}

fn measure(hub: &Hub, config: &SliceConfig, status: &SliceConfigStatus) {
    let (project, slice) = (config.namespace().unwrap_or_default(), config.name_any());
    let labels = [("namespace", project.as_str()), ("slice", slice.as_str())];
    let ready = f64::from(u8::from(slicewire_api::condition::is_true(&status.conditions, READY)));
    hub.metrics.set(
        "slicewire_slice_ready",
        "Whether every cluster carries the slice.",
        &labels,
        ready,
    );
    hub.metrics.set(
        "slicewire_slice_attached_pods",
        "Pods on the slice in all clusters.",
        &labels,
        f64::from(status.attached_pods),
    );
    if let Some(keys) = &status.keys {
        hub.metrics.set(
            "slicewire_slice_key_generation",
            "How often the keys of the slice's gateways were renewed.",
            &labels,
            keys.generation as f64,
        );
        let renewed = keys.renewed_at.as_ref().and_then(|at| at.parse::<Timestamp>().ok());
        hub.metrics.set(
            "slicewire_slice_keys_renewed_seconds",
            "Unix time of the last renewal; 0 before the first.",
            &labels,
            renewed.map_or(0.0, |at| at.as_second() as f64),
        );
    }
}
