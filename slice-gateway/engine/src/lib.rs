//! The embedded WireGuard engine: a userspace WireGuard device for kernels that have none.
//!
//! Three layers, from the inside out:
//! - [`packet`]: plain bytes — cutting super-packets, joining packets, checksums.
//! - [`core`]: the protocol side — peers, keys, allowed IPs, timers. Packets and `now` in,
//!   messages out. Handshake and cryptography are those of the `boringtun` crate.
//! - `shell` and `io`: threads, the TUN device and the UDP socket.

#![deny(unsafe_code)]

pub mod config;
pub mod core;
pub mod counters;
pub mod file;
#[allow(unsafe_code, reason = "the one module with system calls; each use says why it is sound")]
mod io;
pub mod key;
pub mod packet;
mod shell;
pub mod uapi;

pub use config::{CONTROL_DIRECTORY, Config, DEFAULT_QUEUE, Options, PeerConfig};
pub use core::peer::MessageLimits;
pub use counters::{Drop, TrafficStats};
pub use key::{KeyError, PresharedKey, PrivateKey, PublicKey};
pub use shell::{Engine, EngineError, EngineHandle, PeerStats, Stats};
