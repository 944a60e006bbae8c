//! What there is of a slice's policies on the hub.

use std::collections::BTreeMap;
use std::sync::Arc;

use kube::ResourceExt;
use slicewire_api::{SliceConfig, SlicePolicy, WorkerEndpoints, WorkerPolicy, WorkerSlice};
use slicewire_core::name::{ClusterName, HubNamespace, ProjectName, hub_namespace};

use crate::hub::Caches;
use crate::kubernetes::cache::Key;

/// The policies of a slice, and what its clusters have been told of them.
#[derive(Debug, Clone, Default)]
pub(super) struct Observed {
    /// The slice, if there is one of that name.
    pub(super) config: Option<Arc<SliceConfig>>,
    /// Policies by name.
    pub(super) policies: BTreeMap<String, Arc<SlicePolicy>>,
    /// Where the slice is.
    pub(super) slices: BTreeMap<ClusterName, Arc<WorkerSlice>>,
    /// What has been told, by cluster and policy.
    pub(super) told: BTreeMap<(ClusterName, String), Arc<WorkerPolicy>>,
    /// Where clusters report their pods, by cluster and number.
    pub(super) reports: BTreeMap<(ClusterName, usize), Arc<WorkerEndpoints>>,
}

/// Reads the caches.
pub(super) fn observe(caches: &Caches, (namespace, slice): &Key) -> Observed {
    let Some(HubNamespace::Project(project)) = hub_namespace(namespace) else {
        return Observed::default();
    };
    let of_slice = |object: &Arc<SlicePolicy>| object.spec.slice == *slice;
    let policies = caches.policies.list_in(namespace).into_iter().filter(of_slice);
    let mut observed = Observed {
        config: caches.configs.get(namespace, slice),
        policies: policies.map(|p| (p.name_any(), p)).collect(),
        ..Observed::default()
    };
    for object in caches.slices.list_named(slice) {
        if let Some(cluster) = cluster_in(&project, object.namespace()) {
            observed.slices.insert(cluster, object);
        }
    }
    for object in caches.told_policies.list().into_iter().filter(|p| p.spec.slice == *slice) {
        if let Some(cluster) = cluster_in(&project, object.namespace()) {
            observed.told.insert((cluster, object.spec.policy.clone()), object);
        }
    }
    for object in caches.endpoints.list().into_iter().filter(|e| e.spec.slice == *slice) {
        let Some(cluster) = cluster_in(&project, object.namespace()) else { continue };
        if object.spec.cluster == cluster.as_str() {
            let number = usize::try_from(object.spec.number).unwrap_or_default();
            observed.reports.insert((cluster, number), object);
        }
    }
    observed
}

/// The cluster of this project whose namespace it is.
fn cluster_in(project: &ProjectName, namespace: Option<String>) -> Option<ClusterName> {
    match hub_namespace(&namespace?)? {
        HubNamespace::Cluster(of, cluster) if of == *project => Some(cluster),
        _ => None,
    }
}
