//! Where a slice router sends packets that are not for a pod of its own node.
//!
//! Two tables follow from one input. *Main* serves packets from the node's own pods: other nodes'
//! blocks go to those nodes, other clusters' prefixes are balanced over all lanes that work, a
//! gateway on this node being reached directly and one elsewhere through its node. *Fabric* serves
//! packets that another node sent here because of a gateway: they may only go to a gateway of this
//! node, else nowhere. So a packet crosses the fabric once at most, and no two nodes can send it
//! back and forth, whatever they believe about each other's gateways.
//!
//! A lane that says its tunnel is down, has stopped talking to the node, or is being shut down is
//! used only for prefixes that no other lane serves: losing the process that reports a tunnel does
//! not stop the tunnel, and a wrong probe cannot make things worse.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use crate::node_addresses::router_addresses;
use crate::prefix::{Family, overlap};

/// Another node of the cluster with pods of the slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its name.
    pub node: String,
    /// Its MAC address on the slice's VXLAN.
    pub mac: [u8; 6],
    /// Its address blocks.
    pub blocks: Vec<IpNet>,
    /// Where VXLAN packets for it go, first choice first.
    pub underlay: Vec<IpAddr>,
}

/// Where a gateway of the slice in this cluster runs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// On this node, with these addresses on the slice.
    Here(BTreeSet<IpAddr>),
    /// On the named node.
    Node(String),
}

/// A gateway of the slice in this cluster, and what it last said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gateway {
    /// Where it is.
    pub place: Place,
    /// False when it has stopped talking or is being shut down.
    pub fresh: bool,
    /// One a tunnel.
    pub tunnels: Vec<Tunnel>,
}

/// A gateway's tunnel to another cluster, as far as routes are concerned.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tunnel {
    /// The cluster at the other end.
    pub cluster: String,
    /// Prefixes behind it.
    pub prefixes: Vec<IpNet>,
    /// Whether it works.
    pub up: bool,
}

/// What the routes of a slice router follow from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Input {
    /// This node's own underlay addresses, first choice first.
    pub underlay: Vec<IpAddr>,
    /// The other clusters: name to everything that may lie behind it.
    pub remotes: BTreeMap<String, Vec<IpNet>>,
    /// The other nodes.
    pub peers: Vec<Peer>,
    /// The gateways.
    pub gateways: Vec<Gateway>,
}

/// A next hop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Via {
    /// The pod of this node that has this address.
    Pod(IpAddr),
    /// The node whose slice router has this address.
    Router(IpAddr),
}

/// A neighbour on the slice's VXLAN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Neighbour {
    /// Its slice router's address.
    pub address: IpAddr,
    /// Its MAC address.
    pub mac: [u8; 6],
    /// Where VXLAN packets for it go.
    pub underlay: IpAddr,
}

/// The routes of a slice router; routes to the node's own pods are not among them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Routes {
    /// For packets from this node's pods. Every destination has a next hop.
    pub main: BTreeMap<IpNet, BTreeSet<Via>>,
    /// For packets from other nodes. No next hop means that the sender is told so.
    pub fabric: BTreeMap<IpNet, BTreeSet<Via>>,
    /// The other nodes on the VXLAN.
    pub neighbours: BTreeSet<Neighbour>,
}

/// The routes that follow from the input.
pub fn routes(input: &Input) -> Routes {
    let mut routes = Routes::default();
    let peers = reachable(input);
    for (peer, underlay) in &peers {
        for address in router_addresses(&peer.blocks) {
            routes.neighbours.insert(Neighbour { address, mac: peer.mac, underlay: *underlay });
        }
        for block in &peer.blocks {
            if let Some(router) = router_of(peer, Family::of(block)) {
                routes.main.entry(*block).or_default().insert(Via::Router(router));
            }
        }
    }
    for prefix in input.remotes.values().flatten() {
        routes.fabric.entry(*prefix).or_default();
    }
    let mut served = Routes::default();
    let mut last_resort = Routes::default();
    for gateway in &input.gateways {
        for tunnel in &gateway.tunnels {
            let works = gateway.fresh && tunnel.up;
            let routes = if works { &mut served } else { &mut last_resort };
            add_lane(routes, input, &peers, &gateway.place, tunnel);
        }
    }
    for (prefix, via) in last_resort.main {
        served.main.entry(prefix).or_insert(via);
    }
    for (prefix, via) in last_resort.fabric {
        // Other nodes may still count on a lane that this node would not choose.
        served.fabric.entry(prefix).or_insert(via);
    }
    routes.main.extend(served.main);
    routes.fabric.extend(served.fabric);
    routes
}

