//! How services, and what is behind them, travel between the clusters of a slice.

mod convert;

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use convert::{PlannedService, plan_from, plan_into};

/// A place in which a cluster tells the hub of a Service of its own, and the hub's answer.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[kube(
    group = "slicewire.dev",
    version = "v1alpha1",
    kind = "WorkerServiceExport",
    plural = "workerserviceexports",
    namespaced,
    status = "WorkerServiceExportStatus",
    derive = "PartialEq",
    category = "slicewire",
    printcolumn(name = "Slice", type_ = "string", json_path = ".spec.slice"),
    printcolumn(name = "Namespace", type_ = "string", json_path = ".status.services[0].namespace"),
    printcolumn(name = "Service", type_ = "string", json_path = ".status.services[0].name"),
    printcolumn(name = "Accepted", type_ = "boolean", json_path = ".spec.answer.accepted"),
    doc = "A place in which a cluster tells the hub of a Service of its own, and the hub's answer. Made by the hub controller; the worker reports in the status."
)]
#[serde(rename_all = "camelCase")]
pub struct WorkerServiceExportSpec {
    /// The slice.
    pub slice: String,
    /// The cluster that reports here.
    pub cluster: String,
    /// Which of that cluster's places this is, from 0.
    pub number: i32,
    /// What the hub says to what is reported here; left out while nothing is, or it has not been
    /// looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<ExportAnswer>,
}

/// What the hub says to a Service that a cluster tells it of.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExportAnswer {
    /// The Service's namespace.
    pub namespace: String,
    /// The Service's name.
    pub name: String,
    /// Whether the slice has the service with what this cluster tells of it.
    pub accepted: bool,
    /// What is wrong and what to do, where something is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// What the clusters that export it disagree about.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conflicts: Vec<ServiceConflict>,
}

/// Something that clusters which export a service disagree about.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceConflict {
    /// The standard's word for it, as `PortConflict`.
    pub reason: String,
    /// Clusters that differ from the one that exported first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub clusters: Vec<String>,
    /// What they disagree about, what is used, and what to do.
    pub message: String,
}

/// What a worker reports in a place.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkerServiceExportStatus {
    /// The Service; none where the place is free. A list, because a patch replaces lists as a whole.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1))]
    pub services: Vec<ReportedService>,
}

/// A Service of a cluster and the pods behind it, by their slice addresses.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReportedService {
    /// Its namespace.
    #[schemars(length(max = 63))]
    pub namespace: String,
    /// Its name.
    #[schemars(length(max = 63))]
    pub name: String,
    /// Whether other clusters may use it; otherwise it has its slice address and names in its own.
    #[serde(default)]
    pub exported: bool,
    /// When it was exported, seconds since 1970: of two that disagree the older one counts.
    #[serde(default)]
    pub created: i64,
    /// How it is reached.
    #[serde(flatten)]
    pub shape: ServiceShape,
    /// The pods behind it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000))]
    pub endpoints: Vec<ServiceEndpoint>,
    /// How much each of them counts against those of other clusters, 0 to 1,000: what the
    /// ServiceExport's annotation `slicewire.dev/weight` says. With 0 they get no new connection, from
    /// clients of their own cluster neither. Left out: what the slice's `spec.services` says of the
    /// cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub weight: Option<i32>,
}

/// How a service is reached, without its addresses.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceShape {
    /// It has no virtual address, its names lead to its endpoints.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub headless: bool,
    /// Its ports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    pub ports: Vec<ServicePort>,
    /// Seconds of silence for which a client stays with its endpoint; left out: it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity_seconds: Option<i32>,
    /// Only endpoints on the client's node are used.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub internal_traffic_local: bool,
    /// The Service's `trafficDistribution`. With `PreferSameNode` a client's connections go to endpoints
    /// on its own node, where there are none to its zone's, and where there are none to all, as
    /// the slice spreads them; `PreferSameZone` and `PreferClose` begin with the zone. Endpoints of other
    /// clusters are never near. Other values prefer nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub traffic_distribution: Option<String>,
    /// `IPv4` and `IPv6`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2), inner(length(max = 4)))]
    pub ip_families: Vec<String>,
    /// Labels that the imported service bears.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub labels: BTreeMap<String, String>,
    /// Annotations that the imported service bears.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub annotations: BTreeMap<String, String>,
}

