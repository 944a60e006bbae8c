//! The gateways' pods and services as Kubernetes objects.
//!
//! Security: a gateway pod has NET_ADMIN in its own network namespace and nothing of the host: no
//! host network, no host path, no privilege. MKNOD lets it make /dev/net/tun where the runtime does
//! not.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Service;
use kube::Resource;
use kube::api::ObjectMeta;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use slicewire_api::SliceGateway;
use slicewire_api::labels::{
    GATEWAY_LABEL, LANE, MANAGED_BY, OF_SLICE, PART_OF, PRODUCT, ROUTES_PORT, WIREGUARD_PORTS,
    WORKER_MANAGER,
};
use slicewire_core::name::{
    Lane, SliceName, gateway_certificate_secret, gateway_key_secret, gateway_service,
    gateway_workload,
};

use crate::kubernetes::change::owned_by;
use crate::options::Images;

/// Port of slice-gateway's probes and metrics.
const GATEWAY_ADMIN: u16 = 8081;
/// Port of router-sidecar's probes and metrics.
const SIDECAR_ADMIN: u16 = 8082;

/// The gateways of a slice. Plans change without a change here: gateways watch their SliceGateway.
pub(super) fn stateful_set(
    gateway: &SliceGateway,
    slice: &SliceName,
    namespace: &str,
    images: &Images,
) -> StatefulSet {
    let labels = labels(slice);
    let mut pod_labels = labels.clone();
    if let Some(map) = pod_labels.as_object_mut() {
        map.insert(GATEWAY_LABEL.to_owned(), json!(slice.as_str()));
    }
    let selector = json!({GATEWAY_LABEL: slice.as_str()});
    let spec = json!({
        "replicas": gateway.spec.lanes.len(),
        "serviceName": gateway_workload(slice),
        "podManagementPolicy": "Parallel",
        "selector": {"matchLabels": selector},
        "template": {
            "metadata": {"labels": pod_labels},
            "spec": pod(slice, images, &selector),
        },
    });
    let metadata = meta(gateway, &gateway_workload(slice), namespace, &labels);
    StatefulSet { metadata, spec: typed(spec), status: None }
}

/// WireGuard's ports: that of even generations of keys has the name it had alone. Both are there
/// always, so that no NodePort changes when keys do.
fn ports(one: impl Fn(&str, u16) -> Value) -> Vec<Value> {
    let [even, odd] = WIREGUARD_PORTS;
    vec![one("wireguard", even), one("wireguard-odd", odd)]
}

/// The way from outside to the gateway of one lane. `publishNotReadyAddresses`, because tunnels
/// have to come up before a gateway is ready.
pub(super) fn service(
    gateway: &SliceGateway,
    slice: &SliceName,
    namespace: &str,
    lane: Lane,
) -> Service {
    let mut labels = labels(slice);
    if let Some(map) = labels.as_object_mut() {
        map.insert(LANE.to_owned(), json!(lane.to_string()));
    }
    let pod = format!("{}-{lane}", gateway_workload(slice));
    let spec = json!({
        "type": "NodePort",
        "externalTrafficPolicy": "Local",
        "publishNotReadyAddresses": true,
        "ipFamilyPolicy": "PreferDualStack",
        "selector": {"statefulset.kubernetes.io/pod-name": pod},
        "ports": ports(|name, port| {
            json!({"name": name, "protocol": "UDP", "port": port, "targetPort": port})
        }),
    });
    let metadata = meta(gateway, &gateway_service(slice, lane), namespace, &labels);
    Service { metadata, spec: typed(spec), status: None }
}

fn pod(slice: &SliceName, images: &Images, selector: &Value) -> Value {
    json!({
        "serviceAccountName": images.service_account,
        "automountServiceAccountToken": true,
        "enableServiceLinks": false,
        "terminationGracePeriodSeconds": 5,
        "priorityClassName": "system-cluster-critical",
        "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{
            "weight": 100,
            "podAffinityTerm": {
                "labelSelector": {"matchLabels": selector},
                "topologyKey": "kubernetes.io/hostname",
            },
        }]}},
        // A gateway on a node that is gone is wanted elsewhere soon.
        "tolerations": [
            {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 30},
            {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 30},
        ],
        "containers": [gateway_container(slice, images), sidecar_container(slice, images)],
        "volumes": [
            {"name": "run", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
            {"name": "keys", "secret": {"secretName": gateway_key_secret(slice), "defaultMode": 0o400}},
            {"name": "certificate", "secret": {"secretName": gateway_certificate_secret(slice), "defaultMode": 0o400}},
        ],
    })
}

