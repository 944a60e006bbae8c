//! Packets as plain bytes: headers, checksums, cutting and joining. No IO.

pub mod checksum;
pub mod coalesce;
pub(crate) mod flow;
pub mod ip;
pub mod split;
pub mod vnet;
