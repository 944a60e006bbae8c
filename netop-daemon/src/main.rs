//! `netop-daemon`: plugs the pods of its node into their slices.
//!
//! | step | module |
//! |---|---|
//! | observe | [`observe`] fills the [`world`]; [`apply`] looks into the kernel |
//! | validate | [`validate`] |
//! | plan | [`decide`] says what should be, [`plan`] which operations get there |
//! | apply | [`apply`], driven by the one loop in [`converge`] |
//! | policies | [`policy`] keeps the packet rules of slice routers |
//! | services | [`services`] keeps their virtual addresses, and names |
//! | report | [`report`], [`metrics`] |
//!
//! Ending the process changes nothing in the kernel: routers, NICs and routes go on without it, and
//! the next process takes them over.

mod allocations;
mod apply;
mod cleanup;
mod config;
mod converge;
mod cri;
mod decide;
mod dns;
mod metrics;
mod nri;
mod observe;
mod plan;
mod policy;
mod report;
mod services;
mod shaping;
mod validate;
mod world;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use clap::Parser as _;
use slicewire_kernel::Kernel;
use slicewire_runtime::{Health, init_telemetry, serve_admin, shutdown_signal};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::allocations::Allocations;
use crate::config::{Cli, Command, Options};
use crate::converge::{Engine, Wiring};
use crate::cri::Cri;
use crate::decide::Node;
use crate::metrics::Metrics;
use crate::observe::sandboxes::{self, Sandboxes};
use crate::observe::{gateways, kubernetes, zone};
use crate::report::Report;
use crate::shaping::{Shaped, Shaping};
use crate::world::Shared;

#[tokio::main(worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    init_telemetry();
    let stop = shutdown_signal().context("cannot listen to signals")?;
    match cli.command.unwrap_or(Command::Run) {
        Command::Run => run(cli.options, stop).await,
        Command::Cleanup { stay } => {
            let health = Health::default();
            let cleaning = health.wait_for("cleanup");
            if stay {
                let serving = serve_admin(cli.options.admin, health, String::new, stop.clone());
                serving.await.context("cannot serve health")?;
            }
            cleanup::cleanup(&cli.options).await?;
            drop(cleaning);
            if stay {
                stop.cancelled().await;
            }
            Ok(())
        }
    }
}

async fn run(options: Options, stop: CancellationToken) -> anyhow::Result<()> {
    anyhow::ensure!(!options.node.is_empty(), "NODE_NAME is not set; take it from spec.nodeName");
    anyhow::ensure!(
        !options.node_ips.is_empty(),
        "NODE_IPS is not set; take it from status.hostIPs"
    );
    std::fs::create_dir_all(&options.state_dir)
        .with_context(|| format!("cannot make {}", options.state_dir.display()))?;
    // Whoever came first has chosen the cryptography; it is the same one.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let node = Node {
        name: options.node.clone(),
        underlay: options.node_ips.clone(),
        started: Instant::now(),
    };
    let metrics = Arc::new(Metrics::default());
    let health = Health::default();
    let starting = health.wait_for("first look at everything");
    let addresses = services::names::addresses(&options.dns, &options.node_ips, options.dns_port);
    let dns = dns::start(&addresses, options.dns_per_client, &stop)?;
    let (render, names) = (metrics.clone(), dns.names.clone());
    let (shaped, shaping) = watch::channel(Shaped::default());
    let figures = shaping.clone();
    let render = move || render.render() + &figures.borrow().metrics() + &names.counters().render();
    serve_admin(options.admin, health, render, stop.clone())
        .await
        .with_context(|| format!("cannot serve health on {}", options.admin))?;

    let client = kube::Client::try_default().await.context("no way to the API server")?;
    let shared = Shared::default();
    let (attach, requests) = mpsc::channel(256);
    let (notices, published) = mpsc::channel(256);
    let (reports, reported) = watch::channel(Arc::new(Report::default()));

    kubernetes::watch(&client, &node.name, &shared);
    tokio::spawn(zone::keep(client.clone(), node.name.clone(), shared.clone()));
    watch_runtime(&options, &client, &shared, attach, &metrics, &stop)?;
    let (known, keeping) = (dns.names.clone(), stop.clone());
    tokio::spawn(services::names::keep(shared.clone(), node.clone(), known, keeping));
    let certificate = kubernetes::certificate(&client);
    let (name, counted) = (node.name.clone(), metrics.clone());
    tokio::spawn(gateways::watch(shared.clone(), name, certificate, counted, stop.clone()));
    tokio::spawn(report::publish(client.clone(), node.name.clone(), published));
    let shaper = Shaping::new(client.clone(), node.clone(), shared.clone(), shaped).await?;
    tokio::spawn(shaper.run(reported.clone(), stop.clone()));
    let writer = report::Writer::new(client, node.clone(), shared.clone(), shaping);
    tokio::spawn(report::run(writer, reported, stop.clone()));

    let allocations = Allocations::load(&options.state_dir);
    let wiring = Wiring { requests, reports, notices, metrics };
    let engine = Engine::new(node, shared, allocations, Arc::new(Kernel::new()), wiring).await?;
    // On a thread of its own: it waits for the kernel all the time, and a pod that waits for its NIC
    // is not to wait for whatever else this process is at.
    let running = tokio::task::spawn_blocking(move || {
        Handle::current().block_on(engine.run(stop, || drop(starting)));
    });
    running.await.context("the converging loop panicked")?;
    dns.ended().await;
    tracing::info!("ended; everything in the kernel stays as it is");
    Ok(())
}

fn watch_runtime(
    options: &Options,
    client: &kube::Client,
    shared: &Shared,
    attach: mpsc::Sender<converge::Attach>,
    metrics: &Arc<Metrics>,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let (to, asked) = mpsc::channel(256);
    let sandboxes = Sandboxes {
        client: client.clone(),
        node: options.node.clone(),
        shared: shared.clone(),
        attach,
        metrics: metrics.clone(),
    };
    let cri = Cri::new(&options.cri_socket)?;
    tokio::spawn(sandboxes::watch(sandboxes, cri, asked, stop.clone()));
    if options.nri_socket.is_empty() {
        return Ok(());
    }
    let socket = PathBuf::from(&options.nri_socket);
    let stop = stop.clone();
    tokio::spawn(async move { nri::serve(&socket, to, stop).await });
    Ok(())
}