/// Peers that VXLAN packets can be sent to, with the address to send them to: the first of the
/// family of this node's own first address, because a VXLAN device speaks one family.
fn reachable(input: &Input) -> Vec<(&Peer, IpAddr)> {
    let Some(own) = input.underlay.first().map(Family::of_addr) else { return Vec::new() };
    let towards = |p: &Peer| p.underlay.iter().copied().find(|a| Family::of_addr(a) == own);
    input.peers.iter().filter_map(|p| Some((p, towards(p)?))).collect()
}

fn router_of(peer: &Peer, family: Family) -> Option<IpAddr> {
    router_addresses(&peer.blocks).into_iter().find(|a| Family::of_addr(a) == family)
}

/// Adds what one tunnel serves. A prefix counts only when it lies in what the hub says may be
/// behind that cluster, so that no gateway can draw traffic that is not its own.
fn add_lane(
    routes: &mut Routes,
    input: &Input,
    peers: &[(&Peer, IpAddr)],
    place: &Place,
    tunnel: &Tunnel,
) {
    let allowed = input.remotes.get(&tunnel.cluster).map_or(&[][..], Vec::as_slice);
    for prefix in tunnel.prefixes.iter().filter(|p| allowed.iter().any(|a| a.contains(*p))) {
        let family = Family::of(prefix);
        match place {
            Place::Here(addresses) => {
                let address = addresses.iter().find(|a| Family::of_addr(a) == family);
                let Some(address) = address else { continue };
                routes.main.entry(*prefix).or_default().insert(Via::Pod(*address));
                routes.fabric.entry(*prefix).or_default().insert(Via::Pod(*address));
            }
            Place::Node(node) => {
                let peer = peers.iter().find(|(p, _)| p.node == *node);
                let Some(router) = peer.and_then(|(p, _)| router_of(p, family)) else { continue };
                routes.main.entry(*prefix).or_default().insert(Via::Router(router));
            }
        }
    }
}

