//! Watches of the API servers: what objects say, as it becomes known.

use std::fmt::Debug;
use std::pin::pin;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use slicewire_api::labels::NETWORK_STATUS;
use slicewire_api::{Slice, SliceGateway, SliceNode, WorkerGateway, WorkerSlice};
use tokio::task::JoinSet;

use crate::timeline::Timeline;

/// Our components' namespace.
pub(crate) const SYSTEM: &str = "slicewire-system";

/// Watches the hub.
pub(crate) fn hub(tasks: &mut JoinSet<()>, client: &Client, slice: &str, line: &Timeline) {
    let api = Api::<WorkerSlice>::all(client.clone());
    follow(tasks, api, slice, line, |slice: &WorkerSlice| {
        vec![format!("hub: WorkerSlice of {} written", slice.spec.cluster)]
    });
    let api = Api::<WorkerGateway>::all(client.clone());
    follow(tasks, api, slice, line, |gateway: &WorkerGateway| {
        let cluster = &gateway.spec.cluster;
        let told = gateway.status.iter().flat_map(|s| &s.lanes);
        let mut marks = vec![format!("hub: WorkerGateway of {cluster} written")];
        for lane in told {
            if lane.public_key.is_some() {
                marks.push(format!("hub: {cluster} has told its key"));
            }
            if !lane.endpoints.is_empty() {
                marks.push(format!("hub: {cluster} has told its endpoint"));
            }
        }
        if gateway.spec.lanes.iter().flat_map(|l| &l.tunnels).any(|t| !t.endpoints.is_empty()) {
            marks.push(format!("hub: {cluster} is told its peer's endpoint"));
        }
        marks
    });
}

/// Watches a worker cluster.
pub(crate) fn worker(
    tasks: &mut JoinSet<()>,
    client: &Client,
    cluster: &'static str,
    slice: &str,
    line: &Timeline,
) {
    let api = Api::<Slice>::all(client.clone());
    follow(tasks, api, slice, line, move |_: &Slice| vec![format!("{cluster}: Slice written")]);
    let api = Api::<SliceGateway>::namespaced(client.clone(), SYSTEM);
    follow(tasks, api, slice, line, move |gateway: &SliceGateway| {
        let mut marks = vec![format!("{cluster}: SliceGateway written")];
        if gateway.spec.lanes.iter().flat_map(|l| &l.tunnels).any(|t| !t.endpoints.is_empty()) {
            marks.push(format!("{cluster}: SliceGateway has the peer's endpoint"));
        }
        marks
    });
    let api = Api::<SliceNode>::namespaced(client.clone(), SYSTEM);
    follow(tasks, api, slice, line, move |node: &SliceNode| {
        let name = &node.spec.node;
        let mut marks = vec![format!("{name}: SliceNode claimed")];
        if !node.spec.blocks.is_empty() {
            marks.push(format!("{name}: address block granted"));
        }
        marks
    });
    let api = Api::<Pod>::namespaced(client.clone(), SYSTEM);
    follow(tasks, api, &format!("sw-gw-{slice}"), line, move |pod: &Pod| gateway_pod(cluster, pod));
}

fn gateway_pod(cluster: &str, pod: &Pod) -> Vec<String> {
    let what = |text: &str| format!("{cluster}: gateway pod {text}");
    let mut marks = vec![what("created")];
    if pod.spec.as_ref().is_some_and(|s| s.node_name.is_some()) {
        marks.push(what("scheduled"));
    }
    if pod.annotations().contains_key(NETWORK_STATUS) {
        marks.push(what("annotated with its NIC"));
    }
    let Some(status) = &pod.status else { return marks };
    if status.pod_ip.is_some() {
        marks.push(what("has an IP in its status"));
    }
    if status.phase.as_deref() == Some("Running") {
        marks.push(what("running in its status"));
    }
    let ready =
        status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
    if ready {
        marks.push(what("ready"));
    }
    marks
}

/// Marks what `tell` makes of every object whose name begins with the slice's name.
fn follow<K>(
    tasks: &mut JoinSet<()>,
    api: Api<K>,
    slice: &str,
    line: &Timeline,
    tell: impl Fn(&K) -> Vec<String> + Send + 'static,
) where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let (slice, line) = (slice.to_owned(), line.clone());
    tasks.spawn(async move {
        let mut events = pin!(watcher(api, watcher::Config::default().any_semantic()));
        while let Some(event) = events.next().await {
            if let Ok(Event::Apply(object)) = event
                && object.name_any().starts_with(&slice)
            {
                tell(&object).iter().for_each(|what| line.mark(what));
            }
        }
    });
}
