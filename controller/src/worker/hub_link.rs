//! The way into the hub: the credential, its renewal, and what is watched there.
//!
//! Losing the hub stops nothing: what it told last stays in the caches and in the mirror, and the
//! watches try again until it is back.

mod credential;
mod heartbeat;
mod renewal;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DynamicObject, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use slicewire_api::Cluster;
use slicewire_api::condition::{LEFT, READY, condition};
use slicewire_api::labels::WORKER_MANAGER;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Worker, ours, services};
use crate::kubernetes::change::Steps;
use crate::kubernetes::watch::Watch;
use crate::kubernetes::write::{Outcome, WriteError, Writer};
use credential::Credential;

/// The hub as it can be reached now, if it can.
#[derive(Clone, Default)]
pub(crate) struct HubLink {
    session: Arc<RwLock<Option<Arc<Session>>>>,
    /// When the credential was renewed last by this process.
    renewed: Arc<Mutex<Option<Instant>>>,
}

/// A credential in use.
pub(crate) struct Session {
    writer: Writer,
    /// Cleared by the first write that gets no answer, set by the next heartbeat that does.
    reachable: Arc<AtomicBool>,
    /// This cluster's namespace on the hub.
    pub(crate) namespace: String,
    /// This cluster's name on the hub.
    pub(crate) cluster: String,
}

impl Session {
    /// Tells the hub something, unless it is away: then whoever waits is this cluster, and what is
    /// to be said is found out anew when the hub is back.
    pub(crate) async fn tell(&self, steps: Steps, note: impl Fn(DynamicObject)) -> Outcome {
        if !self.reachable.load(Ordering::Relaxed) {
            return self.writer.run(Vec::new(), |_| {}).await;
        }
        let told = tokio::time::timeout(PATIENCE, self.writer.run(steps, note)).await;
        match told {
            Ok(Err(errors)) if errors.iter().any(WriteError::is_unreachable) => {}
            Ok(outcome) => return outcome,
            Err(_) => {}
        }
        self.reachable.store(false, Ordering::Relaxed);
        self.writer.run(Vec::new(), |_| {}).await
    }
}

/// How long this cluster's own affairs are held up by a hub that does not answer, once.
const PATIENCE: Duration = Duration::from_secs(6);

impl HubLink {
    /// The hub, unless this cluster has not joined one.
    pub(crate) fn session(&self) -> Option<Arc<Session>> {
        self.session.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, session: Option<Session>) {
        *self.session.write().unwrap_or_else(PoisonError::into_inner) = session.map(Arc::new);
    }
}

/// Watches the Secret; the receiver holds what it says.
pub(super) fn watch_credentials(
    worker: &Worker,
    client: &Client,
    secret: &str,
    stop: &CancellationToken,
) -> watch::Receiver<Option<Credential>> {
    let (send, receive) = watch::channel(None);
    let cache = worker.local.credentials.clone();
    let (namespace, name) = (worker.namespace.clone(), secret.to_owned());
    Watch::new(ours(client, &worker.namespace), &worker.local.credentials, stop)
        .fields(&format!("metadata.name={secret}"))
        .spawn(move |_| {
            let read = cache.get(&namespace, &name).map(|s| Credential::read(&s));
            let new = match read {
                Some(Ok(credential)) => Some(credential),
                Some(Err(faults)) => {
                    let faults = slicewire_core::violation::summary(&faults);
                    tracing::warn!(secret = %name, %faults, "the way into the hub is not usable; join again with a new token");
                    None
                }
                None => None,
            };
            send.send_if_modified(|old| {
                let changed = *old != new;
                *old = new;
                changed
            });
        });
    receive
}

/// Keeps a session for as long as there is a credential, until `stop`.
pub(super) async fn run(
    worker: &Worker,
    secret: &str,
    mut credentials: watch::Receiver<Option<Credential>>,
    stop: &CancellationToken,
) {
    let mut last = None;
    while !stop.is_cancelled() {
        let credential = credentials.borrow_and_update().clone();
        let ends = stop.child_token();
        match &credential {
            None => {
                worker.hub.set(None);
                if let Some(last) = last.take() {
                    goodbye(&last).await;
                }
            }
            Some(credential) => match credential.client() {
                Ok(client) => begin(worker, secret, credential, client, &ends),
                Err(error) => {
                    tracing::warn!(%error, "the way into the hub is not usable; join again with a new token");
                    worker.hub.set(None);
                }
            },
        }
        tokio::select! {
            () = stop.cancelled() => {}
            changed = credentials.changed() => if changed.is_err() { stop.cancelled().await },
        }
        ends.cancel();
        last = credential;
    }
}

/// Tells the hub with the last credential that there is none any more, so that nobody waits for
/// this cluster. A hub that does not hear it finds the heartbeat missing.
async fn goodbye(last: &Credential) {
    let told = async {
        let clusters: Api<Cluster> = Api::namespaced(last.client()?, &last.namespace);
        let message = "the credential for the hub was removed";
        let left = condition(READY, false, LEFT, message, None, Time(Timestamp::now()));
        let status = Patch::Merge(json!({ "status": { "conditions": [left] } }));
        clusters.patch_status(&last.cluster, &PatchParams::default(), &status).await?;
        anyhow::Ok(())
    };
    match tokio::time::timeout(PATIENCE, told).await {
        Ok(Ok(())) => tracing::info!(server = %last.server, "left the hub"),
        Ok(Err(error)) => {
            tracing::warn!(error = format!("{error:#}"), "left the hub without a word");
        }
        Err(_) => tracing::warn!("left the hub without a word: no answer in time"),
    }
}

