//! The process shell shared by all binaries: logs, metrics, readiness and shutdown.
//!
//! It knows neither slices nor Kubernetes nor the kernel.

mod admin;
mod metrics;
pub mod reconcile;
mod shutdown;
mod telemetry;

pub use admin::{Health, ReadyGuard, serve_admin};
pub use metrics::Metrics;
pub use shutdown::shutdown_signal;
pub use telemetry::init as init_telemetry;