/// Whether a destination belongs to another cluster: such routes come from what gateways say.
pub fn is_remote(remotes: &BTreeMap<String, Vec<IpNet>>, destination: &IpNet) -> bool {
    remotes.values().flatten().any(|p| overlap(p, destination))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn addr(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn peer(node: &str, n: u8) -> Peer {
        Peer {
            node: node.into(),
            mac: [2, 0, 0, 0, 0, n],
            blocks: vec![net(&format!("10.77.{n}.0/26")), net(&format!("fd77:0:0:{n}::/122"))],
            underlay: vec![addr(&format!("192.0.2.{n}")), addr(&format!("2001:db8::{n}"))],
        }
    }

    fn west() -> BTreeMap<String, Vec<IpNet>> {
        BTreeMap::from([(
            "west".to_owned(),
            vec![net("10.77.128.0/17"), net("10.77.8.0/29"), net("fd77:0:0:8000::/49")],
        )])
    }

    fn tunnel(cluster: &str, prefixes: &[&str], up: bool) -> Tunnel {
        let prefixes = prefixes.iter().map(|p| net(p)).collect();
        Tunnel { cluster: cluster.into(), prefixes, up }
    }

    fn gateway(place: Place, fresh: bool) -> Gateway {
        let tunnels = vec![tunnel("west", &["10.77.128.0/17", "10.77.8.1/32"], true)];
        Gateway { place, fresh, tunnels }
    }

    fn input(gateways: Vec<Gateway>) -> Input {
        Input {
            underlay: vec![addr("192.0.2.1")],
            remotes: west(),
            peers: vec![peer("n2", 2), peer("n3", 3)],
            gateways,
        }
    }

    fn here() -> Place {
        Place::Here(BTreeSet::from([addr("10.77.1.5")]))
    }

    #[test]
    fn other_nodes_blocks_go_to_their_routers() {
        let routes = routes(&input(vec![]));
        assert_eq!(
            routes.main[&net("10.77.3.0/26")],
            BTreeSet::from([Via::Router(addr("10.77.3.0"))])
        );
        assert_eq!(
            routes.main[&net("fd77:0:0:2::/122")],
            BTreeSet::from([Via::Router(addr("fd77:0:0:2::"))])
        );
        assert_eq!(routes.neighbours.len(), 4, "two nodes, two families");
        assert!(routes.neighbours.iter().all(|n| n.underlay.is_ipv4()));
    }

    #[test]
    fn lanes_share_the_load_and_the_fabric_uses_only_the_local_ones() {
        let both = vec![gateway(here(), true), gateway(Place::Node("n2".into()), true)];
        let routes = routes(&input(both));
        let west = net("10.77.128.0/17");
        assert_eq!(
            routes.main[&west],
            BTreeSet::from([Via::Pod(addr("10.77.1.5")), Via::Router(addr("10.77.2.0"))])
        );
        assert_eq!(routes.fabric[&west], BTreeSet::from([Via::Pod(addr("10.77.1.5"))]));
        assert_eq!(routes.main[&net("10.77.8.1/32")].len(), 2, "a gateway's own address");
    }

    #[test]
    fn without_a_local_gateway_the_fabric_says_unreachable() {
        let routes = routes(&input(vec![gateway(Place::Node("n2".into()), true)]));
        assert!(routes.fabric[&net("10.77.128.0/17")].is_empty());
    }

    #[test]
    fn a_silent_gateway_is_the_last_resort() {
        let west = net("10.77.128.0/17");
        let alone = routes(&input(vec![gateway(here(), false)]));
        assert_eq!(alone.main[&west], BTreeSet::from([Via::Pod(addr("10.77.1.5"))]));
        let other = vec![gateway(here(), false), gateway(Place::Node("n2".into()), true)];
        let two = routes(&input(other));
        assert_eq!(two.main[&west], BTreeSet::from([Via::Router(addr("10.77.2.0"))]));
        assert_eq!(two.fabric[&west], BTreeSet::from([Via::Pod(addr("10.77.1.5"))]));
    }

    #[test]
    fn a_tunnel_that_is_down_yields_to_one_that_works() {
        let west = net("10.77.128.0/17");
        let mut down = gateway(here(), true);
        down.tunnels[0].up = false;
        let alone = routes(&input(vec![down.clone()]));
        assert_eq!(alone.main[&west], BTreeSet::from([Via::Pod(addr("10.77.1.5"))]));
        let two = routes(&input(vec![down, gateway(Place::Node("n2".into()), true)]));
        assert_eq!(two.main[&west], BTreeSet::from([Via::Router(addr("10.77.2.0"))]));
    }

    #[test]
    fn a_gateway_draws_no_traffic_that_is_not_its_clusters() {
        let mut greedy = gateway(here(), true);
        greedy.tunnels = vec![
            tunnel("west", &["0.0.0.0/0", "10.77.2.0/26"], true),
            tunnel("nowhere", &["10.77.128.0/17"], true),
        ];
        let routes = routes(&input(vec![greedy]));
        assert!(!routes.main.contains_key(&net("0.0.0.0/0")));
        assert_eq!(
            routes.main[&net("10.77.2.0/26")],
            BTreeSet::from([Via::Router(addr("10.77.2.0"))])
        );
        assert!(!routes.main.contains_key(&net("10.77.128.0/17")));
    }

    proptest! {
        /// Whatever nodes believe about the gateways, a packet for another cluster crosses the
        /// fabric once at most: the fabric table never leads back into the fabric.
        #[test]
        fn the_fabric_never_leads_back_into_itself(
            places in prop::collection::vec((0..3u8, any::<bool>()), 0..6),
        ) {
            let gateways = places
                .into_iter()
                .map(|(p, fresh)| match p {
                    0 => gateway(here(), fresh),
                    n => gateway(Place::Node(format!("n{}", n + 1)), fresh),
                })
                .collect();
            let routes = routes(&input(gateways));
            prop_assert!(routes.fabric.values().flatten().all(|v| matches!(v, Via::Pod(_))));
            prop_assert!(routes.main.values().all(|v| !v.is_empty()));
            for remote in west().values().flatten() {
                prop_assert!(routes.fabric.contains_key(remote), "falls through to main");
            }
        }
    }
}
