//! What each cluster is to be told about a slice.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use kube::ResourceExt;
use kube::api::ObjectMeta;
use slicewire_api::labels::{CLUSTER, HUB_FINALIZER, HUB_MANAGER, MANAGED_BY, OF_SLICE, PROJECT};
use slicewire_api::policy::{keys_from, keys_into};
use slicewire_api::{PolicyKeys, RemoteCluster, WorkerSlice, WorkerSliceSpec};
use slicewire_core::ipam::{Demand, Holding, Holdings, allocate};
use slicewire_core::member::may_grow;
use slicewire_core::name::ClusterName;
use slicewire_core::prefix::Family;
use slicewire_core::service::vip;
use slicewire_core::slice_spec::ValidatedSlice;
use slicewire_core::topology::prefixes_behind;

use super::observe::Observed;
use crate::hub::policy;

/// Gives every cluster of the slice its addresses, on top of what it holds.
pub(super) fn holdings(observed: &Observed, slice: &ValidatedSlice) -> Holdings {
    let demand = Demand {
        clusters: slice.clusters.clone(),
        lanes: slice.lanes,
        grow: growth(observed, slice),
        reserved: observed.service_prefixes(),
    };
    // What finds no room is told by validation, and a pool that cannot grow by the cluster.
    allocate(&slice.prefixes, &observed.held(), &demand).0
}

/// Where services' virtual addresses come from: what the clusters have been told, and what is given
/// in families where there is nothing yet. A slice that is full has none.
pub(super) fn service_prefixes(
    observed: &Observed,
    slice: &ValidatedSlice,
    holdings: &Holdings,
) -> Vec<IpNet> {
    let leaving = observed.held();
    let used = holdings.values().chain(leaving.values()).flat_map(Holding::all);
    let used: Vec<IpNet> = used.copied().collect();
    let told = observed.service_prefixes();
    let mut all = vip::prefixes(&slice.prefixes, &told, &used, &BTreeSet::new());
    all.sort_unstable();
    all
}

/// Clusters that ran out of addresses. A report counts once: it has to be about the WorkerSlice as
/// it is now, and the new pool changes that. And it is believed only as far as the others do not
/// suffer from it.
fn growth(observed: &Observed, whole: &ValidatedSlice) -> BTreeMap<ClusterName, BTreeSet<Family>> {
    let (held, clusters) = (observed.held(), whole.clusters.len());
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
            let families: BTreeSet<Family> = families
                .into_iter()
                .filter(|family| may_grow(&whole.prefixes, &held, clusters, name, *family))
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
    let rules = observed.config.spec.member_rules().into_iter();
    let applies =
        |clusters: &[String]| clusters.is_empty() || clusters.iter().any(|c| c == cluster.as_str());
    let spec = WorkerSliceSpec {
        project: observed.project.as_ref()?.to_string(),
        slice: slice.name.to_string(),
        cluster: cluster.to_string(),
        prefixes: strings(&slice.prefixes),
        pools: strings(&holding.pools),
        gateway_prefixes: strings(&holding.gateways),
        service_prefixes: strings(&service_prefixes(observed, slice, holdings)),
        remotes: remotes.collect(),
        namespaces: rules.filter(|r| applies(&r.clusters)).collect(),
        gateway_replicas: if slice.clusters.len() < 2 { 0 } else { i32::from(slice.lanes) },
        mtu: i32::from(slice.mtu),
        exposure: registered.spec.gateways.clone(),
        policy: observed.config.spec.policy.clone(),
        isolation: observed.config.spec.isolation_in(cluster.as_str()),
        policy_keys: policy_keys(observed),
        qos: super::qos::in_cluster(
            &observed.config,
            observed.profile.as_deref(),
            cluster.as_str(),
        ),
        services: observed.config.spec.services.clone(),
    };
    let mut object = WorkerSlice::new(slice.name.as_str(), spec);
    object.metadata = meta(observed, cluster)?;
    object.metadata.finalizers = Some(vec![HUB_FINALIZER.to_owned()]);
    Some(object)
}

/// What clusters are to tell of their pods.
fn policy_keys(observed: &Observed) -> Option<PolicyKeys> {
    let applied = observed.config.spec.policy.apply_network_policies;
    let reports = observed.slices.values().filter(|_| applied);
    let members = reports.filter_map(|s| s.status.as_ref()?.policy_keys.as_ref());
    let written = observed.policies.iter().map(|p| &**p);
    let told = observed.told_policies.iter().map(|p| &**p);
    let all = policy::validate::keys(written, told, members.map(keys_from))?;
    Some(keys_into(all))
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

/// As text.
pub(in crate::hub) fn strings<T: ToString>(list: &[T]) -> Vec<String> {
    list.iter().map(T::to_string).collect()
}
