//! Project → its namespace, and everything in it gone before it goes.

mod apply;
mod observe;
mod plan;
mod report;
mod validate;

use k8s_openapi::jiff::Timestamp;
use slicewire_runtime::reconcile::Next;

use super::Hub;
use crate::kubernetes::write::next;

/// One round for one project.
pub(super) async fn reconcile(hub: &Hub, name: &str) -> Next {
    let Some(observed) = observe::observe(hub, name) else { return Next::Wait };
    let validated = validate::validate(&observed);
    let plan = plan::plan(&observed, &validated);
    let outcome = apply::apply(hub, plan.steps.clone()).await;
    let reported =
        report::report(hub, &observed, &validated, &plan, &outcome, Timestamp::now()).await;
    next(&outcome, next(&reported, Next::Wait))
}
