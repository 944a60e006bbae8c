//! A gateway of a slice: its tunnels follow the plan of its lane.
//!
//! The plan comes from the lane's SliceGateway in Kubernetes, or from a file with the same
//! content ([`source`]). Losing the source stops nothing but changes; a copy of the last plan
//! beside the socket lets a restarted container go on without it.

mod device;
mod endpoints;
mod gateway;
mod metrics;
mod plan;
mod serve;
mod source;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use slicewire_core::name::{GATEWAY_DEVICE, Lane};
use slicewire_engine::PrivateKey;
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
    /// Directory with the lanes' private keys: a file `lane-<number>` each, as `wg genkey` writes.
    #[arg(long, default_value = "/etc/slicewire/keys")]
    keys: PathBuf,
    /// Unix socket to tell the tunnels' state on. A copy of the plan is kept beside it.
    #[arg(long, default_value = "/run/slicewire/gateway.sock")]
    socket: PathBuf,
    /// Name of the WireGuard device.
    #[arg(long, default_value = GATEWAY_DEVICE)]
    device: String,
    /// UDP port to listen on for other gateways.
    #[arg(long, default_value_t = slicewire_api::labels::WIREGUARD_PORT)]
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
    let key = read_key(&args.keys.join(format!("lane-{lane}")))?;
    let stop = slicewire_runtime::shutdown_signal().context("cannot handle signals")?;
    let health = Health::default();
    let ready = health.wait_for("device");
    let (snapshot, snapshots) = watch::channel(None);

    let metrics = snapshots.clone();
    serve_admin(args.admin_port, &health, move || metrics::render(&metrics), &stop).await?;
    serve::start(&args.socket, snapshots, stop.clone())?;
    let plans = plans(&args, &stop).await?;

    let identity = gateway::Identity { lane, key, listen_port: args.listen_port };
    let device = device::Spec { name: args.device, choice: args.backend };
    let gateway = gateway::Gateway::open(identity, device, snapshot).await?;
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

fn read_key(path: &Path) -> anyhow::Result<Arc<PrivateKey>> {
    let text = std::fs::read_to_string(path).with_context(|| {
        format!(
            "cannot read the private key {}: mount the gateway's key Secret there \
             (it has one entry a lane), or make a key with `wg genkey`",
            path.display()
        )
    })?;
    let key = PrivateKey::from_base64(&text)
        .with_context(|| format!("the private key {} cannot be used", path.display()))?;
    anyhow::ensure!(
        !key.is_zero(),
        "the private key {} is all zeroes, which is no key: make one with `wg genkey`",
        path.display()
    );
    Ok(Arc::new(key))
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

    #[test]
    fn a_bad_key_file_is_named_and_not_shown() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lane-0");
        let missing = format!("{:#}", read_key(&path).unwrap_err());
        assert!(missing.contains("lane-0") && missing.contains("wg genkey"), "{missing}");
        std::fs::write(&path, "c2VjcmV0").unwrap();
        let short = format!("{:#}", read_key(&path).unwrap_err());
        assert!(short.contains("lane-0") && !short.contains("c2VjcmV0"), "{short}");
        std::fs::write(&path, format!("{}=\n", "A".repeat(43))).unwrap();
        assert!(read_key(&path).unwrap_err().to_string().contains("zeroes"));
        std::fs::write(&path, "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=\n").unwrap();
        read_key(&path).unwrap();
    }
}
