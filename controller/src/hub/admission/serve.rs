//! The webhook over TLS.

use std::convert::Infallible;
use std::net::SocketAddr;
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
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::certificate::Material;
use super::review::Review;
use crate::hub::slice::qos::admit_profile;
use crate::hub::slice::validate::admit;
use crate::hub::{Caches, policy};

/// The paths the API server calls.
const SLICES: &str = "/validate-sliceconfig";
const POLICIES: &str = "/validate-slicepolicy";
const PROFILES: &str = "/validate-sliceqosprofile";
/// Largest request taken, in bytes: two objects as large as etcd stores them, and some.
const LARGEST_REQUEST: usize = 4 << 20;
/// How long a client may take to shake hands.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// The certificate in use, replaced while connections go on.
#[derive(Debug, Default)]
pub(crate) struct Serving(RwLock<Option<Arc<CertifiedKey>>>);

impl Serving {
    /// Uses this certificate for connections to come.
    ///
    /// # Errors
    /// The Secret holds no certificate or no key.
    pub(super) fn replace(&self, material: &Material) -> anyhow::Result<()> {
        self.replace_pem(material.certificate.as_bytes(), material.key.as_bytes())
    }

    /// Uses this certificate chain and key, both PEM, for connections to come.
    ///
    /// # Errors
    /// There is no certificate, or no key, or they do not belong together.
    pub(crate) fn replace_pem(&self, chain: &[u8], key: &[u8]) -> anyhow::Result<()> {
        let chain = CertificateDer::pem_slice_iter(chain).collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(key)?;
        let certified = CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider())?;
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(certified));
        Ok(())
    }
}

impl ResolvesServerCert for Serving {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Serves until `stop`.
///
/// # Errors
/// The address cannot be bound.
pub(super) async fn serve(
    address: SocketAddr,
    certificate: Arc<Serving>,
    caches: Caches,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(certificate);
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let tls = TlsAcceptor::from(Arc::new(tls));
    let listener = TcpListener::bind(address)
        .await
        .map_err(|e| anyhow::anyhow!("cannot listen on {address} for the webhook: {e}"))?;
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                tokio::spawn(connection(stream, tls.clone(), caches.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, tls: TlsAcceptor, caches: Caches) {
    let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await else {
        return tracing::debug!("no TLS handshake");
    };
    let service = service_fn(move |request| {
        let caches = caches.clone();
        async move { Ok::<_, Infallible>(respond(&caches, request).await) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = served.await {
        tracing::debug!(%error, "connection ended");
    }
}

async fn respond(caches: &Caches, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let path = request.uri().path().to_owned();
    if request.method() != Method::POST || ![SLICES, POLICIES, PROFILES].contains(&path.as_str()) {
        let help = "POST an AdmissionReview to /validate-sliceconfig, /validate-slicepolicy or /validate-sliceqosprofile";
        return refuse(StatusCode::NOT_FOUND, help);
    }
    let Ok(body) = Limited::new(request.into_body(), LARGEST_REQUEST).collect().await else {
        return refuse(StatusCode::PAYLOAD_TOO_LARGE, "the request is too large or broke off");
    };
    let Ok(review) = serde_json::from_slice::<Review>(&body.to_bytes()) else {
        return refuse(StatusCode::BAD_REQUEST, "not an AdmissionReview of admission.k8s.io/v1");
    };
    let answer = if path == POLICIES {
        review.answer(|policy| policy::validate::admit(caches, policy))
    } else if path == PROFILES {
        review.answer(|profile| admit_profile(caches, &profile))
    } else {
        review.answer(|config| admit(caches, config))
    };
    let mut response = Response::new(Full::from(answer.to_string()));
    let json = hyper::header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(hyper::header::CONTENT_TYPE, json);
    response
}

fn refuse(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response
}
