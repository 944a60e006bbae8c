//! What a portal writes besides objects: filters, and where a list or a watch goes on.
//!
//! All of it is outside input.

pub mod filter;
pub mod position;
