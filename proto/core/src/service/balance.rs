//! Which endpoints a virtual address leads to, and how often: data for packet rules.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::model::{Affinity, Endpoint, Import, InternalTraffic, Port};
use super::near::{Ring, rings};
use crate::name::ClusterName;
use crate::prefix::Family;

/// With this many per cent of its endpoints' number, what is left of them still takes all of a
/// cluster's own traffic: with 140, losing two of seven sends nobody away.
pub const OVERPROVISION_PERCENT: u64 = 140;
/// The weight of a cluster that was given none.
pub const DEFAULT_WEIGHT: u16 = 100;
/// Most that shares add up to, unless there are more endpoints.
const MAX_TOTAL: u128 = 1 << 16;

/// How traffic is spread over clusters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Spread {
    /// The client's own cluster as long as enough of its endpoints are ready; what it is short of
    /// goes to the others, by weight and number of ready endpoints.
    #[default]
    LocalFirst,
    /// All clusters, by weight and number of ready endpoints.
    Even,
}

/// What is known about a cluster at the client's node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reach {
    /// How much an endpoint of it counts; 0 sends nobody there.
    pub weight: u16,
    /// Some tunnel to it works, as the probes say. The own cluster is always reachable.
    pub up: bool,
}

impl Default for Reach {
    fn default() -> Self {
        Self { weight: DEFAULT_WEIGHT, up: true }
    }
}

/// Where the client is, and what it knows of the clusters.
#[derive(Debug, Clone, Copy)]
pub struct Here<'a> {
    /// The client's cluster.
    pub cluster: &'a ClusterName,
    /// The client's node.
    pub node: &'a str,
    /// That node's zone, where it has one.
    pub zone: Option<&'a str>,
    /// What is known of clusters; of one that is missing, the default.
    pub reach: &'a BTreeMap<ClusterName, Reach>,
    /// How traffic is spread.
    pub spread: Spread,
}

impl Here<'_> {
    /// How much a service's endpoints of a cluster count; 0 where nobody is to be sent. What the
    /// cluster's export says holds, unless the slice empties the cluster.
    pub fn weight(&self, import: &Import, cluster: &ClusterName) -> u16 {
        let reach = self.reach.get(cluster).copied().unwrap_or_default();
        if reach.weight == 0 || !(reach.up || cluster == self.cluster) {
            return 0;
        }
        import.weights.get(cluster).copied().unwrap_or(reach.weight)
    }
}

/// An endpoint, and how much of the traffic it gets.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    /// Its slice address.
    pub address: IpAddr,
    /// Its port there.
    pub port: u16,
    /// Its part of [`Balance::total`]; at least 1.
    pub share: u32,
}

/// What becomes of new connections to one virtual address and port.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Balance {
    /// Where they go, in the order of addresses; empty: they are refused at once.
    pub targets: Vec<Target>,
    /// The sum of the shares.
    pub total: u32,
    /// A client stays with its endpoint until it was silent for so many seconds.
    pub sticky: Option<u32>,
}

impl Balance {
    /// The target of each number below [`Self::total`], as ranges without their end.
    pub fn ranges(&self) -> impl Iterator<Item = (std::ops::Range<u32>, &Target)> {
        self.targets.iter().scan(0u32, |next, target| {
            let from = *next;
            *next = from.saturating_add(target.share);
            Some((from..*next, target))
        })
    }
}

/// Spreads one port of a service over its endpoints, as seen from a client's node.
///
/// Only endpoints that are ready count. Where there is none at all, those that are terminating and
/// still serve do, as in Kubernetes, so that a service restarting its last pod loses nothing.
///
/// Of those that count, the nearest of what the service's `trafficDistribution` prefers get everything,
/// also as Kubernetes has it: however few they are. Where none is near, all of them do, as the slice
/// spreads them.
pub fn balance(
    import: &Import,
    port: &Port,
    family: Family,
    endpoints: &BTreeMap<ClusterName, Vec<Endpoint>>,
    here: Here<'_>,
) -> Balance {
    let allowed = |cluster: &ClusterName, endpoint: &Endpoint| {
        import.internal_traffic == InternalTraffic::Cluster
            || (cluster == here.cluster && endpoint.node.as_deref() == Some(here.node))
    };
    let candidates = |wanted: fn(&Endpoint) -> bool, ring: Option<Ring>| -> Vec<Cluster> {
        let wanted = |cluster: &ClusterName, endpoint: &Endpoint| {
            wanted(endpoint)
                && ring.is_none_or(|r| cluster == here.cluster && r.has(endpoint, &here))
        };
        let mut clusters = Vec::new();
        for (name, all) in endpoints.iter().filter(|(name, _)| import.clusters.contains(*name)) {
            let weight = here.weight(import, name);
            let allowed: Vec<&Endpoint> = all.iter().filter(|e| allowed(name, e)).collect();
            let places = allowed.iter().copied().filter(|e| wanted(name, e));
            let places: BTreeSet<_> = places.filter_map(|e| place(e, port, family)).collect();
            if weight > 0 && !places.is_empty() {
                let all = allowed.iter().filter(|e| !e.terminating).count().max(places.len());
                clusters.push(Cluster { own: name == here.cluster, weight, places, all });
            }
        }
        clusters
    };
    let nearest_first = || {
        let preferred = rings(import.distribution.as_deref()).iter().copied();
        preferred.map(Some).chain([None])
    };
    let ready = nearest_first().map(|ring| candidates(|e| e.ready, ring));
    let draining = nearest_first().map(|ring| candidates(|e| e.serving && e.terminating, ring));
    let clusters = ready.chain(draining).find(|all| !all.is_empty()).unwrap_or_default();
    let sticky = match import.affinity {
        Affinity::None => None,
        Affinity::ClientIp { timeout } => Some(timeout),
    };
    Balance { sticky, ..whole(shares(&clusters, here.spread)) }
}

