//! What callers say to the engine.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use crate::core::peer::MessageLimits;
use crate::key::{PresharedKey, PrivateKey, PublicKey};

/// What is fixed for the life of an engine.
#[derive(Debug, Clone)]
pub struct Options {
    /// Name of the TUN device to make; at most 15 bytes.
    pub interface: String,
    /// MTU of the device in bytes, at least 576 (1280 if IPv6 runs inside).
    pub mtu: u16,
    /// Packets the device's queue holds before the kernel drops; see `DEFAULT_QUEUE`.
    pub queue: u32,
    /// Uses segmentation offloads where the kernel has them. Off only to measure or to debug.
    pub offload: bool,
    /// Directory for the control socket that `wg` speaks to; `None` for no such socket.
    pub control: Option<PathBuf>,
    /// When sessions are renewed because of the number of their messages.
    pub message_limits: MessageLimits,
}

/// Where `wg` looks for control sockets.
pub const CONTROL_DIRECTORY: &str = "/var/run/wireguard";

/// Packets the TUN device's queue holds: what single packets pile up while their thread waits for
/// a processor; with 512, one in ten of a fast sender's was lost. Super-packets are taken out of
/// it before anything that takes long is begun, so there its length adds no delay.
pub const DEFAULT_QUEUE: u32 = 2048;

impl Options {
    /// Options for a device of this name, with the defaults everyone else uses.
    pub fn new(interface: impl Into<String>) -> Self {
        Self {
            interface: interface.into(),
            mtu: 1420,
            queue: DEFAULT_QUEUE,
            offload: true,
            control: Some(CONTROL_DIRECTORY.into()),
            message_limits: MessageLimits::default(),
        }
    }
}

/// The whole desired configuration of a device: what is not in it is removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    /// The device's own key; without one it neither sends nor receives.
    pub private_key: Option<PrivateKey>,
    /// UDP port to listen on; 0 lets the kernel choose.
    pub listen_port: u16,
    /// Mark on the packets the engine sends; 0 for none.
    pub fwmark: u32,
    /// The peers; a public key occurs once.
    pub peers: Vec<PeerConfig>,
}

/// One peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerConfig {
    /// The key that names the peer.
    pub public_key: PublicKey,
    /// Key mixed into the handshake.
    pub preshared_key: Option<PresharedKey>,
    /// Where to send until the peer is heard from elsewhere. `None` keeps what is known.
    pub endpoint: Option<SocketAddr>,
    /// What the peer may send from and what is sent to it. Where two peers claim the same
    /// prefix, the later one in the list has it.
    pub allowed_ips: Vec<IpNet>,
    /// Sends something at least this often, to keep a NAT's mapping. Whole seconds.
    pub keepalive: Option<Duration>,
}

impl PeerConfig {
    /// A peer without anything but its key.
    pub fn new(public_key: PublicKey) -> Self {
        Self {
            public_key,
            preshared_key: None,
            endpoint: None,
            allowed_ips: Vec::new(),
            keepalive: None,
        }
    }
}
