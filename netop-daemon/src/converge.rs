//! The one loop that changes the node: observe, decide, plan, apply, report.
//!
//! Pods that are just being started come first: a request to attach one is served between any two
//! pods of a larger round, and the round then begins anew with what has changed.

#[cfg(test)]
mod laws;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use slicewire_kernel::{LinkKind, Network, NextHops, State};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::allocations::{Allocations, uptime_ms};
use crate::apply::{Applier, ApplyError, ROUTER_PREFIX};
use crate::decide::{Desired, Failure, Node, Present, decide};
use crate::metrics::Metrics;
use crate::plan::{NicWant, RouterWant, alias_of_nic, port_owner};
use crate::report::{Notice, Report, RouterReport};
use crate::world::{Shared, World};

/// Changes that come together are dealt with together.
const SETTLE: Duration = Duration::from_millis(20);
/// A round without any change: heals what somebody else did to our routers.
const TICK: Duration = Duration::from_secs(5);
/// As many ticks later every pod's NIC is looked at, too.
const FULL_EVERY: u32 = 12;
/// How long a router without pods stays, for a pod that may follow.
const LINGER: Duration = Duration::from_secs(4);
/// A failure that is over sooner is not worth a person's attention: a block was being granted.
const PATIENCE: Duration = Duration::from_secs(2);

/// A request to attach one pod now; answered with whether it has all its NICs.
pub(crate) struct Attach {
    pub(crate) uid: String,
    pub(crate) done: oneshot::Sender<bool>,
}

/// The loop's state.
pub(crate) struct Engine {
    node: Node,
    shared: Shared,
    allocations: Allocations,
    applier: Applier,
    requests: mpsc::Receiver<Attach>,
    reports: watch::Sender<Report>,
    notices: mpsc::Sender<Notice>,
    metrics: Arc<Metrics>,
    /// NICs found right, by slice and pod.
    done: BTreeMap<(String, String), NicWant>,
    present: Present,
    /// Routers that have been right at least once.
    ready: BTreeSet<String>,
    idle_since: BTreeMap<String, Instant>,
    failing: BTreeMap<(String, String), Failing>,
}

/// Where an engine gets its work from and reports to.
pub(crate) struct Wiring {
    pub(crate) requests: mpsc::Receiver<Attach>,
    pub(crate) reports: watch::Sender<Report>,
    pub(crate) notices: mpsc::Sender<Notice>,
    pub(crate) metrics: Arc<Metrics>,
}

impl Engine {
    /// An engine that has not looked at anything yet.
    ///
    /// # Errors
    /// The node's own network namespace cannot be opened.
    pub(crate) async fn new(
        node: Node,
        shared: Shared,
        allocations: Allocations,
        network: Arc<dyn Network>,
        wiring: Wiring,
    ) -> Result<Self, ApplyError> {
        Ok(Self {
            node,
            shared,
            allocations,
            applier: Applier::new(network).await?,
            requests: wiring.requests,
            reports: wiring.reports,
            notices: wiring.notices,
            metrics: wiring.metrics,
            done: BTreeMap::new(),
            present: Present::new(),
            ready: BTreeSet::new(),
            idle_since: BTreeMap::new(),
            failing: BTreeMap::new(),
        })
    }

