//! Where plans come from. A source runs on its own and sends every plan it sees; the newest one
//! counts. It never ends the gateway: when it loses sight of the plan, it says so and tries again.

pub(super) mod file;
pub(super) mod kubernetes;

use slicewire_api::SliceGatewaySpec;
use tokio::sync::mpsc;

/// The plans of a source, oldest first.
pub(super) type Plans = mpsc::Receiver<SliceGatewaySpec>;
