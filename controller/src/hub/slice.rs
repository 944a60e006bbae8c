//! SliceConfig → a WorkerSlice and a WorkerGateway in each cluster's namespace.
//!
//! The hub's own status of a SliceConfig is the book of who holds which addresses: it is written
//! before any cluster is told, under the condition that nobody wrote the object since it was read.
//! So two rounds can never give the same addresses to two clusters, and no cluster can claim any.

mod apply;
pub(super) mod desired;
pub(super) mod exchange;
pub(super) mod gateways;
mod keys;
pub(super) mod observe;
mod plan;
pub(super) mod qos;
mod report;
mod status;
#[cfg(test)]
mod tests;
pub(super) mod validate;

use k8s_openapi::jiff::Timestamp;
use slicewire_runtime::reconcile::Next;

use super::Hub;
use crate::kubernetes::cache::Key;
use crate::kubernetes::write::next;

/// One round for one slice.
pub(super) async fn reconcile(hub: &Hub, key: &Key) -> Next {
    let Some(mut observed) = observe::observe(hub, key) else { return Next::Wait };
    let mut validated = validate::validate(&observed);
    if let Some(hold) = plan::hold(&observed, &validated) {
        let held = apply::apply(hub, vec![vec![hold]]).await;
        let Some(now_held) = observe::observe(hub, key) else { return Next::Wait };
        if held.is_err() {
            return next(&held, Next::Wait);
        }
        observed = now_held;
        validated = validate::validate(&observed);
    }
    let now = Timestamp::now();
    let plan = plan::plan(&observed, &validated, now);
    let outcome = apply::apply(hub, plan.steps.clone()).await;
    if outcome.is_ok() {
        hub.events.publish(&*observed.config, keys::notices(&observed, &plan.keys));
    }
    let reported = report::report(hub, key, &validated, &plan, &outcome, now).await;
    let later = keys::wake(&observed, &plan.keys, now).map_or(Next::Wait, Next::After);
    next(&outcome, next(&reported, later))
}
