//! Counters cheap enough to be always on: plain relaxed atomics, one cache line's worth a peer.

use std::sync::atomic::{AtomicU64, Ordering};

/// Why a packet was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(usize)]
pub enum Drop {
    /// From the device: not a whole IPv4 or IPv6 packet, or a vnet header that does not fit it.
    MalformedInner,
    /// From the device: no peer has this destination in its allowed IPs.
    NoRoute,
    /// From the device: the peer's address is not known yet.
    NoEndpoint,
    /// From the device: too many super-packets wait to be encrypted.
    QueueFull,
    /// From the network: not a message of the protocol.
    MalformedMessage,
    /// From the network: the receiver index belongs to no peer or session.
    UnknownIndex,
    /// From the network: a handshake by a key that is no peer's.
    UnknownPeer,
    /// From the network: handshake over the rate limit; answered with a cookie or not at all.
    RateLimited,
    /// From the network: failed authentication (tag, mac, key or timestamp).
    Unauthenticated,
    /// From the network: counter seen before or too old.
    Replayed,
    /// From a peer: the content is not a whole IP packet.
    MalformedContent,
    /// From a peer: the source is not in the peer's allowed IPs.
    SpoofedSource,
    /// From the network: so much has been waiting for so long that senders have to slow down.
    Delayed,
    /// The UDP socket refused the datagram.
    SendFailed,
    /// The datagram is larger than the way out allows.
    TooBig,
    /// The TUN device refused the packet.
    DeviceRefused,
}

impl Drop {
    /// All reasons, in the order of their numbers.
    pub const ALL: [Self; 16] = [
        Self::MalformedInner,
        Self::NoRoute,
        Self::NoEndpoint,
        Self::QueueFull,
        Self::MalformedMessage,
        Self::UnknownIndex,
        Self::UnknownPeer,
        Self::RateLimited,
        Self::Unauthenticated,
        Self::Replayed,
        Self::MalformedContent,
        Self::SpoofedSource,
        Self::Delayed,
        Self::SendFailed,
        Self::TooBig,
        Self::DeviceRefused,
    ];

    /// A short stable name, for a metric's label.
    pub fn reason(self) -> &'static str {
        match self {
            Self::MalformedInner => "malformed_inner",
            Self::NoRoute => "no_route",
            Self::NoEndpoint => "no_endpoint",
            Self::QueueFull => "queue_full",
            Self::MalformedMessage => "malformed_message",
            Self::UnknownIndex => "unknown_index",
            Self::UnknownPeer => "unknown_peer",
            Self::RateLimited => "rate_limited",
            Self::Unauthenticated => "unauthenticated",
            Self::Replayed => "replayed",
            Self::MalformedContent => "malformed_content",
            Self::SpoofedSource => "spoofed_source",
            Self::Delayed => "delayed",
            Self::SendFailed => "send_failed",
            Self::TooBig => "too_big",
            Self::DeviceRefused => "device_refused",
        }
    }
}

/// Dropped packets by reason.
#[derive(Debug, Default)]
pub struct Drops([AtomicU64; Drop::ALL.len()]);

impl Drops {
    /// Counts `packets` more.
    pub fn add(&self, reason: Drop, packets: u64) {
        self.0[reason as usize].fetch_add(packets, Ordering::Relaxed);
    }

    /// How many so far.
    pub fn get(&self, reason: Drop) -> u64 {
        self.0[reason as usize].load(Ordering::Relaxed)
    }

    /// Every reason that has occurred.
    pub fn snapshot(&self) -> Vec<(Drop, u64)> {
        Drop::ALL.into_iter().map(|r| (r, self.get(r))).filter(|(_, n)| *n > 0).collect()
    }
}

/// A peer's traffic. Bytes are those of the messages on the wire, as `wg show` has them.
#[derive(Debug, Default)]
pub struct Traffic {
    rx_bytes: AtomicU64,
    rx_packets: AtomicU64,
    tx_bytes: AtomicU64,
    tx_packets: AtomicU64,
    handshakes: AtomicU64,
}

/// [`Traffic`] at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TrafficStats {
    /// Bytes received in authentic messages.
    pub rx_bytes: u64,
    /// Authentic messages received.
    pub rx_packets: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Messages sent.
    pub tx_packets: u64,
    /// Handshakes completed; all after the first are rekeys.
    pub handshakes: u64,
}

impl Traffic {
    pub(crate) fn received(&self, bytes: usize, packets: u64) {
        self.rx_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.rx_packets.fetch_add(packets, Ordering::Relaxed);
    }

    pub(crate) fn sent(&self, bytes: usize, packets: u64) {
        self.tx_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.tx_packets.fetch_add(packets, Ordering::Relaxed);
    }

    pub(crate) fn handshake(&self) {
        self.handshakes.fetch_add(1, Ordering::Relaxed);
    }

    /// The numbers now.
    pub fn snapshot(&self) -> TrafficStats {
        TrafficStats {
            rx_bytes: self.rx_bytes.load(Ordering::Relaxed),
            rx_packets: self.rx_packets.load(Ordering::Relaxed),
            tx_bytes: self.tx_bytes.load(Ordering::Relaxed),
            tx_packets: self.tx_packets.load(Ordering::Relaxed),
            handshakes: self.handshakes.load(Ordering::Relaxed),
        }
    }
}
