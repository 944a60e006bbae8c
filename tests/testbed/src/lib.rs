//! Real Kubernetes clusters on one Linux machine, without Docker or virtual
//! machines, for tests and demonstrations. See `README.md` beside the sources.

pub mod build;
pub mod cgroup;
pub mod cni;
pub mod config;
mod detour;
pub mod fault;
pub mod images;
pub mod impair;
pub mod init;
pub mod lifecycle;
pub mod link;
pub mod load;
pub mod moments;
pub mod oci;
pub mod packages;
pub mod paths;
pub mod pki;
pub mod plan;
pub mod power;
pub mod process;
pub mod progress;
pub mod relay;
pub mod spec;
mod status;
mod testbed;
pub mod tuning;
pub mod units;
pub mod wan;

pub use impair::Impairment;
pub use progress::Progress;
pub use spec::{ClusterSpec, Spec};
pub use testbed::Testbed;
