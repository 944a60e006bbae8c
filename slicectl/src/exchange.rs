//! The exchange of a token's secret for a credential of the cluster's own.
//!
//! Security: the secret goes to the hub only, over a connection that the token's own authority
//! vouches for, and is written nowhere. The answer is sealed to a key that is made here, used once
//! and forgotten.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kube::api::PostParams;
use kube::{Api, Client, ResourceExt};
use rustls::crypto::aws_lc_rs::hpke::DH_KEM_X25519_HKDF_SHA256_AES_256 as SUITE;
use rustls::crypto::hpke::{EncapsulatedSecret, Hpke, HpkePrivateKey};
use slicewire_api::condition::ADMITTED;
use slicewire_api::{JoinRequest, JoinRequestSpec, SEAL_INFO, SealedCredential, seal_context};
use slicewire_core::name::ClusterName;
use slicewire_ticket::Ticket;

use crate::explain;
use crate::progress::{State, wait};
use crate::ticket::hub_client;

/// What a cluster holds after it was let in.
pub(crate) struct Credential {
    /// Its namespace on the hub.
    pub(crate) namespace: String,
    /// A token of its account there.
    pub(crate) token: String,
}

/// Asks the hub to let the cluster in.
///
/// # Errors
/// Why it is not, and what to do.
pub(crate) async fn exchange(
    ticket: &Ticket,
    cluster: &ClusterName,
    uid: &str,
    limit: Duration,
) -> Result<Credential> {
    let client = hub_client(&ticket.server, &ticket.authorities, &ticket.secret)?;
    let (public, private) = SUITE.generate_key_pair().context("no key can be made")?;
    let mut request = JoinRequest::new(
        "",
        JoinRequestSpec {
            cluster: cluster.to_string(),
            cluster_uid: uid.to_owned(),
            public_key: STANDARD.encode(&public.0),
        },
    );
    request.metadata.name = None;
    request.metadata.generate_name = Some("join-".to_owned());
    let requests: Api<JoinRequest> = Api::namespaced(client.clone(), &ticket.namespace());
    let made = match requests.create(&PostParams::default(), &request).await {
        Ok(made) => made,
        Err(error) => bail!("{}", refused(&client, ticket, error).await),
    };
    let name = made.name_any();
    let mut sealed = None;
    wait(&format!("the hub lets {cluster} in"), limit, async || {
        let request = match requests.get(&name).await {
            Ok(request) => request,
            Err(error) => bail!("{}", refused(&client, ticket, error).await),
        };
        let status = request.status.unwrap_or_default();
        let Some(told) = status.conditions.into_iter().find(|c| c.type_ == ADMITTED) else {
            let reason = "the hub controller has not answered yet; does it run?";
            return Ok(State::Waiting(reason.to_owned()));
        };
        if told.status != "True" {
            bail!("{}: {}", told.reason, told.message);
        }
        sealed = status.credential;
        Ok(State::Done)
    })
    .await?;
    let sealed = sealed.context("the hub let the cluster in without a credential")?;
    let token = open(&sealed, &private, &ticket.namespace(), &name, cluster)?;
    Ok(Credential { namespace: sealed.namespace, token })
}

/// Why the hub did not take the request.
async fn refused(client: &Client, ticket: &Ticket, error: kube::Error) -> anyhow::Error {
    match &error {
        // An account that is gone is known for a few seconds, but may do nothing any more.
        kube::Error::Api(status) if matches!(status.code, 401 | 403) => {
            anyhow!("{}", explain::unknown_token(client, ticket).await)
        }
        kube::Error::Api(status) if status.code == 404 => {
            anyhow!(
                "{} takes no requests to join: Slicewire's hub is not installed there, or is older than this slicectl",
                ticket.server
            )
        }
        kube::Error::Api(status) => {
            anyhow!("the hub refuses the request to join: {}", status.message)
        }
        other => anyhow!("{}", explain::connection(&ticket.server, other)),
    }
}

fn open(
    sealed: &SealedCredential,
    key: &HpkePrivateKey,
    namespace: &str,
    request: &str,
    cluster: &ClusterName,
) -> Result<String> {
    let context = seal_context(namespace, request, cluster.as_str());
    let opened = || -> Result<String> {
        let encapsulated = EncapsulatedSecret(STANDARD.decode(&sealed.encapsulated_key)?);
        let text = STANDARD.decode(&sealed.sealed_token)?;
        Ok(String::from_utf8(SUITE.open(&encapsulated, SEAL_INFO, &context, &text, key)?)?)
    };
    opened().context("the hub's answer cannot be read with the key of this request")
}
