//! The gateway reconciler's laws.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::jiff::Timestamp;
use serde_json::json;
use slicewire_api::condition::READY;
use slicewire_api::labels::GATEWAY_LABEL;
use slicewire_api::{
    GatewayLane, RemoteCluster, Slice, SliceGateway, SliceSpec, Tunnel, WorkerGateway,
    WorkerGatewaySpec, WorkerGatewayStatus, WorkerSlice, WorkerSliceSpec,
};
use slicewire_core::name::Lane;
use slicewire_rpc::gateway::v1::{Route, WatchRoutesResponse};

use super::keys::Keys;
use super::observe::Observed;
use super::report::notices;
use super::validate::validate;
use super::{plan, status};
use crate::kubernetes::change::Verb;
use crate::kubernetes::fake::Fake;
use crate::options::Images;

const NAMESPACE: &str = "slicewire-system";

fn images() -> Images {
    Images {
        prefix: "registry.example".into(),
        tag: "v1".into(),
        pull_policy: "Never".into(),
        service_account: "slicewire-gateway".into(),
    }
}

fn tunnel() -> Tunnel {
    Tunnel {
        cluster: "west".into(),
        public_key: "k".into(),
        endpoints: vec!["192.0.2.2:30000".into()],
        addresses: vec!["10.0.255.0".into()],
        prefixes: vec!["10.0.16.0/20".into()],
        next: None,
    }
}

/// What the hub says, mirrored nowhere yet.
fn told(lanes: Lane) -> Observed {
    let lanes = (0..lanes)
        .map(|lane| GatewayLane { lane, addresses: vec![], tunnels: vec![tunnel()] })
        .collect();
    let spec = WorkerGatewaySpec {
        slice: "blue".into(),
        cluster: "east".into(),
        lanes,
        ..WorkerGatewaySpec::default()
    };
    let remotes = vec![RemoteCluster { cluster: "west".into(), prefixes: vec![] }];
    let slice = SliceSpec { remotes, mtu: 1420, ..SliceSpec::default() };
    Observed {
        name: "blue".into(),
        namespace: NAMESPACE.into(),
        told: Some(Arc::new(WorkerGateway::new("blue", spec))),
        told_slice: Some(Arc::new(WorkerSlice::new("blue", WorkerSliceSpec::default()))),
        slice: Some(Arc::new(Slice::new("blue", slice))),
        ..Observed::default()
    }
}

/// Carries out both stages until nothing is left to do.
fn settle(observed: &mut Observed) -> Fake {
    let mut fake = Fake::default();
    for _ in 0..5 {
        let mut steps = plan::mirror(observed, &validate(observed)).concat();
        steps.extend(plan::run(observed, &images()).concat());
        if steps.is_empty() {
            return fake;
        }
        for change in steps {
            fake.carry_out(&change).unwrap();
        }
        observed.gateway = fake.get::<SliceGateway>(NAMESPACE, "blue");
        observed.workload = fake.get::<StatefulSet>(NAMESPACE, "sw-gw-blue");
        observed.services = (0..8)
            .filter_map(|l| fake.get::<Service>(NAMESPACE, &format!("sw-gw-blue-{l}")))
            .collect();
        let current = (0..8).map(|l| (l, [l; 32])).collect();
        observed.keys = Some(Keys { current, ..Keys::default() });
    }
    panic!("no end");
}

