//! The answer to `get`.

use std::fmt::{self, Write as _};
use std::time::UNIX_EPOCH;

use crate::config::{Config, PeerConfig};
use crate::shell::{PeerStats, Stats};

/// The device and its peers as lines of `key=value`.
pub(super) fn text(config: &Config, stats: &Stats) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = device(&mut out, config, stats);
    out
}

fn device(out: &mut String, config: &Config, stats: &Stats) -> fmt::Result {
    if let Some(key) = &config.private_key {
        writeln!(out, "private_key={}", hex::encode(key.expose()))?;
    }
    writeln!(out, "listen_port={}", stats.listen_port)?;
    if config.fwmark != 0 {
        writeln!(out, "fwmark={}", config.fwmark)?;
    }
    for peer in &config.peers {
        let of_peer = stats.peers.iter().find(|s| s.public_key == peer.public_key);
        write_peer(out, peer, of_peer)?;
    }
    Ok(())
}

fn write_peer(out: &mut String, peer: &PeerConfig, stats: Option<&PeerStats>) -> fmt::Result {
    writeln!(out, "public_key={}", hex::encode(peer.public_key.as_bytes()))?;
    if let Some(key) = &peer.preshared_key {
        writeln!(out, "preshared_key={}", hex::encode(key.expose()))?;
    }
    if let Some(stats) = stats {
        if let Some(endpoint) = stats.endpoint {
            writeln!(out, "endpoint={endpoint}")?;
        }
        let since = stats.last_handshake.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        let since = since.unwrap_or_default();
        writeln!(out, "last_handshake_time_sec={}", since.as_secs())?;
        writeln!(out, "last_handshake_time_nsec={}", since.subsec_nanos())?;
        writeln!(out, "tx_bytes={}", stats.traffic.tx_bytes)?;
        writeln!(out, "rx_bytes={}", stats.traffic.rx_bytes)?;
    }
    let keepalive = peer.keepalive.map_or(0, |k| k.as_secs());
    writeln!(out, "persistent_keepalive_interval={keepalive}")?;
    for net in &peer.allowed_ips {
        writeln!(out, "allowed_ip={net}")?;
    }
    writeln!(out, "protocol_version=1")
}
