//! Exchanges the token for a new one well before it ends.

use std::time::{Duration, SystemTime};

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use slicewire_api::labels::{WORKER_ACCOUNT, WORKER_MANAGER};
use slicewire_runtime::reconcile::backoff;
use tokio_util::sync::CancellationToken;

use super::credential::Credential;
use super::pause;

/// How long a new token is asked for; the hub may give a shorter one.
const LIFE: i64 = 24 * 3600;

/// What is needed to renew a token.
pub(super) struct Renewal {
    pub(super) hub: Client,
    pub(super) local: Client,
    pub(super) secret: String,
    pub(super) secret_namespace: String,
    pub(super) credential: Credential,
}

impl Renewal {
    /// Renews once; writing the Secret begins a new session, which renews again.
    pub(super) async fn run(self, stop: CancellationToken) {
        let due = self.credential.renew_at();
        let wait = due.duration_since(SystemTime::now()).unwrap_or_default();
        if !pause(wait, &stop).await {
            return;
        }
        for failures in 1.. {
            match self.renew().await {
                Ok(()) => return tracing::info!("renewed the credential for the hub"),
                Err(error) => tracing::warn!(
                    error = format!("{error:#}"),
                    failures,
                    "cannot renew the credential for the hub; when it has ended, run slicectl join again"
                ),
            }
            if !pause(backoff(failures).max(Duration::from_secs(1)), &stop).await {
                return;
            }
        }
    }

    async fn renew(&self) -> anyhow::Result<()> {
        let accounts: Api<ServiceAccount> =
            Api::namespaced(self.hub.clone(), &self.credential.namespace);
        let request = TokenRequest {
            spec: TokenRequestSpec { expiration_seconds: Some(LIFE), ..Default::default() },
            ..TokenRequest::default()
        };
        let answer =
            accounts.create_token_request(WORKER_ACCOUNT, &PostParams::default(), &request).await?;
        let token = answer
            .status
            .map(|s| s.token)
            .filter(|t| !t.is_empty())
            .ok_or_else(|| anyhow::anyhow!("the hub answered without a token"))?;
        let secrets: Api<Secret> = Api::namespaced(self.local.clone(), &self.secret_namespace);
        let how = PatchParams { field_manager: Some(WORKER_MANAGER.into()), ..Default::default() };
        let patch = Patch::Merge(json!({"stringData": {"token": token}}));
        secrets.patch(&self.secret, &how, &patch).await?;
        Ok(())
    }
}
