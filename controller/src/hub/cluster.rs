//! Cluster → its own namespace on the hub, the worker's rights there, and what the worker reports.
//!
//! Security: a worker's credential is a ServiceAccount token of its own namespace; what it may do
//! there is in [`super::rights`]. What it reports is taken as a stranger's words
//! ([`slicewire_core::member`]). A Cluster that is given up is cut off at once: its credential dies
//! first, and no finalizer and no slice holds it.

mod apply;
mod deviations;
mod observe;
pub(super) mod plan;
mod report;
mod validate;

use k8s_openapi::jiff::Timestamp;
use slicewire_runtime::reconcile::Next;

use super::Hub;
use crate::kubernetes::cache::Key;
use crate::kubernetes::write::next;

/// One round for one cluster.
pub(super) async fn reconcile(hub: &Hub, key: &Key) -> Next {
    let Some(observed) = observe::observe(hub, key).await else { return Next::Wait };
    let validated = validate::validate(&observed);
    let plan = plan::plan(&observed, &validated);
    let outcome = apply::apply(hub, plan.steps.clone()).await;
    let now = Timestamp::now();
    let reported = report::report(hub, &observed, &validated, &plan, &outcome, now).await;
    let look_again = report::look_again(&observed, now).map_or(Next::Wait, Next::After);
    next(&outcome, next(&reported, look_again))
}
