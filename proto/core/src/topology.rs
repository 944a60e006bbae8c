//! Lanes and tunnels between the clusters of a slice.
//!
//! Gateway replica *i* of every cluster forms lane *i*: a full mesh of its own, with one WireGuard
//! device per gateway and one peer per other cluster. Allowed IPs are unique on a device because
//! pools are unique in a slice.
//!
//! Security: what a cluster says about itself decides only how others reach *it*. Its prefixes
//! come from the hub's allocation and never from the cluster; a key that another cluster's
//! gateway already has, in whichever lane, is not taken from a newcomer.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::ipam::{Holding, lane_addresses};
use crate::name::{ClusterName, Lane};
use crate::prefix::host;

/// A WireGuard public key as clusters publish it: 32 bytes in base64, checked at the border.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PublicKey(pub String);

/// What a cluster's gateway of one lane has published.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Published {
    /// Its key, once it has one.
    pub key: Option<PublicKey>,
    /// Where it can be reached, best first; see [`crate::member::endpoint`].
    pub endpoints: Vec<SocketAddr>,
}

/// A cluster's part in the mesh.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Member {
    /// Its addresses.
    pub holding: Holding,
    /// Its gateways by lane.
    pub published: BTreeMap<Lane, Published>,
}

/// One gateway's plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LanePlan {
    /// The replica's number.
    pub lane: Lane,
    /// Addresses of its device, at most one a family.
    pub addresses: Vec<IpAddr>,
    /// Its peers, by cluster.
    pub tunnels: BTreeMap<ClusterName, TunnelPlan>,
}

/// One end of a tunnel: the peer as this gateway sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunnelPlan {
    /// The peer's key.
    pub key: PublicKey,
    /// Where the peer can be reached.
    pub endpoints: Vec<SocketAddr>,
    /// Addresses of the peer's device.
    pub addresses: Vec<IpAddr>,
    /// What is behind the peer: its pools and its device's own addresses.
    pub prefixes: Vec<IpNet>,
}

/// A key that two clusters publish for the same lane.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DuplicateKey {
    /// The lane.
    pub lane: Lane,
    /// The cluster whose key is not used.
    pub refused: ClusterName,
    /// The cluster that keeps it.
    pub holder: ClusterName,
}

/// The mesh of every lane.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mesh {
    /// Plans by cluster, in the order of lanes.
    pub lanes: BTreeMap<ClusterName, Vec<LanePlan>>,
    /// Keys that were not used.
    pub duplicates: Vec<DuplicateKey>,
}

/// Plans every lane of every member.
///
/// `holders` says which cluster a key was planned for before; it wins over anyone who publishes the
/// same. Without one the first by name wins.
pub fn plan(
    members: &BTreeMap<ClusterName, Member>,
    lanes: Lane,
    holders: &BTreeMap<PublicKey, ClusterName>,
) -> Mesh {
    let mut mesh = Mesh::default();
    // A single cluster has nobody to talk to.
    let lanes = if members.len() < 2 { 0 } else { lanes };
    for name in members.keys() {
        mesh.lanes.insert(name.clone(), Vec::new());
    }
    for lane in 0..lanes {
        let (peers, duplicates) = peers_of(members, lane, holders);
        mesh.duplicates.extend(duplicates);
        for (name, member) in members {
            let tunnels = peers
                .iter()
                .filter(|(other, _)| *other != name)
                .map(|(other, tunnel)| (other.clone(), tunnel.clone()))
                .collect();
            let addresses = lane_addresses(&member.holding.gateways, lane);
            mesh.lanes.entry(name.clone()).or_default().push(LanePlan { lane, addresses, tunnels });
        }
    }
    mesh
}

/// Everything behind a cluster: what others route to it.
pub fn prefixes_behind(holding: &Holding) -> Vec<IpNet> {
    holding.all().copied().collect::<BTreeSet<_>>().into_iter().collect()
}

/// How every other gateway of the lane sees each cluster whose key is known and its own.
fn peers_of(
    members: &BTreeMap<ClusterName, Member>,
    lane: Lane,
    holders: &BTreeMap<PublicKey, ClusterName>,
) -> (BTreeMap<ClusterName, TunnelPlan>, Vec<DuplicateKey>) {
    let published = |name: &ClusterName| {
        members.get(name).and_then(|m| m.published.get(&lane)).and_then(|p| p.key.as_ref())
    };
    let mut owner: BTreeMap<&PublicKey, &ClusterName> = BTreeMap::new();
    for name in members.keys() {
        let Some(key) = published(name) else { continue };
        let first = owner.entry(key).or_insert(name);
        if holders.get(key) == Some(name) {
            *first = name;
        }
    }
    let mut peers = BTreeMap::new();
    let mut duplicates = Vec::new();
    for (name, member) in members {
        let Some(facts) = member.published.get(&lane) else { continue };
        let Some(key) = &facts.key else { continue };
        let held = holders.get(key).filter(|holder| members.contains_key(*holder));
        match held.or(owner.get(key).copied()) {
            Some(holder) if holder != name => duplicates.push(DuplicateKey {
                lane,
                refused: name.clone(),
                holder: holder.clone(),
            }),
            _ => {
                peers.insert(name.clone(), tunnel_to(member, lane, key, &facts.endpoints));
            }
        }
    }
    (peers, duplicates)
}

