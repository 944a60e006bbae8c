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
//! | [`isolation`] | which namespaces a slice's namespaces accept traffic from on pod networks |
//! | [`ipam`] | which cluster and which node gets which part of a slice's prefixes |
//! | [`join`] | who may join a project by which token |
//! | [`member`] | what of a member's words is taken |
//! | [`topology`] | the gateways' lanes, tunnels and device addresses |
//! | [`vni`] | which VXLAN identifier a slice has in a cluster |
//! | [`admission`] | which new pods wait for their NIC |
//! | [`node_addresses`] | which address a pod gets out of its node's blocks |
//! | [`attach`] | which slice NICs a pod has |
//! | [`routes`] | where a slice router sends packets |
//! | [`gateway`] | what a gateway knows and tells, and when it is worth telling |
//! | [`rotation`] | when gateways' keys are renewed, and by which ones a tunnel's end sends |
//! | [`health`] | whether a tunnel works, and how well |
//! | [`probe`] | when which probe is sent, and what is in it |
//! | [`portal`] | what a portal's filters and tokens mean |
//! | [`qos`] | how much a slice may send, and how slices share a node's uplink |
//! | [`policy`] | who may talk to whom, and the packet rules that see to it |
//! | [`service`] | what of a service every cluster imports, where its address leads |
//! | [`traffic`] | how fast traffic is, and when it is worth telling |
//! | [`dns`] | what is answered to questions about services |

pub mod admission;
pub mod attach;
pub mod dns;
pub mod gateway;
pub mod health;
pub mod ipam;
pub mod isolation;
pub mod join;
pub mod member;
pub mod name;
pub mod node_addresses;
pub mod onboarding;
pub mod policy;
pub mod portal;
pub mod prefix;
pub mod probe;
pub mod qos;
pub mod rotation;
pub mod routes;
pub mod selector;
pub mod service;
pub mod slice_spec;
pub mod topology;
pub mod traffic;
pub mod violation;
pub mod vni;

// Tests share samples with other crates, which know this one by its name.
#[cfg(test)]
extern crate self as slicewire_core;
