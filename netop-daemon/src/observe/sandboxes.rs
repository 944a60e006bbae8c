//! The container runtime's sandboxes: told by NRI as they come and go, listed through CRI where
//! there is no NRI and, now and then, to heal what was missed.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kube::Client;
use slicewire_core::prefix::Family;
use slicewire_runtime_api::nri;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::kubernetes;
use crate::converge::Attach;
use crate::cri::{Cri, netns_path};
use crate::decide::memberships;
use crate::metrics::Metrics;
use crate::nri::Asked;
use crate::report::claim;
use crate::world::{Sandbox, Shared, Source, World};

/// How long the runtime is kept waiting for a pod's NICs; its own limit is 2 s.
const PATIENCE: Duration = Duration::from_millis(1_600);
/// How long a pod that is being started may be unknown to the API server's watch; the kubelet has it
/// from there, so that it is known, or never will be.
const KNOWN_WITHIN: Duration = Duration::from_millis(500);
/// How often CRI is asked when NRI tells everything, and when it does not.
const HEAL: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_secs(2);
/// A sandbox that has just been told of may be missing from a list made before.
const YOUNG: Duration = Duration::from_secs(10);

/// Keeps the world's sandboxes, and has pods attached that are just being started.
#[derive(Clone)]
pub(crate) struct Sandboxes {
    pub(crate) client: Client,
    pub(crate) node: String,
    pub(crate) shared: Shared,
    pub(crate) attach: mpsc::Sender<Attach>,
    pub(crate) metrics: Arc<Metrics>,
}

/// Listens to NRI and asks CRI until `stop`.
pub(crate) async fn watch(
    this: Sandboxes,
    cri: Cri,
    mut asked: mpsc::Receiver<Asked>,
    stop: CancellationToken,
) {
    let mut nri = false;
    let mut next = tokio::time::Instant::now();
    let mut changes = this.shared.changes();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            Some(event) = asked.recv() => {
                match &event {
                    Asked::Synchronize(_) => nri = true,
                    Asked::Disconnected => {
                        nri = false;
                        next = tokio::time::Instant::now();
                    }
                    Asked::Run(..) | Asked::Stop(_) => {}
                }
                this.metrics.nri(nri);
                this.told(event);
            }
            changed = changes.changed() => {
                if changed.is_err() { return }
                // A pod nobody has told us of: without NRI, look soon.
                if !nri && this.shared.read(lacks_sandbox) {
                    next = next.min(tokio::time::Instant::now() + Duration::from_millis(250));
                }
            }
            () = tokio::time::sleep_until(next) => {
                this.list(&cri).await;
                let pause = if nri { HEAL } else { POLL };
                next = tokio::time::Instant::now() + pause;
            }
        }
    }
}

/// Whether some pod of the node has no sandbox that is known.
fn lacks_sandbox(world: &World) -> bool {
    world
        .pods
        .iter()
        .any(|(uid, p)| !p.finished && !p.host_network && !world.sandboxes.contains_key(uid))
}

impl Sandboxes {
    fn told(&self, event: Asked) {
        match event {
            Asked::Disconnected => {}
            Asked::Synchronize(pods) => {
                self.replace(pods.into_iter().filter_map(sandbox).collect(), true);
            }
            Asked::Stop(pod) => self.shared.change(|world| {
                // The pod may have a newer sandbox already.
                world.sandboxes.get(&pod.uid).is_some_and(|s| s.id == pod.id)
                    && world.sandboxes.remove(&pod.uid).is_some()
            }),
            Asked::Run(pod, done) => {
                let Some((uid, sandbox)) = sandbox(pod) else { return };
                let namespace = sandbox.namespace.clone();
                let host = sandbox.netns.is_none();
                self.shared.change(|world| {
                    world.sandboxes.insert(uid.clone(), sandbox);
                    true
                });
                if host {
                    return;
                }
                let this = self.clone();
                tokio::spawn(async move {
                    let begun = Instant::now();
                    let attached = this.attach_now(&uid, &namespace);
                    if tokio::time::timeout(PATIENCE, attached).await.is_err() {
                        tracing::warn!(namespace, uid, "no NIC within {PATIENCE:?}; trying on");
                    }
                    tracing::debug!(uid, took = ?begun.elapsed(), "answered the runtime");
                    let _ = done.send(());
                });
            }
        }
    }

