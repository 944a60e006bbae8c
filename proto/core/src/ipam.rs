//! Address management across clusters: who gets which part of a slice's prefixes.
//!
//! Nothing is cut for life: a cluster holds *pools*, from which its pods' addresses come, and
//! *gateway prefixes*, from which its gateways' do. What is held stays; only more is added. Pools
//! are taken from the beginning of a slice's prefixes and gateway prefixes from the end, so that
//! both find room to grow next to what they have.

pub mod blocks;
pub mod space;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use crate::name::{ClusterName, Lane, MAX_LANES};
use crate::prefix::{Family, overlap};
use space::{Direction, find};

/// Host bits of a gateway prefix with room for every lane a slice can ever have.
const GATEWAY_BITS: u8 = 3;
/// Most host bits of a pool: larger slices leave the rest for clusters to come.
const MAX_POOL_BITS_V4: u8 = 16;
/// The same for IPv6, where a pool is a /64 at most.
const MAX_POOL_BITS_V6: u8 = 64;

/// What a cluster holds of a slice.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Holding {
    /// Prefixes its pods' addresses come from.
    pub pools: Vec<IpNet>,
    /// Prefixes its gateways' device addresses come from.
    pub gateways: Vec<IpNet>,
}

impl Holding {
    /// Everything held: what other clusters send to this one.
    pub fn all(&self) -> impl Iterator<Item = &IpNet> {
        self.pools.iter().chain(&self.gateways)
    }

    fn has(&self, family: Family) -> bool {
        self.pools.iter().any(|p| Family::of(p) == family)
    }
}

/// Holdings by cluster.
pub type Holdings = BTreeMap<ClusterName, Holding>;

/// A cluster that did not get what it needs in a family.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[error("no room left for cluster {cluster} in the slice's {family:?} prefixes")]
pub struct NoRoom {
    /// Who.
    pub cluster: ClusterName,
    /// Where.
    pub family: Family,
}

/// What is asked of [`allocate`].
#[derive(Debug, Clone, Default)]
pub struct Demand {
    /// Clusters of the slice.
    pub clusters: BTreeSet<ClusterName>,
    /// Gateway replicas per cluster.
    pub lanes: Lane,
    /// Clusters that want one more pool, by family.
    pub grow: BTreeMap<ClusterName, BTreeSet<Family>>,
    /// Prefixes that are kept for something else.
    pub reserved: Vec<IpNet>,
}

/// Gives every cluster of the demand its pools and gateway prefixes in every family of the slice.
///
/// `held` is what clusters hold already, those that are leaving included; it is kept as it is,
/// save for what lies outside the slice's prefixes or on what a cluster before it in the order of
/// names holds, neither of which this function ever made. The result names the demand's clusters
/// and nobody else. What could not be satisfied is listed beside it; everything else still holds.
pub fn allocate(prefixes: &[IpNet], held: &Holdings, demand: &Demand) -> (Holdings, Vec<NoRoom>) {
    let mut holdings = kept(prefixes, held);
    let held = holdings.values().flat_map(Holding::all);
    let mut used: Vec<IpNet> = held.chain(&demand.reserved).copied().collect();
    let mut refused = Vec::new();
    let count = demand.clusters.len();
    for family in families(prefixes) {
        let own: Vec<IpNet> =
            prefixes.iter().copied().filter(|p| Family::of(p) == family).collect();
        for cluster in &demand.clusters {
            let holding = holdings.entry(cluster.clone()).or_default();
            let fits = give_gateways(&own, holding, count, demand.lanes, &mut used)
                && (holding.has(family)
                    || give_pool(&own, holding, count, demand.lanes, &mut used));
            if !fits {
                refused.push(NoRoom { cluster: cluster.clone(), family });
            }
        }
        for (cluster, _) in demand.grow.iter().filter(|(_, wanted)| wanted.contains(&family)) {
            let Some(holding) =
                holdings.get_mut(cluster).filter(|_| demand.clusters.contains(cluster))
            else {
                continue;
            };
            if !give_pool(&own, holding, count, 0, &mut used) {
                refused.push(NoRoom { cluster: cluster.clone(), family });
            }
        }
    }
    holdings.retain(|cluster, _| demand.clusters.contains(cluster));
    (holdings, refused)
}

/// The longest length, at least as short as the prefix's own, with which `clusters` clusters of
/// `lanes` gateways fit into one prefix; `None` when the prefix is large enough as it is or when
/// no length would do.
pub fn length_that_fits(prefix: &IpNet, clusters: usize, lanes: Lane) -> Option<u8> {
    let fits = |length: u8| {
        // Pools from one end and gateways from the other: the sum, each part aligned.
        let bits = u32::from(Family::of(prefix).bits() - length);
        let need = clusters as u128 * ((1u128 << min_pool_bits(lanes)) + (1 << lane_bits(lanes)));
        bits >= 128 || (1u128 << bits) >= need
    };
    if fits(prefix.prefix_len()) {
        return None;
    }
    (0..prefix.prefix_len()).rev().find(|length| fits(*length))
}

