//! Address blocks of nodes: out of the cluster's pools, onto SliceNodes.

mod apply;
mod observe;
mod plan;
mod report;
mod validate;

use slicewire_runtime::reconcile::Next;

pub(super) use plan::blocks;
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
    next(&outcome, Next::Wait)
}
