//! Keeps the pod's kernel forwarding between the slice and the tunnels.

mod plan;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use slicewire_core::gateway::{Tunnel, Tunnels};
use slicewire_core::prefix::Family;
use slicewire_core::rotation::{self, Seen};
use slicewire_kernel::{Kernel, Network as _, Ns, NsId};
use slicewire_runtime::ReadyGuard;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::TunnelsSeen;
use crate::prober::{self, Paths};
pub(crate) use plan::Chosen;
use plan::Wanted;

/// How often the devices are looked at. The slice's NIC is plugged in, and the tunnels' device
/// made anew by a restarted slice-gateway, without anybody telling.
const LOOK: Duration = Duration::from_millis(200);
/// How often routes and rules are compared although no device changed.
const RESYNC: Duration = Duration::from_secs(10);

/// The tunnels' devices that are up, by name: number, and MTU in bytes.
pub(crate) type Devices = BTreeMap<String, (u32, u16)>;

/// What the other tasks need to know about the pod's devices.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Links {
    /// The tunnels' devices.
    pub(crate) devices: Devices,
    /// Packets are forwarded between the slice's NIC and the tunnels.
    pub(crate) forwarding: bool,
}

/// Starts; returns where the devices' state is told.
pub(crate) async fn start(
    nic: String,
    tunnels: TunnelsSeen,
    paths: watch::Receiver<Paths>,
    tell: watch::Sender<Links>,
    ready: ReadyGuard,
    stop: CancellationToken,
) -> anyhow::Result<watch::Receiver<Chosen>> {
    let ns = Kernel::new().open(&NsId::Current).await.context("cannot speak netlink")?;
    let (choose, chosen) = watch::channel(Chosen::new());
    let mut families = vec![Family::V4];
    // The kernel has IPv6, whether or not the slice has: then it must not be a way around.
    families.extend(ns.sysctl("ipv6/conf/all/forwarding").await.ok().map(|_| Family::V6));
    let mut task = Forwarding {
        ns,
        nic,
        families,
        tunnels,
        paths,
        chosen: choose,
        tell,
        ready: Some(ready),
        done: None,
        due: Instant::now(),
        failing: false,
    };
    crate::spawn(stop, async move { task.run().await });
    Ok(chosen)
}

struct Forwarding {
    ns: Ns,
    nic: String,
    families: Vec<Family>,
    tunnels: TunnelsSeen,
    paths: watch::Receiver<Paths>,
    /// By which keys each cluster is sent to.
    chosen: watch::Sender<Chosen>,
    tell: watch::Sender<Links>,
    ready: Option<ReadyGuard>,
    /// What the kernel was made last.
    done: Option<Wanted>,
    /// When it is compared again although nothing changed.
    due: Instant,
    failing: bool,
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

impl Forwarding {
    async fn run(&mut self) {
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = look.tick() => {}
                changed = self.tunnels.changed() => if changed.is_err() { return },
                changed = self.paths.changed() => if changed.is_err() { return },
            }
            let tunnels = self.tunnels.borrow_and_update().clone();
            match self.converge(tunnels.as_deref()).await {
                Ok(()) => self.failing = false,
                Err(error) => {
                    self.done = None;
                    if !std::mem::replace(&mut self.failing, true) {
                        tracing::warn!(%error, "routes are not as they should be; trying again");
                    }
                }
            }
        }
    }

    /// Makes the kernel what it should be. That begins before slice-gateway has spoken: from the
    /// first moment on, nothing passes that should not.
    async fn converge(&mut self, tunnels: Option<&Tunnels>) -> Result<(), Failure> {
        let links = self.ns.links().await?;
        let chosen = match tunnels {
            Some(tunnels) => self.choose(tunnels).await?,
            None => Chosen::new(),
        };
        let wanted = Wanted::new(&self.nic, &self.families, tunnels, &chosen, &links);
        if self.done.as_ref() != Some(&wanted) || Instant::now() >= self.due {
            if !wanted.links.forwarding {
                self.publish(&wanted.links);
            }
            let (routes, rules) = (self.ns.routes().await?, self.ns.rules().await?);
            self.ns.apply(wanted.changes(&routes, &rules)).await?;
            self.due = Instant::now() + RESYNC;
        }
        self.publish(&wanted.links);
        self.tell_chosen(chosen);
        self.done = Some(wanted);
        Ok(())
    }

    /// By which keys each cluster is sent to from now on. A process that has just started goes on
    /// with what its predecessor's routes say, until its own probes have come back.
    async fn choose(&mut self, tunnels: &Tunnels) -> Result<Chosen, Failure> {
        let mut used = self.chosen.borrow().clone();
        let unknown = |t: &&Tunnel| !used.contains_key(&t.cluster);
        if tunnels.tunnels.iter().any(|t| unknown(&t)) {
            let routes = self.ns.routes().await?;
            let found = tunnels.tunnels.iter().filter(unknown).filter_map(|t| {
                let device = Wanted::found(&routes, t.prefixes.first()?)?;
                (device == t.device).then(|| (t.cluster.clone(), t.generation))
            });
            let found: Chosen = found.collect();
            used.extend(found);
        }
        let paths = self.paths.borrow();
        let mut seen: BTreeMap<&str, Vec<Seen>> = BTreeMap::new();
        for tunnel in &tunnels.tunnels {
            let path = paths.get(&prober::key(tunnel));
            let up_for = path.and_then(|path| path.up_since).map(|since| since.elapsed());
            let one = Seen { generation: tunnel.generation, up_for };
            seen.entry(&tunnel.cluster).or_default().push(one);
        }
        let one = |(cluster, seen): (&str, Vec<Seen>)| {
            let chosen = rotation::choose(&seen, used.get(cluster).copied())?;
            Some((cluster.to_owned(), chosen))
        };
        Ok(seen.into_iter().filter_map(one).collect())
    }

    /// Tells by which keys is sent, when it is so.
    fn tell_chosen(&self, chosen: Chosen) {
        self.chosen.send_if_modified(|last| {
            for (cluster, generation) in &chosen {
                let before = last.get(cluster).filter(|before| *before != generation);
                if let Some(before) = before {
                    tracing::info!(cluster, generation, before, "sends by other keys");
                }
            }
            let changed = *last != chosen;
            *last = chosen;
            changed
        });
    }

    fn publish(&mut self, links: &Links) {
        let changed = self.tell.send_if_modified(|last| {
            let changed = last != links;
            last.clone_from(links);
            changed
        });
        if changed {
            let (devices, forwarding) = (links.devices.len(), links.forwarding);
            tracing::info!(devices, forwarding, "devices of the pod");
        }
        if links.forwarding {
            drop(self.ready.take());
        }
    }
}
