//! Whole stories on real Kubernetes: the harness they share.
//!
//! One testbed (`hub`, `east`, `west`) is brought up and Slicewire is installed on it once, as a
//! user would: `slicectl install`, `slicectl token create`, `slicectl join`, `kubectl apply`. The stories then run one
//! after the other, each cleaning up after itself.

pub mod bench;
pub mod member;
pub mod pods;
pub mod portal;
pub mod story;
pub mod traffic;
pub mod world;

pub use story::{Story, run};
pub use world::World;
