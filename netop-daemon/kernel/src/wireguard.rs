//! WireGuard devices of the kernel, behind small types.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::SystemTime;

use ipnet::IpNet;
use nix::errno::Errno;
use wireguard_control::{
    Backend, Device, DeviceUpdate, InterfaceName, Key, PeerConfigBuilder, PeerInfo,
};

/// A key of 32 bytes. Never shown: not every use of the type is public.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WireguardKey(pub [u8; 32]);

impl fmt::Debug for WireguardKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WireguardKey(..)")
    }
}

/// A peer as it is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WireguardPeer {
    /// Its public key.
    pub public_key: WireguardKey,
    /// The key shared with it beforehand.
    pub preshared_key: Option<WireguardKey>,
    /// Where to reach it; unset: keep what is known, or wait for it to call.
    pub endpoint: Option<SocketAddr>,
    /// Prefixes it may send from, and that are sent to it.
    pub allowed_ips: BTreeSet<IpNet>,
    /// Seconds between keepalives; unset: none.
    pub keepalive: Option<u16>,
}

/// A peer as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WireguardPeerState {
    /// Its settings; the endpoint is where it was last heard.
    pub peer: WireguardPeer,
    /// When the last handshake was completed.
    pub last_handshake: Option<SystemTime>,
    /// Bytes received from it.
    pub rx_bytes: u64,
    /// Bytes sent to it.
    pub tx_bytes: u64,
}

/// A device as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WireguardDevice {
    /// Our public key, once there is a private one.
    pub public_key: Option<WireguardKey>,
    /// UDP port it listens on.
    pub listen_port: Option<u16>,
    /// Its peers.
    pub peers: Vec<WireguardPeerState>,
}

/// Changes to a device; what is not mentioned stays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WireguardUpdate {
    /// Our private key.
    pub private_key: Option<WireguardKey>,
    /// UDP port to listen on.
    pub listen_port: Option<u16>,
    /// Mark on the packets it sends; 0 for none.
    pub fwmark: Option<u32>,
    /// Peers to add or to change; their allowed prefixes are replaced as a whole.
    pub set_peers: Vec<WireguardPeer>,
    /// Public keys of peers to remove.
    pub remove_peers: Vec<WireguardKey>,
}

/// Reads a device of the calling thread's namespace.
pub(crate) fn get(dev: &str) -> io::Result<WireguardDevice> {
    let device = Device::get(&name(dev)?, Backend::Kernel)?;
    Ok(WireguardDevice {
        public_key: device.public_key.map(|key| WireguardKey(key.0)),
        listen_port: device.listen_port,
        peers: device.peers.into_iter().map(peer_state).collect::<io::Result<_>>()?,
    })
}

/// Changes a device of the calling thread's namespace, which must exist.
pub(crate) fn set(dev: &str, update: WireguardUpdate) -> io::Result<()> {
    let removed =
        update.remove_peers.iter().map(|key| PeerConfigBuilder::new(&Key(key.0)).remove());
    let set = update.set_peers.iter().map(peer_config);
    let mut change = DeviceUpdate::new().add_peers(&removed.chain(set).collect::<Vec<_>>());
    if let Some(key) = update.private_key {
        change = change.set_private_key(Key(key.0));
    }
    if let Some(port) = update.listen_port {
        change = change.set_listen_port(port);
    }
    if let Some(mark) = update.fwmark {
        change = change.set_fwmark(mark);
    }
    change.apply(&name(dev)?, Backend::Kernel)
}

fn name(dev: &str) -> io::Result<InterfaceName> {
    dev.parse().map_err(|_| Errno::EINVAL.into())
}

fn peer_config(peer: &WireguardPeer) -> PeerConfigBuilder {
    let mut config = PeerConfigBuilder::new(&Key(peer.public_key.0)).replace_allowed_ips();
    config = match &peer.preshared_key {
        Some(key) => config.set_preshared_key(Key(key.0)),
        None => config.unset_preshared_key(),
    };
    config = match peer.keepalive {
        Some(seconds) => config.set_persistent_keepalive_interval(seconds),
        None => config.unset_persistent_keepalive(),
    };
    if let Some(endpoint) = peer.endpoint {
        config = config.set_endpoint(endpoint);
    }
    peer.allowed_ips
        .iter()
        .fold(config, |config, prefix| config.add_allowed_ip(prefix.network(), prefix.prefix_len()))
}

fn peer_state(info: PeerInfo) -> io::Result<WireguardPeerState> {
    let prefix = |ip: &wireguard_control::AllowedIp| {
        IpNet::new(ip.address, ip.cidr).map_err(|_| io::Error::from(Errno::EPROTO))
    };
    let zero = Key::zero();
    let peer = WireguardPeer {
        public_key: WireguardKey(info.config.public_key.0),
        preshared_key: info
            .config
            .preshared_key
            .filter(|key| *key != zero)
            .map(|key| WireguardKey(key.0)),
        endpoint: info.config.endpoint,
        allowed_ips: info.config.allowed_ips.iter().map(prefix).collect::<io::Result<_>>()?,
        keepalive: info.config.persistent_keepalive_interval.filter(|seconds| *seconds != 0),
    };
    Ok(WireguardPeerState {
        peer,
        last_handshake: info
            .stats
            .last_handshake_time
            .filter(|time| *time != SystemTime::UNIX_EPOCH),
        rx_bytes: info.stats.rx_bytes,
        tx_bytes: info.stats.tx_bytes,
    })
}
