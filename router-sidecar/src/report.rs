//! Puts together what the nodes are told.

use std::collections::BTreeMap;
use std::sync::Arc;

use slicewire_core::gateway::{Route, Routes, Tunnel, Tunnels};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::TunnelsSeen;
use crate::forwarding::{Chosen, Links};
use crate::prober::{self, Paths};

/// The newest routes; `None` before slice-gateway spoke.
pub(crate) type RoutesSeen = watch::Receiver<Option<Arc<Routes>>>;

/// Follows everything that routes are made of until `stop`.
pub(crate) fn start(
    mut tunnels: TunnelsSeen,
    mut links: watch::Receiver<Links>,
    mut paths: watch::Receiver<Paths>,
    mut chosen: watch::Receiver<Chosen>,
    stop: CancellationToken,
) -> RoutesSeen {
    let (tell, routes) = watch::channel(None);
    crate::spawn(stop, async move {
        loop {
            let seen = tunnels.borrow_and_update().clone();
            let now = links.borrow_and_update().clone();
            let keys = chosen.borrow_and_update().clone();
            let paths_now = paths.borrow_and_update().clone();
            let next = seen.map(|seen| Arc::new(routes_of(&seen, &now, &paths_now, &keys)));
            tell.send_if_modified(|last| {
                let changed = *last != next;
                *last = next;
                changed
            });
            let alive = tokio::select! {
                changed = tunnels.changed() => changed,
                changed = links.changed() => changed,
                changed = paths.changed() => changed,
                changed = chosen.changed() => changed,
            };
            if alive.is_err() {
                return;
            }
        }
    });
    routes
}

/// A route is up when probes come back **and** this pod forwards: whoever sends to it then gets
/// through. Of the tunnels to a cluster it is the one that is sent by.
fn routes_of(tunnels: &Tunnels, links: &Links, paths: &Paths, chosen: &Chosen) -> Routes {
    let mut used: BTreeMap<&str, &Tunnel> = BTreeMap::new();
    for tunnel in &tunnels.tunnels {
        let is_chosen = chosen.get(&tunnel.cluster) == Some(&tunnel.generation);
        if is_chosen || !used.contains_key(tunnel.cluster.as_str()) {
            used.insert(&tunnel.cluster, tunnel);
        }
    }
    let route = |tunnel: &&Tunnel| {
        let path = paths.get(&prober::key(tunnel)).copied().unwrap_or_default();
        let mut health = path.health;
        health.up &= links.forwarding;
        Route {
            cluster: tunnel.cluster.clone(),
            prefixes: tunnel.prefixes.clone(),
            health,
            path_mtu: path.path_mtu,
            traffic: tunnel.traffic,
            generation: tunnel.generation,
            preshared: tunnel.preshared,
        }
    };
    Routes {
        slice: tunnels.slice.clone(),
        cluster: tunnels.cluster.clone(),
        lane: tunnels.lane,
        backend: tunnels.backend.clone(),
        routes: used.values().map(route).collect(),
    }
}

#[cfg(test)]
mod tests {
    use slicewire_core::gateway::Traffic;
    use slicewire_core::health::Health;
    use slicewire_core::name::SliceName;

    use super::*;
    use crate::prober::Path;

    fn tunnel(generation: u64, device: &str) -> Tunnel {
        Tunnel {
            cluster: "west".into(),
            generation,
            device: device.into(),
            preshared: generation > 0,
            public_key: [1; 32],
            addresses: vec![],
            prefixes: vec!["10.20.64.0/18".parse().unwrap()],
            endpoint: None,
            traffic: Traffic { last_handshake_ms: Some(1), rx_bytes: 2, tx_bytes: 3 },
        }
    }

    fn tunnels(tunnels: &[Tunnel]) -> Tunnels {
        Tunnels {
            slice: SliceName::parse("blue").unwrap(),
            cluster: "east".into(),
            lane: 2,
            device: "swwg0".into(),
            backend: "kernel".into(),
            addresses: vec![],
            prefixes: vec![],
            tunnels: tunnels.to_vec(),
        }
    }

    fn path(up: bool, path_mtu: u16) -> Path {
        let health = Health { up, ..Health::default() };
        Path { health, path_mtu: Some(path_mtu), up_since: None }
    }

    fn links(forwarding: bool) -> Links {
        Links { devices: [("swwg0".to_owned(), (3, 1400))].into(), forwarding }
    }

    #[test]
    fn a_route_is_up_only_when_probes_come_back_and_the_pod_forwards() {
        let told = tunnels(&[tunnel(0, "swwg0")]);
        let up = |probes: bool, forwarding: bool| {
            let paths = Paths::from([(("swwg0".to_owned(), [1; 32]), path(probes, 1400))]);
            let routes = routes_of(&told, &links(forwarding), &paths, &Chosen::new());
            assert_eq!(routes.routes[0].path_mtu, Some(1400));
            assert_eq!(routes.routes[0].traffic, told.tunnels[0].traffic);
            routes.routes[0].health.up
        };
        assert!(up(true, true));
        assert!(!up(true, false) && !up(false, true) && !up(false, false));
        let unprobed = routes_of(&told, &Links::default(), &Paths::new(), &Chosen::new());
        assert!(!unprobed.routes[0].health.up);
    }

    #[test]
    fn of_two_tunnels_the_one_that_is_sent_by_is_told() {
        // The same key for both is nothing a peer should have, and confuses nobody.
        let told = tunnels(&[tunnel(0, "swwg0"), tunnel(1, "swwg1")]);
        let paths = Paths::from([
            (("swwg0".to_owned(), [1; 32]), path(true, 1400)),
            (("swwg1".to_owned(), [1; 32]), path(false, 1300)),
        ]);
        for (chosen, generation, mtu, up) in
            [(None, 0, 1400, true), (Some(0), 0, 1400, true), (Some(1), 1, 1300, false)]
        {
            let chosen = chosen.map(|generation| ("west".to_owned(), generation));
            let chosen = chosen.into_iter().collect();
            let routes = routes_of(&told, &links(true), &paths, &chosen).routes;
            assert_eq!(routes.len(), 1);
            let route = &routes[0];
            assert_eq!((route.generation, route.preshared), (generation, generation > 0));
            assert_eq!((route.path_mtu, route.health.up), (Some(mtu), up));
        }
    }
}
