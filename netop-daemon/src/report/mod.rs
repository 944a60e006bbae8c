//! Tells people: SliceNode status, annotations and Events on pods.
//!
//! A task of its own, so that a slow API server holds up no packet. It compares what the loop last
//! reported with what the API server has and writes only differences.

mod annotation;
mod events;
mod nodes;
mod writer;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use slicewire_api::{NodePolicy, PodIdentity};
use slicewire_core::prefix::Family;

pub(crate) use events::publish;
pub(crate) use nodes::claim;
pub(crate) use writer::{Writer, run};

use crate::apply::ApplyError;
use crate::decide::Failure;
use crate::plan::NicWant;

/// What a round found and did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Report {
    /// Slices with a router.
    pub(crate) routers: BTreeMap<String, RouterReport>,
    /// NICs that are right, by slice and pod UID.
    pub(crate) nics: BTreeMap<(String, String), Arc<NicWant>>,
    /// Pods that have not got theirs for a while.
    pub(crate) failures: Vec<Failure>,
    /// Slices that some pod of the node wants.
    pub(crate) wanted: BTreeSet<String>,
    /// Families running out of addresses.
    pub(crate) low: BTreeMap<String, BTreeSet<Family>>,
    /// Slices of which no address is held or rests.
    pub(crate) idle: BTreeSet<String>,
    /// Slices whose router is still in the kernel, wanted or not.
    pub(crate) lingering: BTreeSet<String>,
    /// Policies in force, by slice.
    pub(crate) policies: BTreeMap<String, Vec<NodePolicy>>,
    /// What is to be told of pods, by slice and pod UID.
    pub(crate) identities: BTreeMap<(String, String), PodIdentity>,
    /// A round has been done.
    pub(crate) valid: bool,
}

/// How a router is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RouterReport {
    /// Reason and message of what is wrong.
    pub(crate) fault: Option<(&'static str, String)>,
}

impl RouterReport {
    pub(crate) fn new(error: Option<&ApplyError>) -> Self {
        Self { fault: error.map(|e| (e.reason(), e.to_string())) }
    }
}

/// Something a person may want to know about a pod, once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Notice {
    pub(crate) uid: String,
    pub(crate) namespace: String,
    pub(crate) pod: String,
    pub(crate) warning: bool,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

impl Notice {
    /// The pod has a new NIC.
    pub(crate) fn attached(nic: &NicWant) -> Self {
        let addresses: Vec<String> = nic.port.addresses.iter().map(ToString::to_string).collect();
        let message = format!("{} is on slice {}: {}", nic.nic, nic.slice, addresses.join(", "));
        Self::about(nic, "SliceAttached", message)
    }

    /// The pod has lost a NIC.
    pub(crate) fn detached(nic: &NicWant) -> Self {
        Self::about(nic, "SliceDetached", format!("{} has left slice {}", nic.nic, nic.slice))
    }

    /// The pod should have a NIC and has not got it.
    pub(crate) fn failed(failure: &Failure) -> Self {
        Self {
            uid: failure.uid.clone(),
            namespace: failure.pod.0.clone(),
            pod: failure.pod.1.clone(),
            warning: true,
            reason: failure.reason,
            message: format!("not attached to slice {}: {}", failure.slice, failure.message),
        }
    }

    fn about(nic: &NicWant, reason: &'static str, message: String) -> Self {
        Self {
            uid: nic.uid.clone(),
            namespace: nic.pod.0.clone(),
            pod: nic.pod.1.clone(),
            warning: false,
            reason,
            message,
        }
    }
}
