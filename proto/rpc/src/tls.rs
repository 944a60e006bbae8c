//! Who may speak with whom between the pods and nodes of a cluster: TLS 1.3, and both sides show a
//! certificate of the cluster's own authority.
//!
//! A server is known by a name that its certificate carries and that is never looked up; a client by
//! its certificate being one for clients. `controller worker` makes them all and renews them.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject as _};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{
    NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier,
};
use tokio_rustls::rustls::{self, RootCertStore, ServerConfig, version};
use tokio_rustls::server::TlsStream;
use tonic::transport::{Certificate, ClientTlsConfig, Identity};

/// Entry of a Secret and name of a file: certificates of the authorities to trust, PEM.
pub const AUTHORITIES: &str = "ca.crt";
/// Entry of a Secret and name of a file: one's own certificate, PEM.
pub const CERTIFICATE: &str = "tls.crt";
/// Entry of a Secret and name of a file: its private key, PEM.
pub const KEY: &str = "tls.key";

/// Files are looked at this often. The kubelet brings a changed Secret into a pod within minutes.
const LOOK: Duration = Duration::from_secs(5);
/// A client that has not shown who it is by then is turned away.
const HANDSHAKE: Duration = Duration::from_secs(3);
/// Handshakes under way at once.
const HANDSHAKES: usize = 128;

/// Certificates that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// An entry is missing.
    #[error("there is no {0}; controller worker makes it, see its log")]
    Missing(&'static str),
    /// An entry is not what its name says.
    #[error("{0} is not PEM: {1}; delete the Secret, controller worker makes it anew")]
    Pem(&'static str, pem::Error),
    /// The parts do not fit together.
    #[error("{0}; delete the Secret, controller worker makes it anew")]
    Tls(#[from] rustls::Error),
    /// No authority can be trusted.
    #[error("{0}; delete the Secret, controller worker makes it anew")]
    Authorities(#[from] VerifierBuilderError),
}

/// One side's certificate and whom it trusts, in PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Certificates of the authorities to trust.
    pub authorities: String,
    /// One's own certificate.
    pub certificate: String,
    /// Its private key.
    pub key: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}

impl Credentials {
    /// Takes them from wherever entries are kept.
    ///
    /// # Errors
    /// [`Unusable::Missing`] names the first entry that is not there or not text.
    pub fn read(entry: impl Fn(&str) -> Option<Vec<u8>>) -> Result<Self, Unusable> {
        let text = |name: &'static str| {
            let bytes = entry(name).ok_or(Unusable::Missing(name))?;
            String::from_utf8(bytes).map_err(|_| Unusable::Missing(name))
        };
        Ok(Self {
            authorities: text(AUTHORITIES)?,
            certificate: text(CERTIFICATE)?,
            key: text(KEY)?,
        })
    }

    /// How a client connects to the server of this name.
    pub fn client(&self, server: &str) -> ClientTlsConfig {
        ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(&self.authorities))
            .identity(Identity::from_pem(&self.certificate, &self.key))
            .domain_name(server)
    }

    /// How a server accepts.
    ///
    /// # Errors
    /// Something is not PEM, or key, certificate and authorities do not fit together.
    pub fn server(&self) -> Result<Arc<ServerConfig>, Unusable> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        for authority in certificates(AUTHORITIES, &self.authorities)? {
            roots.add(authority)?;
        }
        let clients =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes())
            .map_err(|error| Unusable::Pem(KEY, error))?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&version::TLS13])?
            .with_client_cert_verifier(clients.build()?)
            .with_single_cert(certificates(CERTIFICATE, &self.certificate)?, key)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        // Every connection shows its certificate anew: a ticket would outlive it.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }
}

fn certificates(name: &'static str, text: &str) -> Result<Vec<CertificateDer<'static>>, Unusable> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    let found = found.map_err(|error| Unusable::Pem(name, error))?;
    if found.is_empty() { Err(Unusable::Missing(name)) } else { Ok(found) }
}

/// How a server accepts right now; `None` while it cannot.
pub type Accepting = watch::Receiver<Option<Arc<ServerConfig>>>;

/// Follows a directory with the files of [`Credentials`]. Broken ones change nothing.
pub async fn follow(directory: PathBuf) -> Accepting {
    let (mut used, mut complained) = (None, false);
    let (say, accepting) = watch::channel(look(&directory, &mut used, &mut complained).await);
    tokio::spawn(async move {
        while !say.is_closed() {
            tokio::time::sleep(LOOK).await;
            if let Some(config) = look(&directory, &mut used, &mut complained).await {
                tracing::info!("new certificate");
                say.send_replace(Some(config));
            }
        }
    });
    accepting
}

/// What is new in a directory, if that can be used.
async fn look(
    directory: &Path,
    used: &mut Option<Credentials>,
    complained: &mut bool,
) -> Option<Arc<ServerConfig>> {
    let mut files = Vec::new();
    for name in [AUTHORITIES, CERTIFICATE, KEY] {
        files.push((name, tokio::fs::read(directory.join(name)).await.ok()));
    }
    let entry = |name: &str| files.iter().find(|(n, _)| *n == name)?.1.clone();
    let config = Credentials::read(entry).and_then(|found| {
        if used.as_ref() == Some(&found) {
            return Ok(None);
        }
        let config = found.server()?;
        *used = Some(found);
        Ok(Some(config))
    });
    match config {
        Ok(config) => {
            *complained = false;
            config
        }
        Err(error) => {
            if !std::mem::replace(complained, true) {
                let directory = directory.display();
                tracing::warn!(%directory, %error, "certificate cannot be used");
            }
            None
        }
    }
}

/// Shakes hands with everyone who connects; those who fail are turned away and not seen.
pub fn accept(
    connections: impl Stream<Item = io::Result<TcpStream>>,
    accepting: Accepting,
) -> impl Stream<Item = io::Result<TlsStream<TcpStream>>> {
    connections
        .map(move |connection| {
            let config = accepting.borrow().clone();
            async move {
                let connection = connection.ok()?;
                let peer = connection.peer_addr().ok()?;
                let Some(config) = config else {
                    tracing::debug!(%peer, "turned away: there is no certificate yet");
                    return None;
                };
                // Small messages that are waited for. One that fails is found out below.
                let _ = connection.set_nodelay(true);
                let shaken = TlsAcceptor::from(config).accept(connection);
                match tokio::time::timeout(HANDSHAKE, shaken).await {
                    Ok(Ok(stream)) => Some(Ok(stream)),
                    Ok(Err(error)) => {
                        tracing::debug!(%peer, %error, "turned away");
                        None
                    }
                    Err(_) => {
                        tracing::debug!(%peer, "turned away: silent");
                        None
                    }
                }
            }
        })
        .buffer_unordered(HANDSHAKES)
        .filter_map(std::future::ready)
}

#[cfg(test)]
mod tests;
