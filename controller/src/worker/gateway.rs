//! WorkerGateway → SliceGateway, its keys, pods and services; and back: keys, endpoints, tunnels.
//!
//! Security: private keys are made here, live in Secrets of this cluster, and go nowhere else; and so
//! does what pre-shared keys are made of ([`exchange`]).

mod apply;
mod exchange;
mod keys;
mod observe;
mod plan;
mod report;
pub(in crate::worker) mod rounding;
mod status;
pub(in crate::worker) mod streams;
#[cfg(test)]
mod tests;
mod validate;
mod workload;

use k8s_openapi::jiff::Timestamp;
use slicewire_core::name::SliceName;
use slicewire_runtime::reconcile::Next;

use self::observe::Observed;
use super::Worker;
use super::certificates::{self, CertificateError};
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
    let observed = observe::observe(worker, slice, None);
    let (keys, certificate) =
        tokio::join!(keys::ensure(worker, slice, &observed), certificate(worker, &observed));
    let keys = match (keys, certificate) {
        (Ok(keys), Ok(())) => keys,
        (keys, certificate) => {
            let error = keys.err().map(|e| e.to_string());
            let error = error.or(certificate.err().map(|e| e.to_string())).unwrap_or_default();
            tracing::warn!(%slice, %error, "no keys for the gateways; trying again");
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

/// What the gateways show to the nodes of this cluster.
async fn certificate(worker: &Worker, observed: &Observed) -> Result<(), CertificateError> {
    let name = SliceName::parse(&observed.name);
    match (observed.plan(), name) {
        (Some(gateway), Ok(name)) => certificates::of_gateway(worker, &name, gateway).await,
        _ => Ok(()),
    }
}
