//! Tells how a slice is, here and to the hub.

use k8s_openapi::jiff::Timestamp;
use slicewire_api::condition::{READY, is_true};
use slicewire_core::violation::Violation;

use super::observe::observe;
use super::plan::Plan;
use super::status::{for_hub, local, verdict};
use super::validate::Valid;
use crate::kubernetes::change::Change;
use crate::kubernetes::event::Notice;
use crate::kubernetes::write::Outcome;
use crate::worker::Worker;

/// Writes both statuses where they say something new. The hub's being away is no reason to try
/// again in a hurry: its watch tells when it is back.
pub(super) async fn report(
    worker: &Worker,
    name: &str,
    validated: &Option<Result<Valid, Vec<Violation>>>,
    plan: &Plan,
    outcome: &Outcome,
    now: Timestamp,
) -> Outcome {
    // The plan has changed things: tell how they are now.
    let observed = observe(worker, name);
    let verdict = verdict(&observed, plan, outcome);
    let mut here = Vec::new();
    if let Some(slice) = &observed.slice {
        let new = local(&observed, &verdict, now);
        let old = slice.status.clone().unwrap_or_default();
        if new != old {
            let was = is_true(&old.conditions, READY);
            let is = is_true(&new.conditions, READY);
            if was != is {
                let told = new.conditions.iter().find(|c| c.type_ == READY);
                let notices = told.map(|c| Notice {
                    warning: !is,
                    reason: if is { "SliceReady".to_owned() } else { c.reason.clone() },
                    note: c.message.clone(),
                });
                worker.events.publish(&**slice, notices.into_iter().collect());
            }
            here.push(Change::status(&**slice, &new));
        }
    }
    let there = for_hub(&observed, validated, &verdict, plan, now).and_then(|new| {
        let told = observed.told.slice()?;
        (told.status.as_ref() != Some(&new)).then(|| Change::status(told, &new))
    });
    let session = worker.hub.session();
    let hub = async {
        match (session, there) {
            (Some(session), Some(change)) => {
                session.tell(vec![vec![change]], |object| worker.note(object)).await
            }
            _ => worker.writer.run(Vec::new(), |_| {}).await,
        }
    };
    let (here, there) =
        tokio::join!(worker.writer.run(vec![here], |object| worker.note(object)), hub);
    here.and(there)
}
