//! From what should be and what is to operations, purely.
//!
//! | module | plans |
//! |---|---|
//! | [`want`] | nothing: says what a router and a NIC should be |
//! | [`router`] | a slice router: settings, VXLAN, stale ports, paths |
//! | [`nic`] | one pod's NIC and the router's port for it |
//! | [`diff`] | addresses, neighbours, routes and rules of a namespace |

mod diff;
pub(crate) mod nic;
pub(crate) mod router;
mod want;

pub(crate) use want::{
    NicWant, PortWant, RouterWant, Settings, alias_of_nic, alias_of_port, pod_mac, port_owner,
};

use slicewire_kernel::Op;

/// Where operations are carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum At {
    /// The node's own namespace.
    Host,
    /// The slice router.
    Router,
    /// The pod.
    Pod,
}

/// Operations for one namespace. A plan is a list of steps, to be carried out in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) at: At,
    pub(crate) ops: Vec<Op>,
}

impl Step {
    /// A step, unless there is nothing to do.
    fn push(steps: &mut Vec<Self>, at: At, ops: Vec<Op>) {
        if !ops.is_empty() {
            steps.push(Self { at, ops });
        }
    }
}
