//! Liveness, readiness and metrics over HTTP, for kubelets and Prometheus.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// What the process still waits for before it is ready.
///
/// Every part that has to come up takes a [`ReadyGuard`] at start and drops it when it is up; the
/// process is ready when none is left. Forgetting one is impossible to overlook: it is named in
/// the answer of `/readyz`.
#[derive(Clone, Default)]
pub struct Health {
    waiting: Arc<Mutex<BTreeSet<&'static str>>>,
}

/// Held by a part of the process that is not up yet; dropping it says that it is.
pub struct ReadyGuard {
    health: Health,
    part: &'static str,
}

impl Health {
    /// Announces a part that has to come up.
    #[must_use]
    pub fn wait_for(&self, part: &'static str) -> ReadyGuard {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(part);
        ReadyGuard { health: self.clone(), part }
    }

    fn missing(&self) -> Vec<&'static str> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }
}

impl Drop for ReadyGuard {
    fn drop(&mut self) {
        self.health.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(self.part);
    }
}

/// Serves `/healthz`, `/readyz` and `/metrics` until `stop`.
///
/// `metrics` renders the Prometheus text format when asked.
///
/// # Errors
/// The address cannot be bound.
pub async fn serve_admin(
    address: SocketAddr,
    health: Health,
    metrics: impl Fn() -> String + Send + Sync + 'static,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    let metrics = Arc::new(metrics);
    tokio::spawn(async move {
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            let Ok((stream, _)) = accepted else { continue };
            let health = health.clone();
            let metrics = metrics.clone();
            tokio::spawn(async move {
                let answered = tokio::time::timeout(
                    std::time::Duration::from_secs(5),
                    answer(stream, &health, &*metrics),
                );
                if let Ok(Err(error)) = answered.await {
                    tracing::debug!(%error, "admin request failed");
                }
            });
        }
    });
    Ok(())
}

/// Answers one HTTP/1.0 request; probes and scrapers send nothing but a path.
async fn answer(
    mut stream: TcpStream,
    health: &Health,
    metrics: &(impl Fn() -> String + ?Sized),
) -> std::io::Result<()> {
    let mut request = [0u8; 1024];
    let n = stream.read(&mut request).await?;
    let line = String::from_utf8_lossy(request.get(..n).unwrap_or_default()).into_owned();
    let path = line.split_whitespace().nth(1).unwrap_or("/");
    let (status, body) = match path {
        "/healthz" => ("200 OK", "ok\n".to_owned()),
        "/metrics" => ("200 OK", metrics()),
        "/readyz" => match health.missing().as_slice() {
            [] => ("200 OK", "ok\n".to_owned()),
            parts => ("503 Service Unavailable", format!("waiting for: {}\n", parts.join(", "))),
        },
        _ => ("404 Not Found", "try /healthz, /readyz or /metrics\n".to_owned()),
    };
    let head = format!(
        "HTTP/1.0 {status}\r\ncontent-type: text/plain; version=0.0.4\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}
