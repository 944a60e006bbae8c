//! Where clusters tell people what runs: which pods a slice has there (WorkerPods), and what passes
//! its tunnels (WorkerTraffic).
//!
//! A worker may create nothing, so the places are made here, as many as the cluster has pods for.
//! Nothing is decided by what is told there, and no other cluster is told it; the API for portals
//! shows it.

use std::collections::BTreeMap;
use std::sync::Arc;

use kube::ResourceExt;
use slicewire_api::{WorkerPods, WorkerPodsSpec, WorkerSlice, WorkerTraffic, WorkerTrafficSpec};
use slicewire_core::member;
use slicewire_core::name::{ClusterName, HubNamespace, hub_namespace, pods_object};
use slicewire_core::policy::parts::parts_for;
use slicewire_runtime::reconcile::Next;

use super::policy::plan::meta;
use super::{Caches, Hub};
use crate::kubernetes::cache::Key;
use crate::kubernetes::change::{Change, Steps};
use crate::kubernetes::write::next;

/// Most objects in which a cluster tells of its pods on a slice, with a hundred pods each. It is for
/// people to look at, and a member that claims more pods than it has is not to fill the hub.
const MAX_PARTS: usize = 100;

/// One round for one slice in one cluster: the cluster's namespace and the slice's name.
pub(super) async fn reconcile(hub: &Hub, key: &Key) -> Next {
    let steps = plan(&observe(&hub.caches, key));
    next(&hub.writer.run(steps, |object| hub.caches.note(object)).await, Next::Wait)
}

#[derive(Debug, Default)]
struct Observed {
    /// The slice in its cluster, unless it is gone or on its way out.
    slice: Option<(ClusterName, Arc<WorkerSlice>)>,
    pods: BTreeMap<usize, Arc<WorkerPods>>,
    traffic: Option<Arc<WorkerTraffic>>,
}

fn observe(caches: &Caches, (namespace, name): &Key) -> Observed {
    let Some(HubNamespace::Cluster(_, cluster)) = hub_namespace(namespace) else {
        return Observed::default();
    };
    let slice = caches.slices.get(namespace, name);
    let of_slice = caches.pods.list_in(namespace).into_iter().filter(|p| p.spec.slice == *name);
    let numbered = of_slice.map(|p| (usize::try_from(p.spec.number).unwrap_or(usize::MAX), p));
    Observed {
        slice: slice.filter(|s| s.metadata.deletion_timestamp.is_none()).map(|s| (cluster, s)),
        pods: numbered.collect(),
        traffic: caches.traffic.get(namespace, name),
    }
}

/// Decides.
fn plan(observed: &Observed) -> Steps {
    let mut step = Vec::new();
    let mut wanted = 0;
    if let Some((cluster, slice)) = &observed.slice {
        wanted = parts(slice);
        for number in 0..wanted {
            let there = observed.pods.get(&number).map(|p| &**p);
            step.extend(Change::converge(&pods(slice, cluster, number), there));
        }
        step.extend(Change::converge(&traffic(slice, cluster), observed.traffic.as_deref()));
    } else {
        step.extend(observed.traffic.as_deref().and_then(Change::delete));
    }
    let idle = observed.pods.range(wanted..);
    step.extend(idle.filter_map(|(_, pods)| Change::delete(&**pods)));
    vec![step]
}

fn parts(slice: &WorkerSlice) -> usize {
    let said = slice.status.as_ref().map_or(0, |s| member::pods(s.attached_pods));
    parts_for(usize::try_from(said).unwrap_or_default()).min(MAX_PARTS)
}

fn pods(slice: &WorkerSlice, cluster: &ClusterName, number: usize) -> WorkerPods {
    let name = pods_object(&slice.name_any(), number);
    let number = i32::try_from(number).unwrap_or(i32::MAX);
    let spec = WorkerPodsSpec { slice: slice.name_any(), cluster: cluster.to_string(), number };
    let mut object = WorkerPods::new(&name, spec);
    object.metadata = meta(slice, cluster, name);
    object
}

fn traffic(slice: &WorkerSlice, cluster: &ClusterName) -> WorkerTraffic {
    let name = slice.name_any();
    let spec = WorkerTrafficSpec { slice: name.clone(), cluster: cluster.to_string() };
    let mut object = WorkerTraffic::new(&name, spec);
    object.metadata = meta(slice, cluster, name);
    object
}

#[cfg(test)]
mod tests {
    use slicewire_api::{WorkerSliceSpec, WorkerSliceStatus};

    use super::*;
    use crate::kubernetes::fake::Fake;

    const EAST: &str = "slicewire-demo--east";

    fn world(attached_pods: i32) -> Fake {
        let mut fake = Fake::default();
        let mut slice = WorkerSlice::new("blue", WorkerSliceSpec::default());
        slice.metadata.namespace = Some(EAST.into());
        slice.status = Some(WorkerSliceStatus { attached_pods, ..Default::default() });
        fake.put(&slice);
        fake
    }

    fn changes(fake: &Fake) -> Vec<Change> {
        let caches = Caches::default();
        for object in fake.all() {
            caches.note(object);
        }
        plan(&observe(&caches, &(EAST.into(), "blue".into()))).concat()
    }

    fn settle(fake: &mut Fake) -> usize {
        for change in changes(fake) {
            fake.carry_out(&change).unwrap();
        }
        assert_eq!(changes(fake), [], "a second round does nothing");
        let there = |n: &usize| fake.get::<WorkerPods>(EAST, &pods_object("blue", *n)).is_some();
        (0..200).filter(there).count()
    }

    #[test]
    fn there_is_room_for_every_pod_and_a_place_for_traffic() {
        let mut fake = world(1_000);
        assert_eq!(settle(&mut fake), 13);
        let traffic = fake.get::<WorkerTraffic>(EAST, "blue").unwrap();
        assert_eq!((traffic.spec.slice.as_str(), traffic.spec.cluster.as_str()), ("blue", "east"));
        let fewer = WorkerSliceStatus { attached_pods: 3, ..Default::default() };
        fake.report::<WorkerSlice>(EAST, "blue", &fewer);
        assert_eq!(settle(&mut fake), 1);
    }

    #[test]
    fn a_member_that_claims_many_pods_gets_a_bounded_number_of_places() {
        assert_eq!(settle(&mut world(i32::MAX)), MAX_PARTS);
        assert_eq!(settle(&mut world(-7)), 1);
    }

    #[test]
    fn places_go_with_the_slice() {
        let mut fake = world(150);
        settle(&mut fake);
        fake.delete::<WorkerSlice>(EAST, "blue");
        assert_eq!(settle(&mut fake), 0);
        assert!(fake.get::<WorkerTraffic>(EAST, "blue").is_none());
    }
}
