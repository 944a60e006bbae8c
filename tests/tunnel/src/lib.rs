//! The tunnel on real kernels: network namespaces, WireGuard implementations from their
//! registries, faults on the way between them, and measurements.
//!
//! Everything needs root; nothing outside the namespaces made here is touched. The programs that
//! ours is tried against are built once and cached outside the repository ([`peers`]).

pub mod device;
pub mod flood;
pub mod guest;
pub mod host;
pub mod keys;
pub mod lab;
pub mod lacking;
pub mod netns;
pub mod peers;
pub mod pinger;
pub mod process;
pub mod raw;
pub mod relay;
pub mod traffic;
