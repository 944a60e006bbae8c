//! Slicewire's controllers: `controller hub` and `controller worker`.
//!
//! Every reconciler has the same five files: `observe` reads, `validate` turns what was read into
//! domain values or faults, `plan` decides, `apply` carries out, `report` tells. Only `observe`,
//! `apply` and `report` do IO. Planning of addresses, tunnels and identifiers is `slicewire_core`'s.

mod hub;
mod kubernetes;
mod options;
mod worker;

use clap::Parser;
use options::{Identity, Options, RoleOptions};
use slicewire_runtime::{Health, Metrics};
use tokio_util::sync::CancellationToken;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    slicewire_runtime::init_telemetry();
    let stop = slicewire_runtime::shutdown_signal()?;
    let health = Health::default();
    let metrics = Metrics::default();
    let client = kube::Client::try_default().await?;
    match options.role {
        RoleOptions::Hub(options) => {
            let identity = options.identity.clone();
            admin(&identity, &health, &metrics, &stop).await?;
            hub::run(client, options, identity, health, metrics, stop).await
        }
        RoleOptions::Worker(options) => {
            let identity = options.identity.clone();
            admin(&identity, &health, &metrics, &stop).await?;
            worker::run(client, options, identity, health, metrics, stop).await
        }
    }
}

async fn admin(
    identity: &Identity,
    health: &Health,
    metrics: &Metrics,
    stop: &CancellationToken,
) -> std::io::Result<()> {
    let metrics = metrics.clone();
    let render = move || metrics.render();
    slicewire_runtime::serve_admin(identity.admin_address, health.clone(), render, stop.clone())
        .await
}
