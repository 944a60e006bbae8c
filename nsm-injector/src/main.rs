//! The webhook that makes new pods of onboarded namespaces wait for their slice NIC.
//!
//! It answers from caches and never calls the API inside a request. It manages its own certificate
//! and its own registration. While it is down, pods start as they are and are attached as always.

mod certificate;
mod registration;
mod review;
mod serve;
mod store;
mod world;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use clap::Parser;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use slicewire_runtime::{Health, ReadyGuard, init_telemetry, serve_admin, shutdown_signal};
use tokio::sync::watch;

use crate::registration::Endpoint;
use crate::review::WaitImage;
use crate::serve::{Certificate, Counters, Webhook};
use crate::world::World;

/// How often certificate and registration are looked at without a cause.
const RESYNC: Duration = Duration::from_secs(60);
/// How long to wait after a failure.
const RETRY: Duration = Duration::from_secs(2);
/// Changes of the onboarded namespaces this close together are registered at once.
const SETTLE: Duration = Duration::from_millis(100);

/// Makes new pods of onboarded namespaces wait for their slice NIC.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Namespace of the Service and the Secret.
    #[arg(long, env = "POD_NAMESPACE", default_value = "slicewire-system")]
    namespace: String,
    /// Name of the Service and the MutatingWebhookConfiguration; the Secret adds `-tls`.
    #[arg(long, default_value = "slicewire-nsm-injector")]
    name: String,
    /// Where the webhook listens.
    #[arg(long, default_value = "[::]:8443")]
    listen: SocketAddr,
    /// Where health and metrics are served.
    #[arg(long, default_value = "[::]:8080")]
    admin: SocketAddr,
    /// Registry and path the images are under.
    #[arg(long, env = "SLICEWIRE_IMAGE_PREFIX", default_value = "slicewire.dev")]
    image_prefix: String,
    /// Tag of the images.
    #[arg(long, env = "SLICEWIRE_IMAGE_TAG", default_value = env!("CARGO_PKG_VERSION"))]
    image_tag: String,
    /// When the nodes pull the image.
    #[arg(long, env = "SLICEWIRE_IMAGE_PULL_POLICY", default_value = "IfNotPresent")]
    image_pull_policy: String,
    /// Seconds a pod waits for its NIC before its init container fails and is tried again.
    #[arg(long, default_value_t = 120)]
    wait_seconds: u32,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    init_telemetry();
    run(Arguments::parse()).await
}

async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let stop = shutdown_signal()?;
    let client = Client::try_default().await.context("cannot find the API server")?;
    let health = Health::default();
    let counters = Arc::new(Counters::default());
    let (slices, namespaces, registered) =
        (health.wait_for("slices"), health.wait_for("namespaces"), health.wait_for("registration"));
    let metrics = counters.clone();
    serve_admin(arguments.admin, health, move || metrics.render(), stop.clone())
        .await
        .with_context(|| format!("cannot listen on {} for health", arguments.admin))?;

    let world = World::new();
    tokio::spawn(world.clone().follow_slices(client.clone(), slices));
    tokio::spawn(world.clone().follow_namespaces(client.clone(), namespaces));

    let certificate = Arc::new(Certificate::default());
    let upkeep = Upkeep {
        secrets: Api::namespaced(client.clone(), &arguments.namespace),
        secret: format!("{}-tls", arguments.name),
        configurations: Api::all(client),
        endpoint: Endpoint {
            configuration: arguments.name.clone(),
            service: arguments.name,
            namespace: arguments.namespace,
        },
        certificate: certificate.clone(),
    };
    tokio::spawn(upkeep.run(world.onboarded(), registered));

    let image = WaitImage {
        image: format!("{}/nsm-injector:{}", arguments.image_prefix, arguments.image_tag),
        pull_policy: arguments.image_pull_policy,
        timeout_seconds: arguments.wait_seconds,
    };
    let webhook = Arc::new(Webhook { world, image, counters });
    serve::serve(arguments.listen, certificate, webhook, stop).await
}

/// Keeps certificate and registration as they should be.
struct Upkeep {
    secrets: Api<Secret>,
    secret: String,
    configurations: Api<MutatingWebhookConfiguration>,
    endpoint: Endpoint,
    certificate: Arc<Certificate>,
}

impl Upkeep {
    /// Goes round whenever the onboarded namespaces change, and now and then. Until they are known
    /// the registration of the last run stands.
    async fn run(self, mut onboarded: watch::Receiver<Option<Vec<String>>>, ready: ReadyGuard) {
        let mut ready = Some(ready);
        loop {
            let namespaces = onboarded.borrow_and_update().clone();
            let pause = match self.round(namespaces.as_deref()).await {
                Ok(()) => {
                    if let Some(namespaces) = namespaces
                        && ready.take().is_some()
                    {
                        tracing::info!(namespaces = namespaces.len(), "registered");
                    }
                    RESYNC
                }
                Err(error) => {
                    tracing::warn!(error = format!("{error:#}"), "not registered; trying again");
                    RETRY
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                Ok(()) = onboarded.changed() => tokio::time::sleep(SETTLE).await,
            }
        }
    }

    async fn round(&self, namespaces: Option<&[String]>) -> anyhow::Result<()> {
        let names = self.endpoint.names();
        let material = store::current(&self.secrets, &self.secret, &names, SystemTime::now())
            .await
            .inspect_err(|error| tracing::warn!(reason = error.reason(), "no certificate"))?;
        self.certificate.replace(&material).context("the stored certificate is damaged")?;
        let Some(namespaces) = namespaces else { return Ok(()) };
        registration::apply(&self.configurations, &self.endpoint, &material.authorities, namespaces)
            .await
            .with_context(|| {
                format!(
                    "cannot apply MutatingWebhookConfiguration {}; see that the chart's role allows it",
                    self.endpoint.configuration
                )
            })
    }
}
