//! A WireGuard device from a file in wg-quick's format, by the kernel or the embedded engine.
//!
//! SIGHUP reads the file again; peers that stay keep their sessions. SIGTERM and SIGINT end the
//! program, and the device, its addresses and its routes go with it.

mod plan;

use std::net::ToSocketAddrs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use slicewire_engine::file::{self, Endpoint, File};
use slicewire_engine::{Config, Options, PeerConfig};
use slicewire_kernel::{Kernel, Network as _, Ns, NsId, OnError};
use tokio::signal::unix::{SignalKind, signal};

use crate::backend::{Backend, Choice};

/// How often it is made sure that the device is still there.
const LOOK: Duration = Duration::from_secs(1);

/// How to run.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// File in wg-quick's format.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Name of the device; the file's name without its ending if not given.
    #[arg(long, value_name = "NAME")]
    interface: Option<String>,
    /// Does not go to the background. It never does; other engines want to be told.
    #[arg(long)]
    foreground: bool,
    /// Packets the device's queue holds: less delay under load with fewer, fewer drops of small
    /// packets with more.
    #[arg(long, value_name = "PACKETS", default_value_t = slicewire_engine::DEFAULT_QUEUE)]
    queue: u32,
    /// Messages in one direction after which the engine renews a session's keys; at most 2^60, the
    /// protocol's own limit.
    #[arg(long, value_name = "MESSAGES", default_value_t = 1 << 60,
          value_parser = clap::value_parser!(u64).range(1..=1 << 60))]
    renew_after: u64,
    /// What does WireGuard: the kernel's device, the embedded engine, or whichever is there.
    #[arg(long, value_enum, default_value_t)]
    backend: Choice,
}

/// Runs until a signal says to end.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    tracing::debug!(args.foreground, "starting");
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(serve(args))
}

async fn serve(args: &Args) -> anyhow::Result<()> {
    let name = match &args.interface {
        Some(name) => name.clone(),
        None => file_stem(&args.config)?,
    };
    let file = read(&args.config)?;
    let mut options = Options::new(&name);
    options.mtu = file.mtu.unwrap_or(options.mtu);
    options.queue = args.queue;
    options.message_limits.renew = args.renew_after;
    let kernel = Kernel::new();
    let here = kernel.open(&NsId::Current).await?;
    let backend = Backend::start(args.backend, &kernel, &here, options).await?;
    tracing::info!(interface = name, backend = backend.name(), "device is made");
    let mut device = Device { backend, here, name };
    let ended = device.serve(&args.config, file).await;
    tracing::info!(interface = device.name, dropped = ?device.backend.drops(), "device goes");
    let removed = device.backend.remove().await;
    ended.and(removed.map_err(Into::into))
}

/// The device and where it is.
struct Device {
    backend: Backend,
    here: Ns,
    name: String,
}

impl Device {
    async fn serve(&mut self, path: &Path, mut current: File) -> anyhow::Result<()> {
        let end = slicewire_runtime::shutdown_signal()?;
        let mut hangup = signal(SignalKind::hangup())?;
        let mut look = tokio::time::interval(LOOK);
        self.converge(None, &current).await?;
        tracing::info!(interface = self.name, peers = current.peers.len(), "device is up");
        loop {
            tokio::select! {
                _ = look.tick() => {
                    let there = self.backend.is_running().await?;
                    anyhow::ensure!(there, "the device {} is gone", self.name);
                }
                () = end.cancelled() => return Ok(()),
                _ = hangup.recv() => match self.reload(path, &current).await {
                    Ok(file) => current = file,
                    Err(error) => tracing::error!("{error:#}; going on as before"),
                },
            }
        }
    }

    async fn reload(&mut self, path: &Path, current: &File) -> anyhow::Result<File> {
        let file = read(path)?;
        if let Some(mtu) = file.mtu.filter(|mtu| current.mtu != Some(*mtu)) {
            self.backend.set_mtu(mtu).await?;
        }
        self.converge(Some(current), &file).await?;
        tracing::info!(interface = self.name, peers = file.peers.len(), "file read again");
        Ok(file)
    }

    /// Makes device, addresses and routes what the file says.
    async fn converge(&mut self, before: Option<&File>, file: &File) -> anyhow::Result<()> {
        for ignored in &file.ignored {
            tracing::warn!(line = ignored.line, "{}", ignored.what);
        }
        let ops = plan::operations(&self.name, before, file)?;
        self.backend.apply(config(file)?).await?;
        let done = self.here.execute(ops, OnError::GoOn).await;
        done.context("cannot set addresses and routes")
    }
}

fn file_stem(path: &Path) -> anyhow::Result<String> {
    let stem = path.file_stem().and_then(|s| s.to_str());
    stem.map(str::to_owned).context("the file's name is no device's name; give one by --interface")
}

fn read(path: &Path) -> anyhow::Result<File> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    file::parse(&text).with_context(|| format!("{} cannot be used", path.display()))
}

/// The engine's configuration, with names looked up.
fn config(file: &File) -> anyhow::Result<Config> {
    let peers = file.peers.iter().map(|peer| {
        Ok(PeerConfig {
            public_key: peer.public_key,
            preshared_key: peer.preshared_key.clone(),
            endpoint: peer.endpoint.as_ref().map(look_up).transpose()?,
            allowed_ips: peer.allowed_ips.clone(),
            keepalive: peer.keepalive,
        })
    });
    Ok(Config {
        private_key: Some(file.private_key.clone()),
        listen_port: file.listen_port,
        fwmark: file.fwmark,
        peers: peers.collect::<anyhow::Result<_>>()?,
    })
}

fn look_up(endpoint: &Endpoint) -> anyhow::Result<std::net::SocketAddr> {
    match endpoint {
        Endpoint::Address(address) => Ok(*address),
        Endpoint::Name(name, port) => {
            let mut found = (name.as_str(), *port)
                .to_socket_addrs()
                .with_context(|| format!("cannot look up the endpoint `{name}`"))?;
            found.next().with_context(|| format!("the endpoint `{name}` has no address"))
        }
    }
}
