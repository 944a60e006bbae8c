//! The DNS server of a node: the answers of [`slicewire_core::dns`] over UDP and TCP.
//!
//! | module | does |
//! |---|---|
//! | [`wire`] | bytes of a question → bytes of its answer; nothing else reads bytes from outside |
//! | [`server`] | sockets, limits, counters |
//! | `batch` | many datagrams by one call |
//! | [`limits`] | how much one client may ask |
//! | [`counters`] | figures for Prometheus |
//!
//! Messages are read by hickory-proto. Its server is not used: it neither counts nor limits, and starts a
//! task for every question, which costs more than the answer.

mod batch;
pub mod counters;
pub mod limits;
pub mod server;
pub mod wire;

pub use counters::Counters;
pub use limits::Limits;
pub use server::{BindError, Known, Names, Sockets, serve};
pub use wire::{Outcome, Transport, respond};
