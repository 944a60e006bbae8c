//! The gateway pod's second container: routes between the slice's NIC and the tunnels, and
//! nothing else; probes of every tunnel; the stream that tells the nodes what can be reached.
//!
//! Four tasks, each the only writer of what it publishes:
//!
//! ```text
//! gateway (socket of slice-gateway) ──tunnels──▶ forwarding (kernel) ──links──▶ prober
//!                                        │             ▲  └─chosen keys─┐      paths
//!                                        │             └────────────────┼────────┤
//!                                        └──────────────────────────────┴────────┴─▶ report ──▶ nodes
//! ```

mod forwarding;
mod gateway;
mod metrics;
mod prober;
mod report;
mod serve;
mod socket;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Parser;
use slicewire_core::gateway::Tunnels;
use slicewire_runtime::Health;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What `slice-gateway` said last; `None` before it spoke.
type TunnelsSeen = watch::Receiver<Option<Arc<Tunnels>>>;

/// Routes and probes of a gateway pod.
#[derive(Debug, Parser)]
#[command(name = "router-sidecar", version)]
struct Args {
    /// Unix socket of slice-gateway.
    #[arg(long, default_value = "/run/slicewire/gateway.sock")]
    socket: PathBuf,
    /// Directory with this gateway's certificate, its key and whom to trust: tls.crt, tls.key, ca.crt.
    #[arg(long, default_value = "/etc/slicewire/certificate")]
    certificate: PathBuf,
    /// The slice's NIC in this pod.
    #[arg(long, default_value_t = slicewire_core::name::pod_nic(0))]
    nic: String,
    /// TCP port of the route stream.
    #[arg(long, default_value_t = 5580)]
    routes_port: u16,
    /// UDP port of the probes, the same in every gateway.
    #[arg(long, default_value_t = 5581)]
    probe_port: u16,
    /// TCP port for /healthz, /readyz and /metrics.
    #[arg(long, default_value_t = 8082)]
    admin_port: u16,
}

fn main() -> anyhow::Result<()> {
    slicewire_runtime::init_telemetry();
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(2)
        .build()
        .context("cannot start the async runtime")?;
    runtime.block_on(run(args))
}

async fn run(args: Args) -> anyhow::Result<()> {
    let stop = slicewire_runtime::shutdown_signal().context("cannot handle signals")?;
    let health = Health::default();
    let (gateway_ready, nic_ready) =
        (health.wait_for("slice-gateway"), health.wait_for("slice NIC"));

    let tunnels = gateway::watch(args.socket, gateway_ready, stop.clone());
    let (tell, links) = watch::channel(forwarding::Links::default());
    let paths = prober::start(args.probe_port, tunnels.clone(), links.clone(), stop.clone());
    let (seen, probed) = (tunnels.clone(), paths.clone());
    let chosen = forwarding::start(args.nic, seen, probed, tell, nic_ready, stop.clone()).await?;
    let routes = report::start(tunnels.clone(), links, paths, chosen, stop.clone());

    let metrics = routes.clone();
    let render = move || metrics::render(&metrics);
    for address in any(args.admin_port) {
        let (health, render, stop) = (health.clone(), render.clone(), stop.clone());
        match slicewire_runtime::serve_admin(address, health, render, stop).await {
            Ok(()) => break,
            Err(error) if address.is_ipv4() => {
                let port = args.admin_port;
                return Err(error).with_context(|| {
                    format!("cannot listen on TCP port {port}; choose another with --admin-port")
                });
            }
            Err(_) => {}
        }
    }
    let listener = serve::listen(args.routes_port).await?;
    let accepting = slicewire_rpc::tls::follow(args.certificate).await;
    serve::run(listener, accepting, tunnels, routes, stop).await
}

/// The wildcard addresses: IPv6's takes both families, and where IPv6 is switched off IPv4's has
/// to do.
fn any(port: u16) -> [SocketAddr; 2] {
    [(Ipv6Addr::UNSPECIFIED, port).into(), (Ipv4Addr::UNSPECIFIED, port).into()]
}

/// Runs a task of this program until it ends or `stop`.
fn spawn(stop: CancellationToken, task: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(async move {
        stop.run_until_cancelled(task).await;
    });
}
