//! Listens to the gateways of the slices on this node: which clusters they reach.
//!
//! What a gateway said last is kept when its stream breaks: the process that reports a tunnel may
//! be restarting while the tunnel works. It is forgotten when its pod is gone.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use slicewire_api::labels::ROUTES_PORT;
use slicewire_core::gateway::Routes;
use slicewire_core::name::{SliceName, gateway_server_name};
use slicewire_core::routes::Tunnel;
use slicewire_core::violation;
use slicewire_rpc::gateway::v1::WatchRoutesRequest;
use slicewire_rpc::gateway::v1::route_service_client::RouteServiceClient;
use slicewire_rpc::tls::Credentials;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

use crate::metrics::Metrics;
use crate::world::{GatewayRoutes, Shared, World};

const CONNECT_WITHIN: Duration = Duration::from_secs(2);
/// A gateway sends something every five seconds at least.
const SILENCE: Duration = Duration::from_secs(12);

/// Keeps a stream to every gateway of the slices that are on this node, until `stop`.
pub(crate) async fn watch(
    shared: Shared,
    node: String,
    certificate: Certificate,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) {
    let mut streams: BTreeMap<String, (IpAddr, AbortHandle)> = BTreeMap::new();
    let mut changes = shared.changes();
    loop {
        let wanted = shared.read(|w| gateways(w, &node));
        streams.retain(|uid, (ip, stream)| {
            let kept = wanted.get(uid).is_some_and(|w| w.0 == *ip);
            if !kept {
                stream.abort();
            }
            kept
        });
        for (uid, (ip, slice)) in &wanted {
            if !streams.contains_key(uid) {
                let gateway = Gateway { uid: uid.clone(), ip: *ip, slice: slice.clone() };
                let listening = listen(shared.clone(), node.clone(), certificate.clone(), gateway);
                streams.insert(uid.clone(), (*ip, tokio::spawn(listening).abort_handle()));
            }
        }
        shared.change(|w| {
            let before = w.routes.len();
            let gateways = &w.gateways;
            w.routes.retain(|uid, _| gateways.contains_key(uid));
            before != w.routes.len()
        });
        metrics.gateways(
            shared.read(|w| w.routes.values().filter(|r| r.lost.is_none()).count() as u64),
        );
        tokio::select! {
            () = stop.cancelled() => break,
            changed = changes.changed() => if changed.is_err() { break },
        }
    }
    for (_, stream) in streams.into_values() {
        stream.abort();
    }
}

/// Gateways to listen to: those of slices this node has, or is about to have, pods of.
fn gateways(world: &World, node: &str) -> BTreeMap<String, (IpAddr, String)> {
    world
        .gateways
        .iter()
        .filter(|(_, g)| world.own_node(&g.slice, node).is_some())
        .filter_map(|(uid, g)| Some((uid.clone(), (g.ip?, g.slice.clone()))))
        .collect()
}

/// What to show to gateways; `None` before there is something. A new one is for new connections.
pub(crate) type Certificate = watch::Receiver<Option<Credentials>>;

/// A gateway to listen to.
struct Gateway {
    uid: String,
    ip: IpAddr,
    slice: String,
}

async fn listen(shared: Shared, node: String, mut certificate: Certificate, gateway: Gateway) {
    let Gateway { uid, ip, slice } = &gateway;
    let mut pause = Duration::from_millis(200);
    loop {
        let Ok(shown) = certificate.wait_for(Option::is_some).await.map(|c| c.clone()) else {
            return;
        };
        if let Some(shown) = shown
            && let Err(status) = stream(&shared, &node, &shown, &gateway, &mut pause).await
        {
            tracing::debug!(gateway = %ip, slice, %status, "not listening to a gateway");
        }
        shared.change(|world| match world.routes.get_mut(uid) {
            Some(routes) if routes.lost.is_none() => {
                routes.lost = Some(Instant::now());
                true
            }
            _ => false,
        });
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(2));
    }
}

async fn stream(
    shared: &Shared,
    node: &str,
    shown: &Credentials,
    gateway: &Gateway,
    pause: &mut Duration,
) -> Result<(), Box<tonic::Status>> {
    let Gateway { uid, ip, slice } = gateway;
    let channel = connect(shown, *ip, slice).await?;
    let request = WatchRoutesRequest { watcher: node.to_owned() };
    let mut routes = RouteServiceClient::new(channel)
        .watch_routes(request)
        .await
        .map_err(Box::new)?
        .into_inner();
    loop {
        let message = tokio::time::timeout(SILENCE, routes.message())
            .await
            .map_err(|_| Box::new(tonic::Status::deadline_exceeded("the gateway is silent")))?
            .map_err(Box::new)?;
        let Some(message) = message else { return Ok(()) };
        let said = Routes::try_from(message).map_err(|faults| {
            Box::new(tonic::Status::invalid_argument(violation::summary(&faults)))
        })?;
        if said.slice.as_str() != slice {
            let other = format!("the pod is a gateway of slice {}", said.slice);
            return Err(Box::new(tonic::Status::failed_precondition(other)));
        }
        *pause = Duration::from_millis(200);
        shared.change(|world| {
            let old = world.routes.get(uid);
            let tunnels = tunnels(&said, old);
            let heard = GatewayRoutes { tunnels, lost: None };
            if old == Some(&heard) {
                return false;
            }
            tracing::info!(gateway = %ip, slice, tunnels = ?heard.tunnels, "gateway reports");
            world.routes.insert(uid.clone(), heard);
            true
        });
    }
}

async fn connect(
    shown: &Credentials,
    ip: IpAddr,
    slice: &str,
) -> Result<Channel, Box<tonic::Status>> {
    let refused = |e: tonic::transport::Error| Box::new(tonic::Status::from_error(Box::new(e)));
    let name = SliceName::parse(slice)
        .map_err(|faults| Box::new(tonic::Status::invalid_argument(violation::summary(&faults))))?;
    Endpoint::from_shared(format!("https://{}", SocketAddr::new(ip, ROUTES_PORT)))
        .and_then(|endpoint| endpoint.tls_config(shown.client(&gateway_server_name(&name))))
        .map_err(refused)?
        .connect_timeout(CONNECT_WITHIN)
        .http2_keep_alive_interval(Duration::from_secs(2))
        .keep_alive_timeout(Duration::from_secs(3))
        .keep_alive_while_idle(true)
        .connect()
        .await
        .map_err(refused)
}

/// The tunnels a gateway tells of. One it told of before and does not any more counts as down: a
/// process that has just started may not have looked at all of them yet.
fn tunnels(said: &Routes, old: Option<&GatewayRoutes>) -> Vec<Tunnel> {
    let mut tunnels: Vec<Tunnel> = said
        .routes
        .iter()
        .map(|r| Tunnel {
            cluster: r.cluster.clone(),
            prefixes: r.prefixes.clone(),
            up: r.health.up,
        })
        .collect();
    for old in old.into_iter().flat_map(|o| &o.tunnels) {
        if !tunnels.iter().any(|t| t.cluster == old.cluster) {
            tunnels.push(Tunnel { up: false, ..old.clone() });
        }
    }
    tunnels.sort();
    tunnels
}
