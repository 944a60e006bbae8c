//! Answers questions about the slices' services, on a thread of its own.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use slicewire_dns::{BindError, Limits, Names, Sockets, serve};
use tokio_util::sync::CancellationToken;

/// The server cannot be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    /// An address cannot be had.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// No thread, or nothing to wait with.
    #[error("cannot start the DNS server's thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// A server, or none where there are no addresses.
pub(crate) struct Serving {
    /// What it knows, and its counters.
    pub(crate) names: Names,
    ended: CancellationToken,
}

impl Serving {
    /// Waits until the questions that had arrived are answered, a second at most.
    pub(crate) async fn ended(self) {
        if tokio::time::timeout(Duration::from_secs(1), self.ended.cancelled()).await.is_err() {
            tracing::warn!("the DNS server does not end; its last answers may be lost");
        }
    }
}

/// Serves on all the addresses until `stop`. Whatever is asked there, the rest of the daemon keeps
/// its threads.
///
/// # Errors
/// What could not be had; then nothing is served.
pub(crate) fn start(
    addresses: &[SocketAddr],
    per_client: NonZeroU32,
    stop: &CancellationToken,
) -> Result<Serving, StartError> {
    let limits = Limits { per_client, ..Limits::default() };
    let (names, ended) = (Names::new(&limits), CancellationToken::new());
    let guard = ended.clone().drop_guard();
    if addresses.is_empty() {
        return Ok(Serving { names, ended });
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let sockets = {
        let _inside = runtime.enter();
        addresses.iter().map(|a| Sockets::bind(*a)).collect::<Result<Vec<_>, _>>()?
    };
    let (served, stop) = (names.clone(), stop.clone());
    std::thread::Builder::new().name("dns".to_owned()).spawn(move || {
        let all = sockets.into_iter().map(|s| serve(s, served.clone(), stop.clone()));
        runtime.block_on(futures::future::join_all(all));
        drop(guard);
    })?;
    tracing::info!(?addresses, "DNS is served");
    Ok(Serving { names, ended })
}
