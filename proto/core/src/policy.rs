//! Who may talk to whom on a slice: what policies say, what follows from them for one flow, and
//! the rules a slice router carries them out with.
//!
//! | module | is |
//! |---|---|
//! | [`model`] | endpoints and policies, validated |
//! | [`spec`] | policies as users write them → [`model`], or every fault |
//! | [`standard`] | Kubernetes NetworkPolicy values → [`model`], or every fault |
//! | [`evaluate`] | the verdict on one flow, written to be read: the oracle |
//! | [`compile`] | policies and endpoints → [`ruleset`], and what changes in it |
//! | [`keys`] | what clusters tell each other of their pods, and nothing more |
//! | [`preview`] | what a change would open and close, pair by pair |
//! | [`parts`] | many endpoints in objects of bounded size |
//! | [`ruleset`] | sets, maps and chains as plain values, and the difference of two |
//!
//! # Semantics
//! A flow is judged twice: as *egress* by the policies that select its source, on the source's
//! node, and as *ingress* by those that select its destination, on the destination's node. It
//! passes when both let it. At each end:
//!
//! 1. **Admin policies**, lowest priority number first, and in each its rules in order: the first
//!    rule that matches peer and port decides. `Allow` and `Deny` are final, `Pass` goes on to 2.
//! 2. **Namespaced policies** as Kubernetes' NetworkPolicy: when none selects the pod for this
//!    direction, 3 decides. Otherwise what any rule of any of them lists passes, the rest not.
//! 3. **The slice's default**: open or deny.
//!
//! A policy (or the default) in audit mode decides nothing. What would be dropped if everything in
//! audit mode were enforced is counted, and passes.
//!
//! Replies belong to the flow they answer. After every change the first packet of each connection
//! is judged anew, in the direction that the connection was opened, so that a connection a change
//! forbids ends with the change.

pub mod compile;
pub mod evaluate;
pub mod keys;
pub mod model;
pub mod parts;
pub mod preview;
pub mod ruleset;
pub mod spec;
pub mod standard;

pub use compile::{Compiler, Counted, EndpointChange, Port, Role, Situation};
pub use evaluate::{Because, Decision, Directory, Flow, Outcome, RuleRef, Verdict, evaluate};
pub use keys::Keys;
pub use model::{
    Action, Default, Direction, Endpoint, EndpointId, Identity, Mode, Peer, Policy, PolicyName,
    PolicySet, PortMatch, Ports, Protocol, Rule, Tier, Who,
};
pub use ruleset::{Delta, Ruleset};

#[cfg(test)]
mod interpret;
#[cfg(test)]
pub(crate) mod sample;
#[cfg(test)]
mod tests;
