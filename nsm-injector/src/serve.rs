//! The webhook over TLS.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use slicewire_core::admission::Verdict;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::certificate::Material;
use crate::review::{Review, WaitImage};
use crate::world::World;

/// The path the API server calls.
pub(crate) const PATH: &str = "/mutate";
/// The largest request taken, in bytes: twice what etcd stores of an object.
const LARGEST_REQUEST: usize = 4 << 20;
/// How long a client may take to shake hands.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// How many pods were made to wait, and how many were left alone.
#[derive(Default)]
pub(crate) struct Counters {
    waiting: AtomicU64,
    left: AtomicU64,
}

impl Counters {
    /// The Prometheus text format.
    pub(crate) fn render(&self) -> String {
        let line = |verdict: &str, counter: &AtomicU64| {
            format!(
                "slicewire_injector_pods_total{{verdict=\"{verdict}\"}} {}\n",
                counter.load(Ordering::Relaxed)
            )
        };
        format!(
            "# HELP slicewire_injector_pods_total Pods seen at admission, by what was done.\n\
             # TYPE slicewire_injector_pods_total counter\n{}{}",
            line("wait", &self.waiting),
            line("leave", &self.left)
        )
    }
}

/// The certificate in use; replaced while connections go on.
#[derive(Debug, Default)]
pub(crate) struct Certificate(RwLock<Option<Arc<CertifiedKey>>>);

impl Certificate {
    /// Takes a new certificate for connections to come.
    ///
    /// # Errors
    /// The certificate or its key is not what it should be.
    pub(crate) fn replace(&self, material: &Material) -> anyhow::Result<()> {
        let chain = CertificateDer::pem_slice_iter(material.certificate.as_bytes())
            .collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(material.key.as_bytes())?;
        let certified = CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider())?;
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(certified));
        Ok(())
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What a request is answered with.
pub(crate) struct Webhook {
    /// What is known about the cluster.
    pub(crate) world: World,
    /// What waits.
    pub(crate) image: WaitImage,
    /// Counts verdicts.
    pub(crate) counters: Arc<Counters>,
}

/// Serves until `stop`; requests under way are finished by their own connections.
///
/// # Errors
/// The address cannot be bound.
pub(crate) async fn serve(
    address: SocketAddr,
    certificate: Arc<Certificate>,
    webhook: Arc<Webhook>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut tls =
        rustls::ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(certificate);
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let tls = TlsAcceptor::from(Arc::new(tls));
    let listener = TcpListener::bind(address)
        .await
        .map_err(|e| anyhow::anyhow!("cannot listen on {address} for the webhook: {e}"))?;
    loop {
        let stream = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        tokio::spawn(connection(stream, tls.clone(), webhook.clone()));
    }
}

async fn connection(stream: TcpStream, tls: TlsAcceptor, webhook: Arc<Webhook>) {
    let stream = match tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "no TLS handshake"),
        Err(_) => return tracing::debug!("TLS handshake took too long"),
    };
    let service = service_fn(move |request| {
        let webhook = webhook.clone();
        async move { Ok::<_, Infallible>(respond(&webhook, request).await) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = served.await {
        tracing::debug!(%error, "connection ended");
    }
}

async fn respond(webhook: &Webhook, request: Request<Incoming>) -> Response<Full<Bytes>> {
    if request.method() != Method::POST || request.uri().path() != PATH {
        return refuse(StatusCode::NOT_FOUND, "POST an AdmissionReview to /mutate");
    }
    let Ok(body) = Limited::new(request.into_body(), LARGEST_REQUEST).collect().await else {
        return refuse(StatusCode::PAYLOAD_TOO_LARGE, "the request is too large or broke off");
    };
    match answer(webhook, &body.to_bytes()) {
        Ok(json) => {
            let mut response = Response::new(Full::from(json));
            let json = hyper::header::HeaderValue::from_static("application/json");
            response.headers_mut().insert(hyper::header::CONTENT_TYPE, json);
            response
        }
        Err(error) => {
            tracing::warn!(%error, "not an AdmissionReview v1 of a pod");
            refuse(StatusCode::BAD_REQUEST, "not an AdmissionReview v1 of a pod")
        }
    }
}

fn answer(webhook: &Webhook, body: &[u8]) -> serde_json::Result<Vec<u8>> {
    let review: Review = serde_json::from_slice(body)?;
    let (slices, labels) = webhook.world.of(review.namespace());
    let (verdict, answer) = review.answer(&labels, &slices, &webhook.image);
    let counter = match &verdict {
        Verdict::Wait(slices) => {
            tracing::debug!(?slices, "pod waits");
            &webhook.counters.waiting
        }
        Verdict::Leave(leave) => {
            tracing::debug!(reason = leave.reason(), "pod left alone");
            &webhook.counters.left
        }
    };
    counter.fetch_add(1, Ordering::Relaxed);
    serde_json::to_vec(&answer)
}

fn refuse(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response
}
