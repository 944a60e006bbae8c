//! The way into the hub: the credential, its renewal, and what is watched there.
//!
//! Losing the hub stops nothing: what it told last stays in the caches and in the mirror, and the
//! watches try again until it is back.

mod credential;
mod heartbeat;
mod renewal;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use kube::api::DynamicObject;
use kube::{Api, Client, ResourceExt};
use slicewire_api::labels::WORKER_MANAGER;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Worker, ours};
use crate::kubernetes::change::Steps;
use crate::kubernetes::watch::Watch;
use crate::kubernetes::write::{Outcome, WriteError, Writer};
use credential::Credential;

/// The hub as it can be reached now, if it can.
#[derive(Clone, Default)]
pub(crate) struct HubLink {
    session: Arc<RwLock<Option<Arc<Session>>>>,
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
                    tracing::warn!(secret = %name, %faults, "the way into the hub is not usable; run slicectl join again");
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
    while !stop.is_cancelled() {
        let credential = credentials.borrow_and_update().clone();
        let ends = stop.child_token();
        match &credential {
            None => worker.hub.set(None),
            Some(credential) => match credential.client() {
                Ok(client) => begin(worker, secret, credential, client, &ends),
                Err(error) => {
                    tracing::warn!(%error, "the way into the hub is not usable; run slicectl join again");
                    worker.hub.set(None);
                }
            },
        }
        tokio::select! {
            () = stop.cancelled() => {}
            changed = credentials.changed() => if changed.is_err() { stop.cancelled().await },
        }
        ends.cancel();
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
    let (told_again, slices) = (worker.queues.clone(), worker.local.slices.clone());
    let heartbeat = heartbeat::Heartbeat {
        hub: client.clone(),
        namespace: namespace.clone(),
        reachable,
        metrics: worker.metrics.clone(),
        back: Box::new(move || {
            told_again.cluster.add(());
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

/// Waits, or ends early; `false` when it ended.
async fn pause(wait: Duration, stop: &CancellationToken) -> bool {
    tokio::select! {
        () = stop.cancelled() => false,
        () = tokio::time::sleep(wait) => true,
    }
}
