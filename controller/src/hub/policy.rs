//! SlicePolicies of a slice → a WorkerPolicy each in every cluster's namespace, and back: where they
//! are carried out, and what they have decided about.
//!
//! A policy with faults is carried out as it was when it had none. The objects that clusters report
//! their pods in are made here, too, because a worker may create nothing; what is in them is
//! [`super::endpoints`]' business.

mod apply;
mod observe;
pub(super) mod plan;
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

/// One round for the policies of one slice.
pub(super) async fn reconcile(hub: &Hub, key: &Key) -> Next {
    let observed = observe::observe(&hub.caches, key);
    let validated = validate::validate(&observed);
    let outcome = apply::apply(hub, plan::plan(&observed, &validated)).await;
    let now = Timestamp::now();
    let reported = report::report(hub, key, &validated, &outcome, now).await;
    next(&outcome, next(&reported, Next::Wait))
}
