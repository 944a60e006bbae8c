//! Keeps the pod's kernel forwarding between the slice and the tunnels.

mod plan;

use std::time::Duration;

use anyhow::Context as _;
use slicewire_core::gateway::Tunnels;
use slicewire_core::prefix::Family;
use slicewire_kernel::{Kernel, Network as _, Ns, NsId};
use slicewire_runtime::ReadyGuard;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::TunnelsSeen;
use plan::Wanted;

/// How often the devices are looked at. The slice's NIC is plugged in, and the tunnels' device
/// made anew by a restarted slice-gateway, without anybody telling.
const LOOK: Duration = Duration::from_millis(200);
/// How often routes and rules are compared although no device changed.
const RESYNC: Duration = Duration::from_secs(10);

/// What the other tasks need to know about the pod's devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Links {
    /// The tunnels' device, when it is up: its number and MTU in bytes.
    pub(crate) device: Option<(u32, u16)>,
    /// Packets are forwarded between the slice's NIC and the tunnels.
    pub(crate) forwarding: bool,
}

/// Starts; returns where the devices' state is told.
pub(crate) async fn start(
    nic: String,
    tunnels: TunnelsSeen,
    ready: ReadyGuard,
    stop: CancellationToken,
) -> anyhow::Result<watch::Receiver<Links>> {
    let ns = Kernel::new().open(&NsId::Current).await.context("cannot speak netlink")?;
    let (tell, links) = watch::channel(Links::default());
    let mut families = vec![Family::V4];
    // The kernel has IPv6, whether or not the slice has: then it must not be a way around.
    families.extend(ns.sysctl("ipv6/conf/all/forwarding").await.ok().map(|_| Family::V6));
    let mut task = Forwarding {
        ns,
        nic,
        families,
        tunnels,
        tell,
        ready: Some(ready),
        done: None,
        due: Instant::now(),
        failing: false,
    };
    crate::spawn(stop, async move { task.run().await });
    Ok(links)
}

struct Forwarding {
    ns: Ns,
    nic: String,
    families: Vec<Family>,
    tunnels: TunnelsSeen,
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
        let wanted = Wanted::new(&self.nic, &self.families, tunnels, &links);
        if self.done.as_ref() != Some(&wanted) || Instant::now() >= self.due {
            if !wanted.links.forwarding {
                self.publish(wanted.links);
            }
            let (routes, rules) = (self.ns.routes().await?, self.ns.rules().await?);
            self.ns.apply(wanted.changes(&routes, &rules)).await?;
            self.due = Instant::now() + RESYNC;
        }
        self.publish(wanted.links);
        self.done = Some(wanted);
        Ok(())
    }

    fn publish(&mut self, links: Links) {
        let changed = self.tell.send_if_modified(|last| std::mem::replace(last, links) != links);
        if changed {
            let (device, forwarding) = (links.device.is_some(), links.forwarding);
            tracing::info!(device, forwarding, "devices of the pod");
        }
        if links.forwarding {
            drop(self.ready.take());
        }
    }
}
