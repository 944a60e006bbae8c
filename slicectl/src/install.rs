//! `slicectl install hub`.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;

use crate::manifests::{Role, objects};
use crate::progress::{done, line};
use crate::{ImageArguments, apply, cluster, ready};

/// Where to install, and which images.
#[derive(Args)]
pub(crate) struct HubArguments {
    /// Kubeconfig of the cluster; as kubectl when left out.
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// Context in the kubeconfig; its current one when left out.
    #[arg(long)]
    context: Option<String>,
    #[command(flatten)]
    images: ImageArguments,
    /// Seconds to wait until it runs.
    #[arg(long, default_value_t = 180)]
    timeout: u64,
}

/// Installs the hub and waits until it runs.
///
/// # Errors
/// The cluster refuses an object, or the hub does not come up; told with the reason.
pub(crate) async fn hub(arguments: HubArguments) -> Result<()> {
    let begin = Instant::now();
    let to =
        cluster::connect(arguments.kubeconfig.as_deref(), arguments.context.as_deref()).await?;
    line(&format!("installing the hub in {} ({})", to.context, to.server));
    let objects = objects(Role::Hub, Some(&arguments.images))?;
    apply::apply(&to.client, &objects).await?;
    ready::workloads(&to.client, &objects, Duration::from_secs(arguments.timeout)).await?;
    done("hub installed", begin);
    line("next: slicectl join --hub-kubeconfig … --kubeconfig … --project … --cluster …");
    Ok(())
}
