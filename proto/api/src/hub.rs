//! Kinds on the hub.

mod joining;
mod keys;
mod live;
mod member;
mod services;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::NamespaceIsolationProfile;
use crate::SliceQos;

pub use joining::*;
pub use keys::*;
pub use live::*;
pub use member::*;
pub use services::*;

use crate::policy::SlicePolicySettings;

/// A project owns clusters and slices: one team, one tenant.
///
/// Its Clusters and SliceConfigs live in the hub namespace `slicewire-<name>`, which the hub
/// controller makes. Deleting the project deletes everything in it.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[kube(
    group = "slicewire.dev",
    version = "v1alpha1",
    kind = "Project",
    status = "ProjectStatus",
    derive = "PartialEq",
    category = "slicewire",
    shortname = "swproject",
    printcolumn(name = "Namespace", type_ = "string", json_path = ".status.namespace"),
    printcolumn(name = "Clusters", type_ = "integer", json_path = ".status.clusters"),
    printcolumn(name = "Slices", type_ = "integer", json_path = ".status.slices"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("size(self.metadata.name) <= 20 && self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$') && !self.metadata.name.contains('--')")
        .message("metadata.name must be an RFC 1123 label of at most 20 characters without '--'"),
    validation = Rule::new("self.metadata.name != 'system'")
        .message("metadata.name must not be 'system': slicewire-system is where Slicewire itself runs"),
    doc = "A project owns clusters and slices: one team, one tenant."
)]
#[serde(rename_all = "camelCase")]
pub struct ProjectSpec {
    /// What the project is for; shown to people, never interpreted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub description: Option<String>,
}

/// What the hub knows about a project.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProjectStatus {
    /// The generation this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The hub namespace in which the project's Clusters and SliceConfigs live.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// How many clusters the project has.
    #[serde(default)]
    pub clusters: i32,
    /// How many slices the project has.
    #[serde(default)]
    pub slices: i32,
    /// `Ready`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// A Kubernetes cluster that may take part in the project's slices.
///
/// In the project's namespace it is what people write; the hub makes a namespace for the cluster,
/// `slicewire-<project>--<cluster>`, and puts a copy there, in whose status the worker reports.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[kube(
    group = "slicewire.dev",
    version = "v1alpha1",
    kind = "Cluster",
    namespaced,
    status = "ClusterStatus",
    derive = "PartialEq",
    category = "slicewire",
    shortname = "swcluster",
    printcolumn(name = "Nodes", type_ = "integer", json_path = ".status.nodes"),
    printcolumn(name = "Kubernetes", type_ = "string", json_path = ".status.kubernetesVersion"),
    printcolumn(name = "Connected", type_ = "string", json_path = ".status.conditions[?(@.type=='Connected')].status"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("size(self.metadata.name) <= 30 && self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$') && !self.metadata.name.contains('--')")
        .message("metadata.name must be an RFC 1123 label of at most 30 characters without '--'"),
    doc = "A Kubernetes cluster that may take part in the project's slices."
)]
#[serde(rename_all = "camelCase")]
pub struct ClusterSpec {
    /// What the cluster is; shown to people, never interpreted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub description: Option<String>,
    /// How other clusters' gateways reach this cluster's gateways.
    #[serde(default)]
    pub gateways: GatewayExposure,
}

/// How gateways of a cluster are reached from outside.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct GatewayExposure {
    /// Which of a node's addresses is published with a gateway's NodePort: `InternalIP` (default)
    /// where the clusters' nodes reach each other, `ExternalIP` across the Internet.
    #[serde(default)]
    pub node_address: NodeAddressType,
    /// Addresses to publish instead of the node's own, for a NAT or load balancer in front of the
    /// nodes that forwards the NodePorts unchanged. IPv4 or IPv6 addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), inner(length(max = 45)))]
    pub addresses: Vec<String>,
}

/// A node address type of Kubernetes.
#[derive(Serialize, Deserialize, Debug, Clone, Copy, Default, PartialEq, Eq, JsonSchema)]
pub enum NodeAddressType {
    /// The node's address inside its own network.
    #[default]
    #[serde(rename = "InternalIP")]
    InternalIp,
    /// The node's address as seen from outside.
    #[serde(rename = "ExternalIP")]
    ExternalIp,
}

