//! Exchanges the token for a new one well before it ends.
//!
//! When that is must not hang on this machine's clock alone: one that is behind would renew too
//! late, one that is ahead all the time.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

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

/// How long to wait before a token of this life is renewed, at half of it. `age` is by this
/// machine's clock; `own` is how long ago this process renewed last, by a clock that only counts.
fn wait(life: Duration, age: Duration, own: Option<Duration>) -> Duration {
    let part = life / 4;
    // A clock that is behind makes the token look young: it is not believed for long.
    let by_clock = (life / 2).saturating_sub(age).min(part);
    // A clock that is ahead makes it look old: what was renewed here a moment ago is not.
    let by_own = own.map_or(Duration::ZERO, |ago| part.saturating_sub(ago));
    by_clock.max(by_own)
}

/// What is needed to renew a token.
pub(super) struct Renewal {
    pub(super) hub: Client,
    pub(super) local: Client,
    pub(super) secret: String,
    pub(super) secret_namespace: String,
    pub(super) credential: Credential,
    /// When this process renewed last.
    pub(super) last: Arc<Mutex<Option<Instant>>>,
}

impl Renewal {
    /// Renews once; writing the Secret begins a new session, which renews again.
    pub(super) async fn run(self, stop: CancellationToken) {
        let (life, age) = self.credential.life(SystemTime::now()).unwrap_or_default();
        let own = self.last().map(|last| last.elapsed());
        if !pause(wait(life, age, own), &stop).await {
            return;
        }
        for failures in 1.. {
            match self.renew().await {
                Ok(()) => return tracing::info!("renewed the credential for the hub"),
                Err(error) => tracing::warn!(
                    error = format!("{error:#}"),
                    failures,
                    "cannot renew the credential for the hub; when it has ended, join again with a new token: slicectl token create on the hub, slicectl join here"
                ),
            }
            if !pause(backoff(failures).max(Duration::from_secs(1)), &stop).await {
                return;
            }
        }
    }

    fn last(&self) -> Option<Instant> {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
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
        // Before the Secret is written: the session that begins with it asks.
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        let secrets: Api<Secret> = Api::namespaced(self.local.clone(), &self.secret_namespace);
        let how = PatchParams { field_manager: Some(WORKER_MANAGER.into()), ..Default::default() };
        let patch = Patch::Merge(json!({"stringData": {"token": token}}));
        secrets.patch(&self.secret, &how, &patch).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn hours(n: u64) -> Duration {
        Duration::from_secs(n * 3600)
    }

    #[test]
    fn a_token_is_renewed_at_half_its_life() {
        assert_eq!(wait(DAY, hours(8), None), hours(4));
        assert_eq!(wait(DAY, hours(12), None), Duration::ZERO);
        assert_eq!(wait(Duration::ZERO, Duration::ZERO, None), Duration::ZERO);
    }

    #[test]
    fn a_clock_that_is_behind_renews_in_time() {
        assert_eq!(wait(DAY, Duration::ZERO, None), hours(6));
    }

    #[test]
    fn a_clock_that_is_ahead_does_not_renew_all_the_time() {
        assert_eq!(wait(DAY, hours(1000), Some(Duration::ZERO)), hours(6));
        assert_eq!(wait(DAY, hours(1000), Some(hours(6))), Duration::ZERO);
    }
}
