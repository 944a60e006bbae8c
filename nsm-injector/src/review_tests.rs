use k8s_openapi::api::core::v1::Container;
use serde_json::{Value, from_value, json, to_value};
use slicewire_core::onboarding::Rule;

use super::*;

fn image() -> WaitImage {
    WaitImage {
        image: "registry.example/nsm-injector:1".into(),
        pull_policy: "IfNotPresent".into(),
        timeout_seconds: 90,
    }
}

fn slices() -> Vec<SliceRules> {
    let of_shop = vec![Rule { names: vec!["shop".into()], ..Rule::default() }];
    vec![
        SliceRules { name: "red".into(), rules: of_shop.clone() },
        SliceRules { name: "blue".into(), rules: of_shop },
    ]
}

/// Sends a pod through the webhook's own path and gives back the answer's response.
fn admit(spec: Value) -> Value {
    let review: Review = from_value(json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "7c1f",
            "namespace": "shop",
            "operation": "CREATE",
            "object": { "apiVersion": "v1", "kind": "Pod", "metadata": {}, "spec": spec },
        },
    }))
    .unwrap();
    let (_, answer) = review.answer(&Labels::new(), &slices(), &image());
    to_value(answer).unwrap()["response"].clone()
}

fn operations(response: &Value) -> Vec<Value> {
    let patch: k8s_openapi::ByteString = from_value(response["patch"].clone()).unwrap();
    serde_json::from_slice(&patch.0).unwrap()
}

fn injected(response: &Value) -> Container {
    let value = operations(response)[0]["value"].clone();
    from_value(value.as_array().map_or(value.clone(), |list| list[0].clone())).unwrap()
}

#[test]
fn a_pod_without_init_containers_gets_the_list() {
    let response = admit(json!({ "containers": [{ "name": "web" }] }));
    assert_eq!(response["uid"], "7c1f");
    assert_eq!(response["allowed"], true);
    assert_eq!(response["patchType"], "JSONPatch");
    assert_eq!(operations(&response)[0]["path"], "/spec/initContainers");
    let command = injected(&response).command.unwrap();
    assert_eq!(command.join(" "), "/usr/bin/wait-for-nic --slice blue --slice red --timeout 90s");
}

#[test]
fn the_wait_comes_before_other_init_containers() {
    let spec = json!({ "containers": [], "initContainers": [{ "name": "migrate" }] });
    assert_eq!(operations(&admit(spec))[0]["path"], "/spec/initContainers/0");
}

#[test]
fn a_pod_left_alone_gets_no_patch() {
    for spec in [
        json!({ "containers": [], "hostNetwork": true }),
        json!({ "containers": [], "nodeSelector": { "type": "virtual-kubelet" } }),
        json!({ "containers": [], "tolerations": [{ "key": "virtual-kubelet.io/provider" }] }),
        json!({ "containers": [], "initContainers": [{ "name": "slicewire-wait" }] }),
        json!({ "containers": [], "affinity": { "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms": [
                { "matchExpressions": [
                    { "key": "type", "operator": "In", "values": ["virtual-kubelet"] },
                ] },
            ] },
        } } }),
    ] {
        let response = admit(spec.clone());
        assert_eq!(response["allowed"], true);
        assert!(response.get("patch").is_none(), "{spec}");
    }
}

#[test]
fn staying_off_virtual_nodes_is_no_wish_for_one() {
    let response = admit(json!({ "containers": [], "affinity": { "nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms": [
            { "matchExpressions": [
                { "key": "type", "operator": "NotIn", "values": ["virtual-kubelet"] },
            ] },
        ] },
    } } }));
    assert!(response.get("patch").is_some());
}

/// The rules of the `restricted` level, <https://kubernetes.io/docs/concepts/security/pod-security-standards/>.
#[test]
fn the_container_passes_the_restricted_standard() {
    let container = injected(&admit(json!({ "containers": [] })));
    let security = container.security_context.unwrap();
    assert_eq!(security.allow_privilege_escalation, Some(false));
    assert_eq!(security.privileged, Some(false));
    assert_eq!(security.run_as_non_root, Some(true));
    assert_ne!(security.run_as_user, Some(0));
    assert_eq!(security.seccomp_profile.unwrap().type_, "RuntimeDefault");
    let capabilities = security.capabilities.unwrap();
    assert_eq!(capabilities.drop, Some(vec!["ALL".to_owned()]));
    assert_eq!(capabilities.add, None);
    assert_eq!(container.volume_mounts, None);
    assert_eq!(container.ports, None);
}

#[test]
fn a_pod_that_runs_as_root_does_not_make_the_wait_root() {
    let root = injected(&admit(json!({ "containers": [], "securityContext": { "runAsUser": 0 } })));
    assert_eq!(root.security_context.unwrap().run_as_user, Some(NOBODY));
    let user = injected(&admit(json!({ "containers": [], "securityContext": { "runAsUser": 7 } })));
    assert_eq!(user.security_context.unwrap().run_as_user, None);
}

#[test]
fn waiting_reserves_nothing_and_keeps_the_class_of_service() {
    let of = |resources: Value| {
        let containers = json!([
            { "name": "first", "resources": resources },
            { "name": "second", "resources": { "requests": { "cpu": "4" } } },
        ]);
        let waits = injected(&admit(json!({ "containers": containers }))).resources.unwrap();
        to_value(waits).unwrap()
    };
    let guaranteed = json!({ "cpu": "50m", "memory": "64Mi" });
    let guaranteed = json!({ "requests": guaranteed, "limits": guaranteed });
    assert_eq!(of(guaranteed.clone()), guaranteed);
    assert_eq!(of(json!({})), json!({ "requests": {}, "limits": {} }), "best effort");
    let accelerated = json!({ "limits": { "cpu": "1", "example.com/gpu": "1" } });
    let expected = json!({ "requests": {}, "limits": { "cpu": "1" } });
    assert_eq!(of(accelerated), expected, "a device is not taken twice");
    let none = injected(&admit(json!({ "containers": [] }))).resources.unwrap();
    assert_eq!(to_value(none).unwrap(), json!({ "requests": {}, "limits": {} }));
}

#[test]
fn a_request_without_a_pod_is_answered() {
    let review: Review = from_value(json!({ "request": { "uid": "1" } })).unwrap();
    let (_, answer) = review.answer(&Labels::new(), &slices(), &image());
    assert_eq!(to_value(answer).unwrap()["response"], json!({ "uid": "1", "allowed": true }));
}
