//! Carries out a slice's plan.

use crate::kubernetes::change::Steps;
use crate::kubernetes::write::Outcome;
use crate::worker::Worker;

/// Carries out the steps in this cluster.
pub(super) async fn apply(worker: &Worker, steps: Steps) -> Outcome {
    worker.writer.run(steps, |object| worker.note(object)).await
}