/// Addresses whose flows are to be cut: endpoints that were there and neither are nor serve any
/// more. Flows of those that only stopped being ready go on.
pub fn dead(
    before: &BTreeMap<ClusterName, Vec<Endpoint>>,
    after: &BTreeMap<ClusterName, Vec<Endpoint>>,
) -> BTreeSet<IpAddr> {
    let serving = |all: &BTreeMap<ClusterName, Vec<Endpoint>>| -> BTreeSet<IpAddr> {
        let alive = all.values().flatten().filter(|e| e.ready || e.serving);
        alive.flat_map(|e| e.addresses.iter().copied()).collect()
    };
    serving(before).difference(&serving(after)).copied().collect()
}

struct Cluster {
    own: bool,
    weight: u16,
    places: BTreeSet<(IpAddr, u16)>,
    /// How many endpoints there would be, were all of them ready.
    all: usize,
}

fn place(endpoint: &Endpoint, port: &Port, family: Family) -> Option<(IpAddr, u16)> {
    let address = endpoint.addresses.iter().find(|a| Family::of_addr(a) == family)?;
    let number = endpoint.ports.get(&(port.protocol, port.name.clone()))?;
    Some((*address, *number))
}

/// Shares as they follow from the clusters, of any size.
///
/// With `n` own endpoints that take `k` of `d` parts, and others of the weights `w` that add up to
/// `r`, an own one gets `k / (d · n)` and another one `(d − k) · w / (d · r)`; times `d · n · r` all
/// of it is whole.
fn shares(clusters: &[Cluster], spread: Spread) -> Vec<((IpAddr, u16), u128)> {
    let own = clusters.iter().find(|c| c.own).filter(|_| spread == Spread::LocalFirst);
    let rest: u128 = clusters
        .iter()
        .filter(|c| own.is_none() || !c.own)
        .map(|c| u128::from(c.weight) * c.places.len() as u128)
        .sum();
    let (n, all) = own.map_or((1, 0), |c| (c.places.len() as u128, c.all as u128));
    let d = (all * 100).max(1);
    let k = if rest == 0 { d } else { (n * u128::from(OVERPROVISION_PERCENT)).min(d) };
    let k = if own.is_some() { k } else { 0 };
    let each = |cluster: &Cluster| {
        if own.is_some() && cluster.own {
            k * rest.max(1)
        } else {
            (d - k) * u128::from(cluster.weight) * n
        }
    };
    let places = clusters.iter().flat_map(|c| c.places.iter().map(move |p| (*p, each(c))));
    places.filter(|(_, share)| *share > 0).collect()
}

/// The same shares in small whole numbers.
fn whole(shares: Vec<((IpAddr, u16), u128)>) -> Balance {
    let divisor = shares.iter().fold(0, |a, (_, share)| gcd(a, *share)).max(1);
    let sum: u128 = shares.iter().map(|(_, share)| share / divisor).sum();
    let scaled = |share: u128| {
        let share = share / divisor;
        if sum <= MAX_TOTAL { share } else { (share * MAX_TOTAL / sum).max(1) }
    };
    let mut targets: Vec<Target> = shares
        .into_iter()
        .map(|((address, port), share)| Target {
            address,
            port,
            share: u32::try_from(scaled(share)).unwrap_or(u32::MAX),
        })
        .collect();
    targets.sort();
    let total = targets.iter().fold(0u32, |sum, t| sum.saturating_add(t.share));
    Balance { targets, total, sticky: None }
}

fn gcd(a: u128, b: u128) -> u128 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests;
