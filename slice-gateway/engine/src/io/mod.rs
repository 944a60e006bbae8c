//! The engine's only system calls, and its only `unsafe`.

mod addr;
pub(crate) mod sched;
pub(crate) mod tun;
pub(crate) mod udp;
pub(crate) mod wait;
