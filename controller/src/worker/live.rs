//! What this cluster tells people of its slices by way of the hub: which pods are attached, and what
//! passes the tunnels. Every report is a write there, so they are few: an object is written when
//! something in it has changed, and not soon again.

mod pods;
mod traffic;

pub(super) use pods::publish as publish_pods;
pub(super) use traffic::{Meter, publish as publish_traffic};
