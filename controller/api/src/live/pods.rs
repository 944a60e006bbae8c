//! Which pods are on a slice, as a pure function of what its clusters tell. What members say is a
//! stranger's word: pods without a name that can be one, or with another cluster's addresses, are left
//! out.

use std::sync::Arc;

use slicewire_api::{WorkerPods, WorkerSlice};
use slicewire_core::member;
use slicewire_rpc::hub::v1alpha1 as rpc;

/// What one cluster tells of the pods it has on a slice.
#[derive(Debug, Clone, Default)]
pub(super) struct Report {
    /// The cluster's name.
    pub(super) cluster: String,
    /// Whether the caller may see what follows.
    pub(super) shown: bool,
    pub(super) slice: Option<Arc<WorkerSlice>>,
    pub(super) pods: Vec<Arc<WorkerPods>>,
}

/// Only these are asked for; empty is any.
#[derive(Debug, Clone, Default)]
pub(super) struct Wanted {
    pub(super) cluster: String,
    pub(super) namespace: String,
}

/// Pods as they are listed, in that order, and the clusters of which not all are known.
pub(super) fn pods(reports: &[Report], wanted: &Wanted) -> rpc::ListAttachedPodsResponse {
    let asked = |r: &&Report| wanted.cluster.is_empty() || r.cluster == wanted.cluster;
    let mut told = rpc::ListAttachedPodsResponse::default();
    for report in reports.iter().filter(asked) {
        if !report.shown {
            told.withheld_clusters.push(report.cluster.clone());
            continue;
        }
        let Some(slice) = &report.slice else { continue };
        let said = slice.status.as_ref().map_or(0, |s| member::pods(s.attached_pods));
        let known = report.pods.iter().flat_map(|p| p.checked(slice).0);
        let known: Vec<rpc::AttachedPod> = known.map(|pod| of(&report.cluster, pod)).collect();
        if known.len() < usize::try_from(said).unwrap_or_default() {
            told.incomplete_clusters.push(report.cluster.clone());
        }
        told.pods.extend(known);
    }
    told.pods.retain(|p| wanted.namespace.is_empty() || p.namespace == wanted.namespace);
    told.pods.sort_by_cached_key(place);
    told
}

fn of(cluster: &str, pod: slicewire_api::AttachedPod) -> rpc::AttachedPod {
    rpc::AttachedPod {
        cluster: cluster.to_owned(),
        namespace: pod.namespace,
        name: pod.pod,
        node: pod.node,
        interface: pod.interface,
        addresses: pod.addresses,
    }
}

/// By what pods are ordered.
pub(super) fn place(pod: &rpc::AttachedPod) -> (String, String, String, String) {
    (pod.namespace.clone(), pod.name.clone(), pod.cluster.clone(), pod.node.clone())
}

#[cfg(test)]
mod tests {
    use slicewire_api::{
        AttachedPod, WorkerPodsSpec, WorkerPodsStatus, WorkerSliceSpec, WorkerSliceStatus,
    };

    use super::*;

    fn report(cluster: &str, pool: &str, attached_pods: i32, pods: &[(&str, &str)]) -> Report {
        let spec = WorkerSliceSpec { pools: vec![pool.into()], ..Default::default() };
        let mut slice = WorkerSlice::new("blue", spec);
        slice.status = Some(WorkerSliceStatus { attached_pods, ..Default::default() });
        let pod = |(name, address): &(&str, &str)| {
            let (namespace, pod) = name.split_once('/').unwrap();
            AttachedPod {
                namespace: namespace.into(),
                pod: pod.into(),
                node: "n1".into(),
                interface: "slice0".into(),
                addresses: vec![(*address).into()],
            }
        };
        let mut object = WorkerPods::new("blue.0", WorkerPodsSpec::default());
        object.status = Some(WorkerPodsStatus { pods: pods.iter().map(pod).collect() });
        Report {
            cluster: cluster.into(),
            shown: true,
            slice: Some(slice.into()),
            pods: vec![object.into()],
        }
    }

    fn names(told: &rpc::ListAttachedPodsResponse) -> Vec<String> {
        told.pods.iter().map(|p| format!("{}/{}/{}", p.namespace, p.name, p.cluster)).collect()
    }

    #[test]
    fn pods_of_all_clusters_in_one_order_and_only_what_was_asked_for() {
        let east =
            report("east", "10.77.0.0/20", 2, &[("shop/web", "10.77.0.7"), ("a/x", "10.77.0.8")]);
        let west = report("west", "10.77.16.0/20", 1, &[("shop/web", "10.77.16.7")]);
        let reports = [east, west];
        let all = pods(&reports, &Wanted::default());
        assert_eq!(names(&all), ["a/x/east", "shop/web/east", "shop/web/west"]);
        assert_eq!(all.pods[1].addresses, ["10.77.0.7"]);
        assert!(all.incomplete_clusters.is_empty());
        let shop = Wanted { cluster: "west".into(), namespace: "shop".into() };
        assert_eq!(names(&pods(&reports, &shop)), ["shop/web/west"]);
        let nothing = Wanted { cluster: "west".into(), namespace: "a".into() };
        assert_eq!(names(&pods(&reports, &nothing)), [""; 0]);
    }

    #[test]
    fn anothers_addresses_are_not_shown_and_what_is_missing_is_told() {
        let west = [("shop/evil", "10.77.0.7"), ("shop/web", "10.77.16.7")];
        let told = pods(&[report("west", "10.77.16.0/20", 2, &west)], &Wanted::default());
        assert_eq!(names(&told), ["shop/web/west"]);
        assert_eq!(told.incomplete_clusters, ["west"]);
    }

    #[test]
    fn nothing_a_withheld_cluster_tells_is_shown() {
        let mut east = report("east", "10.77.0.0/20", 1, &[("shop/web", "10.77.0.7")]);
        east.shown = false;
        let told = pods(&[east], &Wanted::default());
        assert_eq!((told.pods.len(), told.withheld_clusters), (0, vec!["east".to_owned()]));
        assert!(told.incomplete_clusters.is_empty());
    }
}
