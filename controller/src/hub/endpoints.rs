//! What a cluster reports of its pods → what the other clusters of the slice are told of them.
//!
//! One round is about one of the objects that a cluster reports in, so that the change of a pod
//! costs one write for each other cluster, however many pods there are.
//!
//! Security: a report is a stranger's words. Addresses have to be among those the cluster was
//! given; its name is put there by us; and no label goes on that no policy asks for.

mod validate;

use std::collections::BTreeMap;
use std::sync::Arc;

use kube::ResourceExt;
use slicewire_api::{PolicyEndpoint, WorkerEndpoints, WorkerEndpointsSpec, WorkerSlice};
use slicewire_core::name::{ClusterName, HubNamespace, hub_namespace};
use slicewire_runtime::reconcile::Next;

use super::policy::plan::meta;
use super::{Caches, Hub};
use crate::kubernetes::cache::Key;
use crate::kubernetes::change::{Change, Steps};
use crate::kubernetes::write::next;
pub(super) use validate::refused;

/// One round for one object that a cluster reports in: its namespace and name.
pub(super) async fn reconcile(hub: &Hub, key: &Key) -> Next {
    let observed = observe(&hub.caches, key);
    let outcome = hub.writer.run(plan(&observed), |object| hub.caches.note(object)).await;
    next(&outcome, Next::Wait)
}

/// A report, and what has been made of it.
#[derive(Debug, Default)]
struct Observed {
    /// The report, unless it is gone or on its way out.
    report: Option<Arc<WorkerEndpoints>>,
    /// The slice in the cluster that reports.
    slice: Option<Arc<WorkerSlice>>,
    /// The slice in the others.
    others: BTreeMap<ClusterName, Arc<WorkerSlice>>,
    /// What the others have been told, by namespace.
    told: BTreeMap<String, Arc<WorkerEndpoints>>,
}

fn observe(caches: &Caches, (namespace, name): &Key) -> Observed {
    let mut observed = Observed::default();
    let Some(HubNamespace::Cluster(project, reporter)) = hub_namespace(namespace) else {
        return observed;
    };
    let alive = |r: &Arc<WorkerEndpoints>| {
        r.metadata.deletion_timestamp.is_none() && r.spec.cluster == reporter.as_str()
    };
    observed.report = caches.endpoints.get(namespace, name).filter(alive);
    let slice = name.split('.').next().unwrap_or_default();
    observed.slice = caches.slices.get(namespace, slice);
    for object in caches.slices.list_named(slice) {
        let own = object.namespace().unwrap_or_default();
        let Some(HubNamespace::Cluster(of, cluster)) = hub_namespace(&own) else { continue };
        if of == project && cluster != reporter {
            observed.others.insert(cluster, object);
        }
    }
    for object in caches.endpoints.list_named(name) {
        let own = object.namespace().unwrap_or_default();
        let Some(HubNamespace::Cluster(of, _)) = hub_namespace(&own) else { continue };
        if of == project && own != *namespace && object.spec.cluster == reporter.as_str() {
            observed.told.insert(own, object);
        }
    }
    observed
}

/// Decides.
fn plan(observed: &Observed) -> Steps {
    let mut step = Vec::new();
    let mut wanted = Vec::new();
    if let (Some(report), Some(slice)) = (&observed.report, &observed.slice) {
        let endpoints = validate::accepted(report, slice);
        for (cluster, other) in &observed.others {
            let tells = other.metadata.deletion_timestamp.is_none()
                && other.spec.policy_keys.is_some()
                && !endpoints.is_empty();
            if tells {
                wanted.push(copy(report, other, cluster, endpoints.clone()));
            }
        }
    }
    for copy in &wanted {
        let there = observed.told.get(&copy.namespace().unwrap_or_default());
        step.extend(Change::converge(copy, there.map(|e| &**e)));
    }
    let kept =
        |namespace: &String| wanted.iter().any(|c| c.namespace().as_ref() == Some(namespace));
    let gone = observed.told.iter().filter(|(namespace, _)| !kept(namespace));
    step.extend(gone.filter_map(|(_, told)| Change::delete(&**told)));
    vec![step]
}

fn copy(
    report: &WorkerEndpoints,
    slice: &WorkerSlice,
    cluster: &ClusterName,
    endpoints: Vec<PolicyEndpoint>,
) -> WorkerEndpoints {
    let spec = WorkerEndpointsSpec { endpoints, ..report.spec.clone() };
    let mut object = WorkerEndpoints::new(&report.name_any(), spec);
    object.metadata = meta(slice, cluster, report.name_any());
    object
}

