//! The credential of who has been let in, sealed so that nobody else can read it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, ResourceExt};
use rustls::crypto::aws_lc_rs::hpke::DH_KEM_X25519_HKDF_SHA256_AES_256 as SUITE;
use rustls::crypto::hpke::{Hpke, HpkePublicKey};
use slicewire_api::condition::{ADMITTED, condition};
use slicewire_api::labels::WORKER_ACCOUNT;
use slicewire_api::{JoinRequestStatus, SEAL_INFO, SealedCredential, seal_context};

use super::plan::Answer;
use crate::hub::Hub;
use crate::kubernetes::change::Change;

/// Seconds the first credential lives; the worker exchanges it well before.
const LIFE: i64 = 24 * 3600;

/// Why there is no credential.
#[derive(Debug, thiserror::Error)]
pub(super) enum AnswerError {
    /// The API server gives none.
    #[error("the API server gives no token for {namespace}/{WORKER_ACCOUNT}")]
    Refused {
        namespace: String,
        #[source]
        source: Box<kube::Error>,
    },
    /// It gave an empty one.
    #[error("the API server gave an empty token for {0}/{WORKER_ACCOUNT}")]
    Empty(String),
    /// It cannot be sealed.
    #[error("the credential cannot be sealed to the key of request {0}: {1}")]
    Seal(String, rustls::Error),
}

impl AnswerError {
    /// A short stable word.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Refused { .. } => "TokenRefused",
            Self::Empty(_) => "TokenEmpty",
            Self::Seal(..) => "NotSealed",
        }
    }
}

/// The status that lets in who asked.
///
/// # Errors
/// There is no credential, or it cannot be sealed.
pub(super) async fn answer(
    hub: &Hub,
    answer: &Answer,
    now: Timestamp,
) -> Result<Change, AnswerError> {
    let namespace = answer.namespace.clone();
    let accounts: Api<ServiceAccount> = Api::namespaced(hub.writer.client.clone(), &namespace);
    let wanted = TokenRequest {
        spec: TokenRequestSpec { expiration_seconds: Some(LIFE), ..Default::default() },
        ..TokenRequest::default()
    };
    let how = PostParams::default();
    let given = accounts.create_token_request(WORKER_ACCOUNT, &how, &wanted);
    let given = given.await.map_err(|source| AnswerError::Refused {
        namespace: namespace.clone(),
        source: Box::new(source),
    })?;
    let token = given.status.map(|s| s.token).filter(|t| !t.is_empty());
    let token = token.ok_or_else(|| AnswerError::Empty(namespace.clone()))?;
    let request = &answer.request;
    let (encapsulated, sealed) = seal(answer, token.as_bytes())
        .map_err(|error| AnswerError::Seal(request.name_any(), error))?;
    let what = format!("let in as {} of project {}", request.spec.cluster, answer.project);
    let generation = request.metadata.generation;
    let yes = condition(ADMITTED, true, "Admitted", what, generation, Time(now));
    let status = JoinRequestStatus {
        credential: Some(SealedCredential {
            project: answer.project.clone(),
            namespace,
            encapsulated_key: STANDARD.encode(encapsulated),
            sealed_token: STANDARD.encode(sealed),
        }),
        conditions: vec![yes],
    };
    tracing::info!(cluster = %request.spec.cluster, project = %answer.project, "let a cluster in");
    Ok(Change::status(&**request, &status))
}

/// HPKE (RFC 9180) in base mode: the encapsulated key and the sealed text.
fn seal(answer: &Answer, text: &[u8]) -> Result<(Vec<u8>, Vec<u8>), rustls::Error> {
    let request = &answer.request;
    // What is none has been refused before; it would be refused here, too.
    let key = HpkePublicKey(STANDARD.decode(&request.spec.public_key).unwrap_or_default());
    let place = request.namespace().unwrap_or_default();
    let context = seal_context(&place, &request.name_any(), &request.spec.cluster);
    let (encapsulated, sealed) = SUITE.seal(SEAL_INFO, &context, text, &key)?;
    Ok((encapsulated.0, sealed))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::crypto::hpke::EncapsulatedSecret;
    use slicewire_api::{JoinRequest, JoinRequestSpec};

    use super::*;

    #[test]
    fn only_who_asked_reads_the_answer_and_only_to_this_request() {
        let (public, private) = SUITE.generate_key_pair().unwrap();
        let mut request = JoinRequest::new("join-1", JoinRequestSpec::default());
        request.metadata.namespace = Some("slicewire-demo--join--t-1".into());
        request.spec.cluster = "east".into();
        request.spec.public_key = STANDARD.encode(&public.0);
        let answer = Answer {
            request: Arc::new(request),
            project: "demo".into(),
            namespace: "slicewire-demo--east".into(),
        };
        let (encapsulated, sealed) = seal(&answer, b"secret").unwrap();
        let open = |context: &[u8], key| {
            SUITE.open(&EncapsulatedSecret(encapsulated.clone()), SEAL_INFO, context, &sealed, key)
        };
        let context = seal_context("slicewire-demo--join--t-1", "join-1", "east");
        assert_eq!(open(&context, &private).unwrap(), b"secret");
        let other = seal_context("slicewire-demo--join--t-1", "join-2", "east");
        assert!(open(&other, &private).is_err());
        let (_, stranger) = SUITE.generate_key_pair().unwrap();
        assert!(open(&context, &stranger).is_err());
    }
}
