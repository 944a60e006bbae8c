//! Kinds that say who may talk to whom on a slice, and how they travel.

mod convert;
mod known;
mod travel;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use convert::{
    NamedPorts, keys_from, keys_into, named_ports, network_policy, port_text, ports_from,
    raw_policy,
};
pub use known::{Cluster as ClusterPods, SlicePolicies, endpoint_of, own_policies, reported};
pub use travel::*;

use crate::Fault;

/// A policy of a slice: which of its pods may talk to which, in all of its clusters.
///
/// With a `priority` it is an admin policy: its rules allow, deny or pass on, in order, before
/// any other. With a `namespace` it is that namespace's, and means what a NetworkPolicy means:
/// what it lists passes, and nothing else reaches the pods it selects.
///
/// ```yaml
/// apiVersion: slicewire.dev/v1alpha1
/// kind: SlicePolicy
/// metadata: {name: no-reports, namespace: slicewire-demo}
/// spec:
///   slice: blue
///   priority: 10
///   subject: {podSelector: {matchLabels: {app: reports}}}
///   egress:
///   - {action: Deny, peers: [{podSelector: {matchLabels: {app: ledger}}}]}
/// ```
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[kube(
    group = "slicewire.dev",
    version = "v1alpha1",
    kind = "SlicePolicy",
    plural = "slicepolicies",
    namespaced,
    status = "SlicePolicyStatus",
    derive = "PartialEq",
    category = "slicewire",
    shortname = "swpolicy",
    printcolumn(name = "Slice", type_ = "string", json_path = ".spec.slice"),
    printcolumn(name = "Priority", type_ = "integer", json_path = ".spec.priority"),
    printcolumn(name = "Namespace", type_ = "string", json_path = ".spec.namespace"),
    printcolumn(name = "Enforce", type_ = "string", json_path = ".spec.enforce"),
    printcolumn(name = "Clusters", type_ = "string", json_path = ".status.programmedClusters"),
    printcolumn(name = "Hits", type_ = "integer", json_path = ".status.hits"),
    printcolumn(name = "Would-Drop", type_ = "integer", json_path = ".status.wouldDrop", priority = 1),
    printcolumn(name = "Accepted", type_ = "string", json_path = ".status.conditions[?(@.type=='Accepted')].status"),
    printcolumn(name = "Programmed", type_ = "string", json_path = ".status.conditions[?(@.type=='Programmed')].status"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("size(self.metadata.name) <= 63 && self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')")
        .message("metadata.name must be an RFC 1123 label of at most 63 characters"),
    doc = "A policy of a slice: which of its pods may talk to which, in all of its clusters."
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.priority) != has(self.namespace)").message("a policy has either a priority (an admin policy) or a namespace (whose policy it is)"))]
#[x_kube(validation = Rule::new("has(self.ingress) || has(self.egress)").message("a policy needs ingress, egress or both; an empty list of rules allows nothing"))]
pub struct SlicePolicySpec {
    /// The slice it is about, of the same project.
    #[schemars(length(min = 1, max = 40))]
    pub slice: String,
    /// Makes it an admin policy: those are asked first, the lowest number first, from 0 to 1000.
    /// Every admin policy of a slice has its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub priority: Option<i32>,
    /// Makes it a policy of this namespace's pods, in all clusters of the slice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,
    /// `enforce` (default): it is carried out. `audit`: what it would drop passes, and is counted.
    #[serde(default)]
    pub enforce: Enforcement,
    /// The pods it applies to; empty: all on the slice, or all of the namespace.
    #[serde(default)]
    pub subject: PolicySubject,
    /// What may reach them. Left out: the policy says nothing about that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1000))]
    pub ingress: Option<Vec<PolicyRule>>,
    /// What they may reach. Left out: the policy says nothing about that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1000))]
    pub egress: Option<Vec<PolicyRule>>,
}

/// Whether something is carried out.
#[derive(Serialize, Deserialize, Debug, Clone, Copy, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Enforcement {
    /// It is.
    #[default]
    Enforce,
    /// What it would drop is counted, and passes.
    Audit,
}

/// Pods of a slice; all conditions must hold.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PolicySubject {
    /// In these clusters; empty: in all of the slice.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000), inner(length(max = 30)))]
    pub clusters: Vec<String>,
    /// In these namespaces; empty: in all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000), inner(length(max = 63)))]
    pub namespaces: Vec<String>,
    /// In namespaces with these labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<LabelSelector>,
    /// With these service accounts; empty: with any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000), inner(length(max = 253)))]
    pub service_accounts: Vec<String>,
    /// With these labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_selector: Option<LabelSelector>,
}

/// A rule of a policy.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PolicyRule {
    /// What it does with what it matches. Policies of namespaces only allow.
    #[serde(default)]
    pub action: RuleAction,
    /// The other ends it is about; empty: everything, on the slice or not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000))]
    pub peers: Vec<PolicyPeer>,
    /// The destination's ports it is about; empty: every protocol and port.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000))]
    pub ports: Vec<PolicyPort>,
}

