//! The pure domain of Slicewire: what a slice is and what follows from it.
//!
//! Everything here is a total function over plain values. There is no clock,
//! no randomness, no environment, no file and no socket: whoever calls brings
//! those in as arguments, so that the same input always gives the same plan.
//! Kubernetes, protobuf and netlink types are converted at the border and
//! never come in.
//!
//! | module | decides |
//! |---|---|
//! | [`name`] | what slices, clusters, projects may be called; every derived name |
//! | [`prefix`] | address prefixes: parse, overlap, subtract |
//! | [`violation`] | how faults in input are told, all at once |
//! | [`selector`] | label selectors as Kubernetes defines them |
//! | [`onboarding`] | which pods belong to a slice |
//! | [`admission`] | which new pods wait for their NIC |
//! | [`node_addresses`] | which address a pod gets out of its node's blocks |
//! | [`attach`] | which slice NICs a pod has |
//! | [`routes`] | where a slice router sends packets |
//! | [`health`] | whether a tunnel works, and how well |
//! | [`probe`] | when which probe is sent, and what is in it |

pub mod admission;
pub mod attach;
pub mod health;
pub mod name;
pub mod node_addresses;
pub mod onboarding;
pub mod prefix;
pub mod probe;
pub mod routes;
pub mod selector;
pub mod violation;