/// A port of a service.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServicePort {
    /// Its name; may be empty where there is one port.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 63))]
    pub name: String,
    /// `TCP`, `UDP` or `SCTP`.
    #[schemars(length(max = 4))]
    pub protocol: String,
    /// The number clients use.
    pub port: i32,
    /// What is spoken there, a hint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 317))]
    pub app_protocol: Option<String>,
}

/// A pod behind a service.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceEndpoint {
    /// Its slice addresses, one a family.
    #[schemars(length(max = 2), inner(length(max = 45)))]
    pub addresses: Vec<String>,
    /// The service's ports on it, as `TCP/http=8080`; a port without a name as `TCP/=8080`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100), inner(length(max = 80)))]
    pub ports: Vec<String>,
    /// Its host name, where its Service names pods.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 63))]
    pub hostname: String,
    /// The node it runs on.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 253))]
    pub node: String,
    /// The zone of that node, its `topology.kubernetes.io/zone`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 63))]
    pub zone: String,
    /// It can be sent new connections.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ready: bool,
    /// It still serves, be it that it is terminating.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub serving: bool,
    /// It is being deleted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub terminating: bool,
}

/// A service of a slice as a cluster is told it.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[kube(
    group = "slicewire.dev",
    version = "v1alpha1",
    kind = "WorkerServiceImport",
    plural = "workerserviceimports",
    namespaced,
    derive = "PartialEq",
    category = "slicewire",
    printcolumn(name = "Slice", type_ = "string", json_path = ".spec.slice"),
    printcolumn(name = "Namespace", type_ = "string", json_path = ".spec.service.namespace"),
    printcolumn(name = "Service", type_ = "string", json_path = ".spec.service.name"),
    printcolumn(name = "IPs", type_ = "string", json_path = ".spec.service.ips"),
    doc = "A service of a slice as a cluster is told it. Written by the hub controller."
)]
#[serde(rename_all = "camelCase")]
pub struct WorkerServiceImportSpec {
    /// The slice.
    pub slice: String,
    /// The cluster this object is for.
    pub cluster: String,
    /// The service.
    pub service: ServicePlan,
}

/// A service of a slice: its addresses, and what is behind it.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServicePlan {
    /// Its namespace, the same in every cluster.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Whether some cluster exports it; otherwise it is this cluster's alone.
    #[serde(default)]
    pub exported: bool,
    /// Its virtual addresses, the same in every cluster.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ips: Vec<String>,
    /// How it is reached.
    #[serde(flatten)]
    pub shape: ServiceShape,
    /// What is behind it, by cluster.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub clusters: Vec<ServiceCluster>,
}

/// What is behind a service in one cluster.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceCluster {
    /// The cluster.
    pub cluster: String,
    /// The pods.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<ServiceEndpoint>,
    /// How much each of them counts against those of other clusters, 0 to 1,000, where the cluster's
    /// export says it. With 0 they get no new connection. A cluster to which the slice gives 0 gets
    /// none, whatever is said here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub weight: Option<i32>,
}

/// A service of a slice in this cluster: the hub's word, kept here so that losing the hub stops
/// nothing but changes.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq)]
#[kube(
    group = "slicewire.dev",
    version = "v1alpha1",
    kind = "SliceService",
    plural = "sliceservices",
    namespaced,
    derive = "PartialEq",
    category = "slicewire",
    printcolumn(name = "Slice", type_ = "string", json_path = ".spec.slice"),
    printcolumn(name = "Namespace", type_ = "string", json_path = ".spec.service.namespace"),
    printcolumn(name = "Service", type_ = "string", json_path = ".spec.service.name"),
    printcolumn(name = "IPs", type_ = "string", json_path = ".spec.service.ips"),
    doc = "A service of a slice in this cluster. Written by the worker controller from what the hub says; do not edit."
)]
#[serde(rename_all = "camelCase")]
pub struct SliceServiceSpec {
    /// The slice.
    pub slice: String,
    /// The service.
    pub service: ServicePlan,
}
