//! JoinToken → a namespace in which clusters ask to join, and the answers to those who ask.
//!
//! Security: who holds a token's secret may do nothing but ask ([`super::rights`]). Whom a request
//! came with which token is the API server's word, as each token has a namespace of its own that no
//! other token opens. Uses are counted in the token's status, which is written before anybody is
//! answered and only by the token's own rounds, one at a time, under the condition that nobody wrote
//! it since it was read. A name is claimed in the Cluster's status, in the same way. The credential
//! is sealed to the key of who asked: reading the answer is of no use to anybody else.

mod answer;
mod apply;
mod observe;
mod plan;
mod report;
#[cfg(test)]
mod tests;
mod validate;

use k8s_openapi::jiff::Timestamp;
use slicewire_runtime::reconcile::Next;

use super::Hub;
use crate::kubernetes::cache::Key;
use crate::kubernetes::write::next;

/// One round for one token.
pub(super) async fn reconcile(hub: &Hub, key: &Key) -> Next {
    let Some(observed) = observe::observe(hub, key) else { return Next::Wait };
    let now = Timestamp::now();
    let validated = validate::validate(&observed);
    let plan = plan::plan(&observed, &validated, now);
    let mut steps = plan.steps.clone();
    if let Some(wanted) = &plan.answer {
        match answer::answer(hub, wanted, now).await {
            Ok(change) => steps.push(vec![change]),
            Err(error) => {
                let (reason, error) = (error.reason(), crate::kubernetes::write::causes(&error));
                tracing::warn!(reason, %error, "a cluster that joins gets no credential yet");
                return Next::Retry;
            }
        }
    }
    let outcome = apply::apply(hub, steps).await;
    let reported = report::report(hub, key, &validated, &plan, &outcome, now).await;
    let look_again = plan.look_again.map_or(Next::Wait, Next::After);
    next(&outcome, next(&reported, look_again))
}