/// What is known about a cluster; written by the worker in its own copy, checked and carried over
/// to the project's Cluster by the hub.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterStatus {
    /// The generation this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The hub namespace that holds what this cluster is told; its credential opens no other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Which cluster has joined under this name: the uid of its namespace `kube-system`. Written by
    /// the hub when it lets the cluster in; nobody else can join under the name until the cluster
    /// is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub cluster_uid: Option<String>,
    /// How many nodes the cluster has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<i32>,
    /// The Kubernetes version of its API server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub kubernetes_version: Option<String>,
    /// The Slicewire version of its worker controller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub version: Option<String>,
    /// Prefixes its pods and services use; a slice whose prefix overlaps one of them is refused
    /// for this cluster, because its pods could no longer reach their own cluster.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4096), inner(length(max = 64)))]
    pub reserved_prefixes: Vec<String>,
    /// `Connected`: the worker has reported lately. `Ready`: it runs all its components.
    /// `ReportAccepted`: all it reports can be taken. `Leaving`, set by the worker in its copy: it
    /// leaves for good.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub conditions: Vec<Condition>,
}

/// A slice: a private network for chosen namespaces of chosen clusters.
///
/// ```yaml
/// apiVersion: slicewire.dev/v1alpha1
/// kind: SliceConfig
/// metadata: {name: blue, namespace: slicewire-demo}
/// spec:
///   prefixes: [10.77.0.0/16, "fd77::/48"]
///   clusters: [{name: east}, {name: west}]
///   namespaces: [{names: [shop]}]
/// ```
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[kube(
    group = "slicewire.dev",
    version = "v1alpha1",
    kind = "SliceConfig",
    namespaced,
    status = "SliceConfigStatus",
    derive = "PartialEq",
    category = "slicewire",
    shortname = "swslice",
    printcolumn(name = "Prefixes", type_ = "string", json_path = ".spec.prefixes"),
    printcolumn(name = "Clusters", type_ = "string", json_path = ".status.readyClusters"),
    printcolumn(name = "Pods", type_ = "integer", json_path = ".status.attachedPods"),
    printcolumn(name = "Tunnels", type_ = "string", json_path = ".status.tunnels"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].reason"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("size(self.metadata.name) <= 40 && self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$') && !self.metadata.name.contains('--')")
        .message("metadata.name must be an RFC 1123 label of at most 40 characters without '--'"),
    doc = "A slice: a private network for chosen namespaces of chosen clusters."
)]
#[serde(rename_all = "camelCase")]
pub struct SliceConfigSpec {
    /// The slice's own address prefixes in CIDR notation, IPv4, IPv6 or both, any length. They may
    /// be the same as another slice's, but no two of this list may overlap. Prefixes may be added
    /// while the slice runs; removing one that is in use is refused.
    #[schemars(length(min = 1, max = 16), inner(length(max = 43)))]
    #[x_kube(validation = Rule::new("self.all(p, isCIDR(p))").message("every prefix must be in CIDR notation, as 10.77.0.0/16 or fd77::/48"))]
    #[x_kube(validation = Rule::new("self.all(p, !isCIDR(p) || cidr(p) == cidr(p).masked())").message("a prefix must have no bits set behind its length"))]
    #[x_kube(validation = Rule::new("self.all(p, !isCIDR(p) || self.filter(q, isCIDR(q) && (cidr(p).containsCIDR(cidr(q)) || cidr(q).containsCIDR(cidr(p)))).size() == 1)").message("prefixes of a slice must not overlap each other"))]
    pub prefixes: Vec<String>,
    /// The clusters the slice spans, by name; at least one. Clusters may be added and removed
    /// while the slice runs.
    #[schemars(length(min = 1, max = 1024))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub clusters: Vec<SliceCluster>,
    /// Which namespaces and pods are on the slice, besides those that ask for it with the label
    /// `slicewire.dev/slice`. A pod is a member when any of the rules selects it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub namespaces: Vec<NamespaceRule>,
    /// The gateways that carry the slice between clusters.
    #[serde(default)]
    pub gateways: Gateways,
    /// Size in bytes of the largest IP packet on the slice NICs. Left out, it is what fits through
    /// WireGuard over a path of 1,500 bytes in both families: 1,420.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1280, max = 9000))]
    pub mtu: Option<i32>,
    /// What holds where no SlicePolicy says otherwise.
    #[serde(default)]
    pub policy: SlicePolicySettings,
    /// Which namespaces the slice's namespaces accept connections from on the clusters' own pod
    /// networks. Left out: it is none of the slice's business.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_isolation_profile: Option<NamespaceIsolationProfile>,
    /// How much the slice may send, and what it is promised. Left out: no limit, no promise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qos: Option<SliceQos>,
    /// How connections to the slice's services are spread over clusters.
    #[serde(default, skip_serializing_if = "SliceServices::is_empty")]
    pub services: SliceServices,
}

