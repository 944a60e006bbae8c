//! The Secret the certificate lives in, shared by all replicas.

use std::time::SystemTime;

use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::PostParams;

use crate::certificate::{Due, Failed, Material, due, renew};

/// Getting a valid certificate failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The Secret cannot be read or written.
    #[error("cannot {verb} Secret {name}: {source}; it is part of the chart, see that it exists")]
    Secret {
        /// `read` or `write`.
        verb: &'static str,
        /// The Secret's name.
        name: String,
        /// What the API server said.
        source: kube::Error,
    },
    /// No certificate could be made.
    #[error(transparent)]
    Make(#[from] Failed),
}

impl Error {
    /// A short stable word for logs and metrics.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Secret { .. } => "SecretUnavailable",
            Self::Make(_) => "CertificateNotMade",
        }
    }
}

/// Reads the Secret and renews what is due. Of several replicas that renew at once one wins; the
/// others take what it wrote.
///
/// # Errors
/// See [`Error`].
pub(crate) async fn current(
    secrets: &Api<Secret>,
    name: &str,
    service: &[String],
    now: SystemTime,
) -> Result<Material, Error> {
    let fault = |verb| move |source| Error::Secret { verb, name: name.to_owned(), source };
    loop {
        let mut secret = secrets.get(name).await.map_err(fault("read"))?;
        let stored = secret.data.as_ref().and_then(Material::read);
        let due = due(stored.as_ref(), now);
        if let (Due::Nothing, Some(material)) = (due, &stored) {
            return Ok(material.clone());
        }
        let material = renew(stored.as_ref(), due, service, now)?;
        secret.data = Some(material.write());
        let parameters = PostParams {
            field_manager: Some(slicewire_api::labels::INJECTOR_MANAGER.to_owned()),
            ..PostParams::default()
        };
        match secrets.replace(name, &parameters, &secret).await {
            Ok(_) => {
                tracing::info!(?due, "made the webhook's certificate");
                return Ok(material);
            }
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(fault("write")(error)),
        }
    }
}
