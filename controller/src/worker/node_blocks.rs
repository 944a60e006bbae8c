//! Address blocks of nodes: out of the cluster's pools, onto SliceNodes.

mod apply;
mod observe;
mod plan;
mod report;
mod resting;
mod validate;

use slicewire_runtime::reconcile::Next;

pub(super) use plan::blocks;
pub(super) use resting::Resting;
pub(super) use validate::facts;

use super::Worker;
use crate::kubernetes::write::next;

/// One round for one slice.
pub(super) async fn reconcile(worker: &Worker, slice: &str) -> Next {
    let observed = observe::observe(worker, slice);
    let validated = validate::validate(&observed);
    let plan = plan::plan(&observed, &validated);
    let outcome = apply::apply(worker, plan.steps.clone()).await;
    report::report(worker, slice, &observed, &plan, &outcome);
    // What rests is to be had again later, and a node may wait for it.
    let later = if observed.resting.is_empty() || plan.exhausted.is_empty() {
        Next::Wait
    } else {
        Next::After(resting::REST / 4)
    };
    next(&outcome, later)
}
