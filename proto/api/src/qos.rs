//! How much a slice may send: what people write, what clusters are told, what nodes report.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use slicewire_core::qos::{QosFields, QosSource};

/// Limits and promises that several slices can share: a SliceConfig of the same project names it in
/// `spec.qos.profile`. A change holds for all of them at once.
///
/// ```yaml
/// apiVersion: slicewire.dev/v1alpha1
/// kind: SliceQosProfile
/// metadata: {name: gold, namespace: slicewire-demo}
/// spec: {ceiling: 500M, guarantee: 100M, priority: 6, dscp: AF41}
/// ```
#[derive(
    CustomResource, Serialize, Deserialize, Debug, Clone, Default, PartialEq, Eq, JsonSchema,
)]
#[kube(
    group = "slicewire.dev",
    version = "v1alpha1",
    kind = "SliceQosProfile",
    namespaced,
    derive = "PartialEq",
    category = "slicewire",
    shortname = "swqos",
    printcolumn(name = "Ceiling", type_ = "string", json_path = ".spec.ceiling"),
    printcolumn(name = "Guarantee", type_ = "string", json_path = ".spec.guarantee"),
    printcolumn(name = "Priority", type_ = "integer", json_path = ".spec.priority"),
    printcolumn(name = "DSCP", type_ = "string", json_path = ".spec.dscp"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    doc = "Limits and promises that several slices can share."
)]
#[serde(rename_all = "camelCase")]
pub struct SliceQosProfileSpec {
    /// What the profile is for; shown to people, never interpreted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub description: Option<String>,
    /// In every cluster.
    #[serde(flatten)]
    pub limits: QosLimits,
    /// Clusters in which something differs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1024))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub clusters: Vec<ClusterQos>,
}

/// What a slice asks for: its own words go over those of its profile, and those for a cluster over
/// those for all.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SliceQos {
    /// Name of a SliceQosProfile of the same project.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub profile: Option<String>,
    /// In every cluster.
    #[serde(flatten)]
    pub limits: QosLimits,
    /// Clusters in which something differs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1024))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub clusters: Vec<ClusterQos>,
}

/// What differs in one cluster.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterQos {
    /// Name of the Cluster.
    #[schemars(length(min = 1, max = 30))]
    pub name: String,
    /// What differs there.
    #[serde(flatten)]
    pub limits: QosLimits,
}

/// Limits and promises. Rates are bits a second with the suffixes of Kubernetes' quantities, and
/// `bit` behind if one likes: `100M`, `1.5Gbit`, `64Mi`. They count the slice's packets as they are on the
/// slice NICs, Ethernet header included; tunnels' headers are not counted.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct QosLimits {
    /// Most that the slice may send from a node, and as much that it may receive there, to and from
    /// other nodes and clusters; and most for all its gateways of a cluster together, each direction.
    /// Left out: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub ceiling: Option<String>,
    /// What the slice gets on every node, each direction, when slices compete for the node's uplink.
    /// What it does not use, others may. Left out: nothing is promised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub guarantee: Option<String>,
    /// Who gets what no guarantee claims: higher goes first, equals share fairly; 0 to 7. Left out: 4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 7))]
    pub priority: Option<i32>,
    /// Code point of the slice's packets, inside and outside of tunnels: 0 to 63, or a name as `EF`,
    /// `AF41`, `CS1`. Left out: inside as pods set it, outside none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8))]
    pub dscp: Option<String>,
    /// Bytes that may pass at once after silence, as `64Ki` or `1M`. Left out: what the ceiling
    /// lets pass in 4 ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub burst: Option<String>,
    /// Most that one pod may send to, and as much that it may receive from, other nodes and
    /// clusters. Left out: the slice's ceiling; pods share that fairly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub pod_ceiling: Option<String>,
}

impl QosLimits {
    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl From<&QosLimits> for QosFields {
    fn from(limits: &QosLimits) -> Self {
        Self {
            ceiling: limits.ceiling.clone(),
            guarantee: limits.guarantee.clone(),
            priority: limits.priority,
            dscp: limits.dscp.clone(),
            burst: limits.burst.clone(),
            pod_ceiling: limits.pod_ceiling.clone(),
        }
    }
}

impl From<QosFields> for QosLimits {
    fn from(fields: QosFields) -> Self {
        Self {
            ceiling: fields.ceiling,
            guarantee: fields.guarantee,
            priority: fields.priority,
            dscp: fields.dscp,
            burst: fields.burst,
            pod_ceiling: fields.pod_ceiling,
        }
    }
}

fn source(limits: &QosLimits, clusters: &[ClusterQos]) -> QosSource {
    let clusters = clusters.iter().map(|c| (c.name.clone(), QosFields::from(&c.limits)));
    QosSource { fields: limits.into(), clusters: clusters.collect() }
}

impl From<&SliceQosProfileSpec> for QosSource {
    fn from(spec: &SliceQosProfileSpec) -> Self {
        source(&spec.limits, &spec.clusters)
    }
}

impl From<&SliceQos> for QosSource {
    fn from(qos: &SliceQos) -> Self {
        source(&qos.limits, &qos.clusters)
    }
}

/// A slice's traffic between a node and the others, as its shapers count it. Figures are rounded to
/// two digits, and written when they change.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeQos {
    /// The node.
    #[schemars(length(max = 253))]
    pub node: String,
    /// What of the node's uplink slices can use, each direction, in bits a second: its capacity
    /// without tunnels' headers. Absent: it is not known, and slices do not share it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uplink: Option<i64>,
    /// The last minute.
    #[serde(default)]
    pub minute: DeliveredQos,
    /// The last hour.
    #[serde(default)]
    pub hour: DeliveredQos,
}

/// What was delivered over some time.
#[derive(Serialize, Deserialize, Debug, Clone, Copy, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeliveredQos {
    /// Left the node, bits a second on average.
    #[serde(default)]
    pub sent: i64,
    /// Arrived at the node, bits a second on average.
    #[serde(default)]
    pub received: i64,
    /// Packets dropped because more came than may pass.
    #[serde(default)]
    pub dropped: i64,
}