fn tunnel_to(member: &Member, lane: Lane, key: &PublicKey, endpoints: &[SocketAddr]) -> TunnelPlan {
    let addresses = lane_addresses(&member.holding.gateways, lane);
    let prefixes =
        member.holding.pools.iter().copied().chain(addresses.iter().copied().map(host)).collect();
    TunnelPlan { key: key.clone(), endpoints: endpoints.to_vec(), addresses, prefixes }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ipam::{Demand, Holdings, allocate};
    use crate::prefix::overlap;

    fn name(i: usize) -> ClusterName {
        ClusterName::parse(&format!("c{i}")).unwrap()
    }

    fn members(n: usize, lanes: Lane) -> BTreeMap<ClusterName, Member> {
        let prefixes = ["10.0.0.0/12".parse().unwrap(), "fd00::/40".parse().unwrap()];
        let demand = Demand { clusters: (0..n).map(name).collect(), lanes, ..Demand::default() };
        let (holdings, refused) = allocate(&prefixes, &Holdings::new(), &demand);
        assert!(refused.is_empty());
        let publish = |cluster: &ClusterName, lane: Lane| Published {
            key: Some(PublicKey(format!("{cluster}/{lane}"))),
            endpoints: vec![SocketAddr::from(([192, 0, 2, 1], 30_000 + u16::from(lane)))],
        };
        holdings
            .into_iter()
            .map(|(c, holding)| {
                let published = (0..lanes).map(|l| (l, publish(&c, l))).collect();
                (c, Member { holding, published })
            })
            .collect()
    }

    proptest! {
        #[test]
        fn the_mesh_is_full_unique_and_symmetric(n in 2usize..9, lanes in 1u8..=8) {
            let members = members(n, lanes);
            let mesh = plan(&members, lanes, &BTreeMap::new());
            prop_assert!(mesh.duplicates.is_empty());
            let mut devices = BTreeSet::new();
            for (a, plans) in &mesh.lanes {
                prop_assert_eq!(plans.len(), usize::from(lanes));
                for plan in plans {
                    prop_assert_eq!(plan.addresses.len(), 2);
                    prop_assert!(plan.addresses.iter().all(|x| devices.insert(*x)));
                    prop_assert_eq!(plan.tunnels.len(), n - 1);
                    let allowed: Vec<_> = plan.tunnels.values().flat_map(|t| &t.prefixes).collect();
                    for (i, x) in allowed.iter().enumerate() {
                        prop_assert!(allowed[i + 1..].iter().all(|y| !overlap(x, y)));
                    }
                    for (b, tunnel) in &plan.tunnels {
                        let back = &mesh.lanes[b][usize::from(plan.lane)];
                        prop_assert_eq!(&tunnel.addresses, &back.addresses);
                        prop_assert!(back.tunnels.contains_key(a));
                        for pool in &members[b].holding.pools {
                            prop_assert!(tunnel.prefixes.contains(pool));
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_stolen_key_stays_with_who_had_it() {
        let mut members = members(3, 1);
        let victim = PublicKey("c2/0".into());
        let stolen = Published { key: Some(victim.clone()), endpoints: vec![] };
        members.get_mut(&name(0)).unwrap().published.insert(0, stolen);
        let holders = BTreeMap::from([(victim.clone(), name(2))]);
        let mesh = plan(&members, 1, &holders);
        assert_eq!(mesh.duplicates[0].refused, name(0));
        assert_eq!(mesh.lanes[&name(1)][0].tunnels[&name(2)].key, victim);
        assert!(!mesh.lanes[&name(1)][0].tunnels.contains_key(&name(0)));
    }

    #[test]
    fn a_key_of_another_lane_is_not_taken_either() {
        let mut members = members(3, 2);
        let victim = PublicKey("c2/0".into());
        let stolen = Published { key: Some(victim.clone()), endpoints: vec![] };
        members.get_mut(&name(0)).unwrap().published.insert(1, stolen);
        let mesh = plan(&members, 2, &BTreeMap::from([(victim, name(2))]));
        assert_eq!(mesh.duplicates.len(), 1);
        assert!(!mesh.lanes[&name(1)][1].tunnels.contains_key(&name(0)));
        assert!(mesh.lanes[&name(1)][1].tunnels.contains_key(&name(2)));
    }

    #[test]
    fn a_cluster_without_a_key_is_nobodys_peer_yet() {
        let mut members = members(2, 1);
        members.get_mut(&name(0)).unwrap().published.clear();
        let mesh = plan(&members, 1, &BTreeMap::new());
        assert_eq!(mesh.lanes[&name(0)][0].tunnels.len(), 1);
        assert_eq!(mesh.lanes[&name(1)][0].tunnels.len(), 0);
    }

    #[test]
    fn alone_there_is_no_lane() {
        assert_eq!(plan(&members(1, 2), 2, &BTreeMap::new()).lanes[&name(0)], []);
    }
}
