//! Removes everything of ours from the node, without asking anybody.

use std::sync::Arc;

use slicewire_kernel::Kernel;

use crate::allocations;
use crate::apply::Applier;
use crate::config::Options;

/// Removes every slice router, and with it the NICs in the pods, and the state file.
///
/// # Errors
/// What could not be removed; everything else is.
pub(crate) async fn cleanup(options: &Options) -> anyhow::Result<()> {
    let mut applier = Applier::new(Arc::new(Kernel::new())).await?;
    let mut faults = Vec::new();
    for netns in applier.routers().await? {
        match applier.remove_router(&netns).await {
            Ok(()) => tracing::info!(netns, "removed a slice router"),
            Err(error) => faults.push(error.to_string()),
        }
    }
    if let Err(error) = allocations::remove(&options.state_dir) {
        faults.push(error.to_string());
    }
    anyhow::ensure!(faults.is_empty(), "not everything was removed: {}", faults.join("; "));
    Ok(())
}
