//! RouteService: tells the nodes and the cluster's controller what can be reached.
//!
//! Security property: it is told to the cluster's nodes and controller, which show certificates for
//! clients of the cluster's own authority, and to nobody else. Whoever connects from an address of
//! the slice is turned away before: nobody can take such an address from outside the slice and get
//! an answer, because the pod's routes lead into the slice for it.

use std::net::IpAddr;
use std::pin::Pin;
use std::time::Duration;

use anyhow::Context as _;
use futures::{Stream, StreamExt as _};
use slicewire_rpc::gateway::v1::route_service_server::{RouteService, RouteServiceServer};
use slicewire_rpc::gateway::v1::{WatchRoutesRequest, WatchRoutesResponse};
use slicewire_rpc::tls::{self, Accepting};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::TunnelsSeen;
use crate::report::RoutesSeen;

/// A watcher hears something at least this often.
const REGULARLY: Duration = Duration::from_secs(5);
/// Dead watchers are found out after this.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// Listens on all addresses.
pub(crate) async fn listen(port: u16) -> anyhow::Result<TcpListener> {
    let [v6, v4] = crate::any(port);
    match TcpListener::bind(v6).await {
        Ok(listener) => Ok(listener),
        Err(_) => TcpListener::bind(v4).await.with_context(|| {
            format!("cannot listen on TCP port {port}; choose another with --routes-port")
        }),
    }
}

/// Serves until `stop`.
pub(crate) async fn run(
    listener: TcpListener,
    accepting: Accepting,
    tunnels: TunnelsSeen,
    routes: RoutesSeen,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let incoming = TcpListenerStream::new(listener).filter(move |accepted| {
        let inside = accepted.as_ref().ok().and_then(|stream| {
            let peer = stream.peer_addr().ok()?.ip().to_canonical();
            from_slice(&tunnels, peer).then_some(peer)
        });
        if let Some(peer) = inside {
            tracing::debug!(%peer, "turned away: the route stream is not for the slice");
        }
        std::future::ready(inside.is_none())
    });
    let incoming = tls::accept(incoming, accepting);
    let service = RouteServiceServer::new(Service { routes, stop: stop.clone() });
    tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .add_service(service)
        .serve_with_incoming_shutdown(incoming, stop.cancelled())
        .await
        .context("the route stream ended")
}

fn from_slice(tunnels: &TunnelsSeen, peer: IpAddr) -> bool {
    let tunnels = tunnels.borrow();
    tunnels.as_ref().is_some_and(|tunnels| tunnels.prefixes.iter().any(|p| p.contains(&peer)))
}

struct Service {
    routes: RoutesSeen,
    stop: CancellationToken,
}

#[tonic::async_trait]
impl RouteService for Service {
    type WatchRoutesStream =
        Pin<Box<dyn Stream<Item = Result<WatchRoutesResponse, Status>> + Send>>;

    async fn watch_routes(
        &self,
        request: Request<WatchRoutesRequest>,
    ) -> Result<Response<Self::WatchRoutesStream>, Status> {
        let watcher = request.into_inner().watcher;
        let (send, receive) = mpsc::channel(1);
        let (tell, stop) = (tell(self.routes.clone(), send), self.stop.clone());
        tokio::spawn(async move {
            tracing::info!(watcher, "watches the routes");
            stop.run_until_cancelled(tell).await;
            tracing::info!(watcher, "no longer watches the routes");
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receive))))
    }
}

type Sender = mpsc::Sender<Result<WatchRoutesResponse, Status>>;

/// Tells the newest routes at once, and again when they are news or a regular report is due.
async fn tell(mut routes: RoutesSeen, send: Sender) {
    let mut told: Option<(std::sync::Arc<slicewire_core::gateway::Routes>, Instant)> = None;
    loop {
        let newest = routes.borrow_and_update().clone();
        if let Some(newest) = newest
            && told
                .as_ref()
                .is_none_or(|(last, at)| newest.is_news_after(last) || at.elapsed() >= REGULARLY)
        {
            if send.send(Ok(WatchRoutesResponse::from(&*newest))).await.is_err() {
                return;
            }
            told = Some((newest, Instant::now()));
        }
        let next = told.as_ref().map_or_else(Instant::now, |(_, at)| *at) + REGULARLY;
        tokio::select! {
            changed = routes.changed() => if changed.is_err() { return },
            () = tokio::time::sleep_until(next), if told.is_some() => {}
            () = send.closed() => return,
        }
    }
}