/// Starts what a session consists of; all of it ends with `stop`.
fn begin(
    worker: &Worker,
    secret: &str,
    credential: &Credential,
    client: Client,
    stop: &CancellationToken,
) {
    let Credential { namespace, cluster, project, server, .. } = credential;
    tracing::info!(%server, %project, %cluster, %namespace, "using the hub");
    let reachable = Arc::new(AtomicBool::new(true));
    worker.hub.set(Some(Session {
        reachable: reachable.clone(),
        writer: Writer { client: client.clone(), manager: WORKER_MANAGER },
        namespace: namespace.clone(),
        cluster: cluster.clone(),
    }));
    let queues = worker.queues.clone();
    Watch::new(Api::namespaced(client.clone(), namespace), &worker.told.slices, stop)
        .spawn(move |slice| queues.touch(&slice.name_any()));
    let queues = worker.queues.clone();
    Watch::new(Api::namespaced(client.clone(), namespace), &worker.told.gateways, stop)
        .spawn(move |gateway| queues.gateways.add(gateway.name_any()));
    let queues = worker.queues.clone();
    Watch::new(Api::namespaced(client.clone(), namespace), &worker.told.clusters, stop)
        .spawn(move |_| queues.cluster.add(()));
    policies(worker, &client, namespace, stop);
    live(worker, &client, namespace, stop);
    services::watch_hub(worker, &client, namespace, stop);
    let (told_again, slices) = (worker.queues.clone(), worker.local.slices.clone());
    let of_services = worker.services.clone();
    let heartbeat = heartbeat::Heartbeat {
        hub: client.clone(),
        namespace: namespace.clone(),
        reachable,
        metrics: worker.metrics.clone(),
        back: Box::new(move || {
            told_again.cluster.add(());
            services::touch(&of_services);
            slices.list().iter().for_each(|s| told_again.touch(&s.name_any()));
        }),
    };
    tokio::spawn(heartbeat.beat(stop.clone()));
    let renewal = renewal::Renewal {
        hub: client,
        local: worker.writer.client.clone(),
        secret: secret.to_owned(),
        secret_namespace: worker.namespace.clone(),
        credential: credential.clone(),
        last: worker.hub.renewed.clone(),
    };
    tokio::spawn(renewal.run(stop.clone()));
    let (told, queues, slices) =
        (worker.told.slices.clone(), worker.queues.clone(), worker.local.slices.clone());
    let ended = stop.clone();
    // What the hub does not tell any more is found out only when its whole list is there.
    tokio::spawn(async move {
        tokio::select! {
            () = ended.cancelled() => {}
            () = told.wait_synced() => slices.list().iter().for_each(|s| queues.touch(&s.name_any())),
        }
    });
}

/// What the hub tells of policies and of other clusters' pods.
fn policies(worker: &Worker, client: &Client, namespace: &str, stop: &CancellationToken) {
    let queues = worker.queues.clone();
    Watch::new(Api::namespaced(client.clone(), namespace), &worker.told.policies, stop)
        .spawn(move |policy| queues.policies.add(policy.spec.slice.clone()));
    let queues = worker.queues.clone();
    Watch::new(Api::namespaced(client.clone(), namespace), &worker.told.endpoints, stop).spawn(
        move |endpoints| {
            queues.endpoints.add(endpoints.name_any());
            queues.pods.add(endpoints.spec.slice.clone());
        },
    );
    // What the hub does not tell any more is found out only when its whole lists are there.
    let (told, local, queues) = (worker.told.clone(), worker.local.clone(), worker.queues.clone());
    let ended = stop.clone();
    tokio::spawn(async move {
        let synced = async {
            told.policies.wait_synced().await;
            told.endpoints.wait_synced().await;
        };
        tokio::select! {
            () = ended.cancelled() => {}
            () = synced => {
                local.slices.list().iter().for_each(|s| queues.policies.add(s.name_any()));
                local.endpoints.list().iter().for_each(|e| queues.endpoints.add(e.name_any()));
            }
        }
    });
}

/// Where the hub lets this cluster tell people what runs.
fn live(worker: &Worker, client: &Client, namespace: &str, stop: &CancellationToken) {
    let queues = worker.queues.clone();
    Watch::new(Api::namespaced(client.clone(), namespace), &worker.told.pods, stop)
        .spawn(move |pods| queues.listed.add(pods.spec.slice.clone()));
    let queues = worker.queues.clone();
    Watch::new(Api::namespaced(client.clone(), namespace), &worker.told.traffic, stop)
        .spawn(move |traffic| queues.traffic.add(traffic.name_any()));
}

/// Waits, or ends early; `false` when it ended.
async fn pause(wait: Duration, stop: &CancellationToken) -> bool {
    tokio::select! {
        () = stop.cancelled() => false,
        () = tokio::time::sleep(wait) => true,
    }
}
