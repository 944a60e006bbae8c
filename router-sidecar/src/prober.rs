//! Moves the bytes for the tunnels' probers, and answers the other gateways' probes.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use slicewire_core::gateway::Tunnels;
use slicewire_core::health::{Health, Transition};
use slicewire_core::probe::{self, Event, Prober, Sizes};
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::TunnelsSeen;
use crate::forwarding::Links;
use crate::socket;

/// How often figures are published when no tunnel goes up or down.
const PUBLISH: Duration = Duration::from_secs(1);

/// A tunnel as its probes show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Path {
    pub(crate) health: Health,
    pub(crate) path_mtu: Option<u16>,
}

/// The tunnels by their peers' public keys.
pub(crate) type Paths = BTreeMap<[u8; 32], Path>;

/// Probes the tunnels until `stop`; returns where their state is told.
pub(crate) fn start(
    port: u16,
    tunnels: TunnelsSeen,
    links: watch::Receiver<Links>,
    stop: CancellationToken,
) -> watch::Receiver<Paths> {
    let (tell, paths) = watch::channel(Paths::new());
    let mut task = Task {
        port,
        epoch: Instant::now(),
        tunnels,
        links,
        device: None,
        v4: None,
        v6: None,
        probed: BTreeMap::new(),
        tell,
        publish_at: Duration::ZERO,
    };
    crate::spawn(stop, async move { task.run().await });
    paths
}

struct Task {
    port: u16,
    epoch: Instant,
    tunnels: TunnelsSeen,
    links: watch::Receiver<Links>,
    /// The device that the sockets are bound to.
    device: Option<(u32, u16)>,
    v4: Option<Socket>,
    v6: Option<Socket>,
    /// By the peer's public key.
    probed: BTreeMap<[u8; 32], Probed>,
    tell: watch::Sender<Paths>,
    publish_at: Duration,
}

struct Socket {
    address: IpAddr,
    udp: UdpSocket,
}

struct Probed {
    cluster: String,
    /// All of the peer's addresses; probes from these are answered.
    peer: Vec<IpAddr>,
    /// Where probes go.
    to: IpAddr,
    prober: Prober,
}

impl Task {
    async fn run(&mut self) {
        loop {
            self.configure();
            let wait = self.step();
            tokio::select! {
                () = tokio::time::sleep_until(self.epoch + wait) => {}
                () = readable(self.v4.as_ref()) => {}
                () = readable(self.v6.as_ref()) => {}
                changed = self.tunnels.changed() => if changed.is_err() { return },
                changed = self.links.changed() => if changed.is_err() { return },
            }
        }
    }

    fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    /// Takes over what is known about tunnels and devices.
    fn configure(&mut self) {
        let tunnels = self.tunnels.borrow_and_update().clone();
        let device = self.links.borrow_and_update().device;
        let Some(tunnels) = tunnels else { return };
        if device != self.device {
            // Sockets hold on to the device that was, not to its name.
            (self.v4, self.v6, self.device) = (None, None, device);
        }
        let own = |v6: bool| tunnels.addresses.iter().copied().find(|a| a.is_ipv6() == v6);
        let usable = |v6: bool| own(v6).filter(|_| device.is_some());
        reopen(&mut self.v4, usable(false), self.port, &tunnels.device);
        reopen(&mut self.v6, usable(true), self.port, &tunnels.device);
        self.follow(&tunnels, device.map_or(0, |(_, mtu)| mtu));
    }

    fn follow(&mut self, tunnels: &Tunnels, device_mtu: u16) {
        let now = self.now();
        self.probed.retain(|key, _| tunnels.tunnels.iter().any(|t| t.public_key == *key));
        for tunnel in &tunnels.tunnels {
            let own = |to: &&IpAddr| tunnels.addresses.iter().any(|a| a.is_ipv6() == to.is_ipv6());
            let Some(to) = tunnel.addresses.iter().find(own).copied() else {
                self.probed.remove(&tunnel.public_key);
                continue;
            };
            let sizes = Sizes { headers: if to.is_ipv4() { 28 } else { 48 }, device_mtu };
            let fresh = || Prober::new(rand::random(), sizes, now);
            let probed = self.probed.entry(tunnel.public_key).or_insert_with(|| Probed {
                cluster: tunnel.cluster.clone(),
                peer: tunnel.addresses.clone(),
                to,
                prober: fresh(),
            });
            if probed.to != to {
                (probed.to, probed.prober) = (to, fresh());
            }
            probed.peer.clone_from(&tunnel.addresses);
            probed.cluster.clone_from(&tunnel.cluster);
            if device_mtu != 0 {
                probed.prober.resize(sizes, now);
            }
        }
    }

