//! WorkerGateway → SliceGateway, its keys, pods and services; and back: keys, endpoints, tunnels.
//!
//! Security: private keys are made here, live in one Secret of this cluster, and go nowhere else.

mod apply;
mod keys;
mod observe;
mod plan;
mod report;
mod rounding;
mod status;
pub(in crate::worker) mod streams;
#[cfg(test)]
mod tests;
mod validate;
mod workload;

use k8s_openapi::jiff::Timestamp;
use slicewire_runtime::reconcile::Next;

use super::Worker;
use crate::kubernetes::write::next;

/// One round for one slice's gateways, in stages that each see what the one before has made: the
/// mirror, the keys, and then pods and services while the hub is told the keys.
pub(super) async fn reconcile(worker: &Worker, slice: &str) -> Next {
    let observed = observe::observe(worker, slice, None);
    let validated = validate::validate(&observed);
    let outcome = apply::apply(worker, plan::mirror(&observed, &validated)).await;
    if outcome.is_err() {
        return next(&outcome, Next::Wait);
    }
    let keys = match keys::ensure(worker, slice, &observe::observe(worker, slice, None)).await {
        Ok(keys) => keys,
        Err(error) => {
            tracing::warn!(%slice, %error, "no keys for the gateways");
            return Next::Retry;
        }
    };
    let observed = observe::observe(worker, slice, Some(keys.clone()));
    worker.streams.follow(slice, &plan::streams(&observed));
    let steps = plan::run(&observed, &worker.images);
    let now = Timestamp::now();
    let early = report::report(worker, &observed, None, now);
    let (outcome, early) = tokio::join!(apply::apply(worker, steps), early);
    let observed = observe::observe(worker, slice, Some(keys));
    let reported = report::report(worker, &observed, Some(&outcome), now).await;
    next(&outcome, next(&early, next(&reported, Next::Wait)))
}