    /// Waits until everything has been listed, takes over what is in the kernel, and then keeps it
    /// right until `stop`. What is in the kernel stays.
    pub(crate) async fn run(mut self, stop: CancellationToken, up: impl FnOnce()) {
        let mut changes = self.shared.changes();
        changes.mark_changed();
        while !self.shared.read(|w| w.missing().is_empty()) {
            tokio::select! {
                () = stop.cancelled() => return,
                changed = changes.changed() => if changed.is_err() { return },
            }
        }
        self.adopt().await;
        up();
        let mut due = Some(tokio::time::Instant::now());
        let mut tick = tokio::time::interval(TICK);
        let mut ticks = 0;
        loop {
            let settled = async {
                match due {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Some(request) = self.requests.recv() => self.serve(request).await,
                changed = changes.changed() => {
                    if changed.is_err() { return }
                    due = due.or_else(|| Some(tokio::time::Instant::now() + SETTLE));
                }
                () = settled => due = self.round().await.then(tokio::time::Instant::now),
                _ = tick.tick() => {
                    ticks += 1;
                    if ticks % FULL_EVERY == 0 {
                        self.done.clear();
                    }
                    due = due.or_else(|| Some(tokio::time::Instant::now()));
                }
            }
        }
    }

    /// Takes over addresses and NIC names from the kernel.
    async fn adopt(&mut self) {
        let mut owners = BTreeSet::new();
        let routers = self.applier.routers().await.unwrap_or_default();
        for netns in &routers {
            let Some(slice) = netns.strip_prefix(ROUTER_PREFIX) else { continue };
            let state = match self.applier.observe_router(netns).await {
                Ok(state) => state,
                Err(error) => {
                    tracing::warn!(slice, %error, "cannot look into a slice router");
                    continue;
                }
            };
            for (uid, address) in owned_addresses(slice, &state) {
                if !self.allocations.slice(slice).adopt(&uid, address) {
                    tracing::warn!(slice, pod = uid, %address, "two owners of an address");
                }
                owners.insert(uid);
            }
        }
        let sandboxes = self.shared.read(|w| w.sandboxes.clone());
        for (uid, sandbox) in sandboxes.iter().filter(|(uid, _)| owners.contains(*uid)) {
            let Some(netns) = &sandbox.netns else { continue };
            let Ok(state) = self.applier.observe_pod(netns).await else { continue };
            for link in &state.links {
                let slice =
                    link.alias.as_deref().and_then(|a| a.strip_prefix(alias_of_nic("").as_str()));
                if let Some(slice) = slice {
                    let nics = self.present.entry(uid.clone()).or_default();
                    nics.insert(slice.to_owned(), link.name.clone());
                }
            }
        }
        let nics: usize = self.present.values().map(BTreeMap::len).sum();
        tracing::info!(routers = routers.len(), nics, "took over what is in the kernel");
    }

    fn decide(&mut self, world: &World) -> Desired {
        let now_ms = uptime_ms();
        let desired =
            decide(world, &self.node, &mut self.allocations, &self.present, Instant::now(), now_ms);
        if let Err(error) = self.allocations.save(now_ms) {
            tracing::warn!(%error, "cannot write the state file; a restart would forget which addresses rest");
        }
        desired
    }

    /// Attaches one pod, doing nothing else.
    async fn serve(&mut self, request: Attach) {
        let begun = Instant::now();
        let world = self.shared.snapshot();
        let desired = self.decide(&world);
        let mut all = !desired.failures.iter().any(|f| {
            f.uid == request.uid && !world.slices.get(&f.slice).is_none_or(|s| s.deleting)
        });
        let wants: Vec<&NicWant> = desired.nics.values().filter(|n| n.uid == request.uid).collect();
        for want in wants {
            let Some(router) = desired.routers.get(&want.slice) else { continue };
            match self.attach_now(want, router).await {
                Ok(()) => {}
                Err(error) => {
                    all = false;
                    tracing::warn!(slice = want.slice, pod = ?want.pod, %error, "attaching failed; it is tried again");
                }
            }
        }
        self.metrics.attached_in(begun.elapsed());
        // The asker may have given up waiting.
        let _ = request.done.send(all);
    }

    async fn attach_now(&mut self, want: &NicWant, router: &RouterWant) -> Result<(), ApplyError> {
        let key = (want.slice.clone(), want.uid.clone());
        if self.done.get(&key) == Some(want) {
            return Ok(());
        }
        if !self.ready.contains(&want.slice) {
            self.applier.converge_router(router).await?;
            self.ready.insert(want.slice.clone());
        }
        let state = self.applier.router_links(&router.netns).await?;
        self.attach(want, &router.netns, &state).await
    }

    async fn attach(
        &mut self,
        want: &NicWant,
        netns: &str,
        router: &State,
    ) -> Result<(), ApplyError> {
        let fresh = router.link(&want.port.device).is_none();
        self.applier.converge_nic(want, netns, router).await?;
        let nics = self.present.entry(want.uid.clone()).or_default();
        nics.insert(want.slice.clone(), want.nic.clone());
        self.done.insert((want.slice.clone(), want.uid.clone()), want.clone());
        if fresh {
            self.metrics.attached(&want.slice);
            tracing::info!(slice = want.slice, namespace = want.pod.0, pod = want.pod.1, nic = want.nic, addresses = ?want.port.addresses, "attached");
            self.notify(Notice::attached(want));
        }
        Ok(())
    }

    fn notify(&self, notice: Notice) {
        // Events are a courtesy: when the API server is slow, attaching does not wait for it.
        drop(self.notices.try_send(notice));
    }

    /// One round over everything. Returns whether another should follow at once.
    async fn round(&mut self) -> bool {
        let begun = Instant::now();
        let world = self.shared.snapshot();
        let desired = self.decide(&world);
        let mut report = Report::default();
        if let Err(error) = self.applier.forget_lost().await {
            tracing::warn!(%error, "cannot list network namespaces");
        }
        let lingering = self.leave(&world, &desired).await;
        let mut failures = desired.failures.clone();
        let mut again = false;
        for (slice, want) in &desired.routers {
            let (state, error) = match self.applier.converge_router(want).await {
                Ok((state, error)) => (Some(state), error),
                Err(error) => (None, Some(error)),
            };
            if let Some(error) = &error {
                self.ready.remove(slice);
                self.metrics.failed(error.reason());
                tracing::warn!(slice, %error, "the slice router is not as it should be");
            } else {
                self.ready.insert(slice.clone());
            }
            report.routers.insert(slice.clone(), RouterReport::new(error.as_ref()));
            let Some(state) = state else { continue };
            match self.nics(slice, want, &desired, &state, &mut failures).await {
                Round::Interrupted => return true,
                Round::Done { gateway } => again |= gateway,
            }
        }
        self.metrics.round(begun.elapsed());
        self.report(report, &world, &desired, failures, lingering);
        again
    }

    /// Attaches the pods of one slice that are not yet, or no longer, as they should be.
    async fn nics(
        &mut self,
        slice: &str,
        router: &RouterWant,
        desired: &Desired,
        state: &State,
        failures: &mut Vec<Failure>,
    ) -> Round {
        let mut gateway = false;
        for (key, want) in desired.nics.iter().filter(|((s, _), _)| s == slice) {
            let there = state.link(&want.port.device).is_some();
            if there && self.done.get(key) == Some(want) {
                continue;
            }
            match self.attach(want, &router.netns, state).await {
                // Routes to a gateway need its port; they come with the next round.
                Ok(()) => gateway |= want.gateway && !there,
                Err(error) => {
                    self.done.remove(key);
                    if error.reason() == "NotFound" {
                        self.lost(want);
                    }
                    failures.push(failure(want, &error));
                    self.metrics.failed(error.reason());
                    tracing::debug!(slice, pod = ?want.pod, %error, "attaching failed");
                }
            }
            if let Ok(request) = self.requests.try_recv() {
                self.serve(request).await;
                return Round::Interrupted;
            }
        }
        Round::Done { gateway }
    }

    /// A sandbox whose network namespace is gone has ended, whoever forgot to say so.
    fn lost(&self, want: &NicWant) {
        if want.netns.exists() {
            return;
        }
        self.shared.change(|world| {
            let same = world
                .sandboxes
                .get(&want.uid)
                .is_some_and(|s| s.netns.as_deref() == Some(want.netns.as_path()));
            same && world.sandboxes.remove(&want.uid).is_some()
        });
    }

    /// Removes routers that no pod wants. Ports of pods that left a slice that goes on are removed
    /// with the router's own plan.
    /// Returns slices that still have one.
    async fn leave(&mut self, world: &World, desired: &Desired) -> BTreeSet<String> {
        let detached: Vec<(String, String)> =
            self.done.keys().filter(|k| !desired.nics.contains_key(*k)).cloned().collect();
        for key in detached {
            if let Some(nic) = self.done.remove(&key) {
                tracing::info!(slice = key.0, namespace = nic.pod.0, pod = nic.pod.1, "detached");
                // A pod that has ended needs no telling.
                if world.sandboxes.contains_key(&key.1) {
                    self.notify(Notice::detached(&nic));
                }
            }
        }
        for (uid, nics) in &mut self.present {
            nics.retain(|s, _| desired.nics.contains_key(&(s.clone(), uid.clone())));
        }
        self.present.retain(|_, nics| !nics.is_empty());
        let mut left = BTreeSet::new();
        for netns in self.applier.routers().await.unwrap_or_default() {
            let slice = netns.strip_prefix(ROUTER_PREFIX).unwrap_or_default().to_owned();
            if desired.routers.contains_key(&slice) || desired.unknown.contains(&slice) {
                self.idle_since.remove(&slice);
                left.insert(slice);
                continue;
            }
            let stays = world.slices.get(&slice).is_some_and(|s| !s.deleting)
                && world.own_node(&slice, &self.node.name).is_some();
            let since = *self.idle_since.entry(slice.clone()).or_insert_with(Instant::now);
            let done = if stays && since.elapsed() < LINGER {
                left.insert(slice.clone());
                self.applier.remove_ports(&netns).await
            } else {
                self.ready.remove(&slice);
                self.idle_since.remove(&slice);
                tracing::info!(slice, "removing the slice router");
                self.applier.remove_router(&netns).await
            };
            if let Err(error) = done {
                tracing::warn!(slice, %error, "cannot remove a slice router; it is tried again");
                left.insert(slice);
            }
        }
        left
    }

    fn report(
        &mut self,
        mut report: Report,
        world: &World,
        desired: &Desired,
        failures: Vec<Failure>,
        lingering: BTreeSet<String>,
    ) {
        report.failures = self.lasting(failures);
        report.nics = self.done.clone();
        report.wanted = desired.wanted.clone();
        report.lingering = lingering;
        report.valid = true;
        for (slice, entry) in &world.slices {
            if let Some(valid) = &entry.valid {
                let low = self.allocations.slice(slice).low(&valid.families);
                report.low.insert(slice.clone(), low);
            }
            if self.allocations.is_idle(slice) {
                report.idle.insert(slice.clone());
            }
        }
        self.metrics.nics(&report);
        self.reports.send_if_modified(|old| {
            let changed = *old != report;
            *old = report;
            changed
        });
    }

    /// Failures that have lasted; a person is told of each once.
    fn lasting(&mut self, failures: Vec<Failure>) -> Vec<Failure> {
        let now = Instant::now();
        let mut failing = BTreeMap::new();
        let mut lasting = Vec::new();
        for failure in failures {
            let key = (failure.slice.clone(), failure.uid.clone());
            let before = self.failing.remove(&key).filter(|f| f.reason == failure.reason);
            let fresh = Failing { reason: failure.reason, since: now, told: false };
            let mut this = before.unwrap_or(fresh);
            if this.since + PATIENCE <= now || failure.reason == "PrefixConflict" {
                if !this.told {
                    self.notify(Notice::failed(&failure));
                    this.told = true;
                }
                lasting.push(failure);
            }
            failing.insert(key, this);
        }
        self.failing = failing;
        lasting
    }
}

/// A failure that was there in the last round.
struct Failing {
    reason: &'static str,
    since: Instant,
    told: bool,
}

enum Round {
    /// A pod that is being started came in between: begin anew.
    Interrupted,
    /// Whether a gateway was attached.
    Done { gateway: bool },
}

fn failure(want: &NicWant, error: &ApplyError) -> Failure {
    Failure {
        slice: want.slice.clone(),
        uid: want.uid.clone(),
        pod: want.pod.clone(),
        reason: error.reason(),
        message: error.to_string(),
    }
}

/// Which pods have which addresses, by the router's ports and the routes to them.
fn owned_addresses(slice: &str, state: &State) -> Vec<(String, std::net::IpAddr)> {
    let host = |net: &IpNet| net.prefix_len() == net.max_prefix_len();
    let mut owned = Vec::new();
    for link in state.links.iter().filter(|l| l.kind == LinkKind::Veth) {
        let Some(uid) = link.alias.as_deref().and_then(|a| port_owner(slice, a)) else { continue };
        for route in state.routes.iter().filter(|r| host(&r.dst)) {
            if matches!(&route.next, NextHops::One(hop) if hop.dev == link.name && hop.gateway.is_none())
            {
                owned.push((uid.to_owned(), route.dst.addr()));
            }
        }
    }
    owned
}
