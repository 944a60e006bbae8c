//! The protocol side of a device: packets, messages and `now` in, messages, packets and events
//! out, straight into the caller's buffers. No sockets, no threads.

mod admission;
pub mod allowed_ips;
pub mod device;
pub mod peer;
pub mod tables;
mod turns;