fn ready_pod(lane: Lane) -> Arc<Pod> {
    let pod = json!({
        "metadata": {"name": format!("sw-gw-blue-{lane}"), "labels": {GATEWAY_LABEL: "blue"}},
        "spec": {"nodeName": "n1", "containers": []},
        "status": {
            "phase": "Running",
            "podIP": "10.244.0.7",
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    });
    Arc::new(serde_json::from_value(pod).unwrap())
}

fn node() -> Arc<Node> {
    let addresses = json!([
        {"type": "InternalIP", "address": "198.51.100.1"},
        {"type": "InternalIP", "address": "2001:db8::1"},
        {"type": "ExternalIP", "address": "203.0.113.1"},
    ]);
    let node = json!({"metadata": {"name": "n1"}, "status": {"addresses": addresses}});
    Arc::new(serde_json::from_value(node).unwrap())
}

fn status_of(observed: &Observed) -> WorkerGatewayStatus {
    let old = WorkerGatewayStatus::default();
    status::status(observed, &old, Some(1), None, Timestamp::UNIX_EPOCH).unwrap()
}

fn reason(status: &WorkerGatewayStatus) -> String {
    status.conditions.iter().find(|c| c.type_ == READY).unwrap().reason.clone()
}

/// Settled, with a running pod and a port.
fn running() -> Observed {
    let mut observed = told(1);
    settle(&mut observed);
    let service = Arc::make_mut(&mut observed.services[0]);
    let ports = service.spec.as_mut().unwrap().ports.as_mut().unwrap();
    (ports[0].node_port, ports[1].node_port) = (Some(31_000), Some(31_001));
    observed.pods = vec![ready_pod(0)];
    observed.nodes = BTreeMap::from([("n1".to_owned(), node())]);
    observed
}

fn report(up: bool, handshake: u64) -> WatchRoutesResponse {
    let route = Route {
        cluster: "west".into(),
        up,
        last_handshake_ms: handshake,
        rtt_micros: 12_345,
        path_mtu: 1420,
        ..Route::default()
    };
    WatchRoutesResponse { backend: "embedded".into(), routes: vec![route], ..Default::default() }
}

#[test]
fn every_word_of_the_workload_is_understood() {
    let mut observed = told(2);
    let fake = settle(&mut observed);
    let workload = fake.get::<StatefulSet>(NAMESPACE, "sw-gw-blue").unwrap();
    let spec = workload.spec.clone().unwrap();
    assert_eq!(spec.replicas, Some(2));
    let pod = spec.template.spec.unwrap();
    assert_eq!(pod.containers.len(), 2);
    assert_eq!(pod.containers[0].image.as_deref(), Some("registry.example/slice-gateway:v1"));
    for container in &pod.containers {
        let security = container.security_context.clone().unwrap();
        assert_eq!(security.privileged, None);
        assert_eq!(security.capabilities.unwrap().drop, Some(vec!["ALL".to_owned()]));
    }
    assert_eq!((pod.host_network, pod.host_pid), (None, None));
    assert!(pod.volumes.unwrap().iter().all(|v| v.host_path.is_none()));
    let service = fake.get::<Service>(NAMESPACE, "sw-gw-blue-1").unwrap();
    let service = service.spec.clone().unwrap();
    assert_eq!(service.selector.unwrap()["statefulset.kubernetes.io/pod-name"], "sw-gw-blue-1");
    assert_eq!(service.publish_not_ready_addresses, Some(true));
}

#[test]
fn nothing_is_started_before_there_are_keys() {
    let mut observed = told(1);
    for change in plan::mirror(&observed, &validate(&observed)).concat() {
        let mut fake = Fake::default();
        fake.carry_out(&change).unwrap();
        observed.gateway = fake.get::<SliceGateway>(NAMESPACE, "blue");
    }
    assert!(observed.gateway.is_some());
    assert_eq!(plan::run(&observed, &images()).concat(), []);
}

#[test]
fn without_the_hub_everything_stays() {
    let mut observed = told(1);
    settle(&mut observed);
    (observed.told, observed.told_slice) = (None, None);
    assert_eq!(plan::mirror(&observed, &validate(&observed)).concat(), []);
    assert_eq!(plan::run(&observed, &images()).concat(), []);
}

#[test]
fn a_plan_that_cannot_be_is_not_mirrored() {
    let mut observed = told(1);
    Arc::make_mut(observed.told.as_mut().unwrap()).spec.lanes[0].lane = 3;
    assert_eq!(validate(&observed).unwrap().unwrap_err()[0].reason, "Lane");
    assert_eq!(plan::mirror(&observed, &validate(&observed)), Vec::<Vec<_>>::new());
}

#[test]
fn fewer_lanes_take_their_services_along() {
    let mut observed = told(2);
    settle(&mut observed);
    Arc::make_mut(observed.gateway.as_mut().unwrap()).spec.lanes.pop();
    let changes = plan::run(&observed, &images()).concat();
    assert!(changes.iter().any(|c| c.name == "sw-gw-blue-1" && c.verb == Verb::Delete));
    assert!(changes.iter().any(|c| c.name == "sw-gw-blue" && c.verb != Verb::Delete));
}

#[test]
fn gateways_go_before_their_plan_does() {
    let mut observed = running();
    let gateway = Arc::make_mut(observed.gateway.as_mut().unwrap());
    gateway.metadata.deletion_timestamp =
        Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::UNIX_EPOCH));
    let changes = plan::run(&observed, &images()).concat();
    assert!(changes.iter().all(|c| c.verb == Verb::Delete));
    assert_eq!(changes.len(), 2);
    (observed.workload, observed.services) = (None, vec![]);
    assert_eq!(plan::run(&observed, &images()).concat(), []);
    observed.pods.clear();
    assert!(matches!(plan::run(&observed, &images()).concat()[0].verb, Verb::Merge(_)));
}

