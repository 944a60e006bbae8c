//! What this cluster tells the others of its pods, and what it is told of theirs.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use kube::ResourceExt;
use slicewire_api::{
    PolicyEndpoint, Slice, SliceEndpoints, SliceEndpointsSpec, SliceNode, WorkerEndpoints,
    WorkerEndpointsStatus,
};
use slicewire_core::policy::parts;
use slicewire_runtime::reconcile::Next;

use super::Worker;
use super::policy::meta;
use crate::kubernetes::change::{Change, Steps};
use crate::kubernetes::write::next;

/// Pods that come together are told of together.
const SETTLE: Duration = Duration::from_millis(200);

/// When each slice's pods were told of last.
#[derive(Clone, Default)]
pub(super) struct Told(Arc<Mutex<BTreeMap<String, Instant>>>);

impl Told {
    /// How long to wait before a slice's pods may be told of again.
    pub(super) fn rest(&self, slice: &str, now: Instant, settle: Duration) -> Option<Duration> {
        let told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let since = now.saturating_duration_since(*told.get(slice)?);
        settle.checked_sub(since).filter(|rest| !rest.is_zero())
    }

    /// They have been told of.
    pub(super) fn done(&self, slice: &str, now: Instant) {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        told.insert(slice.to_owned(), now);
    }
}

/// Tells the hub of this cluster's pods on a slice, what has changed of them.
pub(super) async fn publish(worker: &Worker, slice: &str) -> Next {
    let Some(session) = worker.hub.session() else { return Next::Wait };
    let now = Instant::now();
    if let Some(rest) = worker.pods_told.rest(slice, now, SETTLE) {
        return Next::After(rest);
    }
    let nodes = worker.local.slice_nodes.list_in(&worker.namespace);
    let nodes: Vec<_> = nodes.into_iter().filter(|n| n.spec.slice == slice).collect();
    let reports = worker.told.endpoints.list_in(&session.namespace).into_iter();
    let own = reports.filter(|r| r.spec.slice == slice && r.spec.cluster == session.cluster);
    let mut own: Vec<Arc<WorkerEndpoints>> = own.collect();
    own.sort_by_key(|report| report.spec.number);
    let steps = vec![reports_of(&own, &pods(&nodes))];
    if steps[0].is_empty() {
        return Next::Wait;
    }
    worker.pods_told.done(slice, now);
    let outcome = session.tell(steps, |object| worker.note(object)).await;
    next(&outcome, Next::Wait)
}

/// Pods that others are told of, by namespace, name and address: a pod of a StatefulSet that has
/// moved may be on two nodes for a moment.
fn pods(nodes: &[Arc<SliceNode>]) -> BTreeMap<String, PolicyEndpoint> {
    let nics = nodes.iter().filter_map(|n| n.status.as_ref()).flat_map(|s| &s.nics);
    let told = nics.filter_map(|nic| {
        let identity = nic.identity.clone()?;
        let endpoint = PolicyEndpoint {
            namespace: nic.namespace.clone(),
            pod: nic.pod.clone(),
            addresses: nic.addresses.clone(),
            identity,
        };
        Some((name_of(&endpoint), endpoint))
    });
    told.collect()
}

fn name_of(endpoint: &PolicyEndpoint) -> String {
    let address = endpoint.addresses.first().map(String::as_str).unwrap_or_default();
    format!("{}/{}/{address}", endpoint.namespace, endpoint.pod)
}

/// Reports that say something else now.
fn reports_of(
    own: &[Arc<WorkerEndpoints>],
    pods: &BTreeMap<String, PolicyEndpoint>,
) -> Vec<Change> {
    let said = |report: &Arc<WorkerEndpoints>| {
        let endpoints = report.status.as_ref().map(|s| s.endpoints.as_slice()).unwrap_or_default();
        endpoints.iter().map(|e| (name_of(e), e.clone())).collect::<BTreeMap<_, _>>()
    };
    let now: Vec<_> = own.iter().map(said).collect();
    let next = parts::spread(&now, pods);
    let different = own.iter().zip(now).zip(next).filter(|((_, now), next)| now != next);
    let changes = different.map(|((report, _), next)| {
        let status = WorkerEndpointsStatus { endpoints: next.into_values().collect() };
        Change::status(&**report, &status)
    });
    changes.collect()
}

