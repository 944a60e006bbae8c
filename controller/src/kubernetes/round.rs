//! One reconcile as it shows from outside: a span in the logs, a count in the metrics.

use std::fmt::Display;

use slicewire_runtime::Metrics;
use slicewire_runtime::reconcile::Next;
use tracing::Instrument;

/// Runs a reconcile of `kind` for `key`.
pub(crate) async fn round(
    metrics: &Metrics,
    kind: &'static str,
    key: impl Display,
    reconcile: impl Future<Output = Next>,
) -> Next {
    let span = tracing::info_span!("reconcile", kind, %key);
    let next = reconcile.instrument(span).await;
    let result = if next == Next::Retry { "retry" } else { "done" };
    let labels = [("kind", kind), ("result", result)];
    metrics.count("slicewire_reconciles_total", "Rounds of reconcilers, by result.", &labels, 1.0);
    next
}
