//! What each cluster is to be told about a slice.

use std::collections::{BTreeMap, BTreeSet};

use kube::ResourceExt;
use kube::api::ObjectMeta;
use slicewire_api::labels::{CLUSTER, HUB_FINALIZER, HUB_MANAGER, MANAGED_BY, OF_SLICE, PROJECT};
use slicewire_api::{RemoteCluster, WorkerSlice, WorkerSliceSpec};
use slicewire_core::ipam::{Demand, Holding, Holdings, allocate};
use slicewire_core::name::ClusterName;
use slicewire_core::prefix::Family;
use slicewire_core::slice_spec::ValidatedSlice;
use slicewire_core::topology::prefixes_behind;

use super::observe::Observed;

/// Gives every cluster of the slice its addresses, on top of what it holds.
pub(super) fn holdings(observed: &Observed, slice: &ValidatedSlice) -> Holdings {
    let demand =
        Demand { clusters: slice.clusters.clone(), lanes: slice.lanes, grow: growth(observed) };
    // What finds no room is told by validation, and a pool that cannot grow by the cluster.
    allocate(&slice.prefixes, &observed.held(), &demand).0
}

/// Clusters that ran out of addresses. A report counts once: it has to be about the WorkerSlice as
/// it is now, and the new pool changes that.
fn growth(observed: &Observed) -> BTreeMap<ClusterName, BTreeSet<Family>> {
    let held = observed.held();
    observed
        .slices
        .iter()
        .filter_map(|(name, slice)| {
            let status = slice.status.as_ref()?;
            let told = held.get(name) == Some(&holding_of(slice));
            let current = told
                && status.observed_generation == slice.metadata.generation
                && slice.metadata.deletion_timestamp.is_none();
            let families: BTreeSet<Family> = status
                .exhausted_families
                .iter()
                .filter_map(|f| match f.as_str() {
                    "IPv4" => Some(Family::V4),
                    "IPv6" => Some(Family::V6),
                    _ => None,
                })
                .collect();
            (current && !families.is_empty()).then(|| (name.clone(), families))
        })
        .collect()
}

/// The WorkerSlice of one cluster; `None` while the cluster's namespace is not there.
pub(super) fn worker_slice(
    observed: &Observed,
    slice: &ValidatedSlice,
    holdings: &Holdings,
    cluster: &ClusterName,
) -> Option<WorkerSlice> {
    let registered = observed.clusters.get(cluster.as_str())?;
    let holding = holdings.get(cluster)?;
    let remotes = holdings.iter().filter(|(name, _)| *name != cluster).map(|(name, h)| {
        RemoteCluster { cluster: name.to_string(), prefixes: strings(&prefixes_behind(h)) }
    });
    let rules = observed.config.spec.namespaces.iter();
    let applies =
        |clusters: &[String]| clusters.is_empty() || clusters.iter().any(|c| c == cluster.as_str());
    let spec = WorkerSliceSpec {
        project: observed.project.as_ref()?.to_string(),
        slice: slice.name.to_string(),
        cluster: cluster.to_string(),
        prefixes: strings(&slice.prefixes),
        pools: strings(&holding.pools),
        gateway_prefixes: strings(&holding.gateways),
        remotes: remotes.collect(),
        namespaces: rules.filter(|r| applies(&r.clusters)).cloned().collect(),
        gateway_replicas: if slice.clusters.len() < 2 { 0 } else { i32::from(slice.lanes) },
        mtu: i32::from(slice.mtu),
        exposure: registered.spec.gateways.clone(),
    };
    let mut object = WorkerSlice::new(slice.name.as_str(), spec);
    object.metadata = meta(observed, cluster)?;
    object.metadata.finalizers = Some(vec![HUB_FINALIZER.to_owned()]);
    Some(object)
}

/// Name, place and marks of what a cluster is told of a slice.
pub(super) fn meta(observed: &Observed, cluster: &ClusterName) -> Option<ObjectMeta> {
    let registered = observed.clusters.get(cluster.as_str())?;
    let namespace = registered.status.as_ref()?.namespace.clone()?;
    let labels = BTreeMap::from([
        (MANAGED_BY.to_owned(), HUB_MANAGER.to_owned()),
        (PROJECT.to_owned(), observed.project.as_ref()?.to_string()),
        (CLUSTER.to_owned(), cluster.to_string()),
        (OF_SLICE.to_owned(), observed.config.name_any()),
    ]);
    Some(ObjectMeta {
        name: Some(observed.config.name_any()),
        namespace: Some(namespace),
        labels: Some(labels),
        ..ObjectMeta::default()
    })
}

/// The addresses a WorkerSlice speaks of.
pub(super) fn holding_of(slice: &WorkerSlice) -> Holding {
    Holding {
        pools: super::observe::nets(&slice.spec.pools),
        gateways: super::observe::nets(&slice.spec.gateway_prefixes),
    }
}

pub(super) fn strings<T: ToString>(list: &[T]) -> Vec<String> {
    list.iter().map(T::to_string).collect()
}
