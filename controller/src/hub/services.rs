//! What clusters tell of their Services → what every cluster of the slice imports.
//!
//! A worker may create nothing, so the hub makes places for it to report in, a few more than are in
//! use. What is reported there is checked, merged by the standard's rules, given virtual addresses,
//! and told to every cluster; the place itself gets the answer.
//!
//! Security: a report is a stranger's words. Endpoints have to be among the addresses the cluster was
//! given; one cluster cannot take another's export away, only add to it or disagree with it.

mod observe;
mod plan;
mod read;
#[cfg(test)]
mod tests;

use slicewire_runtime::reconcile::Next;

use super::Hub;
use crate::kubernetes::cache::Key;
use crate::kubernetes::write::next;

/// One round for the services of one slice.
pub(super) async fn reconcile(hub: &Hub, key: &Key) -> Next {
    let observed = observe::observe(&hub.caches, key);
    let outcome = hub.writer.run(plan::plan(&observed), |object| hub.caches.note(object)).await;
    next(&outcome, Next::Wait)
}
