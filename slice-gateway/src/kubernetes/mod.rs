//! A gateway of a slice: its tunnels follow the plan of its lane.
//!
//! The plan comes from the lane's SliceGateway in Kubernetes, or from a file with the same
//! content ([`source`]). Losing the source stops nothing but changes; a copy of the last plan
//! beside the socket lets a restarted container go on without it.

mod device;
mod endpoints;
mod gateway;
mod keys;
mod limits;
mod metrics;
mod plan;
mod serve;
mod slot;
mod source;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::Context as _;
use slicewire_core::name::Lane;
use slicewire_runtime::Health;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::backend;

/// Arguments of `slice-gateway kubernetes`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The slice whose gateway this is: the name of the SliceGateway to follow.
    #[arg(long, env = "SLICE")]
    slice: String,
    /// The gateway's lane; by default the number at the end of the pod's name.
    #[arg(long, env = "LANE")]
    lane: Option<Lane>,
    /// The pod's name.
    #[arg(long, env = "POD_NAME")]
    pod_name: Option<String>,
    /// The namespace of the SliceGateway.
    #[arg(long, env = "NAMESPACE", default_value = "slicewire-system")]
    namespace: String,
    /// Takes the plan from this file instead of Kubernetes: a SliceGateway as JSON, or its spec.
    /// Read again whenever it changes.
    #[arg(long)]
    plan: Option<PathBuf>,
    /// Directory with the lanes' private keys: a file `lane-<number>` each, as `wg genkey` writes,
    /// and `lane-<number>-generation-<number>` for generations after the first.
    #[arg(long, default_value = "/etc/slicewire/keys")]
    keys: PathBuf,
    /// Unix socket to tell the tunnels' state on. A copy of the plan is kept beside it.
    #[arg(long, default_value = "/run/slicewire/gateway.sock")]
    socket: PathBuf,
    /// UDP port to listen on for other gateways, by even generations of keys; the next one is for
    /// odd generations.
    #[arg(long, default_value_t = slicewire_api::labels::WIREGUARD_PORTS[0],
          value_parser = clap::value_parser!(u16).range(1..=65534))]
    listen_port: u16,
    /// What does WireGuard: the kernel's device, the embedded engine, or whichever is there.
    #[arg(long, value_enum, default_value_t)]
    backend: backend::Choice,
    /// TCP port for /healthz, /readyz and /metrics.
    #[arg(long, default_value_t = 8081)]
    admin_port: u16,
}

/// Runs until the process is asked to end.
pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(4)
        .build()
        .context("cannot start the async runtime")?;
    runtime.block_on(serve(args))
}

async fn serve(args: Args) -> anyhow::Result<()> {
    let lane = lane(args.lane, args.pod_name.as_deref())?;
    let keys = keys::Keys::new(args.keys.clone(), lane);
    let stop = slicewire_runtime::shutdown_signal().context("cannot handle signals")?;
    let health = Health::default();
    let ready = health.wait_for("device");
    let (snapshot, snapshots) = watch::channel(None);

    let metrics = snapshots.clone();
    serve_admin(args.admin_port, &health, move || metrics::render(&metrics), &stop).await?;
    serve::start(&args.socket, snapshots, stop.clone())?;
    let plans = plans(&args, &stop).await?;

    let (listen_port, choice) = (args.listen_port, args.backend);
    let identity = gateway::Identity { lane, keys, listen_port, choice };
    let gateway = gateway::Gateway::open(identity, snapshot).await?;
    gateway.run(plans, ready, stop).await;
    Ok(())
}

async fn plans(args: &Args, stop: &CancellationToken) -> anyhow::Result<source::Plans> {
    let cache = args.socket.with_file_name("plan.json");
    match &args.plan {
        Some(file) => Ok(source::file::watch(file.clone(), stop.clone())),
        None => source::kubernetes::watch(&args.namespace, &args.slice, cache, stop.clone())
            .await
            .context("cannot reach Kubernetes from this pod"),
    }
}

async fn serve_admin(
    port: u16,
    health: &Health,
    metrics: impl Fn() -> String + Clone + Send + Sync + 'static,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    // Where IPv6 is switched off, the wildcard of IPv4 has to do.
    let (v6, v4) = (Ipv6Addr::UNSPECIFIED, Ipv4Addr::UNSPECIFIED);
    for address in [SocketAddr::from((v6, port)), SocketAddr::from((v4, port))] {
        let serve = slicewire_runtime::serve_admin;
        match serve(address, health.clone(), metrics.clone(), stop.clone()).await {
            Ok(()) => return Ok(()),
            Err(error) if address.is_ipv4() => {
                return Err(error).with_context(|| {
                    format!("cannot listen on TCP port {port}; choose another with --admin-port")
                });
            }
            Err(_) => {}
        }
    }
    Ok(())
}

/// The lane asked for, or the StatefulSet's ordinal in the pod's name.
fn lane(lane: Option<Lane>, pod_name: Option<&str>) -> anyhow::Result<Lane> {
    let ordinal = || pod_name?.rsplit_once('-')?.1.parse().ok();
    lane.or_else(ordinal).with_context(|| {
        format!(
            "which lane this gateway is cannot be told from the pod's name {pod_name:?}: \
             set POD_NAME to a StatefulSet pod's name, such as sw-gw-blue-0, or give --lane"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lane_is_the_pods_ordinal_unless_given() {
        assert_eq!(lane(None, Some("sw-gw-blue-7")).unwrap(), 7);
        assert_eq!(lane(Some(2), Some("sw-gw-blue-7")).unwrap(), 2);
        for name in [None, Some("gateway"), Some("sw-gw-blue-x"), Some("sw-gw-blue-300")] {
            let error = lane(None, name).unwrap_err().to_string();
            assert!(error.contains("POD_NAME") && error.contains("--lane"), "{error}");
        }
    }
}
