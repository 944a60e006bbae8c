//! What the Secret says, checked.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use k8s_openapi::api::core::v1::Secret;
use kube::{Client, Config};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::Deserialize;
use slicewire_core::violation::Violation;

/// The way into the hub.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Credential {
    /// Its API server, an https URL.
    pub(crate) server: String,
    /// Certificates its API server is trusted by, PEM.
    authorities: String,
    /// A ServiceAccount token.
    token: String,
    /// This cluster's namespace on the hub.
    pub(crate) namespace: String,
    /// This cluster's name on the hub.
    pub(crate) cluster: String,
    /// The project.
    pub(crate) project: String,
}

impl Credential {
    /// Reads the Secret.
    ///
    /// # Errors
    /// Every entry that is missing or cannot be used.
    pub(crate) fn read(secret: &Secret) -> Result<Self, Vec<Violation>> {
        let mut faults = Vec::new();
        let mut entry = |name: &str| {
            let bytes = secret.data.as_ref().and_then(|d| d.get(name));
            let text = bytes.and_then(|b| String::from_utf8(b.0.clone()).ok()).unwrap_or_default();
            if text.trim().is_empty() {
                faults.push(Violation::new(format!("data.{name}"), "", "Missing", "is missing"));
            }
            text.trim().to_owned()
        };
        let credential = Self {
            server: entry("server"),
            authorities: entry("ca.crt"),
            token: entry("token"),
            namespace: entry("namespace"),
            cluster: entry("cluster"),
            project: entry("project"),
        };
        if !credential.server.is_empty() && !credential.server.starts_with("https://") {
            let what = "must be an https URL: the token is sent there";
            faults.push(Violation::new("data.server", &credential.server, "NotHttps", what));
        }
        if faults.is_empty() { Ok(credential) } else { Err(faults) }
    }

    /// A client that uses it.
    ///
    /// # Errors
    /// The URL or the certificates are malformed.
    pub(crate) fn client(&self) -> anyhow::Result<Client> {
        let mut config = Config::new(self.server.parse()?);
        let authorities = CertificateDer::pem_slice_iter(self.authorities.as_bytes())
            .map(|der| der.map(|d| d.as_ref().to_vec()))
            .collect::<Result<Vec<_>, _>>()?;
        config.root_cert = Some(authorities);
        config.auth_info.token = Some(self.token.clone().into());
        config.default_namespace.clone_from(&self.namespace);
        config.connect_timeout = Some(Duration::from_secs(15));
        Ok(Client::try_from(config)?)
    }

    /// How long the token lives from its issue on, and how old it is by this machine's clock, which
    /// may be wrong; `None` when it does not say.
    pub(super) fn life(&self, now: SystemTime) -> Option<(Duration, Duration)> {
        let (from, to) = lifetime(&self.token)?;
        let age = now.duration_since(UNIX_EPOCH + Duration::from_secs(from)).unwrap_or_default();
        Some((Duration::from_secs(to.saturating_sub(from)), age))
    }
}

#[derive(Deserialize)]
struct Claims {
    exp: u64,
    #[serde(default)]
    iat: Option<u64>,
}

/// When a token was issued and when it ends (RFC 7519), in seconds since 1970. The signature is the
/// hub's business.
fn lifetime(token: &str) -> Option<(u64, u64)> {
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let claims: Claims = serde_json::from_slice(&claims).ok()?;
    Some((claims.iat?, claims.exp))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;

    use super::*;

    fn secret(entries: &[(&str, &str)]) -> Secret {
        let data =
            entries.iter().map(|(k, v)| ((*k).to_owned(), ByteString((*v).into()))).collect();
        Secret { data: Some(data), ..Secret::default() }
    }

    #[test]
    fn every_missing_entry_is_told() {
        let faults = Credential::read(&secret(&[("server", "http://hub"), ("token", "t")]));
        let fields: Vec<_> = faults.err().unwrap().into_iter().map(|f| f.field).collect();
        assert_eq!(
            fields,
            ["data.ca.crt", "data.namespace", "data.cluster", "data.project", "data.server"]
        );
    }

    #[test]
    fn a_token_says_how_long_it_lives() {
        let claims = URL_SAFE_NO_PAD.encode(r#"{"iat":1000,"exp":3000}"#);
        let token = format!("h.{claims}.s");
        let all = [
            ("server", "https://hub"),
            ("ca.crt", "c"),
            ("token", token.as_str()),
            ("namespace", "n"),
            ("cluster", "east"),
            ("project", "p"),
        ];
        let credential = Credential::read(&secret(&all)).ok().unwrap();
        let life = |second| credential.life(UNIX_EPOCH + Duration::from_secs(second)).unwrap();
        assert_eq!(life(1500), (Duration::from_secs(2000), Duration::from_secs(500)));
        assert_eq!(life(10).1, Duration::ZERO);
        assert_eq!(lifetime("nonsense"), None);
    }
}
