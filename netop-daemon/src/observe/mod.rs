//! Where the daemon's knowledge comes from.
//!
//! | module | watches |
//! |---|---|
//! | [`kubernetes`] | the API server |
//! | [`sandboxes`] | the container runtime, through NRI and CRI |
//! | [`gateways`] | the gateway pods' route streams |
//! | [`zone`] | this node's zone, now and then |

pub(crate) mod gateways;
pub(crate) mod kubernetes;
pub(crate) mod sandboxes;
pub(crate) mod zone;
