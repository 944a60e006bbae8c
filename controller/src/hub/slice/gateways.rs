//! What each cluster's gateways are to be told: their lanes and tunnels.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use slicewire_api::{GatewayLane, NextKey, Tunnel, WorkerGateway, WorkerGatewaySpec, WorkerSlice};
use slicewire_core::member::{self, Fault};
use slicewire_core::name::{ClusterName, Lane};
use slicewire_core::rotation::{Generation, Keys};
use slicewire_core::topology::{
    DuplicateKey, LanePlan, Member, Mesh, PublicKey, Published, TunnelPlan, plan,
};

use super::desired::{holding_of, meta, strings};
use super::exchange;
use super::observe::{Observed, nets};

/// The WorkerGateway of every cluster that is told of the slice, and keys that were refused.
pub(super) fn worker_gateways(
    observed: &Observed,
    slices: &BTreeMap<ClusterName, WorkerSlice>,
    keys: &Keys,
) -> (Vec<WorkerGateway>, Vec<DuplicateKey>) {
    let current = mesh(observed, slices, keys.generation, true);
    let next = keys.next.map(|next| mesh(observed, slices, next, false));
    let exchanged: Vec<(&ClusterName, exchange::Said)> = keys
        .next
        .iter()
        .flat_map(|next| slices.keys().map(move |c| (c, exchange::said(observed, c, *next))))
        .collect();
    let objects = current.lanes.iter().filter_map(|(cluster, lanes)| {
        let slice = slices.get(cluster)?;
        let next = next.as_ref().and_then(|mesh| mesh.lanes.get(cluster));
        let with_next = |plan: &LanePlan| {
            lane(plan, next.and_then(|lanes| lanes.iter().find(|l| l.lane == plan.lane)))
        };
        let spec = WorkerGatewaySpec {
            slice: slice.spec.slice.clone(),
            cluster: cluster.to_string(),
            lanes: lanes.iter().map(with_next).collect(),
            generation: keys.generation,
            next_generation: keys.next,
            exchange: exchange::for_cluster(cluster, &exchanged),
        };
        let mut object = WorkerGateway::new(&slice.spec.slice, spec);
        object.metadata = meta(observed, cluster)?;
        Some(object)
    });
    let duplicates = current.duplicates.iter().chain(next.iter().flat_map(|n| &n.duplicates));
    (objects.collect(), duplicates.cloned().collect())
}

/// The tunnels by one generation of keys: the one that all have, or the next.
fn mesh(
    observed: &Observed,
    slices: &BTreeMap<ClusterName, WorkerSlice>,
    generation: Generation,
    current: bool,
) -> Mesh {
    let member = |(name, slice): (&ClusterName, &WorkerSlice)| {
        let published = published(observed, name, slice, (generation, current));
        (name.clone(), Member { holding: holding_of(slice), published })
    };
    let members: BTreeMap<ClusterName, Member> = slices.iter().map(member).collect();
    let lanes = slices.values().map(|s| s.spec.gateway_replicas).max().unwrap_or(0);
    plan(&members, Lane::try_from(lanes).unwrap_or(0), &holders(observed))
}

/// What a cluster's gateways have published for a generation, checked. A worker of the release
/// before knows of no generations: its key, of generation 0, is good for whichever all have.
fn published(
    observed: &Observed,
    cluster: &ClusterName,
    slice: &WorkerSlice,
    (generation, current): (Generation, bool),
) -> BTreeMap<Lane, Published> {
    let prefixes = nets(&slice.spec.prefixes);
    let status = observed.gateways.get(cluster).and_then(|g| g.status.as_ref());
    status
        .iter()
        .flat_map(|s| &s.lanes)
        .filter_map(|lane| {
            let next = lane.next.as_ref().filter(|next| next.generation == generation);
            let (key, endpoints) = match next {
                Some(next) => (Some(next.public_key.as_str()), &next.endpoints),
                None if lane.generation == generation || (current && lane.generation == 0) => {
                    (lane.public_key.as_deref(), &lane.endpoints)
                }
                None => return None,
            };
            let published = Published {
                key: key.and_then(|key| public_key(key).ok()),
                endpoints: member::endpoints(endpoints, &prefixes).0,
            };
            Some((lane.lane, published))
        })
        .collect()
}

/// A key in the one spelling that base64 has for it.
///
/// # Errors
/// It is none, or one of the few with which every secret agreed on is the same (RFC 7748, section
/// 6.1).
pub(in crate::hub) fn public_key(text: &str) -> Result<PublicKey, Fault> {
    let bytes = STANDARD.decode(text).map_err(|_| Fault::Malformed)?;
    let bytes: [u8; 32] = bytes.try_into().map_err(|_| Fault::Malformed)?;
    let any = x25519_dalek::StaticSecret::from([1; 32]);
    if !any.diffie_hellman(&bytes.into()).was_contributory() {
        return Err(Fault::WeakKey);
    }
    Ok(PublicKey(STANDARD.encode(bytes)))
}

/// Whose key is whose, as gateways have been told before.
fn holders(observed: &Observed) -> BTreeMap<PublicKey, ClusterName> {
    let lanes = observed.gateways.values().flat_map(|g| &g.spec.lanes);
    let told = lanes.flat_map(|l| &l.tunnels).flat_map(|t| {
        let next = t.next.as_ref().map(|next| &next.public_key);
        [Some(&t.public_key), next].into_iter().flatten().map(move |key| (key, &t.cluster))
    });
    told.filter_map(|(key, cluster)| {
        Some((public_key(key).ok()?, ClusterName::parse(cluster).ok()?))
    })
    .collect()
}

fn lane(plan: &LanePlan, next: Option<&LanePlan>) -> GatewayLane {
    let next = |cluster: &ClusterName| next.and_then(|lane| lane.tunnels.get(cluster));
    GatewayLane {
        lane: plan.lane,
        addresses: strings(&plan.addresses),
        tunnels: plan.tunnels.iter().map(|(c, t)| tunnel(c, t, next(c))).collect(),
    }
}

fn tunnel(cluster: &ClusterName, plan: &TunnelPlan, next: Option<&TunnelPlan>) -> Tunnel {
    Tunnel {
        cluster: cluster.to_string(),
        public_key: plan.key.0.clone(),
        endpoints: strings(&plan.endpoints),
        addresses: strings(&plan.addresses),
        prefixes: strings(&plan.prefixes),
        next: next.map(|next| NextKey {
            public_key: next.key.0.clone(),
            endpoints: strings(&next.endpoints),
        }),
    }
}
