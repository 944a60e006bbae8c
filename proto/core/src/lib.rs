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
//! | [`slice_spec`] | whether a slice can be had as it is written |
//! | [`ipam`] | which cluster and which node gets which part of a slice's prefixes |
//! | [`topology`] | the gateways' lanes, tunnels and device addresses |
//! | [`vni`] | which VXLAN identifier a slice has in a cluster |
//! | [`admission`] | which new pods wait for their NIC |
//! | [`node_addresses`] | which address a pod gets out of its node's blocks |
//! | [`attach`] | which slice NICs a pod has |
//! | [`routes`] | where a slice router sends packets |
//! | [`gateway`] | what a gateway knows and tells, and when it is worth telling |
//! | [`health`] | whether a tunnel works, and how well |
//! | [`probe`] | when which probe is sent, and what is in it |

pub mod admission;
pub mod attach;
pub mod gateway;
pub mod health;
pub mod ipam;
pub mod name;
pub mod node_addresses;
pub mod onboarding;
pub mod prefix;
pub mod probe;
pub mod routes;
pub mod selector;
pub mod slice_spec;
pub mod topology;
pub mod violation;
pub mod vni;