    /// Has a pod attached to all its slices; returns when it is.
    async fn attach_now(&self, uid: &str, namespace: &str) {
        let mut changes = self.shared.changes();
        self.until(&mut changes, |w| w.missing().is_empty()).await;
        if !self.shared.read(|w| w.namespaces.contains_key(namespace))
            && let Some(labels) = kubernetes::namespace(&self.client, namespace).await
        {
            self.shared.change(|w| w.namespaces.insert(namespace.to_owned(), labels).is_none());
        }
        let slices = self.shared.read(|w| memberships(w, &self.node, uid));
        if slices.is_empty() {
            return;
        }
        for slice in &slices {
            if self.shared.read(|w| w.own_node(slice, &self.node).is_none())
                && let Err(error) = claim(&self.client, slice, &self.node).await
            {
                tracing::warn!(slice, %error, "cannot ask for address blocks");
            }
        }
        self.until(&mut changes, |w| slices.iter().all(|s| has_blocks(w, s, &self.node))).await;
        // By what the API server says of it, policies know who it is.
        let known = self.until(&mut changes, |w| w.pods.contains_key(uid));
        drop(tokio::time::timeout(KNOWN_WITHIN, known).await);
        loop {
            let (done, attached) = oneshot::channel();
            let request = Attach { uid: uid.to_owned(), done };
            if self.attach.send(request).await.is_err() || attached.await.unwrap_or(true) {
                return;
            }
            // What it lacked may come: a block, a namespace to itself.
            drop(tokio::time::timeout(Duration::from_millis(200), changes.changed()).await);
        }
    }

    async fn until(
        &self,
        changes: &mut tokio::sync::watch::Receiver<u64>,
        holds: impl Fn(&World) -> bool,
    ) {
        changes.mark_unchanged();
        while !self.shared.read(&holds) {
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    async fn list(&self, cri: &Cri) {
        let known = self.shared.read(|w| w.sandboxes.clone());
        match cri.sandboxes(&known).await {
            Ok(list) => self.replace(list, false),
            Err(error) => tracing::debug!(%error, "cannot list sandboxes"),
        }
    }

    /// Takes a list for the truth, but for sandboxes younger than the list may be.
    fn replace(&self, mut list: BTreeMap<String, Arc<Sandbox>>, with_labels: bool) {
        self.shared.change(|world| {
            for (uid, old) in &world.sandboxes {
                match list.get_mut(uid) {
                    Some(new) if new.id == old.id => {
                        let new = Arc::make_mut(new);
                        new.seen = old.seen;
                        if !with_labels {
                            new.labels.clone_from(&old.labels);
                        }
                    }
                    Some(_) => {}
                    None if old.seen.elapsed() < YOUNG => {
                        list.insert(uid.clone(), old.clone());
                    }
                    None => {}
                }
            }
            let first = world.listed.insert(Source::Sandboxes);
            let changed = first || world.sandboxes != list;
            world.sandboxes = list;
            changed
        });
    }
}

fn has_blocks(world: &World, slice: &str, node: &str) -> bool {
    let families = world.slices.get(slice).and_then(|e| e.valid.as_ref()).map(|v| &v.families);
    let blocks = world.own_node(slice, node).map(|n| &n.blocks);
    families.zip(blocks).is_some_and(|(families, blocks)| {
        families.iter().all(|f| blocks.iter().any(|b| Family::of(b) == *f))
    })
}

fn sandbox(pod: nri::PodSandbox) -> Option<(String, Arc<Sandbox>)> {
    if pod.uid.is_empty() {
        return None;
    }
    let namespaces = pod.linux.map(|l| l.namespaces).unwrap_or_default();
    let network = namespaces.iter().find(|n| n.r#type == "network");
    let netns: Option<PathBuf> = network.and_then(|n| netns_path(&n.path, pod.pid));
    let sandbox = Sandbox {
        id: pod.id,
        namespace: pod.namespace,
        name: pod.name,
        labels: pod.labels.into_iter().collect(),
        netns,
        seen: Instant::now(),
    };
    Some((pod.uid, Arc::new(sandbox)))
}
