//! The sign of life on the hub: a Lease, which is the cheapest object to write often.

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
use crate::kubernetes::write::causes;

/// How often.
const EVERY: Duration = Duration::from_secs(10);
/// How long one counts, in seconds.
const COUNTS: i32 = 40;

/// Beats until `stop`.
pub(super) async fn beat(
    client: Client,
    namespace: String,
    metrics: Metrics,
    stop: CancellationToken,
) {
    let leases: Api<Lease> = Api::namespaced(client, &namespace);
    let mut told = false;
    loop {
        let beaten = tokio::time::timeout(EVERY, once(&leases)).await;
        let connected = matches!(beaten, Ok(Ok(())));
        metrics.set(
            "slicewire_hub_connected",
            "Whether the last heartbeat reached the hub.",
            &[],
            f64::from(u8::from(connected)),
        );
        match beaten {
            Ok(Ok(())) if told => {
                tracing::info!("the hub is back");
                told = false;
            }
            Ok(Ok(())) => {}
            failed if !told => {
                let error = match failed {
                    Ok(Err(error)) => causes(&error),
                    _ => "no answer in time".to_owned(),
                };
                tracing::warn!(%error, "the hub cannot be reached; slices run on as they are");
                told = true;
            }
            _ => {}
        }
        let wait = if told { EVERY / 5 } else { EVERY };
        if !pause(wait, &stop).await {
            return;
        }
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
