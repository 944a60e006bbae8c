//! The Kubernetes API of Slicewire: group `slicewire.dev`, version `v1alpha1`.
//!
//! The field docs of these types are the API reference: they become the descriptions in
//! `deploy/crds`, and what `kubectl explain` prints.
//!
//! | where | kinds |
//! |---|---|
//! | hub, per project | [`Project`], [`Cluster`], [`SliceConfig`], [`SlicePolicy`], [`SliceQosProfile`], [`JoinToken`] |
//! | hub, per token | [`JoinRequest`] |
//! | hub, per cluster | [`WorkerSlice`], [`WorkerGateway`], [`WorkerPolicy`], [`WorkerEndpoints`], [`WorkerServiceExport`], [`WorkerServiceImport`], [`WorkerPods`], [`WorkerTraffic`], and a copy of the cluster's own [`Cluster`] |
//! | worker | [`Slice`], [`SliceGateway`], [`SliceNode`], [`SliceRules`], [`SliceEndpoints`], [`SliceService`], and the standard's [`mcs`] |

#![allow(unreachable_pub, reason = "the KubeSchema derive copies each type into a function body")]
#![allow(
    clippy::duplicated_attributes,
    reason = "every printer column of a kube derive has a type"
)]

pub mod cluster_dns;
pub mod condition;
pub mod convert;
pub mod hub;
pub mod isolation;
pub mod labels;
pub mod mcs;
pub mod policy;
pub mod qos;
pub mod service;
pub mod worker;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSON,
};

pub use hub::*;
pub use isolation::{NamespaceIsolationProfile, NamespacePlace, SliceIsolation};
pub use policy::{
    Enforcement, NodePolicy, PodIdentity, PolicyClusterStatus, PolicyDefault, PolicyEndpoint,
    PolicyKeys, PolicyPeer, PolicyPort, PolicyProtocol, PolicyRule, PolicySubject, RuleAction,
    RuleHits, SliceEndpoints, SliceEndpointsSpec, SlicePolicy, SlicePolicySettings,
    SlicePolicySpec, SlicePolicyStatus, SliceRules, SliceRulesSpec, WorkerEndpoints,
    WorkerEndpointsSpec, WorkerEndpointsStatus, WorkerPolicy, WorkerPolicySpec, WorkerPolicyStatus,
};
pub use qos::*;
pub use service::{
    ExportAnswer, PlannedService, ReportedService, ServiceCluster, ServiceConflict,
    ServiceEndpoint, ServicePlan, ServicePort, ServiceShape, SliceService, SliceServiceSpec,
    WorkerServiceExport, WorkerServiceExportSpec, WorkerServiceExportStatus, WorkerServiceImport,
    WorkerServiceImportSpec,
};
pub use worker::*;

/// The API group of every kind here.
pub const GROUP: &str = "slicewire.dev";
/// The version of every kind here.
pub const VERSION: &str = "v1alpha1";

/// Every CustomResourceDefinition, with the cluster role it belongs to (`hub` or `worker`).
pub fn crds() -> Vec<(&'static str, CustomResourceDefinition)> {
    use kube::CustomResourceExt;
    let mut crds = vec![
        ("hub", spec_may_be_left_out(Project::crd())),
        ("hub", spec_may_be_left_out(Cluster::crd())),
        ("hub", SliceConfig::crd()),
        ("hub", SliceQosProfile::crd()),
        ("hub", spec_may_be_left_out(JoinToken::crd())),
        ("hub", JoinRequest::crd()),
        ("hub", WorkerSlice::crd()),
        ("hub", WorkerGateway::crd()),
        ("hub", SlicePolicy::crd()),
        ("hub", WorkerPolicy::crd()),
        ("hub", WorkerEndpoints::crd()),
        ("hub", WorkerServiceExport::crd()),
        ("hub", WorkerServiceImport::crd()),
        ("hub", WorkerPods::crd()),
        ("hub", WorkerTraffic::crd()),
        ("worker", Slice::crd()),
        ("worker", SliceGateway::crd()),
        ("worker", SliceNode::crd()),
        ("worker", SliceRules::crd()),
        ("worker", SliceEndpoints::crd()),
        ("worker", SliceService::crd()),
    ];
    crds.extend(mcs::crds().map(|crd| ("worker", crd)));
    crds
}

/// A kind whose fields are all optional needs no spec: the API server fills in an empty one.
fn spec_may_be_left_out(mut crd: CustomResourceDefinition) -> CustomResourceDefinition {
    for version in &mut crd.spec.versions {
        let schema = version.schema.as_mut().and_then(|s| s.open_api_v3_schema.as_mut());
        let spec = schema.and_then(|s| s.properties.as_mut()?.get_mut("spec"));
        if let Some(spec) = spec {
            spec.default = Some(JSON(serde_json::json!({})));
        }
    }
    crd
}
