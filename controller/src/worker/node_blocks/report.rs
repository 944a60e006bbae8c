//! Tells that pools run out; the slice reconciler asks the hub for more.

use slicewire_core::prefix::Family;

use super::observe::Observed;
use super::plan::Plan;
use crate::kubernetes::write::Outcome;
use crate::worker::Worker;

/// Logs and counts.
pub(super) fn report(
    worker: &Worker,
    slice: &str,
    observed: &Observed,
    plan: &Plan,
    outcome: &Outcome,
) {
    if let Err(errors) = outcome {
        for error in errors {
            tracing::warn!(%slice, reason = error.reason(), %error, "address blocks not written");
        }
    }
    for family in [Family::V4, Family::V6] {
        let label = if family == Family::V4 { "4" } else { "6" };
        worker.metrics.set(
            "slicewire_pool_exhausted",
            "Whether a node did not get a whole address block.",
            &[("slice", slice), ("family", label)],
            f64::from(u8::from(plan.exhausted.contains(&family))),
        );
    }
    if observed.slice.is_none() {
        worker.metrics.forget("slicewire_pool_exhausted", ("slice", slice));
    }
}
