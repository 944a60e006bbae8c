//! Tells the hub.

use crate::kubernetes::change::Steps;
use crate::kubernetes::write::Outcome;
use crate::worker::Worker;

/// Carries out the steps on the hub.
pub(super) async fn apply(worker: &Worker, steps: Steps) -> Outcome {
    match worker.hub.session() {
        Some(session) => session.tell(steps, |object| worker.note(object)).await,
        None => worker.writer.run(Vec::new(), |_| {}).await,
    }
}
