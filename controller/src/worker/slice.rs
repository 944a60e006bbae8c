//! WorkerSlice → the Slice in this cluster, and back: how it is here.

mod apply;
mod isolation;
mod network_policies;
mod observe;
mod plan;
mod qos;
mod report;
mod status;
#[cfg(test)]
mod tests;
mod validate;

use k8s_openapi::jiff::Timestamp;
use slicewire_runtime::reconcile::Next;

use super::Worker;
use crate::kubernetes::write::next;

/// One round for one slice.
pub(super) async fn reconcile(worker: &Worker, slice: &str) -> Next {
    let observed = observe::observe(worker, slice);
    let validated = validate::validate(&observed);
    let plan = plan::plan(&observed, &validated);
    let outcome = apply::apply(worker, plan.steps.clone()).await;
    let now = Timestamp::now();
    let reported = report::report(worker, slice, &validated, &plan, &outcome, now).await;
    next(&outcome, next(&reported, Next::Wait))
}
