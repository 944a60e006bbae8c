use serde_json::{Value, from_value, json};

use super::*;

const NOW: i64 = 1_800_000_000;

fn now() -> Timestamp {
    Timestamp::from_second(NOW).unwrap()
}

fn condition(type_: &str, status: &str, reason: &str) -> Value {
    json!({
        "type": type_, "status": status, "reason": reason, "message": format!("said {reason}"),
        "lastTransitionTime": "2027-01-15T08:00:00Z",
    })
}

/// A project with a slice across two clusters; east's tunnel works, west has not reported.
fn found() -> Found {
    let meta = |namespace: &str, name: &str| json!({ "namespace": namespace, "name": name });
    let cluster = |name: &str, connected: &str| -> Cluster {
        from_value(json!({
            "apiVersion": "slicewire.dev/v1alpha1", "kind": "Cluster",
            "metadata": meta("slicewire-demo", name), "spec": {},
            "status": { "nodes": 2, "conditions": [
                condition(CONNECTED, connected, "Heartbeat"), condition(READY, "True", "Runs"),
            ] },
        }))
        .unwrap()
    };
    let handshake = Timestamp::from_second(NOW - 125).unwrap().to_string();
    Found {
        projects: vec![from_value(json!({
            "apiVersion": "slicewire.dev/v1alpha1", "kind": "Project",
            "metadata": { "name": "demo" }, "spec": {}, "status": { "namespace": "slicewire-demo" },
        }))
        .unwrap()],
        clusters: vec![cluster("east", "True"), cluster("west", "False")],
        configs: vec![from_value(json!({
            "apiVersion": "slicewire.dev/v1alpha1", "kind": "SliceConfig",
            "metadata": meta("slicewire-demo", "blue"),
            "spec": { "prefixes": ["10.77.0.0/16"], "clusters": [{ "name": "east" }, { "name": "west" }] },
            "status": { "conditions": [condition(READY, "False", "ClustersNotReady")] },
        }))
        .unwrap()],
        slices: vec![from_value(json!({
            "apiVersion": "slicewire.dev/v1alpha1", "kind": "WorkerSlice",
            "metadata": meta("slicewire-demo--east", "blue"),
            "spec": {
                "project": "demo", "slice": "blue", "cluster": "east", "prefixes": [], "pools": [],
                "gatewayPrefixes": [], "gatewayReplicas": 1, "mtu": 1420,
            },
            "status": {
                "attachedPods": 3, "conditions": [condition(READY, "True", "Carries")],
                "failures": [{ "pod": "shop/x", "node": "n1", "reason": "NoAddress", "message": "m" }],
            },
        }))
        .unwrap()],
        gateways: vec![from_value(json!({
            "apiVersion": "slicewire.dev/v1alpha1", "kind": "WorkerGateway",
            "metadata": meta("slicewire-demo--east", "blue"),
            "spec": { "slice": "blue", "cluster": "east", "lanes": [] },
            "status": { "lanes": [{
                "lane": 0, "ready": true, "node": "east-1", "tunnels": [{
                    "cluster": "west", "up": true, "lastHandshake": handshake,
                    "rttMicros": 1200, "lossPermille": 5, "pathMtu": 1420,
                }],
            }] },
        }))
        .unwrap()],
    }
}

#[test]
fn a_tunnel_is_shown_with_age_round_trip_and_loss() {
    let text = text::render(&report(&found(), now()));
    let row = text.lines().find(|l| l.contains("0 on east-1")).unwrap();
    let cells: Vec<&str> = row.split("  ").map(str::trim).filter(|c| !c.is_empty()).collect();
    let wanted =
        ["east", "yes", "3", "0 on east-1", "west", "yes", "2 min", "1.20 ms", "0.5 %", "1420"];
    assert_eq!(cells, wanted);
}

#[test]
fn everything_that_is_not_right_is_told_with_its_place() {
    let report = report(&found(), now());
    assert!(!report.ready);
    let faults = text::faults(&report);
    for wanted in [
        "cluster west: Heartbeat: said Heartbeat",
        "slice blue: ClustersNotReady: said ClustersNotReady",
        "slice blue in east: pod shop/x on n1: NoAddress: m",
        "slice blue in west: NotPlanned: the hub has no plan for this cluster",
    ] {
        assert!(faults.iter().any(|f| f == wanted), "{wanted:?} not in {faults:#?}");
    }
    assert_eq!(faults.len(), 4, "{faults:#?}");
}

#[test]
fn a_slice_of_another_projects_is_not_mixed_in() {
    let mut found = found();
    found.slices[0].spec.project = "other".into();
    let report = report(&found, now());
    assert!(report.slices[0].clusters.iter().all(|c| c.gateways.is_empty() && c.pods == 0));
}

#[test]
fn violations_are_told_one_by_one_and_not_again_as_a_condition() {
    let mut found = found();
    found.configs[0].status = from_value(json!({
        "violations": [
            { "field": "spec.prefixes[0]", "value": "x", "reason": "NoPrefix", "message": "is none" },
        ],
        "conditions": [condition(ACCEPTED, "False", "Invalid")],
    }))
    .unwrap();
    let faults = report(&found, now()).slices[0].faults.clone();
    assert_eq!(faults, ["spec.prefixes[0]: \"x\": is none (NoPrefix)"]);
}

#[test]
fn an_empty_hub_says_what_to_do() {
    let text = text::render(&report(&Found::default(), now()));
    assert!(text.contains("slicectl join") && text.contains("apply a SliceConfig"), "{text}");
}

#[test]
fn what_a_terminal_would_obey_is_not_shown() {
    let mut found = found();
    found.slices[0].status = from_value(json!({ "failures": [
        { "pod": "a/b\u{1b}[2J", "node": "n\u{202e}", "reason": "R\u{7}", "message": "m\r\nfake" },
    ] }))
    .unwrap();
    plain::clean(&mut found);
    let failure = &found.slices[0].status.as_ref().unwrap().failures[0];
    assert_eq!(failure.pod, "a/b[2J");
    assert_eq!((failure.node.as_str(), failure.message.as_str()), ("n", "mfake"));
}
