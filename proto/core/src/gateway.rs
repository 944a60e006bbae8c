//! What a gateway pod knows and tells: its tunnels, and what can be reached through them.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::health::Health;
use crate::name::{Lane, SliceName};
use crate::rotation::Generation;

/// A gateway and its tunnels, as `slice-gateway` tells its pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tunnels {
    /// The slice.
    pub slice: SliceName,
    /// The gateway's own cluster.
    pub cluster: String,
    /// The gateway's lane.
    pub lane: Lane,
    /// The WireGuard device of the generation that all have.
    pub device: String,
    /// `kernel` or `embedded`.
    pub backend: String,
    /// The device's own addresses, one a family.
    pub addresses: Vec<IpAddr>,
    /// The whole slice's prefixes.
    pub prefixes: Vec<IpNet>,
    /// The tunnels, one a cluster and open generation of keys.
    pub tunnels: Vec<Tunnel>,
}

/// A tunnel to another cluster's gateway of the same lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tunnel {
    /// The cluster at the other end.
    pub cluster: String,
    /// The generation of its keys.
    pub generation: Generation,
    /// The WireGuard device in the pod.
    pub device: String,
    /// Whether it has a pre-shared key.
    pub preshared: bool,
    /// The peer's public key.
    pub public_key: [u8; 32],
    /// The other device's addresses on the slice.
    pub addresses: Vec<IpAddr>,
    /// The slice's prefixes behind it.
    pub prefixes: Vec<IpNet>,
    /// Where it was last heard from.
    pub endpoint: Option<SocketAddr>,
    /// What passed.
    pub traffic: Traffic,
}

/// What passed a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Milliseconds since the Unix epoch of the last handshake; `None` before the first.
    pub last_handshake_ms: Option<u64>,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
}

/// What a gateway reaches, as `router-sidecar` tells the nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Routes {
    /// The slice.
    pub slice: SliceName,
    /// The gateway's own cluster.
    pub cluster: String,
    /// The gateway's lane.
    pub lane: Lane,
    /// `kernel` or `embedded`.
    pub backend: String,
    /// One a tunnel.
    pub routes: Vec<Route>,
}

/// What is behind one tunnel, and how well it is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The cluster at the other end.
    pub cluster: String,
    /// The slice's prefixes behind it.
    pub prefixes: Vec<IpNet>,
    /// The tunnel's state. Up means more than that probes come back: the gateway forwards, too.
    pub health: Health,
    /// Largest IP packet that passes, in bytes; `None` while unknown.
    pub path_mtu: Option<u16>,
    /// What passed.
    pub traffic: Traffic,
    /// The generation of keys by which it is sent.
    pub generation: Generation,
    /// Whether that has a pre-shared key.
    pub preshared: bool,
}

impl Routes {
    /// Whether the difference to what was told last is worth telling before the next regular
    /// report: anything but counters, and figures only if they moved by a tenth.
    pub fn is_news_after(&self, last: &Self) -> bool {
        let Self { slice, cluster, lane, backend, routes } = self;
        (slice, cluster, lane, backend) != (&last.slice, &last.cluster, &last.lane, &last.backend)
            || routes.len() != last.routes.len()
            || routes.iter().zip(&last.routes).any(|(new, old)| new.is_news_after(old))
    }
}

impl Route {
    fn is_news_after(&self, last: &Self) -> bool {
        let micros = |h: &Health| h.rtt.map_or(0, |rtt| rtt.as_micros());
        let same = self.cluster == last.cluster
            && self.prefixes == last.prefixes
            && self.health.up == last.health.up
            && self.health.rtt.is_some() == last.health.rtt.is_some()
            && self.path_mtu == last.path_mtu
            && (self.generation, self.preshared) == (last.generation, last.preshared)
            && self.traffic.last_handshake_ms.is_some() == last.traffic.last_handshake_ms.is_some();
        // Below a tenth of a millisecond and of a percent, moves are noise of the machine.
        let rtt = moved(micros(&self.health), micros(&last.health), 100);
        let loss =
            moved(u128::from(self.health.loss_permille), u128::from(last.health.loss_permille), 1);
        let jitter = moved(self.health.jitter.as_micros(), last.health.jitter.as_micros(), 1_000);
        !same || rtt || loss || jitter
    }
}

/// Whether a figure moved by more than a tenth and by more than `noise`.
fn moved(new: u128, old: u128, noise: u128) -> bool {
    let difference = new.abs_diff(old);
    difference > noise && difference * 10 > old
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn routes(change: impl FnOnce(&mut Route)) -> Routes {
        let mut route = Route {
            cluster: "west".into(),
            prefixes: vec!["10.20.64.0/18".parse().unwrap()],
            health: Health {
                up: true,
                rtt: Some(Duration::from_millis(20)),
                jitter: Duration::from_millis(3),
                loss_permille: 10,
            },
            path_mtu: Some(1400),
            traffic: Traffic { last_handshake_ms: Some(1_000), rx_bytes: 1, tx_bytes: 2 },
            generation: 1,
            preshared: true,
        };
        change(&mut route);
        Routes {
            slice: SliceName::parse("blue").unwrap(),
            cluster: "east".into(),
            lane: 0,
            backend: "embedded".into(),
            routes: vec![route],
        }
    }

    #[test]
    fn counters_and_small_moves_are_no_news() {
        let old = routes(|_| {});
        for change in [
            (|r| r.traffic.rx_bytes += 1_000_000) as fn(&mut Route),
            |r| r.traffic.last_handshake_ms = Some(121_000),
            |r| r.health.rtt = Some(Duration::from_millis(21)),
            |r| r.health.loss_permille = 11,
        ] {
            assert!(!routes(change).is_news_after(&old));
        }
    }

    #[test]
    fn what_routing_depends_on_is_news() {
        let old = routes(|_| {});
        for change in [
            (|r| r.health.up = false) as fn(&mut Route),
            |r| r.path_mtu = Some(1399),
            |r| r.prefixes.clear(),
            |r| r.health.rtt = Some(Duration::from_micros(22_100)),
            |r| r.health.rtt = None,
            |r| r.health.loss_permille = 15,
            |r| r.traffic.last_handshake_ms = None,
            |r| r.cluster = "south".into(),
            |r| r.generation = 2,
            |r| r.preshared = false,
        ] {
            assert!(routes(change).is_news_after(&old));
        }
        let mut none = routes(|_| {});
        none.routes.clear();
        assert!(none.is_news_after(&old));
    }
}
