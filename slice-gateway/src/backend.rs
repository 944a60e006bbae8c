//! What does WireGuard: the kernel's device or the embedded engine, behind one interface.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, SystemTime};

use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use slicewire_engine::{
    Config, Engine, EngineError, EngineHandle, Options, PeerConfig, PresharedKey, PublicKey,
};
use slicewire_kernel::{
    Error as KernelError, Errors, LinkChange, LinkEnd, LinkKind, Network, Ns, Op, WireguardKey,
    WireguardPeer, WireguardPeerState, WireguardUpdate,
};

/// Where programs find the TUN driver.
const TUN_NODE: &str = "/dev/net/tun";
/// Its device number: misc device 200 (Linux allocated devices).
const TUN_NUMBER: (u64, u64) = (10, 200);

/// Which backend is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum Choice {
    /// The kernel's WireGuard where it has one, the embedded engine elsewhere.
    #[default]
    Auto,
    /// The kernel's WireGuard.
    Kernel,
    /// The embedded engine.
    Embedded,
}

/// Why a backend could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BackendError {
    /// The engine's refusal.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The kernel's refusal to look at or change a WireGuard device.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The kernel's refusal to make a device.
    #[error(transparent)]
    Link(#[from] Errors),
    /// The device is not WireGuard's.
    #[error("{device} exists and is no WireGuard device; remove it")]
    Taken {
        /// The device.
        device: String,
    },
}

impl BackendError {
    /// A short stable name.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Engine(error) => error.reason(),
            Self::Kernel(error) => error.reason(),
            Self::Link(errors) => errors.reason(),
            Self::Taken { .. } => "DeviceTaken",
        }
    }
}

/// A peer as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct PeerState {
    /// Where it was last heard from, or is called.
    pub(crate) endpoint: Option<SocketAddr>,
    /// When the last handshake was completed.
    pub(crate) last_handshake: Option<SystemTime>,
    /// Bytes received from it.
    pub(crate) rx_bytes: u64,
    /// Bytes sent to it.
    pub(crate) tx_bytes: u64,
}

/// A running WireGuard device. The embedded one ends with the value; the kernel's stays, so that
/// a restarted gateway finds its sessions as they were.
pub(crate) enum Backend {
    /// The embedded engine.
    Embedded(EngineHandle),
    /// The kernel's device.
    Kernel(KernelDevice),
}

/// A WireGuard device of the kernel.
pub(crate) struct KernelDevice {
    ns: Ns,
    name: String,
    /// What was configured last; `None` before the first time in this process.
    applied: Option<Config>,
}

impl Backend {
    /// Makes the device that `options` names in namespace `ns`, or takes over the kernel's device
    /// of that name. `ns` is this process's own. What the kernel does without (its queue's length,
    /// a control socket: `wg` speaks to the kernel itself) is for the engine alone.
    ///
    /// # Errors
    /// What the kernel or the engine refused.
    pub(crate) async fn start(
        choice: Choice,
        kernel: &dyn Network,
        ns: &Ns,
        options: Options,
    ) -> Result<Self, BackendError> {
        let name = options.interface.clone();
        let in_kernel = match choice {
            Choice::Auto => kernel.wireguard_available().await,
            Choice::Kernel => true,
            Choice::Embedded => false,
        };
        let links = ns.links().await?;
        let found = links.iter().find(|link| link.name == name).map(|link| &link.kind);
        match (in_kernel, found) {
            (true, None | Some(LinkKind::Wireguard)) => {
                if found.is_none() {
                    let end = LinkEnd::new(&name).mtu(u32::from(options.mtu)).up();
                    ns.sequence(vec![Op::AddWireguard { end }]).await?;
                }
                Ok(Self::Kernel(KernelDevice { ns: ns.clone(), name, applied: None }))
            }
            (false, None) => {
                make_tun_node(Path::new(TUN_NODE));
                Ok(Self::Embedded(Engine::start(options)?))
            }
            (_, Some(_)) => Err(BackendError::Taken { device: name }),
        }
    }

    /// Makes the device what `config` says. Peers that stay keep their sessions and, unless the
    /// endpoint in `config` changed, the endpoint they were last heard from.
    ///
    /// # Errors
    /// What the kernel or the engine refused.
    pub(crate) async fn apply(&mut self, config: Config) -> Result<(), BackendError> {
        match self {
            Self::Embedded(engine) => Ok(engine.apply(config)?),
            Self::Kernel(device) => device.apply(config).await,
        }
    }

