//! Logs.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;

/// Starts logging to standard error: human-readable on a terminal, JSON lines elsewhere.
///
/// `RUST_LOG` overrides what is logged; the default is INFO, which holds user-visible changes. The
/// Kubernetes client's own word on failed requests is left out unless it is asked for: whoever made
/// the request tells it, once.
pub fn init() {
    use std::io::IsTerminal;
    let wanted = std::env::var("RUST_LOG").unwrap_or_default();
    let wanted = if wanted.trim().is_empty() { "info".to_owned() } else { wanted };
    let quiet =
        if wanted.contains("kube_client") { "" } else { ",kube_client::client::builder=off" };
    let filter = EnvFilter::new(format!("{wanted}{quiet}"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_span_events(FmtSpan::NONE)
        .with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() {
        builder.init();
    } else {
        builder.json().flatten_event(true).init();
    }
}
