//! Kinds in a worker cluster.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::policy::{NodePolicy, PodIdentity, PolicyKeys, SlicePolicySettings};
use crate::{
    AttachFailure, GatewayExposure, GatewayLane, NamespaceRule, NodeQos, QosLimits, RemoteCluster,
    SliceIsolation, SliceServices, WorkerGatewayStatus,
};

/// A slice in this cluster: the hub's desired state, kept here so that losing the hub stops
/// nothing but changes.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[kube(
    group = "slicewire.dev",
    version = "v1alpha1",
    kind = "Slice",
    status = "SliceStatus",
    derive = "PartialEq",
    category = "slicewire",
    printcolumn(name = "Prefixes", type_ = "string", json_path = ".spec.prefixes"),
    printcolumn(name = "Nodes", type_ = "integer", json_path = ".status.nodes"),
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
    doc = "A slice in this cluster. Written by the worker controller from what the hub says; do not edit."
)]
#[serde(rename_all = "camelCase")]
pub struct SliceSpec {
    /// The project the slice belongs to.
    pub project: String,
    /// The name of this cluster on the hub.
    pub cluster: String,
    /// The whole slice's prefixes: where pods send slice traffic.
    pub prefixes: Vec<String>,
    /// The prefixes this cluster's pods get addresses from.
    pub pools: Vec<String>,
    /// The prefixes this cluster's gateways' addresses come from.
    pub gateway_prefixes: Vec<String>,
    /// The prefixes that services' virtual addresses come from, the same in every cluster.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub service_prefixes: Vec<String>,
    /// The other clusters of the slice.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remotes: Vec<RemoteCluster>,
    /// Which namespaces and pods are members.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<NamespaceRule>,
    /// VXLAN network identifier of the slice between this cluster's nodes, 1 to 16,777,215; unique
    /// in the cluster.
    #[schemars(range(min = 1, max = 16_777_215))]
    pub vni: i32,
    /// Bytes of the largest IP packet on slice NICs.
    pub mtu: i32,
    /// What holds where no policy says otherwise.
    #[serde(default)]
    pub policy: SlicePolicySettings,
    /// Keeps the slice's namespaces to themselves on this cluster's own pod network; left out: it
    /// does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolation: Option<SliceIsolation>,
    /// What nodes are to tell of their pods; left out: nothing at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_keys: Option<PolicyKeys>,
    /// How much the slice may send in this cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qos: Option<QosLimits>,
    /// How connections to services are spread over clusters.
    #[serde(default, skip_serializing_if = "SliceServices::is_empty")]
    pub services: SliceServices,
}

/// What is known about a slice in this cluster.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SliceStatus {
    /// The generation this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Nodes that have a router of the slice.
    #[serde(default)]
    pub nodes: i32,
    /// Pods on the slice, gateways not counted.
    #[serde(default)]
    pub attached_pods: i32,
    /// Onboarded namespaces.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<String>,
    /// Pods that should be on the slice and are not; at most 32 are listed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<AttachFailure>,
    /// `Ready`: nodes and gateways carry the slice.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// The gateways of a slice in this cluster; named after the slice, in `slicewire-system`.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[kube(
    group = "slicewire.dev",
    version = "v1alpha1",
    kind = "SliceGateway",
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
    doc = "The gateways of a slice in this cluster. Written by the worker controller; gateways read their lane."
)]
#[serde(rename_all = "camelCase")]
pub struct SliceGatewaySpec {
    /// The slice's name; also this object's.
    pub slice: String,
    /// The name of this cluster on the hub.
    pub cluster: String,
    /// The whole slice's prefixes.
    pub prefixes: Vec<String>,
    /// Bytes of the largest IP packet on slice NICs.
    pub mtu: i32,
    /// One entry a gateway replica.
    pub lanes: Vec<GatewayLane>,
    /// The generation of keys that every gateway of the slice has.
    #[serde(default)]
    #[schemars(with = "i64", range(min = 0))]
    pub generation: u64,
    /// The generation the keys are being changed to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<i64>", range(min = 0))]
    pub next_generation: Option<u64>,
    /// How the gateways are published.
    #[serde(default)]
    pub exposure: GatewayExposure,
    /// How much the slice may send in this cluster; the gateways share the ceiling equally.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qos: Option<QosLimits>,
}

/// A slice on one node: named `<slice>.<node>`, in `slicewire-system`. The node's daemon makes it
/// when the first pod of the slice comes; the worker controller gives it address blocks; the
/// daemon reports in its status.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[kube(
    group = "slicewire.dev",
    version = "v1alpha1",
    kind = "SliceNode",
    namespaced,
    status = "SliceNodeStatus",
    derive = "PartialEq",
    category = "slicewire",
    printcolumn(name = "Slice", type_ = "string", json_path = ".spec.slice"),
    printcolumn(name = "Node", type_ = "string", json_path = ".spec.node"),
    printcolumn(name = "Blocks", type_ = "string", json_path = ".spec.blocks"),
    printcolumn(name = "Pods", type_ = "integer", json_path = ".status.attachedPods"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].status"
    ),
    doc = "A slice on one node: its address blocks, and the pods attached there."
)]
#[serde(rename_all = "camelCase")]
pub struct SliceNodeSpec {
    /// The slice.
    pub slice: String,
    /// The node.
    pub node: String,
    /// Prefixes the node gives addresses from, written by the worker controller. The first
    /// address of the first block of a family is the slice router's own. Blocks are only taken
    /// back when nothing of them is in use.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blocks: Vec<String>,
}

/// What a node's daemon reports about a slice.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SliceNodeStatus {
    /// The generation this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The node's addresses that the other nodes send the slice's VXLAN packets to, first choice
    /// first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub underlay: Vec<String>,
    /// Pods attached, gateways not counted.
    #[serde(default)]
    pub attached_pods: i32,
    /// The NICs on this node, in the order of namespace and name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nics: Vec<Nic>,
    /// Policies in the node's kernel.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<NodePolicy>,
    /// Families (`IPv4`, `IPv6`) in which fewer than a quarter of the addresses are free: the
    /// worker controller gives another block.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub low_families: Vec<String>,
    /// Pods that should be on the slice and are not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<AttachFailure>,
    /// The slice's traffic between this node and the others, where it is shaped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qos: Option<NodeQos>,
    /// `Ready`: the router is up and every member pod of the node is attached. `QosHonoured`: what the
    /// slice is promised can be kept on this node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// A slice NIC in a pod.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Nic {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// The interface in the pod, `slice0` …
    pub interface: String,
    /// Its addresses, one a family.
    pub addresses: Vec<String>,
    /// What policies of the slice select the pod by; left out for gateways, and where nothing is
    /// to be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<PodIdentity>,
}
