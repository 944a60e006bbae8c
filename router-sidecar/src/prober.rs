//! Moves the bytes for the tunnels' probers, and answers the other gateways' probes.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use slicewire_core::gateway::{Tunnel, Tunnels};
use slicewire_core::health::{Health, Transition};
use slicewire_core::probe::{self, Event, Prober, Sizes};
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::TunnelsSeen;
use crate::forwarding::{Devices, Links};
use crate::socket;

/// How often figures are published when no tunnel goes up or down.
const PUBLISH: Duration = Duration::from_secs(1);

/// A tunnel as its probes show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Path {
    pub(crate) health: Health,
    pub(crate) path_mtu: Option<u16>,
    /// Since when probes come back; `None` while they do not.
    pub(crate) up_since: Option<Instant>,
}

/// A tunnel's device and its peer's public key: what tells tunnels of a pod apart.
pub(crate) type Key = (String, [u8; 32]);

/// The tunnels.
pub(crate) type Paths = BTreeMap<Key, Path>;

/// A tunnel's key.
pub(crate) fn key(tunnel: &Tunnel) -> Key {
    (tunnel.device.clone(), tunnel.public_key)
}

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
        sockets: BTreeMap::new(),
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
    /// By the device they are bound to.
    sockets: BTreeMap<String, Sockets>,
    probed: BTreeMap<Key, Probed>,
    tell: watch::Sender<Paths>,
    publish_at: Duration,
}

/// The sockets of a device.
struct Sockets {
    /// The device's number and MTU. Sockets hold on to the device that was, not to its name.
    device: (u32, u16),
    v4: Option<Socket>,
    v6: Option<Socket>,
}

impl Sockets {
    fn both(&self) -> impl Iterator<Item = &Socket> {
        self.v4.iter().chain(&self.v6)
    }
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
    up_since: Option<Instant>,
}

impl Task {
    async fn run(&mut self) {
        loop {
            self.configure();
            let wait = self.step();
            tokio::select! {
                () = tokio::time::sleep_until(self.epoch + wait) => {}
                () = readable(&self.sockets) => {}
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
        let devices = self.links.borrow_and_update().devices.clone();
        let Some(tunnels) = tunnels else { return };
        self.sockets.retain(|name, sockets| devices.get(name) == Some(&sockets.device));
        let own = |v6: bool| tunnels.addresses.iter().copied().find(|a| a.is_ipv6() == v6);
        for (name, device) in &devices {
            let none = Sockets { device: *device, v4: None, v6: None };
            let sockets = self.sockets.entry(name.clone()).or_insert(none);
            reopen(&mut sockets.v4, own(false), self.port, name);
            reopen(&mut sockets.v6, own(true), self.port, name);
        }
        self.follow(&tunnels, &devices);
    }

    fn follow(&mut self, tunnels: &Tunnels, devices: &Devices) {
        let now = self.now();
        self.probed.retain(|known, _| tunnels.tunnels.iter().any(|t| key(t) == *known));
        for tunnel in &tunnels.tunnels {
            let device_mtu = devices.get(&tunnel.device).map_or(0, |(_, mtu)| *mtu);
            let own = |to: &&IpAddr| tunnels.addresses.iter().any(|a| a.is_ipv6() == to.is_ipv6());
            let Some(to) = tunnel.addresses.iter().find(own).copied() else {
                self.probed.remove(&key(tunnel));
                continue;
            };
            let sizes = Sizes { headers: if to.is_ipv4() { 28 } else { 48 }, device_mtu };
            let fresh = || Prober::new(rand::random(), sizes, now);
            let probed = self.probed.entry(key(tunnel)).or_insert_with(|| Probed {
                cluster: tunnel.cluster.clone(),
                up_since: None,
                peer: tunnel.addresses.clone(),
                to,
                prober: fresh(),
            });
            if probed.to != to {
                (probed.to, probed.prober, probed.up_since) = (to, fresh(), None);
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
        for ((device, _), probed) in &mut self.probed {
            turned |= tell(&probed.cluster, probed.prober.expire(now));
            let sockets = self.sockets.get(device);
            let v4 = probed.to.is_ipv4();
            let socket = sockets.and_then(|s| if v4 { s.v4.as_ref() } else { s.v6.as_ref() });
            let to = SocketAddr::new(probed.to, self.port);
            while let Some(payload) = probed.prober.poll(now) {
                // Without a device the probe is as good as lost.
                let sent = socket.map(|s| s.udp.try_send_to(&payload, to));
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
        let sockets =
            self.sockets.iter().flat_map(|(device, s)| s.both().map(move |s| (device, s)));
        for (device, socket) in sockets {
            while let Ok((length, from)) = socket.udp.try_recv_from(&mut buffer) {
                let payload = buffer.get(..length).unwrap_or_default();
                let mut probed = self.probed.iter_mut().filter(|((d, _), _)| d == device);
                let sender = probed.find(|(_, p)| p.peer.contains(&from.ip()));
                let Some((_, probed)) = sender else { continue };
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

    fn publish(&mut self) {
        for probed in self.probed.values_mut() {
            let up = probed.prober.health().up;
            probed.up_since = up.then(|| probed.up_since.unwrap_or_else(Instant::now));
        }
        let path = |probed: &Probed| Path {
            health: probed.prober.health(),
            path_mtu: probed.prober.path_mtu(),
            up_since: probed.up_since,
        };
        let paths: Paths = self.probed.iter().map(|(key, p)| (key.clone(), path(p))).collect();
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

/// Waits until one of the sockets has something.
async fn readable(sockets: &BTreeMap<String, Sockets>) {
    let all = sockets.values().flat_map(Sockets::both);
    let waiting: Vec<_> = all.map(|socket| Box::pin(socket.udp.readable())).collect();
    if waiting.is_empty() {
        return std::future::pending().await;
    }
    let (ready, ..) = futures::future::select_all(waiting).await;
    if let Err(error) = ready {
        tracing::debug!(%error, "the probes' socket");
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
