//! The kernel's network, as narrow ports: the only crate that speaks route netlink, the kernel's
//! WireGuard, sysctl and network namespaces. It carries out and reports; it decides nothing.
//!
//! * [`Network`] opens, makes and removes network namespaces; [`Namespace`] observes one and
//!   applies a list of [`Op`]s to it. Planners compare [`State`]s and return operations as plain
//!   data; only the two traits do anything.
//! * [`Kernel`] is the real one, [`fake::FakeNetwork`] one in memory with the same rules and
//!   injectable errors.
//! * [`Filter`] has the packet rules of a namespace, in tables of their own.
//! * [`Shaper`] has the queues of a namespace, on devices of their own.
//! * An object that is already there on adding, or already gone on deleting, is success.
//! * Lists of routes and rules hold only ours ([`PROTOCOL`]), lists of neighbours only permanent
//!   ones, so that nobody else's can end up in a plan.

mod error;
pub mod fake;
mod model;
mod netlink;
mod netns;
mod nft;
mod op;
mod port;
mod real;
mod shape;
mod sysctl;
mod visit;
mod wireguard;

pub use error::{Error, Errors};
pub use model::{
    Address, Fdb, Hop, Link, LinkKind, Mac, Neighbour, NextHops, Route, Rule, State, Vxlan,
};
pub use netns::NsId;
pub use nft::{Count, Filter, Marked};
pub use op::{LinkChange, LinkEnd, Op};
pub use port::{Namespace, Network, Ns, OnError, PacketRules, Rules};
pub use real::Kernel;
pub use shape::{ARRIVING, LEAVING, Shaped, ShapedBoth, Shaper};
pub use wireguard::{
    WireguardDevice, WireguardKey, WireguardPeer, WireguardPeerState, WireguardUpdate,
};

/// The routing protocol number on every route and rule we make; see `ip route … proto 83`.
pub const PROTOCOL: u8 = 83;
/// Number of the kernel's main routing table.
pub const MAIN_TABLE: u32 = 254;
