//! Puts together what the nodes are told.

use std::sync::Arc;

use slicewire_core::gateway::{Route, Routes, Tunnels};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::TunnelsSeen;
use crate::forwarding::Links;
use crate::prober::Paths;

/// The newest routes; `None` before slice-gateway spoke.
pub(crate) type RoutesSeen = watch::Receiver<Option<Arc<Routes>>>;

/// Follows everything that routes are made of until `stop`.
pub(crate) fn start(
    mut tunnels: TunnelsSeen,
    mut links: watch::Receiver<Links>,
    mut paths: watch::Receiver<Paths>,
    stop: CancellationToken,
) -> RoutesSeen {
    let (tell, routes) = watch::channel(None);
    crate::spawn(stop, async move {
        loop {
            let seen = tunnels.borrow_and_update().clone();
            let now = *links.borrow_and_update();
            let next = seen.map(|seen| Arc::new(routes_of(&seen, now, &paths.borrow_and_update())));
            tell.send_if_modified(|last| {
                let changed = *last != next;
                *last = next;
                changed
            });
            let alive = tokio::select! {
                changed = tunnels.changed() => changed,
                changed = links.changed() => changed,
                changed = paths.changed() => changed,
            };
            if alive.is_err() {
                return;
            }
        }
    });
    routes
}

/// A route is up when probes come back **and** this pod forwards: whoever sends to it then gets
/// through.
fn routes_of(tunnels: &Tunnels, links: Links, paths: &Paths) -> Routes {
    let route = |tunnel: &slicewire_core::gateway::Tunnel| {
        let path = paths.get(&tunnel.public_key).copied().unwrap_or_default();
        let mut health = path.health;
        health.up &= links.forwarding;
        Route {
            cluster: tunnel.cluster.clone(),
            prefixes: tunnel.prefixes.clone(),
            health,
            path_mtu: path.path_mtu,
            traffic: tunnel.traffic,
        }
    };
    Routes {
        slice: tunnels.slice.clone(),
        cluster: tunnels.cluster.clone(),
        lane: tunnels.lane,
        backend: tunnels.backend.clone(),
        routes: tunnels.tunnels.iter().map(route).collect(),
    }
}

#[cfg(test)]
mod tests {
    use slicewire_core::gateway::{Traffic, Tunnel};
    use slicewire_core::health::Health;
    use slicewire_core::name::SliceName;

    use super::*;
    use crate::prober::Path;

    #[test]
    fn a_route_is_up_only_when_probes_come_back_and_the_pod_forwards() {
        let tunnel = Tunnel {
            cluster: "west".into(),
            public_key: [1; 32],
            addresses: vec![],
            prefixes: vec!["10.20.64.0/18".parse().unwrap()],
            endpoint: None,
            traffic: Traffic { last_handshake_ms: Some(1), rx_bytes: 2, tx_bytes: 3 },
        };
        let tunnels = Tunnels {
            slice: SliceName::parse("blue").unwrap(),
            cluster: "east".into(),
            lane: 2,
            device: "swwg0".into(),
            backend: "kernel".into(),
            addresses: vec![],
            prefixes: vec![],
            tunnels: vec![tunnel],
        };
        let up = |probes: bool, forwarding: bool| {
            let health = Health { up: probes, ..Health::default() };
            let path = Path { health, path_mtu: Some(1400) };
            let links = Links { device: Some((3, 1400)), forwarding };
            let routes = routes_of(&tunnels, links, &Paths::from([([1; 32], path)]));
            assert_eq!(routes.routes[0].path_mtu, Some(1400));
            assert_eq!(routes.routes[0].traffic, tunnels.tunnels[0].traffic);
            routes.routes[0].health.up
        };
        assert!(up(true, true));
        assert!(!up(true, false) && !up(false, true) && !up(false, false));
        let unprobed = routes_of(&tunnels, Links::default(), &Paths::new());
        assert!(!unprobed.routes[0].health.up);
    }
}
