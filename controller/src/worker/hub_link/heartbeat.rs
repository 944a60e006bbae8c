//! The sign of life on the hub: a Lease, which is the cheapest object to write often.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, Patch, PatchParams};
use kube::{Api, Client};
use slicewire_api::labels::{WORKER_ACCOUNT, WORKER_MANAGER};
use slicewire_runtime::Metrics;
use tokio_util::sync::CancellationToken;

use super::pause;
use crate::kubernetes::write::{causes, status_code};

/// How often.
const EVERY: Duration = Duration::from_secs(10);
/// How long one counts, in seconds.
const COUNTS: i32 = 40;

/// What it means that the hub answers, and refuses.
const NOT_TAKEN: &str = "the hub does not take this cluster's credential any more: it was evicted, or has joined again elsewhere; join with a new token (slicectl token create on the hub, slicectl join here), or remove what is left with slicectl uninstall worker";

/// What beats.
pub(super) struct Heartbeat {
    pub(super) hub: Client,
    pub(super) namespace: String,
    /// Whether the hub answers; writes clear it.
    pub(super) reachable: Arc<AtomicBool>,
    pub(super) metrics: Metrics,
    /// Called when the hub is back.
    pub(super) back: Box<dyn Fn() + Send + Sync>,
}

impl Heartbeat {
    /// Beats until `stop`.
    pub(super) async fn beat(self, stop: CancellationToken) {
        let leases: Api<Lease> = Api::namespaced(self.hub.clone(), &self.namespace);
        let mut away = false;
        loop {
            let beaten = tokio::time::timeout(EVERY, once(&leases)).await;
            let error = match beaten {
                Ok(Ok(())) => None,
                Ok(Err(error)) if matches!(status_code(&error), Some(401 | 403)) => {
                    Some(NOT_TAKEN.to_owned())
                }
                Ok(Err(error)) => Some(causes(&error)),
                Err(_) => Some("no answer in time".to_owned()),
            };
            let was = self.reachable.swap(error.is_none(), Ordering::Relaxed);
            self.measure(error.is_none());
            match error {
                Some(error) if !away => {
                    tracing::warn!(%error, "the hub cannot be reached; slices run on as they are");
                    away = true;
                }
                Some(_) => {}
                None if away || !was => {
                    tracing::info!("the hub is back");
                    (self.back)();
                    away = false;
                }
                None => {}
            }
            if !self.wait(&stop).await {
                return;
            }
        }
    }

    /// Waits for the next beat, which comes sooner while the hub is away; `false` at the end.
    async fn wait(&self, stop: &CancellationToken) -> bool {
        for _ in 0..5 {
            if !pause(EVERY / 5, stop).await {
                return false;
            }
            if !self.reachable.load(Ordering::Relaxed) {
                return true;
            }
        }
        true
    }

    fn measure(&self, connected: bool) {
        self.metrics.set(
            "slicewire_hub_connected",
            "Whether the last heartbeat reached the hub.",
            &[],
            f64::from(u8::from(connected)),
        );
    }
}

async fn once(leases: &Api<Lease>) -> kube::Result<()> {
    let lease = Lease {
        metadata: ObjectMeta { name: Some(WORKER_ACCOUNT.to_owned()), ..ObjectMeta::default() },
        spec: Some(LeaseSpec {
            holder_identity: Some(WORKER_ACCOUNT.to_owned()),
            lease_duration_seconds: Some(COUNTS),
            renew_time: Some(MicroTime(Timestamp::now())),
            ..LeaseSpec::default()
        }),
    };
    let how = PatchParams::apply(WORKER_MANAGER).force();
    leases.patch(WORKER_ACCOUNT, &how, &Patch::Apply(&lease)).await?;
    Ok(())
}
