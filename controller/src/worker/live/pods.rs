//! Which pods are attached.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use slicewire_api::{AttachedPod, SliceNode, WorkerPods, WorkerPodsStatus};
use slicewire_core::policy::parts;
use slicewire_runtime::reconcile::Next;

use crate::kubernetes::change::Change;
use crate::kubernetes::write::next;
use crate::worker::Worker;

/// What comes within this time after a report is told together: people look at it, nobody waits.
const REST: Duration = Duration::from_secs(5);

/// Tells the hub which pods of this cluster are on a slice, what has changed of them.
pub(in crate::worker) async fn publish(worker: &Worker, slice: &str) -> Next {
    let Some(session) = worker.hub.session() else { return Next::Wait };
    let now = Instant::now();
    if let Some(rest) = worker.pods_listed.rest(slice, now, REST) {
        return Next::After(rest);
    }
    let nodes = worker.local.slice_nodes.list_in(&worker.namespace);
    let nodes: Vec<_> = nodes.into_iter().filter(|n| n.spec.slice == slice).collect();
    let places = worker.told.pods.list_in(&session.namespace).into_iter();
    let mut places: Vec<_> = places.filter(|p| p.spec.slice == slice).collect();
    places.sort_by_key(|place| place.spec.number);
    let changes = changes(&places, &pods(&nodes, &worker.namespace));
    if changes.is_empty() {
        return Next::Wait;
    }
    worker.pods_listed.done(slice, now);
    let outcome = session.tell(vec![changes], |object| worker.note(object)).await;
    next(&outcome, Next::Wait)
}

/// Attached pods, by what is theirs alone. Gateways run where we do; nobody else's pods there are on
/// slices.
fn pods(nodes: &[Arc<SliceNode>], own: &str) -> BTreeMap<String, AttachedPod> {
    let told = nodes.iter().flat_map(|node| {
        let nics = node.status.iter().flat_map(|s| &s.nics).filter(|nic| nic.namespace != own);
        nics.map(|nic| AttachedPod {
            namespace: nic.namespace.clone(),
            pod: nic.pod.clone(),
            node: node.spec.node.clone(),
            interface: nic.interface.clone(),
            addresses: nic.addresses.clone(),
        })
    });
    told.map(|pod| (key(&pod), pod)).collect()
}

fn key(pod: &AttachedPod) -> String {
    format!("{}/{}/{}", pod.namespace, pod.pod, pod.node)
}

/// Reports that say something else now.
fn changes(places: &[Arc<WorkerPods>], pods: &BTreeMap<String, AttachedPod>) -> Vec<Change> {
    let said = |place: &Arc<WorkerPods>| {
        let pods = place.status.as_ref().map(|s| s.pods.as_slice()).unwrap_or_default();
        pods.iter().map(|pod| (key(pod), pod.clone())).collect::<BTreeMap<_, _>>()
    };
    let now: Vec<_> = places.iter().map(said).collect();
    let next = parts::spread(&now, pods);
    let different = places.iter().zip(now).zip(next).filter(|((_, now), next)| now != next);
    let changes = different.map(|((place, _), next)| {
        Change::status(&**place, &WorkerPodsStatus { pods: next.into_values().collect() })
    });
    changes.collect()
}

#[cfg(test)]
mod tests {
    use slicewire_api::{Nic, SliceNodeSpec, SliceNodeStatus, WorkerPodsSpec};

    use super::*;
    use crate::kubernetes::change::Verb;

    fn node(name: &str, pods: std::ops::Range<usize>) -> Arc<SliceNode> {
        let spec = SliceNodeSpec { slice: "blue".into(), node: name.into(), blocks: vec![] };
        let mut node = SliceNode::new(name, spec);
        let nic = |namespace: &str, pod: String, host: usize| Nic {
            namespace: namespace.into(),
            pod,
            interface: "slice0".into(),
            addresses: vec![format!("10.77.0.{host}")],
            identity: None,
        };
        let nics = pods.map(|i| nic("shop", format!("web-{i}"), i));
        let gateway = nic("slicewire-system", format!("gateway-{name}"), 250);
        let nics = nics.chain([gateway]).collect();
        node.status = Some(SliceNodeStatus { nics, ..SliceNodeStatus::default() });
        Arc::new(node)
    }

    fn place(number: i32, pods: Vec<AttachedPod>) -> Arc<WorkerPods> {
        let spec = WorkerPodsSpec { number, ..WorkerPodsSpec::default() };
        let mut place = WorkerPods::new(&format!("blue.{number}"), spec);
        place.status = Some(WorkerPodsStatus { pods });
        Arc::new(place)
    }

    fn told(changes: &[Change]) -> Vec<Vec<AttachedPod>> {
        let told = changes.iter().map(|change| match &change.verb {
            Verb::MergeStatus(v) => serde_json::from_value(v["status"]["pods"].clone()).unwrap(),
            other => panic!("{other:?}"),
        });
        told.collect()
    }

    #[test]
    fn every_pod_is_told_once_with_its_node_and_gateways_are_not() {
        let all = pods(&[node("a", 0..99), node("b", 99..150)], "slicewire-system");
        assert_eq!(all["shop/web-120/b"].addresses, ["10.77.0.120"]);
        let told = told(&changes(&[place(0, vec![]), place(1, vec![])], &all));
        assert_eq!(told.iter().map(Vec::len).collect::<Vec<_>>(), [100, 50]);
        let places = [place(0, told[0].clone()), place(1, told[1].clone())];
        assert_eq!(changes(&places, &all), []);
    }

    #[test]
    fn one_pods_change_is_one_write() {
        let before = pods(&[node("a", 0..150)], "slicewire-system");
        let told = told(&changes(&[place(0, vec![]), place(1, vec![])], &before));
        let places = [place(0, told[0].clone()), place(1, told[1].clone())];
        let mut after = before.clone();
        after.get_mut("shop/web-3/a").unwrap().addresses = vec!["10.77.0.200".into()];
        assert_eq!(changes(&places, &after).len(), 1);
        after.remove("shop/web-3/a");
        assert_eq!(changes(&places, &after).len(), 1);
        assert_eq!(changes(&places, &BTreeMap::new()).len(), 2);
    }
}
