//! `slicectl install hub`.

use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;

use crate::cluster::ClusterArguments;
use crate::manifests::{Role, objects};
use crate::progress::{done, line};
use crate::{ImageArguments, apply, ready};

/// Where to install, and which images.
#[derive(Args)]
pub(crate) struct HubArguments {
    #[command(flatten)]
    cluster: ClusterArguments,
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
    let to = arguments.cluster.connect().await?;
    line(&format!("installing the hub in {} ({})", to.context, to.server));
    let objects = objects(Role::Hub, Some(&arguments.images))?;
    let ours = apply::without_releases(&to.client, objects.clone()).await?;
    apply::apply(&to.client, &ours).await?;
    ready::workloads(&to.client, &objects, Duration::from_secs(arguments.timeout)).await?;
    done("hub installed", begin);
    line(
        "next: slicectl token create --project … --cluster … here, and slicectl join with what it prints",
    );
    Ok(())
}