fn gateway_container(slice: &SliceName, images: &Images) -> Value {
    let mut container = container("slice-gateway", images, &["NET_ADMIN", "MKNOD"], GATEWAY_ADMIN);
    let udp =
        |name: &str, port: u16| json!({"name": name, "containerPort": port, "protocol": "UDP"});
    let admin = json!({"name": "admin", "containerPort": GATEWAY_ADMIN, "protocol": "TCP"});
    let container_ports: Vec<Value> = ports(udp).into_iter().chain([admin]).collect();
    extend(
        &mut container,
        json!({
            "args": ["kubernetes"],
            "env": env(slice),
            "ports": container_ports,
            "resources": {"requests": {"cpu": "50m", "memory": "32Mi"}, "limits": {"memory": "128Mi"}},
            "volumeMounts": [
                {"name": "keys", "mountPath": "/etc/slicewire/keys", "readOnly": true},
                {"name": "run", "mountPath": "/run/slicewire"},
            ],
        }),
    );
    container
}

fn sidecar_container(slice: &SliceName, images: &Images) -> Value {
    let mut container = container("router-sidecar", images, &["NET_ADMIN"], SIDECAR_ADMIN);
    extend(
        &mut container,
        json!({
            "env": env(slice),
            "ports": [
                {"name": "routes", "containerPort": ROUTES_PORT, "protocol": "TCP"},
                {"name": "admin-sidecar", "containerPort": SIDECAR_ADMIN, "protocol": "TCP"},
            ],
            "resources": {"requests": {"cpu": "20m", "memory": "16Mi"}, "limits": {"memory": "64Mi"}},
            "volumeMounts": [
                {"name": "certificate", "mountPath": "/etc/slicewire/certificate", "readOnly": true},
                {"name": "run", "mountPath": "/run/slicewire"},
            ],
        }),
    );
    container
}

/// What both containers have in common. Kubernetes gives added capabilities to root only.
fn container(name: &str, images: &Images, capabilities: &[&str], admin: u16) -> Value {
    json!({
        "name": name,
        "image": format!("{}/{name}:{}", images.prefix, images.tag),
        "imagePullPolicy": images.pull_policy,
        "livenessProbe": {
            "httpGet": {"path": "/healthz", "port": admin},
            "periodSeconds": 10,
            "failureThreshold": 3,
        },
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": admin}, "periodSeconds": 1},
        "securityContext": {
            "runAsUser": 0,
            "runAsGroup": 0,
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"], "add": capabilities},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    })
}

fn env(slice: &SliceName) -> Value {
    let field = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    json!([
        field("POD_NAME", "metadata.name"),
        field("NAMESPACE", "metadata.namespace"),
        {"name": "SLICE", "value": slice.as_str()},
    ])
}

fn labels(slice: &SliceName) -> Value {
    json!({
        "app.kubernetes.io/name": "slice-gateway",
        PART_OF: PRODUCT,
        MANAGED_BY: WORKER_MANAGER,
        OF_SLICE: slice.as_str(),
    })
}

fn meta(gateway: &SliceGateway, name: &str, namespace: &str, labels: &Value) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(namespace.to_owned()),
        labels: typed(labels.clone()),
        owner_references: gateway.meta().uid.as_ref().and(owned_by(gateway)).map(|o| vec![o]),
        ..ObjectMeta::default()
    }
}

fn extend(object: &mut Value, more: Value) {
    if let (Some(object), Value::Object(more)) = (object.as_object_mut(), more) {
        object.extend(more);
    }
}

/// The typed form of JSON that is written out in this file; tests see that all of it is understood.
fn typed<T: DeserializeOwned>(value: Value) -> Option<T> {
    serde_json::from_value(value).ok()
}
