//! GatewayService: tells the pod's other container about the tunnels.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures::Stream;
use slicewire_rpc::gateway::v1::gateway_service_server::{GatewayService, GatewayServiceServer};
use slicewire_rpc::gateway::v1::{WatchTunnelsRequest, WatchTunnelsResponse};
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::gateway::{Snapshot, Snapshots};

/// How often counters are refreshed unless the watcher says otherwise.
const INTERVAL: Duration = Duration::from_secs(1);

/// Serves on the socket until `stop`.
pub(super) fn start(
    path: &Path,
    snapshots: Snapshots,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let place = || {
        format!(
            "cannot listen on {}: both containers need a shared directory there, \
             or choose another with --socket",
            path.display()
        )
    };
    // What a former life of this container left; nobody else listens here.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(place);
        }
        _ => {}
    }
    let listener = UnixListener::bind(path).with_context(place)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).with_context(place)?;
    let server = tonic::transport::Server::builder()
        .add_service(GatewayServiceServer::new(Service { snapshots, stop: stop.clone() }));
    tokio::spawn(async move {
        let incoming = UnixListenerStream::new(listener);
        if let Err(error) = server.serve_with_incoming_shutdown(incoming, stop.cancelled()).await {
            tracing::error!(%error, "the tunnels' state is no longer told");
        }
    });
    Ok(())
}

struct Service {
    snapshots: Snapshots,
    stop: CancellationToken,
}

#[tonic::async_trait]
impl GatewayService for Service {
    type WatchTunnelsStream =
        Pin<Box<dyn Stream<Item = Result<WatchTunnelsResponse, Status>> + Send>>;

    async fn watch_tunnels(
        &self,
        request: Request<WatchTunnelsRequest>,
    ) -> Result<Response<Self::WatchTunnelsStream>, Status> {
        let interval = match request.into_inner().interval_ms {
            0 => INTERVAL,
            ms => Duration::from_millis(u64::from(ms)),
        };
        let (send, receive) = mpsc::channel(1);
        let tell = tell(self.snapshots.clone(), interval, send);
        let stop = self.stop.clone();
        tokio::spawn(async move { stop.run_until_cancelled(tell).await });
        Ok(Response::new(Box::pin(ReceiverStream::new(receive))))
    }
}

type Sender = mpsc::Sender<Result<WatchTunnelsResponse, Status>>;

/// Tells the newest snapshot at once, and again when it has news or `interval` has passed.
async fn tell(mut snapshots: Snapshots, interval: Duration, send: Sender) {
    let mut told: Option<(u64, Instant)> = None;
    loop {
        let newest: Option<Arc<Snapshot>> = snapshots.borrow_and_update().clone();
        if let Some(newest) = newest
            && told.is_none_or(|(v, at)| v != newest.version || at.elapsed() >= interval)
        {
            let message = WatchTunnelsResponse::from(&newest.tunnels);
            if send.send(Ok(message)).await.is_err() {
                return;
            }
            told = Some((newest.version, Instant::now()));
        }
        let next = told.map_or_else(Instant::now, |(_, at)| at) + interval;
        tokio::select! {
            changed = snapshots.changed() => if changed.is_err() { return },
            () = tokio::time::sleep_until(next), if told.is_some() => {}
            () = send.closed() => return,
        }
    }
}