/// What a rule does.
#[derive(Serialize, Deserialize, Debug, Clone, Copy, Default, PartialEq, Eq, JsonSchema)]
pub enum RuleAction {
    /// It passes, whatever other policies say.
    #[default]
    Allow,
    /// It is dropped, whatever other policies say.
    Deny,
    /// The namespaces' policies decide.
    Pass,
}

/// The other end of what a rule is about: the whole slice, a prefix, or pods.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PolicyPeer {
    /// `true`: every pod of the slice.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub slice: bool,
    /// Addresses, in CIDR notation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 43))]
    pub cidr: Option<String>,
    /// Prefixes within `cidr` that are not meant.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000), inner(length(max = 43)))]
    pub except: Vec<String>,
    /// Pods in these clusters.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000), inner(length(max = 30)))]
    pub clusters: Vec<String>,
    /// Pods in these namespaces. In a namespace's policy that selects pods and says nothing about
    /// namespaces, its own is meant, in every cluster.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000), inner(length(max = 63)))]
    pub namespaces: Vec<String>,
    /// Pods in namespaces with these labels; the empty selector means all namespaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<LabelSelector>,
    /// Pods with these service accounts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000), inner(length(max = 253)))]
    pub service_accounts: Vec<String>,
    /// Pods with these labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_selector: Option<LabelSelector>,
}

/// Ports of a protocol, always the destination's.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PolicyPort {
    /// The protocol.
    #[serde(default)]
    pub protocol: PolicyProtocol,
    /// A number, or the name that the destination's containers give the port. Left out: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<IntOrString>,
    /// With a number in `port`: the last port of a range that begins there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_port: Option<i32>,
}

/// A protocol that rules can name.
#[derive(Serialize, Deserialize, Debug, Clone, Copy, Default, PartialEq, Eq, JsonSchema)]
pub enum PolicyProtocol {
    /// TCP.
    #[default]
    #[serde(rename = "TCP")]
    Tcp,
    /// UDP.
    #[serde(rename = "UDP")]
    Udp,
    /// SCTP.
    #[serde(rename = "SCTP")]
    Sctp,
    /// ICMP of IPv4; has no ports.
    #[serde(rename = "ICMP")]
    Icmp,
    /// ICMP of IPv6; has no ports.
    #[serde(rename = "ICMPv6")]
    Icmpv6,
}

/// What the hub knows about a policy.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SlicePolicyStatus {
    /// The generation this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Clusters whose nodes carry it out as it is now, of those of the slice, as `1/2`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub programmed_clusters: Option<String>,
    /// Connections that it has decided about, in all clusters. After a change of any policy the
    /// next packet of a connection is decided about anew, and counted.
    #[serde(default)]
    pub hits: i64,
    /// Those among what passed that would have been dropped, were nothing in audit mode.
    #[serde(default)]
    pub would_drop: i64,
    /// Rules that have decided about nothing in any cluster, as `ingress[0]`; at most 64 are
    /// listed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unused_rules: Vec<String>,
    /// The policy in each cluster of the slice.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub clusters: Vec<PolicyClusterStatus>,
    /// Every fault found in the spec; empty when it is accepted. A policy with faults is carried
    /// out as it was when it had none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub violations: Vec<Fault>,
    /// `Accepted`: the spec is valid. `Programmed`: every node of every cluster carries it out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// A policy in one cluster.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyClusterStatus {
    /// The cluster's name.
    pub name: String,
    /// Whether its nodes carry the policy out as it is now.
    #[serde(default)]
    pub programmed: bool,
    /// Why not, with what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// What it has decided about there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<RuleHits>,
}

/// What a rule, or what no rule lists, has come to.
#[derive(
    Serialize, Deserialize, Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, JsonSchema,
)]
#[serde(rename_all = "camelCase")]
pub struct RuleHits {
    /// `ingress` or `egress`.
    #[schemars(length(max = 8))]
    pub direction: String,
    /// The rule's place in that list, from 0; left out: what none of a namespace's policies lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<i32>,
    /// Connections decided about.
    #[serde(default)]
    pub hits: i64,
    /// Connections that passed and would have been dropped, were nothing in audit mode.
    #[serde(default)]
    pub would_drop: i64,
}

/// A slice's own say about who may talk to whom.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct SlicePolicySettings {
    /// What happens to connections that no policy is about.
    #[serde(default)]
    pub default: PolicyDefault,
    /// Whether that default is carried out, or (`audit`) only counted.
    #[serde(default)]
    pub enforce: Enforcement,
    /// Whether NetworkPolicies of the slice's namespaces hold on the slice's NICs, too, each for
    /// the pods of the cluster it is in.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub apply_network_policies: bool,
}

/// What happens to connections that no policy is about.
#[derive(Serialize, Deserialize, Debug, Clone, Copy, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PolicyDefault {
    /// They pass.
    #[default]
    Open,
    /// They do not.
    Deny,
}
