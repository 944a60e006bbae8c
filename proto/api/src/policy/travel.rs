//! How policies, and what is known of pods, travel between the clusters of a slice.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{RuleHits, SlicePolicySpec};

/// A policy of a slice as a cluster is told it.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[kube(
    group = "slicewire.dev",
    version = "v1alpha1",
    kind = "WorkerPolicy",
    plural = "workerpolicies",
    namespaced,
    status = "WorkerPolicyStatus",
    derive = "PartialEq",
    category = "slicewire",
    printcolumn(name = "Slice", type_ = "string", json_path = ".spec.slice"),
    printcolumn(name = "Policy", type_ = "string", json_path = ".spec.policy"),
    printcolumn(
        name = "Programmed",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Programmed')].status"
    ),
    doc = "A policy of a slice as a cluster is told it. Written by the hub controller; the worker reports in the status."
)]
#[serde(rename_all = "camelCase")]
pub struct WorkerPolicySpec {
    /// The slice.
    pub slice: String,
    /// The cluster this object is for.
    pub cluster: String,
    /// The policy's name.
    pub policy: String,
    /// Which version of it this is: the SlicePolicy's generation.
    pub revision: i64,
    /// What it says.
    pub rules: SlicePolicySpec,
}

/// What a worker reports about a policy.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkerPolicyStatus {
    /// The version of the policy this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<i64>,
    /// What it has decided about in this cluster.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2048))]
    pub hits: Vec<RuleHits>,
    /// `Programmed`: every node of this cluster that has the slice carries it out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub conditions: Vec<Condition>,
}

/// Some of a cluster's pods on a slice: in the cluster's own namespace on the hub with nothing in
/// the spec, for the worker to report them in the status, and in the other clusters' namespaces
/// with what was reported, checked, in the spec.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[kube(
    group = "slicewire.dev",
    version = "v1alpha1",
    kind = "WorkerEndpoints",
    plural = "workerendpoints",
    namespaced,
    status = "WorkerEndpointsStatus",
    derive = "PartialEq",
    category = "slicewire",
    printcolumn(name = "Slice", type_ = "string", json_path = ".spec.slice"),
    printcolumn(name = "Of", type_ = "string", json_path = ".spec.cluster"),
    doc = "Some of a cluster's pods on a slice, as that cluster reports them and as the others are told them. Written by the hub controller; the worker reports its own in the status."
)]
#[serde(rename_all = "camelCase")]
pub struct WorkerEndpointsSpec {
    /// The slice.
    pub slice: String,
    /// The cluster whose pods these are.
    pub cluster: String,
    /// Which of that cluster's objects this is, from 0.
    pub number: i32,
    /// The pods; empty where the cluster itself reports them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<PolicyEndpoint>,
}

/// What a worker reports of its pods.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkerEndpointsStatus {
    /// The pods.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128))]
    pub endpoints: Vec<PolicyEndpoint>,
}

/// A pod on a slice, as other clusters know it: no more of it than policies of the slice ask.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyEndpoint {
    /// Its namespace.
    #[schemars(length(max = 63))]
    pub namespace: String,
    /// Its name.
    #[schemars(length(max = 253))]
    pub pod: String,
    /// Its addresses on the slice.
    #[schemars(length(max = 4), inner(length(max = 45)))]
    pub addresses: Vec<String>,
    /// What policies select it by.
    #[serde(flatten)]
    pub identity: PodIdentity,
}

/// What policies of a slice select a pod by; only what some policy asks.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodIdentity {
    /// Its service account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub service_account: Option<String>,
    /// Labels of it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 128))]
    pub labels: BTreeMap<String, String>,
    /// Labels of its namespace.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 128))]
    pub namespace_labels: BTreeMap<String, String>,
    /// Named ports of it, as `TCP/web=8080`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(max = 32)))]
    pub ports: Vec<String>,
}

/// What clusters of a slice tell each other of their pods, because policies ask it. Nothing is
/// told where there is none.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyKeys {
    /// Pods' labels with these keys.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(max = 317)))]
    pub pods: Vec<String>,
    /// Namespaces' labels with these keys.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(max = 317)))]
    pub namespaces: Vec<String>,
    /// Numbers of ports with these names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(max = 15)))]
    pub ports: Vec<String>,
    /// Service accounts.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub service_accounts: bool,
}

/// A policy of a slice in this cluster: the hub's word, kept here so that losing the hub stops
/// nothing but changes.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[kube(
    group = "slicewire.dev",
    version = "v1alpha1",
    kind = "SliceRules",
    plural = "slicerules",
    namespaced,
    derive = "PartialEq",
    category = "slicewire",
    printcolumn(name = "Slice", type_ = "string", json_path = ".spec.slice"),
    printcolumn(name = "Policy", type_ = "string", json_path = ".spec.policy"),
    printcolumn(name = "Revision", type_ = "integer", json_path = ".spec.revision"),
    doc = "A policy of a slice in this cluster. Written by the worker controller from what the hub says; do not edit."
)]
#[serde(rename_all = "camelCase")]
pub struct SliceRulesSpec {
    /// The slice.
    pub slice: String,
    /// The policy's name.
    pub policy: String,
    /// Which version of it this is.
    pub revision: i64,
    /// What it says.
    pub rules: SlicePolicySpec,
}

/// Pods of another cluster on a slice: the hub's word, kept here so that losing the hub stops
/// nothing but changes.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[kube(
    group = "slicewire.dev",
    version = "v1alpha1",
    kind = "SliceEndpoints",
    plural = "sliceendpoints",
    namespaced,
    derive = "PartialEq",
    category = "slicewire",
    printcolumn(name = "Slice", type_ = "string", json_path = ".spec.slice"),
    printcolumn(name = "Of", type_ = "string", json_path = ".spec.cluster"),
    doc = "Pods of another cluster on a slice. Written by the worker controller from what the hub says; do not edit."
)]
#[serde(rename_all = "camelCase")]
pub struct SliceEndpointsSpec {
    /// The slice.
    pub slice: String,
    /// The cluster whose pods these are.
    pub cluster: String,
    /// The pods.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<PolicyEndpoint>,
}

/// A policy as a node carries it out.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodePolicy {
    /// The policy's name; of a cluster's own NetworkPolicy `<namespace>/<name>`.
    pub policy: String,
    /// Which version of it is in the kernel; left out for NetworkPolicies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<i64>,
    /// What it has decided about here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hits: Vec<RuleHits>,
}
