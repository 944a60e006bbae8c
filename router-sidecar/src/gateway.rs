//! Listens to what `slice-gateway` says about its tunnels.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use slicewire_core::gateway::Tunnels;
use slicewire_core::violation;
use slicewire_rpc::gateway::v1::WatchTunnelsRequest;
use slicewire_rpc::gateway::v1::gateway_service_client::GatewayServiceClient;
use slicewire_runtime::ReadyGuard;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::transport::Endpoint;

use crate::TunnelsSeen;

/// Time before the socket is tried again.
const RETRY: Duration = Duration::from_millis(200);

/// Follows the tunnels until `stop`. While slice-gateway is away, what it said last stays: its
/// device may go on without it, and if not, the device's absence shows that.
pub(crate) fn watch(socket: PathBuf, ready: ReadyGuard, stop: CancellationToken) -> TunnelsSeen {
    let (tell, seen) = watch::channel(None);
    crate::spawn(stop, async move {
        let mut ready = Some(ready);
        let mut away = false;
        loop {
            let ended = listen(&socket, &tell, &mut ready, &mut away).await;
            if let Err(status) = ended
                && !std::mem::replace(&mut away, true)
            {
                let socket = socket.display();
                let why = status.message();
                tracing::info!(%socket, why, "slice-gateway does not answer; waiting for it");
            }
            tokio::time::sleep(RETRY).await;
        }
    });
    seen
}

async fn listen(
    socket: &Path,
    tell: &watch::Sender<Option<Arc<Tunnels>>>,
    ready: &mut Option<ReadyGuard>,
    away: &mut bool,
) -> Result<(), Status> {
    let unreachable = |error: tonic::transport::Error| Status::unavailable(error.to_string());
    let uri = format!("unix://{}", socket.display());
    let channel = Endpoint::from_shared(uri).map_err(unreachable)?;
    let channel = channel.connect().await.map_err(unreachable)?;
    let mut client = GatewayServiceClient::new(channel);
    let mut stream = client.watch_tunnels(WatchTunnelsRequest::default()).await?.into_inner();
    while let Some(message) = stream.message().await? {
        match Tunnels::try_from(message) {
            Ok(tunnels) => {
                if std::mem::take(away) || ready.is_some() {
                    let (slice, lane) = (&tunnels.slice, tunnels.lane);
                    tracing::info!(%slice, lane, "listening to slice-gateway");
                }
                drop(ready.take());
                let tunnels = Arc::new(tunnels);
                tell.send_if_modified(|last| {
                    let changed = last.as_ref() != Some(&tunnels);
                    *last = Some(tunnels);
                    changed
                });
            }
            Err(faults) => {
                let faults = violation::summary(&faults);
                tracing::warn!(%faults, "slice-gateway said what cannot be; ignored");
            }
        }
    }
    Err(Status::unavailable("it ended the stream"))
}