    /// Whether the device is still there.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub(crate) async fn is_running(&self) -> Result<bool, BackendError> {
        match self {
            Self::Embedded(engine) => Ok(engine.is_running()),
            Self::Kernel(device) => {
                let links = device.ns.links().await?;
                Ok(links.iter().any(|link| link.name == device.name))
            }
        }
    }

    /// Sets the device's MTU in bytes.
    ///
    /// # Errors
    /// What the kernel or the engine refused.
    pub(crate) async fn set_mtu(&self, mtu: u16) -> Result<(), BackendError> {
        match self {
            Self::Embedded(engine) => Ok(engine.set_mtu(mtu)?),
            Self::Kernel(device) => {
                let change = LinkChange::mtu(u32::from(mtu));
                let op = Op::SetLink { dev: device.name.clone(), change };
                Ok(device.ns.sequence(vec![op]).await?)
            }
        }
    }

    /// Ends the device, the kernel's too.
    ///
    /// # Errors
    /// What the kernel refused.
    pub(crate) async fn remove(self) -> Result<(), BackendError> {
        match self {
            Self::Embedded(engine) => engine.shutdown(),
            Self::Kernel(device) => {
                device.ns.sequence(vec![Op::DeleteLink { dev: device.name }]).await?;
            }
        }
        Ok(())
    }

    /// The peers as they are.
    ///
    /// # Errors
    /// What the kernel refused.
    pub(crate) async fn peers(&self) -> Result<BTreeMap<PublicKey, PeerState>, BackendError> {
        match self {
            Self::Embedded(engine) => {
                let peer = |peer: slicewire_engine::PeerStats| {
                    let state = PeerState {
                        endpoint: peer.endpoint,
                        last_handshake: peer.last_handshake,
                        rx_bytes: peer.traffic.rx_bytes,
                        tx_bytes: peer.traffic.tx_bytes,
                    };
                    (peer.public_key, state)
                };
                Ok(engine.stats().peers.into_iter().map(peer).collect())
            }
            Self::Kernel(device) => device.peers().await,
        }
    }

    /// Packets the embedded engine dropped, by reason; the kernel does not tell.
    pub(crate) fn drops(&self) -> Vec<(&'static str, u64)> {
        match self {
            Self::Embedded(engine) => {
                engine.stats().drops.into_iter().map(|(drop, n)| (drop.reason(), n)).collect()
            }
            Self::Kernel(_) => Vec::new(),
        }
    }

    /// `kernel` or `embedded`.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Embedded(_) => "embedded",
            Self::Kernel(_) => "kernel",
        }
    }
}

/// Makes the TUN driver's node where it is missing: a container's /dev has none, but may have one
/// (containers' device rules allow it). Where that fails, opening it says what is wrong.
fn make_tun_node(node: &Path) {
    if node.exists() {
        return;
    }
    let (major, minor) = TUN_NUMBER;
    let made = node.parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| {
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        Ok(mknod(node, SFlag::S_IFCHR, mode, makedev(major, minor))?)
    });
    if let Err(error) = made {
        let node = node.display();
        tracing::warn!(%node, %error, "cannot make the TUN device's node; CAP_MKNOD is needed");
    }
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl KernelDevice {
    async fn apply(&mut self, config: Config) -> Result<(), BackendError> {
        let found = self.ns.wireguard(&self.name).await?;
        let update = update(self.applied.as_ref(), &config, &found.peers, SystemTime::now());
        self.ns.set_wireguard(&self.name, update).await?;
        self.applied = Some(config);
        Ok(())
    }

    async fn peers(&self) -> Result<BTreeMap<PublicKey, PeerState>, BackendError> {
        let peer = |found: WireguardPeerState| {
            let state = PeerState {
                endpoint: found.peer.endpoint,
                last_handshake: found.last_handshake,
                rx_bytes: found.rx_bytes,
                tx_bytes: found.tx_bytes,
            };
            (PublicKey::from_bytes(found.peer.public_key.0), state)
        };
        Ok(self.ns.wireguard(&self.name).await?.peers.into_iter().map(peer).collect())
    }
}

/// A peer heard from within this time has a session, and its endpoint is where it is.
const ALIVE: Duration = Duration::from_secs(180);

/// The changes that make a kernel device what `config` says. An endpoint is set only where the
/// configured one changed since it was last `applied`, so that roaming is not undone; after a
/// restart, when that is not known, only where the peer has no session.
fn update(
    applied: Option<&Config>,
    config: &Config,
    found: &[WireguardPeerState],
    now: SystemTime,
) -> WireguardUpdate {
    let wanted: Vec<_> =
        config.peers.iter().map(|p| WireguardKey(*p.public_key.as_bytes())).collect();
    let gone = found.iter().map(|f| f.peer.public_key).filter(|key| !wanted.contains(key));
    let set = config.peers.iter().filter_map(|peer| {
        let existing = found.iter().find(|f| f.peer.public_key.0 == *peer.public_key.as_bytes());
        let before = applied
            .and_then(|config| config.peers.iter().find(|p| p.public_key == peer.public_key));
        let roams = match (existing, applied, before) {
            (None, ..) => false,
            (Some(_), Some(_), before) => before.is_some_and(|b| b.endpoint == peer.endpoint),
            (Some(existing), None, _) => existing
                .last_handshake
                .is_some_and(|at| now.duration_since(at).is_ok_and(|age| age < ALIVE)),
        };
        let mut wanted = kernel_peer(peer);
        if roams {
            wanted.endpoint = None;
        }
        let same = existing.is_some_and(|existing| {
            let endpoint = wanted.endpoint.or(existing.peer.endpoint);
            existing.peer == WireguardPeer { endpoint, ..wanted.clone() }
        });
        (!same).then_some(wanted)
    });
    WireguardUpdate {
        private_key: config.private_key.as_ref().map(|key| WireguardKey(*key.expose())),
        // Asked for any port, the kernel would choose another one each time.
        listen_port: Some(config.listen_port).filter(|port| *port != 0),
        fwmark: Some(config.fwmark),
        set_peers: set.collect(),
        remove_peers: gone.collect(),
    }
}

