//! Kinds on the hub in a cluster's own namespace: what the cluster is told and what it reports.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{GatewayExposure, NamespaceRule, SliceServices};
use crate::policy::{PolicyKeys, SlicePolicySettings};
use crate::{NodeQos, QosLimits, SliceIsolation};

/// What a cluster is told about a slice: its own part, and where the others' begins.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[kube(
    group = "slicewire.dev",
    version = "v1alpha1",
    kind = "WorkerSlice",
    namespaced,
    status = "WorkerSliceStatus",
    derive = "PartialEq",
    category = "slicewire",
    printcolumn(name = "Pools", type_ = "string", json_path = ".spec.pools"),
    printcolumn(name = "Pods", type_ = "integer", json_path = ".status.attachedPods"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].status"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].reason"
    ),
    doc = "What a cluster is told about a slice. Written by the hub controller; the worker reports in the status."
)]
#[serde(rename_all = "camelCase")]
pub struct WorkerSliceSpec {
    /// The project the slice belongs to.
    pub project: String,
    /// The slice's name; also this object's.
    pub slice: String,
    /// The cluster this object is for.
    pub cluster: String,
    /// The whole slice's prefixes: where pods send slice traffic.
    pub prefixes: Vec<String>,
    /// The prefixes this cluster's pods get addresses from. Only ever added to while in use.
    pub pools: Vec<String>,
    /// The prefixes this cluster's gateways' addresses come from.
    pub gateway_prefixes: Vec<String>,
    /// The prefixes that services' virtual addresses come from, the same in every cluster.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub service_prefixes: Vec<String>,
    /// The other clusters of the slice.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remotes: Vec<RemoteCluster>,
    /// Which namespaces and pods are members, this cluster's rules only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<NamespaceRule>,
    /// Gateway pods to run here; 0 where the slice has no other cluster.
    pub gateway_replicas: i32,
    /// Bytes of the largest IP packet on slice NICs.
    pub mtu: i32,
    /// How this cluster's gateways are published.
    #[serde(default)]
    pub exposure: GatewayExposure,
    /// What holds where no policy says otherwise.
    #[serde(default)]
    pub policy: SlicePolicySettings,
    /// Keeps the slice's namespaces to themselves on this cluster's own pod network; left out: it
    /// does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolation: Option<SliceIsolation>,
    /// What this cluster is to tell the others of its pods; left out: nothing at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_keys: Option<PolicyKeys>,
    /// How much the slice may send in this cluster, profile and differences put together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qos: Option<QosLimits>,
    /// How connections to services are spread over clusters.
    #[serde(default, skip_serializing_if = "SliceServices::is_empty")]
    pub services: SliceServices,
}

/// Another cluster of the slice.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RemoteCluster {
    /// Its name.
    pub cluster: String,
    /// Everything behind it on the slice: its pods' pools and its gateways' prefixes.
    pub prefixes: Vec<String>,
}

/// What a worker reports about a slice.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkerSliceStatus {
    /// The generation this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Pods on the slice in this cluster, gateways not counted.
    #[serde(default)]
    pub attached_pods: i32,
    /// Onboarded namespaces.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8192), inner(length(max = 63)))]
    pub namespaces: Vec<String>,
    /// Pools that have no free block left: the hub adds a pool of the same family.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2), inner(length(max = 8)))]
    pub exhausted_families: Vec<String>,
    /// What this cluster's own NetworkPolicies ask of the slice's pods, where they hold on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_keys: Option<PolicyKeys>,
    /// Pods that should be on the slice and are not, with the reason; at most 32 are listed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub failures: Vec<AttachFailure>,
    /// The slice's traffic on nodes where it is shaped; at most 256 are listed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub qos: Vec<NodeQos>,
    /// `Ready`: nodes and gateways of this cluster carry the slice. `QosHonoured`: all that is
    /// promised can be kept.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub conditions: Vec<Condition>,
}

/// A pod that should be on a slice and is not.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AttachFailure {
    /// The pod, as `namespace/name`.
    #[schemars(length(max = 317))]
    pub pod: String,
    /// The node it runs on.
    #[schemars(length(max = 253))]
    pub node: String,
    /// One `CamelCase` word.
    #[schemars(length(max = 64))]
    pub reason: String,
    /// What is wrong and what to do.
    #[schemars(length(max = 4096))]
    pub message: String,
}

/// What a cluster's gateways of a slice are told, and what they report: keys, endpoints, tunnels.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[kube(
    group = "slicewire.dev",
    version = "v1alpha1",
    kind = "WorkerGateway",
    namespaced,
    status = "WorkerGatewayStatus",
    derive = "PartialEq",
    category = "slicewire",
    printcolumn(name = "Lanes", type_ = "integer", json_path = ".status.readyLanes"),
    printcolumn(name = "Tunnels", type_ = "string", json_path = ".status.tunnels"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].status"
    ),
    doc = "What a cluster's gateways of a slice are told, and what they report. Written by the hub controller; the worker reports in the status."
)]
#[serde(rename_all = "camelCase")]
pub struct WorkerGatewaySpec {
    /// The slice's name; also this object's.
    pub slice: String,
    /// The cluster this object is for.
    pub cluster: String,
    /// One entry a gateway replica.
    pub lanes: Vec<GatewayLane>,
    /// The generation of keys that every gateway of the slice has; it counts the renewals.
    #[serde(default)]
    #[schemars(with = "i64", range(min = 0))]
    pub generation: u64,
    /// The generation the keys are being changed to: gateways open a second device for it, and
    /// close the first when `generation` has become this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<i64>", range(min = 0))]
    pub next_generation: Option<u64>,
    /// What the other clusters have said for the pre-shared keys of `nextGeneration`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1024))]
    pub exchange: Vec<PeerExchange>,
}