    /// Receives all there is, lets time pass, sends what is due; returns when to come again.
    fn step(&mut self) -> Duration {
        let mut turned = self.receive();
        let now = self.now();
        for probed in self.probed.values_mut() {
            turned |= tell(&probed.cluster, probed.prober.expire(now));
            let socket = if probed.to.is_ipv4() { &self.v4 } else { &self.v6 };
            let to = SocketAddr::new(probed.to, self.port);
            while let Some(payload) = probed.prober.poll(now) {
                // Without a device the probe is as good as lost.
                let sent = socket.as_ref().map(|s| s.udp.try_send_to(&payload, to));
                if let Some(Err(error)) = sent
                    && error.raw_os_error() == Some(libc::EMSGSIZE)
                {
                    turned |= tell(&probed.cluster, probed.prober.refused(&payload, now));
                }
            }
        }
        if turned || now >= self.publish_at {
            self.publish_at = now + PUBLISH;
            self.publish();
        }
        let due = self.probed.values().map(|probed| probed.prober.deadline());
        due.fold(self.publish_at, Duration::min)
    }

    fn receive(&mut self) -> bool {
        let mut turned = false;
        let mut buffer = [0; 2048];
        let now = self.epoch.elapsed();
        for socket in self.v4.iter().chain(&self.v6) {
            while let Ok((length, from)) = socket.udp.try_recv_from(&mut buffer) {
                let payload = buffer.get(..length).unwrap_or_default();
                let sender = |p: &&mut Probed| p.peer.contains(&from.ip());
                let Some(probed) = self.probed.values_mut().find(sender) else { continue };
                if let Some(answer) = probe::answer(payload) {
                    // The other end asks again if this one does not get out.
                    let _ = socket.udp.try_send_to(&answer, from);
                } else {
                    turned |= tell(&probed.cluster, probed.prober.handle(payload, now));
                }
            }
        }
        turned
    }

    fn publish(&self) {
        let path = |probed: &Probed| Path {
            health: probed.prober.health(),
            path_mtu: probed.prober.path_mtu(),
        };
        let paths: Paths = self.probed.iter().map(|(key, p)| (*key, path(p))).collect();
        self.tell.send_if_modified(|last| {
            let changed = *last != paths;
            *last = paths;
            changed
        });
    }
}

/// Opens the family's socket, or closes it, as `address` says.
fn reopen(socket: &mut Option<Socket>, address: Option<IpAddr>, port: u16, device: &str) {
    if socket.as_ref().map(|s| s.address) == address {
        return;
    }
    *socket = address.and_then(|address| {
        match socket::open(SocketAddr::new(address, port), device) {
            Ok(udp) => Some(Socket { address, udp }),
            Err(error) => {
                // The address may come a moment after the device.
                tracing::debug!(%address, %error, "cannot open the probes' socket; trying again");
                None
            }
        }
    });
}

async fn readable(socket: Option<&Socket>) {
    match socket {
        Some(socket) => {
            let ready: io::Result<()> = socket.udp.readable().await;
            if let Err(error) = ready {
                tracing::debug!(%error, "the probes' socket");
            }
        }
        None => std::future::pending().await,
    }
}

/// Logs an event; returns whether it is one that others wait for.
fn tell(cluster: &str, event: Option<Event>) -> bool {
    match event {
        Some(Event::Tunnel(Transition::Up)) => tracing::info!(cluster, "tunnel is up"),
        Some(Event::Tunnel(Transition::Down)) => tracing::warn!(cluster, "tunnel is down"),
        Some(Event::PathMtu(bytes)) => tracing::info!(cluster, bytes, "path MTU measured"),
        None => return false,
    }
    true
}
