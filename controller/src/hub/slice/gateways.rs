//! What each cluster's gateways are to be told: their lanes and tunnels.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use slicewire_api::{GatewayLane, Tunnel, WorkerGateway, WorkerGatewaySpec, WorkerSlice};
use slicewire_core::name::{ClusterName, Lane};
use slicewire_core::topology::{
    DuplicateKey, LanePlan, Member, PublicKey, Published, TunnelPlan, endpoint, plan,
};

use super::desired::{holding_of, meta, strings};
use super::observe::Observed;

/// Most endpoints that are taken from a cluster's gateway.
const MAX_ENDPOINTS: usize = 8;

/// The WorkerGateway of every cluster that is told of the slice, and keys that were refused.
pub(super) fn worker_gateways(
    observed: &Observed,
    slices: &BTreeMap<ClusterName, WorkerSlice>,
) -> (Vec<WorkerGateway>, Vec<DuplicateKey>) {
    let members: BTreeMap<ClusterName, Member> = slices
        .iter()
        .map(|(name, slice)| {
            (
                name.clone(),
                Member { holding: holding_of(slice), published: published(observed, name) },
            )
        })
        .collect();
    let lanes = slices.values().map(|s| s.spec.gateway_replicas).max().unwrap_or(0);
    let mesh = plan(&members, Lane::try_from(lanes).unwrap_or(0), &holders(observed));
    let objects = mesh.lanes.iter().filter_map(|(cluster, lanes)| {
        let slice = slices.get(cluster)?;
        let spec = WorkerGatewaySpec {
            slice: slice.spec.slice.clone(),
            cluster: cluster.to_string(),
            lanes: lanes.iter().map(lane).collect(),
        };
        let mut object = WorkerGateway::new(&slice.spec.slice, spec);
        object.metadata = meta(observed, cluster)?;
        Some(object)
    });
    (objects.collect(), mesh.duplicates)
}

/// What a cluster's gateways have published, checked.
fn published(observed: &Observed, cluster: &ClusterName) -> BTreeMap<Lane, Published> {
    let status = observed.gateways.get(cluster).and_then(|g| g.status.as_ref());
    status
        .iter()
        .flat_map(|s| &s.lanes)
        .map(|lane| {
            let endpoints = lane.endpoints.iter().filter_map(|e| endpoint(e));
            let published = Published {
                key: lane.public_key.as_deref().and_then(public_key),
                endpoints: endpoints.take(MAX_ENDPOINTS).collect(),
            };
            (lane.lane, published)
        })
        .collect()
}

/// A key in the one spelling that base64 has for it; the all-zero key is nobody's.
fn public_key(text: &str) -> Option<PublicKey> {
    let bytes: [u8; 32] = STANDARD.decode(text).ok()?.try_into().ok()?;
    (bytes != [0; 32]).then(|| PublicKey(STANDARD.encode(bytes)))
}

/// Whose key is whose, as gateways have been told before.
fn holders(observed: &Observed) -> BTreeMap<PublicKey, ClusterName> {
    let lanes = observed.gateways.values().flat_map(|g| &g.spec.lanes);
    lanes
        .flat_map(|l| &l.tunnels)
        .filter_map(|t| Some((public_key(&t.public_key)?, ClusterName::parse(&t.cluster).ok()?)))
        .collect()
}

fn lane(plan: &LanePlan) -> GatewayLane {
    GatewayLane {
        lane: plan.lane,
        addresses: strings(&plan.addresses),
        tunnels: plan.tunnels.iter().map(|(cluster, t)| tunnel(cluster, t)).collect(),
    }
}

fn tunnel(cluster: &ClusterName, plan: &TunnelPlan) -> Tunnel {
    Tunnel {
        cluster: cluster.to_string(),
        public_key: plan.key.0.clone(),
        endpoints: strings(&plan.endpoints),
        addresses: strings(&plan.addresses),
        prefixes: strings(&plan.prefixes),
    }
}
