//! Carries out a token's plan.

use crate::hub::Hub;
use crate::kubernetes::change::Steps;
use crate::kubernetes::write::Outcome;

/// Carries out the steps.
pub(super) async fn apply(hub: &Hub, steps: Steps) -> Outcome {
    hub.writer.run(steps, |object| hub.caches.note(object)).await
}
