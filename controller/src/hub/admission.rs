//! The webhook that refuses a faulty SliceConfig or SlicePolicy when it is written, with every fault at once.
//!
//! What CEL can see in one object, the CRD refuses; this refuses what takes the project's clusters
//! and the running slice to see. It answers from caches. When it cannot be reached the object is
//! stored (`failurePolicy: Ignore`) and the reconciler, which asks the same question, tells the
//! faults in the object's conditions.

mod certificate;
mod review;
mod serve;
mod store;

use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use slicewire_runtime::Health;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::Hub;
use crate::options::{HubOptions, Identity};
pub(super) use serve::Serving;

/// How often the certificate, and whether it is trusted, is looked at.
const CHECK: Duration = Duration::from_secs(60);
/// The same while there is no configuration yet that could trust it: charts make it last.
const CHECK_SOON: Duration = Duration::from_secs(2);

/// Starts the webhook and what keeps its certificate, `certificate`.
pub(super) fn start(
    hub: &Hub,
    certificate: Arc<Serving>,
    client: Client,
    options: &HubOptions,
    identity: &Identity,
    health: &Health,
    stop: &CancellationToken,
) -> JoinHandle<anyhow::Result<()>> {
    let ready = health.wait_for("webhook certificate");
    let place = store::Place::new(client, options, identity);
    let (kept, ended) = (certificate.clone(), stop.clone());
    tokio::spawn(async move {
        let mut ready = Some(ready);
        loop {
            let wait = match place.keep(&kept).await {
                Ok(trusted) => {
                    ready.take();
                    if trusted { CHECK } else { CHECK_SOON }
                }
                Err(error) => {
                    tracing::warn!(
                        error = format!("{error:#}"),
                        "the webhook has no certificate yet"
                    );
                    Duration::from_secs(3)
                }
            };
            tokio::select! {
                () = ended.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    });
    let caches = hub.caches.clone();
    tokio::spawn(serve::serve(options.webhook_address, certificate, caches, stop.clone()))
}
