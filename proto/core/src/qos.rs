//! How much a slice may send: what may be asked for, and what follows from it on a node.
//!
//! | module | decides |
//! |---|---|
//! | [`rate`] | how bit rates and sizes are written |
//! | [`spec`] | whether what is asked for can be had; what holds in which cluster |
//! | [`share`] | how the slices of a node share its uplink |
//! | [`shape`] | queues and classes of one slice on one node |
//! | [`meter`] | what was delivered over the last minute and hour |
//!
//! A rate counts the slice's own packets as they are on the slice NICs, with their 14 bytes of
//! Ethernet header; tunnels add theirs outside of it.

pub mod meter;
pub mod rate;
pub mod shape;
pub mod share;
pub mod spec;

pub use meter::Meter;
pub use rate::{Bytes, Rate};
pub use spec::{Dscp, Qos, QosFields, QosSource};