/// A cluster's part in a slice.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SliceCluster {
    /// Name of a Cluster of the same project.
    #[schemars(length(min = 1, max = 30))]
    pub name: String,
}

/// Selects namespaces, and pods in them.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.names) || has(self.selector)").message("a rule needs names, a selector, or both"))]
pub struct NamespaceRule {
    /// The clusters in which the rule holds; none means all of the slice's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1024), inner(length(max = 30)))]
    pub clusters: Vec<String>,
    /// Namespaces by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(max = 63)))]
    pub names: Vec<String>,
    /// Namespaces by label. The empty selector `{}` means all namespaces but those of Kubernetes
    /// (`kube-…`) and of Slicewire itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
    /// Only pods with these labels; left out, all pods of those namespaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_selector: Option<LabelSelector>,
}

/// Gateways of a slice.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Gateways {
    /// Gateway pods per cluster. All of them carry traffic at once; replica *i* of every cluster
    /// forms a mesh of its own, a lane.
    #[serde(default = "one_replica")]
    #[schemars(range(min = 1, max = 8))]
    pub replicas: i32,
    /// How often the gateways get new WireGuard keys, and pre-shared keys that hold against quantum
    /// computers, too, as `720h`; 1h to 8760h. No packet is lost by it. Left out: only when asked,
    /// by `slicectl rotate-keys`. Where it is set, the first pre-shared keys come as soon as every
    /// tunnel works. Once tunnels have them, keys are also renewed for those that came without, as
    /// when a cluster joins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16), regex(pattern = r"^([0-9]{1,6}h)?([0-9]{1,6}m)?$"))]
    pub key_rotation_interval: Option<String>,
}

impl Default for Gateways {
    fn default() -> Self {
        Self { replicas: one_replica(), key_rotation_interval: None }
    }
}

fn one_replica() -> i32 {
    1
}

/// What the hub knows about a slice.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SliceConfigStatus {
    /// The generation this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Pods on the slice, in all clusters.
    #[serde(default)]
    pub attached_pods: i32,
    /// Working tunnels of those planned, as `2/2`; a tunnel is counted at both its ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tunnels: Option<String>,
    /// Clusters that carry the slice of those it spans, as `1/2`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_clusters: Option<String>,
    /// The slice in each of its clusters.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub clusters: Vec<SliceClusterStatus>,
    /// Every fault found in the spec; empty when it is accepted. While there are faults the slice
    /// runs on as it was.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub violations: Vec<Fault>,
    /// The gateways' keys; left out before the first renewal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<SliceKeys>,
    /// `Accepted`: the spec is valid. `Ready`: every cluster carries it. `QosHonoured`: what
    /// `spec.qos` promises can be kept everywhere. `KeysCurrent`: the gateways' keys are what the
    /// spec asks for; while they are renewed, what is waited for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// A slice in one of its clusters.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SliceClusterStatus {
    /// The cluster's name.
    pub name: String,
    /// The prefixes its pods' addresses come from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pools: Vec<String>,
    /// The prefixes its gateways' addresses come from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gateway_prefixes: Vec<String>,
    /// Pods of the cluster on the slice.
    #[serde(default)]
    pub attached_pods: i32,
    /// Whether the cluster carries the slice.
    #[serde(default)]
    pub ready: bool,
    /// Why it does not, one `CamelCase` word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The same as a sentence, with what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// A fault in a spec.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Fault {
    /// Where, as `kubectl explain` spells it.
    pub field: String,
    /// What was found there.
    pub value: String,
    /// One `CamelCase` word, stable across versions.
    pub reason: String,
    /// What is wrong and what would be accepted.
    pub message: String,
}

impl From<slicewire_core::violation::Violation> for Fault {
    fn from(v: slicewire_core::violation::Violation) -> Self {
        Self { field: v.field, value: v.value, reason: v.reason.to_owned(), message: v.message }
    }
}