#[test]
fn endpoints_are_the_nodes_or_the_chosen_addresses_with_the_services_port() {
    let mut observed = running();
    assert_eq!(
        status_of(&observed).lanes[0].endpoints,
        ["198.51.100.1:31000", "[2001:db8::1]:31000"]
    );
    let gateway = Arc::make_mut(observed.gateway.as_mut().unwrap());
    gateway.spec.exposure.addresses = vec!["192.0.2.9".into()];
    assert_eq!(status_of(&observed).lanes[0].endpoints, ["192.0.2.9:31000"]);
    observed.pods.clear();
    let without = status_of(&observed);
    assert!(without.lanes[0].endpoints.is_empty() && without.lanes[0].public_key.is_some());
    assert_eq!(reason(&without), "GatewayMissing");
}

#[test]
fn tunnels_are_told_as_the_gateway_sees_them() {
    let mut observed = running();
    assert_eq!(reason(&status_of(&observed)), "TunnelDown");
    observed.reports = BTreeMap::from([(0, Arc::new(report(false, 0)))]);
    let down = status_of(&observed);
    assert_eq!(down.lanes[0].tunnels[0].reason.as_deref(), Some("NoHandshake"));
    observed.reports = BTreeMap::from([(0, Arc::new(report(true, 1_700_000_012_345)))]);
    let up = status_of(&observed);
    assert_eq!((up.tunnels.as_deref(), reason(&up).as_str()), (Some("1/1"), "TunnelsUp"));
    let tunnel = &up.lanes[0].tunnels[0];
    assert_eq!(tunnel.rtt_micros, Some(12_000));
    assert_eq!(tunnel.last_handshake.as_deref(), Some("2023-11-14T22:13:00Z"));
    let told: Vec<_> = notices(&down, &up).into_iter().map(|n| n.reason).collect();
    assert_eq!(told, ["TunnelUp"]);
    assert_eq!(notices(&up, &up), []);
    assert!(notices(&up, &down)[0].warning);
}

#[test]
fn a_peer_without_a_key_is_waited_for_by_name() {
    let mut observed = running();
    Arc::make_mut(observed.gateway.as_mut().unwrap()).spec.lanes[0].tunnels.clear();
    let status = status_of(&observed);
    assert_eq!(
        (reason(&status).as_str(), status.tunnels.as_deref()),
        ("WaitingForPeers", Some("0/1"))
    );
}

#[test]
fn while_keys_are_renewed_both_generations_are_published_each_by_its_port() {
    let mut observed = running();
    let gateway = Arc::make_mut(observed.gateway.as_mut().unwrap());
    (gateway.spec.generation, gateway.spec.next_generation) = (1, Some(2));
    let mut keys = observed.keys.clone().unwrap();
    keys.next = keys.current.keys().map(|lane| (*lane, [99; 32])).collect();
    observed.keys = Some(keys);
    let lane = &status_of(&observed).lanes[0];
    assert_eq!((lane.generation, lane.endpoints[0].as_str()), (1, "198.51.100.1:31001"));
    let next = lane.next.as_ref().unwrap();
    assert_eq!((next.generation, next.endpoints[0].as_str()), (2, "198.51.100.1:31000"));
    assert_ne!(Some(&next.public_key), lane.public_key.as_ref());
}

#[test]
fn the_hubs_generations_are_mirrored() {
    let mut observed = told(1);
    let told = Arc::make_mut(observed.told.as_mut().unwrap());
    (told.spec.generation, told.spec.next_generation) = (4, Some(5));
    settle(&mut observed);
    let spec = &observed.gateway.as_ref().unwrap().spec;
    assert_eq!((spec.generation, spec.next_generation), (4, Some(5)));
}
