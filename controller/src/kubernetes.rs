//! What both controllers need of Kubernetes: caches, changes, Events, leases.

pub(crate) mod cache;
pub(crate) mod change;
pub(crate) mod event;
#[cfg(test)]
pub(crate) mod fake;
pub(crate) mod lease;
pub(crate) mod round;
pub(crate) mod watch;
pub(crate) mod write;
