//! The kinds of the Multi-Cluster Services API, group `multicluster.x-k8s.io` (KEP-1645, release
//! v0.5.0 of its definitions). Both versions have the same fields, so one type serves for both;
//! requests use `v1alpha1`, which every release of the standard serves.

use std::collections::BTreeMap;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, CustomResourceExt as _};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Names the service that an EndpointSlice belongs to.
pub const SERVICE_NAME: &str = "multicluster.kubernetes.io/service-name";
/// Names the cluster whose endpoints are in an EndpointSlice.
pub const SOURCE_CLUSTER: &str = "multicluster.kubernetes.io/source-cluster";
/// The version that objects are stored in.
const STORED: &str = "v1beta1";

/// Makes the Service of the same namespace and name usable from the slice's other clusters.
#[derive(CustomResource, Serialize, Deserialize, Debug, Clone, Default, PartialEq, JsonSchema)]
#[kube(
    group = "multicluster.x-k8s.io",
    version = "v1alpha1",
    kind = "ServiceExport",
    plural = "serviceexports",
    shortname = "svcex",
    shortname = "svcexport",
    namespaced,
    status = "ServiceExportStatus",
    derive = "PartialEq",
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    doc = "Makes the Service of the same namespace and name usable from the other clusters."
)]
#[serde(rename_all = "camelCase")]
pub struct ServiceExportSpec {
    /// Labels that the imported service bears in every cluster.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub exported_labels: BTreeMap<String, String>,
    /// Annotations that the imported service bears in every cluster.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub exported_annotations: BTreeMap<String, String>,
}

/// How far an export has come.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq, JsonSchema)]
pub struct ServiceExportStatus {
    /// `Valid`: the Service can be exported. `Ready`: other clusters can use it. `Conflict`: clusters
    /// that export it disagree.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// A service that clusters export, as this cluster uses it.
#[derive(CustomResource, Serialize, Deserialize, Debug, Clone, Default, PartialEq, JsonSchema)]
#[kube(
    group = "multicluster.x-k8s.io",
    version = "v1alpha1",
    kind = "ServiceImport",
    plural = "serviceimports",
    shortname = "svcim",
    shortname = "svcimport",
    namespaced,
    status = "ServiceImportStatus",
    derive = "PartialEq",
    printcolumn(name = "Type", type_ = "string", json_path = ".spec.type"),
    printcolumn(name = "IP", type_ = "string", json_path = ".spec.ips"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    doc = "A service that clusters export, as this cluster uses it."
)]
#[serde(rename_all = "camelCase")]
pub struct ServiceImportSpec {
    /// Its ports.
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub ports: Vec<ImportPort>,
    /// Its virtual addresses, one of each family; none when it is headless.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2))]
    pub ips: Vec<String>,
    /// How it is reached.
    #[serde(rename = "type")]
    pub type_: ImportType,
    /// `None`, or `ClientIP`: a client stays with its endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_affinity: Option<String>,
    /// Details of the session affinity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_affinity_config: Option<ImportAffinity>,
    /// Families of its addresses, `IPv4` and `IPv6`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2))]
    pub ip_families: Vec<String>,
    /// `Cluster`: all endpoints are used; `Local`: those on the client's node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub internal_traffic_policy: Option<String>,
    /// Which endpoints are preferred, a hint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic_distribution: Option<String>,
}

/// How an imported service is reached.
#[derive(Serialize, Deserialize, Debug, Clone, Copy, Default, PartialEq, Eq, JsonSchema)]
pub enum ImportType {
    /// By a virtual address.
    #[default]
    #[serde(rename = "ClusterSetIP")]
    ClusterSetIp,
    /// By its endpoints' addresses.
    Headless,
}

/// A port of an imported service.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImportPort {
    /// Its name; may be left out where there is one port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// `TCP`, `UDP` or `SCTP`; TCP when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// What is spoken there, a hint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app_protocol: Option<String>,
    /// The number clients use.
    pub port: i32,
}

/// Details of session affinity.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq, Eq, JsonSchema)]
pub struct ImportAffinity {
    /// Of affinity by the client's address.
    #[serde(default, rename = "clientIP", skip_serializing_if = "Option::is_none")]
    pub client_ip: Option<ImportClientIp>,
}

/// Details of affinity by the client's address.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImportClientIp {
    /// Seconds of silence after which a client is free again, 1 to 86,400; 10,800 when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<i32>,
}

/// Who exports an imported service.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq, JsonSchema)]
pub struct ServiceImportStatus {
    /// The clusters that export it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["cluster"]))]
    pub clusters: Vec<ImportCluster>,
    /// How far the import has come.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// A cluster that exports a service.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq, Eq, JsonSchema)]
pub struct ImportCluster {
    /// Its name, a DNS label.
    pub cluster: String,
}

/// The definitions of both kinds, as the standard has them: `v1alpha1` and `v1beta1` are served.
pub(crate) fn crds() -> [CustomResourceDefinition; 2] {
    let mut export = ServiceExport::crd();
    for version in &mut export.spec.versions {
        let schema = version.schema.as_mut().and_then(|s| s.open_api_v3_schema.as_mut());
        if let Some(schema) = schema {
            // Most exports say nothing at all.
            schema.required = None;
        }
    }
    [export, ServiceImport::crd()].map(both_versions)
}

fn both_versions(mut crd: CustomResourceDefinition) -> CustomResourceDefinition {
    let stored = crd.spec.versions.iter().map(|version| {
        let mut stored = version.clone();
        STORED.clone_into(&mut stored.name);
        stored
    });
    let stored: Vec<_> = stored.collect();
    crd.spec.versions.iter_mut().for_each(|version| version.storage = false);
    crd.spec.versions.extend(stored);
    crd
}