fn kernel_peer(peer: &PeerConfig) -> WireguardPeer {
    let preshared = |key: &PresharedKey| WireguardKey(*key.expose());
    let seconds = |every: Duration| u16::try_from(every.as_secs()).unwrap_or(u16::MAX);
    WireguardPeer {
        public_key: WireguardKey(*peer.public_key.as_bytes()),
        preshared_key: peer.preshared_key.as_ref().map(preshared),
        endpoint: peer.endpoint,
        allowed_ips: peer.allowed_ips.iter().copied().collect(),
        keepalive: peer.keepalive.map(seconds),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(endpoints: &[(u8, &str)]) -> Config {
        let peer = |(key, endpoint): &(u8, &str)| PeerConfig {
            endpoint: endpoint.parse().ok(),
            allowed_ips: vec![format!("10.20.{key}.0/24").parse().unwrap()],
            ..PeerConfig::new(PublicKey::from_bytes([*key; 32]))
        };
        Config {
            private_key: Some(slicewire_engine::PrivateKey::from_bytes([9; 32])),
            listen_port: 51820,
            fwmark: 0,
            peers: endpoints.iter().map(peer).collect(),
        }
    }

    /// The state of a device after `config`, each peer heard at `endpoint` `age` seconds ago.
    fn found(config: &Config, endpoint: &str, age: u64) -> Vec<WireguardPeerState> {
        let peer = |peer: &PeerConfig| WireguardPeerState {
            peer: WireguardPeer { endpoint: endpoint.parse().ok(), ..kernel_peer(peer) },
            last_handshake: Some(now() - Duration::from_secs(age)),
            rx_bytes: 0,
            tx_bytes: 0,
        };
        config.peers.iter().map(peer).collect()
    }

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000)
    }

    fn changed(update: &WireguardUpdate) -> Vec<(u8, Option<String>)> {
        let peer = |p: &WireguardPeer| (p.public_key.0[0], p.endpoint.map(|e| e.to_string()));
        update.set_peers.iter().map(peer).collect()
    }

    #[test]
    fn a_missing_tun_node_is_made_and_works() {
        let dir = tempfile::tempdir().unwrap();
        let node = dir.path().join("net/tun");
        for _ in 0..2 {
            make_tun_node(&node);
            let numbers = nix::sys::stat::stat(&node).unwrap().st_rdev;
            let again = nix::sys::stat::stat(TUN_NODE).unwrap().st_rdev;
            assert_eq!(numbers, again);
        }
    }

    #[test]
    fn a_peer_that_roamed_is_left_where_it_is() {
        let same = config(&[(1, "192.0.2.1:1")]);
        let roamed = found(&same, "198.51.100.7:9", 500);
        let update = update(Some(&same), &same, &roamed, now());
        assert_eq!((changed(&update), update.remove_peers), (vec![], vec![]));
    }

    #[test]
    fn a_planned_endpoint_that_changed_overrides() {
        let (old, new) = (config(&[(1, "192.0.2.1:1")]), config(&[(1, "192.0.2.2:1")]));
        let roamed = found(&old, "198.51.100.7:9", 5);
        let update = update(Some(&old), &new, &roamed, now());
        assert_eq!(changed(&update), [(1, Some("192.0.2.2:1".to_owned()))]);
    }

    #[test]
    fn after_a_restart_sessions_keep_their_endpoints() {
        let same = config(&[(1, "192.0.2.1:1")]);
        let alive = update(None, &same, &found(&same, "198.51.100.7:9", 100), now());
        assert_eq!(changed(&alive), []);
        let dead = update(None, &same, &found(&same, "198.51.100.7:9", 200), now());
        assert_eq!(changed(&dead), [(1, Some("192.0.2.1:1".to_owned()))]);
    }

    #[test]
    fn only_what_changed_is_touched() {
        let old = config(&[(1, "192.0.2.1:1"), (2, "192.0.2.2:1")]);
        let mut new = config(&[(2, "192.0.2.2:1"), (3, "192.0.2.3:1")]);
        let state = found(&old, "192.0.2.9:1", 5);
        let first = update(Some(&old), &new, &state, now());
        assert_eq!(changed(&first), [(3, Some("192.0.2.3:1".to_owned()))]);
        assert_eq!(first.remove_peers, [WireguardKey([1; 32])]);
        new.peers[0].allowed_ips.push("10.21.0.0/16".parse().unwrap());
        let second = update(Some(&old), &new, &state, now());
        assert_eq!(changed(&second)[0], (2, None), "wider, and left where it is");
    }
}
