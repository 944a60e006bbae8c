//! Services that one cluster of a slice exports and every cluster of it can use by name.
//!
//! | module | is |
//! |---|---|
//! | [`model`] | exports, imports and endpoints, validated |
//! | [`spec`] | a Service that is to be exported, as a cluster tells it → [`model`], or every fault |
//! | [`endpoints`] | the pods behind it, as a cluster tells of them → [`model`], and what is not believed |
//! | [`merge`] | what the clusters export → what every cluster imports, and who disagrees |
//! | [`conditions`] | what a ServiceExport is told |
//! | [`vip`] | the virtual addresses of services |
//! | [`near`] | which endpoints are preferred because of where they are |
//! | [`balance`] | which endpoints a virtual address leads to, and how often |
//! | [`translate`] | all virtual addresses of a node as one value, and what changes it |
//!
//! The rules are those of the Multi-Cluster Services API (KEP-1645, `multicluster.x-k8s.io`), with a
//! slice for the cluster set: namespaces of one name are one namespace inside a slice, and endpoints
//! carry their pods' slice addresses.

pub mod balance;
pub mod conditions;
pub mod endpoints;
pub mod merge;
pub mod model;
pub mod near;
pub mod spec;
pub mod translate;
pub mod vip;

pub use balance::{Balance, Here, Reach, Target, balance};
pub use conditions::{Judgement, Status};
pub use merge::{Conflict, ConflictReason, Merged, merge};
pub use model::{
    Affinity, Endpoint, Export, Import, InternalTraffic, Kind, Port, Protocol, ServiceName,
};
