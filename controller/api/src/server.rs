//! TLS 1.3, gRPC and gRPC-web.

mod counted;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};
use rustls::server::ResolvesServerCert;
use rustls::version::TLS13;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::service::RoutesBuilder;
use tonic_health::ServingStatus;
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::{Portal, kinds, live};

/// Largest message taken, in bytes; etcd takes no larger object.
const LARGEST_MESSAGE: usize = 2 << 20;
/// Largest metadata taken, in bytes: tokens are some kilobytes.
const LARGEST_METADATA: u32 = 32 << 10;
/// Calls at a time on a connection.
const CALLS_OF_A_CONNECTION: u32 = 1024;
/// Connections at a time.
const CONNECTIONS: usize = 4096;
/// How long a client may take to shake hands.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How often a quiet connection is tried, and how long it may take to answer.
const ALIVE: Duration = Duration::from_secs(20);
/// How long calls under way may take to end when the hub ends.
const GRACE: Duration = Duration::from_secs(5);

/// How the API is served.
pub struct Options {
    /// Where.
    pub address: SocketAddr,
    /// Web pages that may call it from browsers, as `https://portal.example`; `*` is every page.
    pub origins: Vec<String>,
    /// The certificate in use.
    pub certificate: Arc<dyn ResolvesServerCert>,
}

/// Serves until `stop`.
///
/// # Errors
/// The address cannot be bound, an origin is none, or the build's own descriptors are damaged.
pub async fn serve(
    portal: Arc<Portal>,
    options: Options,
    stop: CancellationToken,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let cors = cors(&options.origins)?;
    let listener = TcpListener::bind(options.address).await?;
    let tls = TlsAcceptor::from(Arc::new(tls(options.certificate)?));
    let (connections, incoming) = mpsc::channel(16);
    let accepting = tokio::spawn(accept(listener, tls, connections, stop.clone()));
    let mut routes = RoutesBuilder::default();
    kinds::add_services(&portal, LARGEST_MESSAGE, &mut routes);
    live::add_service(&portal, LARGEST_MESSAGE, &mut routes);
    let (health, service) = tonic_health::server::health_reporter();
    routes.add_service(service);
    for version in ["v1", "v1alpha"] {
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(slicewire_rpc::hub::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
        // Clients still ask by either name.
        if version == "v1" {
            routes.add_service(reflection.build_v1()?);
        } else {
            routes.add_service(reflection.build_v1alpha()?);
        }
    }
    let healthy = tokio::spawn(tell_health(portal.clone(), health));
    let serving = tonic::transport::Server::builder()
        .accept_http1(true)
        .max_concurrent_streams(CALLS_OF_A_CONNECTION)
        .http2_max_header_list_size(LARGEST_METADATA)
        .http2_keepalive_interval(Some(ALIVE))
        .http2_keepalive_timeout(Some(ALIVE))
        .layer(cors)
        .layer(tonic_web::GrpcWebLayer::new())
        .add_routes(routes.routes())
        .serve_with_incoming_shutdown(
            ReceiverStream::new(incoming),
            stop.clone().cancelled_owned(),
        );
    let grace = async {
        stop.cancelled().await;
        tokio::time::sleep(GRACE).await;
    };
    let served = tokio::select! {
        served = serving => served,
        () = grace => Ok(()),
    };
    accepting.abort();
    healthy.abort();
    Ok(served?)
}

fn tls(
    certificate: Arc<dyn ResolvesServerCert>,
) -> Result<rustls::ServerConfig, Box<dyn std::error::Error + Send + Sync>> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_no_client_auth()
        .with_cert_resolver(certificate);
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(tls)
}

/// A connection, counted while it lives.
type Connection = counted::Counted<TlsStream<TcpStream>>;

async fn accept(
    listener: TcpListener,
    tls: TlsAcceptor,
    connections: mpsc::Sender<std::io::Result<Connection>>,
    stop: CancellationToken,
) {
    let free = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let permit = free.clone().acquire_owned();
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = async { (permit.await, listener.accept().await) } => accepted,
        };
        match accepted {
            (Ok(permit), Ok((stream, _))) => {
                tokio::spawn(handshake(stream, tls.clone(), permit, connections.clone()));
            }
            (Err(_), _) => return,
            (_, Err(error)) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn handshake(
    stream: TcpStream,
    tls: TlsAcceptor,
    permit: OwnedSemaphorePermit,
    connections: mpsc::Sender<std::io::Result<Connection>>,
) {
    // Small messages go at once.
    let _ = stream.set_nodelay(true);
    match tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await {
        Ok(Ok(stream)) => {
            // Nobody to take it: the server ends.
            let _ = connections.send(Ok(Connection::new(stream, permit))).await;
        }
        Ok(Err(error)) => tracing::debug!(%error, "no TLS 1.3 handshake"),
        Err(_) => tracing::debug!("no TLS 1.3 handshake in time"),
    }
}

/// Says that all services work once there is something to tell.
async fn tell_health(portal: Arc<Portal>, health: tonic_health::server::HealthReporter) {
    health.set_service_status("", ServingStatus::NotServing).await;
    while !portal.feeds.are_synced() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    health.set_service_status("", ServingStatus::Serving).await;
    for service in SERVICES {
        health.set_service_status(service, ServingStatus::Serving).await;
    }
}

/// Every service of ours.
const SERVICES: [&str; 7] = [
    "slicewire.hub.v1alpha1.ProjectService",
    "slicewire.hub.v1alpha1.ClusterService",
    "slicewire.hub.v1alpha1.SliceService",
    "slicewire.hub.v1alpha1.QosProfileService",
    "slicewire.hub.v1alpha1.SlicePolicyService",
    "slicewire.hub.v1alpha1.JoinTokenService",
    "slicewire.hub.v1alpha1.LiveService",
];

/// Which web pages may call, and what they may send and see.
fn cors(origins: &[String]) -> Result<CorsLayer, http::header::InvalidHeaderValue> {
    let names = |names: &[&'static str]| -> Vec<HeaderName> {
        names.iter().map(|n| HeaderName::from_static(n)).collect()
    };
    let sent = [
        "authorization",
        "content-type",
        "grpc-timeout",
        "x-grpc-web",
        "x-request-id",
        "x-user-agent",
    ];
    let seen = ["grpc-status", "grpc-message", "grpc-status-details-bin", "x-request-id"];
    let every = origins.iter().any(|o| o == "*");
    let list: Result<Vec<HeaderValue>, _> = origins.iter().map(|o| o.parse()).collect();
    let from = if every { AllowOrigin::any() } else { AllowOrigin::list(list?) };
    Ok(CorsLayer::new()
        .allow_origin(from)
        .allow_methods([Method::POST])
        .allow_headers(names(&sent))
        .expose_headers(names(&seen))
        .max_age(Duration::from_secs(3600)))
}