#[cfg(test)]
mod tests {
    use slicewire_api::{
        PodIdentity, PolicyKeys, WorkerEndpointsStatus, WorkerSliceSpec, labels::CLUSTER,
    };

    use super::*;
    use crate::kubernetes::fake::Fake;

    const EAST: &str = "slicewire-demo--east";
    const WEST: &str = "slicewire-demo--west";

    fn slice(namespace: &str, pool: &str) -> WorkerSlice {
        let keys = PolicyKeys { pods: vec!["app".into()], ..PolicyKeys::default() };
        let spec = WorkerSliceSpec {
            pools: vec![pool.into()],
            policy_keys: Some(keys),
            ..WorkerSliceSpec::default()
        };
        let mut slice = WorkerSlice::new("blue", spec);
        slice.metadata.namespace = Some(namespace.into());
        slice
    }

    fn pod(name: &str, address: &str) -> PolicyEndpoint {
        let labels = [("app", "web"), ("secret", "plan")];
        PolicyEndpoint {
            namespace: "shop".into(),
            pod: name.into(),
            addresses: vec![address.into()],
            identity: PodIdentity {
                labels: labels.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
                service_account: Some("robot".into()),
                ..PodIdentity::default()
            },
        }
    }

    fn world(pods: Vec<PolicyEndpoint>) -> Fake {
        let mut fake = Fake::default();
        fake.put(&slice(EAST, "10.77.0.0/20"));
        fake.put(&slice(WEST, "10.77.16.0/20"));
        let spec = WorkerEndpointsSpec {
            slice: "blue".into(),
            cluster: "east".into(),
            ..WorkerEndpointsSpec::default()
        };
        let mut report = WorkerEndpoints::new("blue.east.0", spec);
        report.metadata.namespace = Some(EAST.into());
        report.status = Some(WorkerEndpointsStatus { endpoints: pods });
        fake.put(&report);
        fake
    }

    fn changes(fake: &Fake) -> Vec<Change> {
        let caches = Caches::default();
        for object in fake.all() {
            caches.note(object);
        }
        plan(&observe(&caches, &(EAST.into(), "blue.east.0".into()))).concat()
    }

    fn told(fake: &mut Fake) -> Option<Arc<WorkerEndpoints>> {
        for change in changes(fake) {
            fake.carry_out(&change).unwrap();
        }
        assert_eq!(changes(fake), [], "a second round does nothing");
        fake.get::<WorkerEndpoints>(WEST, "blue.east.0")
    }

    #[test]
    fn the_others_are_told_what_policies_ask_and_nothing_more() {
        let mut fake = world(vec![pod("web", "10.77.0.7")]);
        let told = told(&mut fake).unwrap();
        assert_eq!(told.metadata.labels.as_ref().unwrap()[CLUSTER], "west");
        let only = &told.spec.endpoints[0];
        assert_eq!(only.identity.labels, [("app".to_owned(), "web".to_owned())].into());
        assert_eq!(only.identity.service_account, None);
    }

    #[test]
    fn a_member_cannot_claim_anothers_address() {
        let pods = ["10.77.16.9", "192.0.2.1", "fe80::1", "x"];
        let mut pods: Vec<_> = pods.iter().map(|address| pod("evil", address)).collect();
        pods.push(pod("web", "10.77.0.7"));
        let told = told(&mut world(pods)).unwrap();
        let names: Vec<_> = told.spec.endpoints.iter().map(|e| e.pod.as_str()).collect();
        assert_eq!(names, ["web"]);
    }

    #[test]
    fn a_report_that_goes_takes_its_copies_along() {
        let mut fake = world(vec![pod("web", "10.77.0.7")]);
        assert!(told(&mut fake).is_some());
        fake.delete::<WorkerEndpoints>(EAST, "blue.east.0");
        assert!(told(&mut fake).is_none());
    }

    #[test]
    fn what_others_have_been_told_is_no_report() {
        let mut fake = world(vec![pod("web", "10.77.0.7")]);
        told(&mut fake);
        let status = WorkerEndpointsStatus { endpoints: vec![pod("evil", "10.77.0.9")] };
        fake.report::<WorkerEndpoints>(WEST, "blue.east.0", &status);
        assert_eq!(changes(&fake), []);
        let caches = Caches::default();
        for object in fake.all() {
            caches.note(object);
        }
        assert!(observe(&caches, &(WEST.into(), "blue.east.0".into())).report.is_none());
    }
}
