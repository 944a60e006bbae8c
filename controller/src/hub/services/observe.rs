//! What there is of a slice's services on the hub.

use std::collections::BTreeMap;
use std::sync::Arc;

use kube::ResourceExt;
use slicewire_api::{WorkerServiceExport, WorkerServiceImport, WorkerSlice};
use slicewire_core::name::{ClusterName, HubNamespace, hub_namespace};

use crate::hub::Caches;
use crate::kubernetes::cache::Key;

/// The services of a slice, as clusters report them and as they have been told.
#[derive(Debug, Clone, Default)]
pub(super) struct Observed {
    /// Where the slice is.
    pub(super) slices: BTreeMap<ClusterName, Arc<WorkerSlice>>,
    /// Where clusters report, by cluster and number.
    pub(super) places: BTreeMap<(ClusterName, usize), Arc<WorkerServiceExport>>,
    /// What clusters have been told, by cluster and the object's name.
    pub(super) told: BTreeMap<(ClusterName, String), Arc<WorkerServiceImport>>,
}

/// Reads the caches.
pub(super) fn observe(caches: &Caches, (namespace, slice): &Key) -> Observed {
    let mut observed = Observed::default();
    let Some(HubNamespace::Project(project)) = hub_namespace(namespace) else { return observed };
    for object in caches.slices.list_named(slice) {
        let own = object.namespace().unwrap_or_default();
        let Some(HubNamespace::Cluster(of, cluster)) = hub_namespace(&own) else { continue };
        if of == project && object.metadata.deletion_timestamp.is_none() {
            observed.slices.insert(cluster, object);
        }
    }
    // Those of clusters that the slice is not in go with their WorkerSlice.
    for (cluster, of) in &observed.slices {
        let own = of.namespace().unwrap_or_default();
        for object in caches.exports.list_in(&own).into_iter().filter(|e| e.spec.slice == *slice) {
            let number = usize::try_from(object.spec.number).unwrap_or_default();
            observed.places.insert((cluster.clone(), number), object);
        }
        for object in caches.imports.list_in(&own).into_iter().filter(|i| i.spec.slice == *slice) {
            observed.told.insert((cluster.clone(), object.name_any()), object);
        }
    }
    observed
}