/// Keeps what is told of another cluster's pods in this cluster; one object.
pub(super) async fn mirror(worker: &Worker, name: &str) -> Next {
    let Some(session) = worker.hub.session() else { return Next::Wait };
    if !worker.told.endpoints.is_synced() {
        return Next::Wait;
    }
    let told = worker.told.endpoints.get(&session.namespace, name);
    let told = told.filter(|t| t.spec.cluster != session.cluster);
    let told = told.filter(|t| t.metadata.deletion_timestamp.is_none());
    let slice = told.as_ref().and_then(|t| worker.local.slices.get("", &t.spec.slice));
    let there = worker.local.endpoints.get(&worker.namespace, name);
    let steps = mirrored(&worker.namespace, slice.as_deref(), told.as_deref(), there.as_deref());
    next(&worker.writer.run(steps, |object| worker.note(object)).await, Next::Wait)
}

fn mirrored(
    namespace: &str,
    slice: Option<&Slice>,
    told: Option<&WorkerEndpoints>,
    there: Option<&SliceEndpoints>,
) -> Steps {
    let change = match (told, slice) {
        (Some(told), Some(slice)) => {
            let spec = SliceEndpointsSpec {
                slice: told.spec.slice.clone(),
                cluster: told.spec.cluster.clone(),
                endpoints: told.spec.endpoints.clone(),
            };
            let mut wanted = SliceEndpoints::new(&told.name_any(), spec);
            wanted.metadata = meta(namespace, slice, told.name_any());
            Change::converge(&wanted, there)
        }
        // The slice's own mirror comes first.
        (Some(_), None) => None,
        (None, _) => there.and_then(Change::delete),
    };
    vec![change.into_iter().collect()]
}

#[cfg(test)]
mod tests {
    use slicewire_api::{Nic, PodIdentity, SliceNodeSpec, SliceNodeStatus, WorkerEndpointsSpec};

    use super::*;
    use crate::kubernetes::change::Verb;

    fn node(name: &str, pods: std::ops::Range<usize>) -> Arc<SliceNode> {
        let spec = SliceNodeSpec { slice: "blue".into(), node: name.into(), blocks: vec![] };
        let mut node = SliceNode::new(name, spec);
        let nics = pods.map(|i| Nic {
            namespace: "shop".into(),
            pod: format!("web-{i}"),
            addresses: vec![format!("10.77.0.{i}")],
            identity: Some(PodIdentity::default()),
            ..Nic::default()
        });
        let gateway = Nic { pod: "gateway".into(), ..Nic::default() };
        let nics = nics.chain([gateway]).collect();
        node.status = Some(SliceNodeStatus { nics, ..SliceNodeStatus::default() });
        Arc::new(node)
    }

    fn report(number: i32, endpoints: Vec<PolicyEndpoint>) -> Arc<WorkerEndpoints> {
        let spec = WorkerEndpointsSpec { number, ..WorkerEndpointsSpec::default() };
        let mut report = WorkerEndpoints::new(&format!("blue.east.{number}"), spec);
        report.status = Some(WorkerEndpointsStatus { endpoints });
        Arc::new(report)
    }

    #[test]
    fn one_pod_more_is_one_write_and_gateways_are_not_told_of() {
        let all = pods(&[node("a", 0..99), node("b", 99..150)]);
        assert_eq!(all.len(), 150);
        let changes = reports_of(&[report(0, vec![]), report(1, vec![])], &all);
        let told: Vec<Vec<PolicyEndpoint>> = changes
            .iter()
            .map(|change| match &change.verb {
                Verb::MergeStatus(v) => {
                    serde_json::from_value(v["status"]["endpoints"].clone()).unwrap()
                }
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(told.iter().map(Vec::len).collect::<Vec<_>>(), [100, 50]);
        let own = [report(0, told[0].clone()), report(1, told[1].clone())];
        assert_eq!(reports_of(&own, &all), []);
        let more = pods(&[node("a", 0..99), node("b", 99..151)]);
        assert_eq!(reports_of(&own, &more).len(), 1);
        assert_eq!(reports_of(&own, &BTreeMap::new()).len(), 2);
    }

    #[test]
    fn pods_are_told_of_at_most_five_times_a_second() {
        let (told, now) = (Told::default(), Instant::now());
        assert_eq!(told.rest("blue", now, SETTLE), None);
        told.done("blue", now);
        assert_eq!(told.rest("blue", now, SETTLE), Some(SETTLE));
        assert_eq!(told.rest("red", now, SETTLE), None);
        assert_eq!(told.rest("blue", now + SETTLE, SETTLE), None);
    }
}