/// The addresses of a lane's device: the lane's place in the gateway prefixes of each family.
pub fn lane_addresses(gateways: &[IpNet], lane: Lane) -> Vec<IpAddr> {
    [Family::V4, Family::V6]
        .into_iter()
        .filter_map(|family| {
            let mut before: u128 = 0;
            for net in gateways.iter().filter(|g| Family::of(g) == family) {
                let size = space::size(net);
                let place = u128::from(lane) - before.min(u128::from(lane));
                if place < size {
                    return space::address(net, place);
                }
                before = before.saturating_add(size);
            }
            None
        })
        .collect()
}

/// The families the prefixes are of, IPv4 first.
pub fn families(prefixes: &[IpNet]) -> BTreeSet<Family> {
    prefixes.iter().map(Family::of).collect()
}

/// What of `held` can stand: inside the slice, and overlapping nothing that stands already.
fn kept(prefixes: &[IpNet], held: &Holdings) -> Holdings {
    let mut used: Vec<IpNet> = Vec::new();
    let mut keep = |nets: &[IpNet]| -> Vec<IpNet> {
        nets.iter()
            .copied()
            .filter(|net| {
                let stands = prefixes.iter().any(|p| p.contains(net))
                    && !used.iter().any(|u| overlap(u, net));
                if stands {
                    used.push(*net);
                }
                stands
            })
            .collect()
    };
    held.iter()
        .map(|(cluster, h)| {
            (cluster.clone(), Holding { pools: keep(&h.pools), gateways: keep(&h.gateways) })
        })
        .collect()
}

/// Adds gateway prefixes until every lane has an address.
fn give_gateways(
    own: &[IpNet],
    holding: &mut Holding,
    clusters: usize,
    lanes: Lane,
    used: &mut Vec<IpNet>,
) -> bool {
    let family = own.first().map(Family::of);
    let have: u128 = holding
        .gateways
        .iter()
        .filter(|g| Some(Family::of(g)) == family)
        .map(space::size)
        .fold(0, u128::saturating_add);
    let missing = u128::from(lanes.min(MAX_LANES)).saturating_sub(have);
    if missing == 0 {
        return true;
    }
    let least = bits_for(missing);
    // Room for all lanes at once only where it is a small part of the slice.
    let room = own.iter().map(space::host_bits).max().unwrap_or(0);
    let wide = room >= bits_for(clusters as u128) + GATEWAY_BITS + 3;
    let most = if wide { GATEWAY_BITS.max(least) } else { least };
    take(own, (least..=most).rev(), Direction::FromEnd, used)
        .map(|net| holding.gateways.push(net))
        .is_some()
}

/// Adds one pool: of the size that suits the slice, or the largest smaller one there is room for.
fn give_pool(
    own: &[IpNet],
    holding: &mut Holding,
    clusters: usize,
    lanes: Lane,
    used: &mut Vec<IpNet>,
) -> bool {
    let least = if lanes == 0 { 0 } else { min_pool_bits(lanes) };
    let most = own.iter().map(|p| pool_bits(p, clusters)).max().unwrap_or(0).max(least);
    take(own, (least..=most).rev(), Direction::FromStart, used)
        .map(|net| holding.pools.push(net))
        .is_some()
}

/// Takes the first free prefix of the first of these sizes (in host bits) that fits anywhere.
fn take(
    own: &[IpNet],
    mut sizes: impl Iterator<Item = u8>,
    direction: Direction,
    used: &mut Vec<IpNet>,
) -> Option<IpNet> {
    let net = sizes.find_map(|bits| own.iter().find_map(|p| find(p, used, bits, direction)))?;
    used.push(net);
    Some(net)
}

/// Host bits of a pool that leaves room for twice as many clusters, and for 15 more pools where
/// the prefix is large.
pub(crate) fn pool_bits(prefix: &IpNet, clusters: usize) -> u8 {
    let bits = space::host_bits(prefix);
    let parts = bits_for(clusters.max(1) as u128 * 2).max(if bits >= 12 { 4 } else { 2 });
    let most = match Family::of(prefix) {
        Family::V4 => MAX_POOL_BITS_V4,
        Family::V6 => MAX_POOL_BITS_V6,
    };
    bits.saturating_sub(parts).min(most)
}

/// Host bits of the smallest first pool: a router, its gateways and one pod.
fn min_pool_bits(lanes: Lane) -> u8 {
    bits_for(u128::from(lanes) + 2)
}

fn lane_bits(lanes: Lane) -> u8 {
    bits_for(u128::from(lanes.max(1)))
}

/// The least number of bits that count to `n`.
fn bits_for(n: u128) -> u8 {
    u8::try_from(n.max(1).next_power_of_two().trailing_zeros()).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests;
