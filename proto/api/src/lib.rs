//! The Kubernetes API of Slicewire: group `slicewire.dev`, version `v1alpha1`.
//!
//! The field docs of these types are the API reference: they become the descriptions in
//! `deploy/crds`, and what `kubectl explain` prints.
//!
//! | where | kinds |
//! |---|---|
//! | hub, per project | [`Project`], [`Cluster`], [`SliceConfig`] |
//! | hub, per cluster | [`WorkerSlice`], [`WorkerGateway`], and a copy of the cluster's own [`Cluster`] |
//! | worker | [`Slice`], [`SliceGateway`], [`SliceNode`] |

#![allow(unreachable_pub, reason = "the KubeSchema derive copies each type into a function body")]

pub mod condition;
pub mod convert;
pub mod hub;
pub mod labels;
pub mod worker;

pub use hub::*;
pub use worker::*;

/// The API group of every kind here.
pub const GROUP: &str = "slicewire.dev";
/// The version of every kind here.
pub const VERSION: &str = "v1alpha1";

/// Every CustomResourceDefinition, with the cluster role it belongs to (`hub` or `worker`).
pub fn crds() -> Vec<(
    &'static str,
    k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
)> {
    use kube::CustomResourceExt;
    vec![
        ("hub", Project::crd()),
        ("hub", Cluster::crd()),
        ("hub", SliceConfig::crd()),
        ("hub", WorkerSlice::crd()),
        ("hub", WorkerGateway::crd()),
        ("worker", Slice::crd()),
        ("worker", SliceGateway::crd()),
        ("worker", SliceNode::crd()),
    ]
}
