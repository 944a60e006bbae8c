//! How this cluster is, told to the hub.

mod apply;
mod observe;
mod plan;
mod report;
mod validate;

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use slicewire_runtime::reconcile::Next;

use super::Worker;
use crate::kubernetes::write::next;

/// How often the cluster's version is looked at, which nothing announces.
const AGAIN: Duration = Duration::from_secs(600);

/// One round.
pub(super) async fn reconcile(worker: &Worker) -> Next {
    let Some(observed) = observe::observe(worker).await else { return Next::Wait };
    let reserved = validate::validate(&observed);
    let status = report::status(&observed, &reserved, Timestamp::now());
    let steps = plan::plan(&observed, &status);
    let outcome = apply::apply(worker, steps).await;
    next(&outcome, Next::After(AGAIN))
}