/// Another cluster's part in the agreement on pre-shared keys: nothing in it is secret.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PeerExchange {
    /// The cluster.
    #[schemars(length(max = 63))]
    pub cluster: String,
    /// Its encapsulation key: ML-KEM-768 (FIPS 203), 1,184 bytes, base64.
    #[schemars(length(max = 1600))]
    pub encapsulation_key: String,
    /// What it has encapsulated to this cluster's key: 1,088 bytes, base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1600))]
    pub ciphertext: Option<String>,
}

/// One gateway replica's plan.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GatewayLane {
    /// The replica's number, 0 to 7.
    #[schemars(with = "i32", range(min = 0, max = 7))]
    pub lane: u8,
    /// Addresses of its WireGuard device, from the cluster's gateway prefixes, one a family.
    pub addresses: Vec<String>,
    /// One tunnel to the same lane of every other cluster whose public key is known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tunnels: Vec<Tunnel>,
}

/// A WireGuard peer.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Tunnel {
    /// The cluster at the other end.
    pub cluster: String,
    /// Its gateway's public key: 32 bytes, base64.
    pub public_key: String,
    /// Where it can be reached, as `address:port` (`[address]:port` for IPv6), best first. Empty:
    /// it can not be reached from here and calls itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<String>,
    /// Addresses of its WireGuard device on the slice: what probes are sent to.
    pub addresses: Vec<String>,
    /// The slice's prefixes behind it (WireGuard's allowed IPs), its gateway's own address included.
    pub prefixes: Vec<String>,
    /// Its gateway in `nextGeneration`, once it has published a key for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<NextKey>,
}

/// A gateway by its next key.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NextKey {
    /// Its public key: 32 bytes, base64.
    #[schemars(length(max = 64))]
    pub public_key: String,
    /// Where it can be reached, as in `endpoints`; another port.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(max = 64)))]
    pub endpoints: Vec<String>,
}

/// What a worker reports about its gateways of a slice.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkerGatewayStatus {
    /// The generation this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Lanes whose gateway runs.
    #[serde(default)]
    pub ready_lanes: i32,
    /// Working tunnels of those planned, as `1/1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub tunnels: Option<String>,
    /// One entry a gateway replica.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub lanes: Vec<GatewayLaneStatus>,
    /// This cluster's part in the agreement on pre-shared keys, while keys are renewed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exchange: Option<OwnExchange>,
    /// `Ready`: every lane runs and every tunnel works.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub conditions: Vec<Condition>,
}

/// A cluster's part in the agreement on pre-shared keys: nothing in it is secret.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OwnExchange {
    /// The generation it is for.
    #[schemars(with = "i64", range(min = 0))]
    pub generation: u64,
    /// What the others are to encapsulate to: ML-KEM-768 (FIPS 203), 1,184 bytes, base64. The
    /// decapsulation key never leaves the cluster.
    #[schemars(length(max = 1600))]
    pub encapsulation_key: String,
    /// What was encapsulated to the others' keys, one entry a cluster.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1024))]
    pub ciphertexts: Vec<Encapsulated>,
}

/// A secret that only the cluster it is for can open.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Encapsulated {
    /// The cluster it is for.
    #[schemars(length(max = 63))]
    pub cluster: String,
    /// 1,088 bytes, base64.
    #[schemars(length(max = 1600))]
    pub ciphertext: String,
}

/// A gateway's key of the next generation.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PublishedKey {
    /// The generation.
    #[schemars(with = "i64", range(min = 0))]
    pub generation: u64,
    /// The public key: 32 bytes, base64.
    #[schemars(length(max = 64))]
    pub public_key: String,
    /// Where the gateway can be reached by it, as `address:port`, best first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(max = 64)))]
    pub endpoints: Vec<String>,
}

/// A gateway replica as it is.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GatewayLaneStatus {
    /// The replica's number, 0 to 7.
    #[schemars(with = "i32", range(min = 0, max = 7))]
    pub lane: u8,
    /// Its public key: 32 bytes, base64. The private key never leaves the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub public_key: Option<String>,
    /// The generation of that key.
    #[serde(default)]
    #[schemars(with = "i64", range(min = 0))]
    pub generation: u64,
    /// The key of the next generation, while keys are renewed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<PublishedKey>,
    /// Where it can be reached from other clusters, as `address:port`, best first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(max = 64)))]
    pub endpoints: Vec<String>,
    /// The node it runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub node: Option<String>,
    /// Whether its pod is ready.
    #[serde(default)]
    pub ready: bool,
    /// `kernel` or `embedded`: what does WireGuard there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub backend: Option<String>,
    /// Its tunnels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1024))]
    pub tunnels: Vec<TunnelStatus>,
}

/// A tunnel as the probes see it. Figures are rounded so that they change only when it matters.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TunnelStatus {
    /// The cluster at the other end.
    #[schemars(length(max = 63))]
    pub cluster: String,
    /// Whether probes come back.
    pub up: bool,
    /// The generation of keys by which packets are sent to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<i64>", range(min = 0))]
    pub generation: Option<u64>,
    /// Whether that tunnel has a pre-shared key besides, agreed on by ML-KEM-768.
    #[serde(default)]
    pub preshared_key: bool,
    /// When the last handshake was, RFC 3339; rounded to the minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub last_handshake: Option<String>,
    /// Median round-trip time of the last probes, in microseconds, two significant digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtt_micros: Option<i64>,
    /// Lost probes of the last minute, in thousandths.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_permille: Option<i32>,
    /// Largest IP packet that passes the tunnel, in bytes, measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_mtu: Option<i32>,
    /// Why it does not work, one `CamelCase` word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub reason: Option<String>,
}
