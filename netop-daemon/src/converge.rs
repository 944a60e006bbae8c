//! The one loop that changes the node: observe, decide, plan, apply, report.
//!
//! Pods that are just being started come first: a request to attach one is served between any two
//! pods of a larger round, and the round then begins anew with what has changed.

#[cfg(test)]
mod laws;
mod round;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use slicewire_kernel::{LinkKind, Network, NextHops, State};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::allocations::{Allocations, uptime_ms};
use crate::apply::{Applier, ApplyError, ROUTER_PREFIX};
use crate::decide::{Desired, Node, Present, decide};
use crate::metrics::Metrics;
use crate::plan::{NicWant, RouterWant, alias_of_nic, port_owner};
use crate::policy::{self, Policies};
use crate::report::{Notice, Report};
use crate::services::{self, Translations};
use crate::world::{Shared, World};

/// Changes that come together are dealt with together.
const SETTLE: Duration = Duration::from_millis(20);
/// A round without any change: heals what somebody else did to our routers.
const TICK: Duration = Duration::from_secs(5);
/// As many ticks later every pod's NIC is looked at, too.
const FULL_EVERY: u32 = 12;
/// As many ticks later counters are read: what rules have decided about is told that often.
const COUNT_EVERY: u32 = 2;
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
    reports: watch::Sender<Arc<Report>>,
    notices: mpsc::Sender<Notice>,
    metrics: Arc<Metrics>,
    /// NICs found right, by slice and pod.
    done: BTreeMap<(String, String), Arc<NicWant>>,
    present: Present,
    /// Routers that have been right at least once.
    ready: BTreeSet<String>,
    idle_since: BTreeMap<String, Instant>,
    failing: BTreeMap<(String, String), Failing>,
    /// Routers that the kernel held as wanted, since the last tick: there is nothing to compare
    /// while no more is wanted of them.
    clean: BTreeMap<String, RouterWant>,
    policies: Policies,
    translations: Translations,
}

/// Where an engine gets its work from and reports to.
pub(crate) struct Wiring {
    pub(crate) requests: mpsc::Receiver<Attach>,
    pub(crate) reports: watch::Sender<Arc<Report>>,
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
            clean: BTreeMap::new(),
            policies: Policies::default(),
            translations: Translations::default(),
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
                    self.clean.clear();
                    if ticks % COUNT_EVERY == 0 {
                        self.policies.count().await;
                    }
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
        let (allocations, present) = (&mut self.allocations, &self.present);
        decide(world, &self.node, allocations, present, Instant::now(), uptime_ms())
    }

    /// Writes down which addresses rest. Those that pods have are in the kernel.
    fn save(&mut self) {
        if let Err(error) = self.allocations.save(uptime_ms()) {
            tracing::warn!(%error, "cannot write the state file; a restart would forget which addresses rest");
        }
    }

    /// Attaches one pod, doing nothing else: what can follow its start, does, with the next round at
    /// the latest.
    async fn serve(&mut self, request: Attach) {
        let begun = Instant::now();
        let world = self.shared.snapshot();
        let desired = self.decide(&world);
        let mut all = !desired.failures.iter().any(|f| {
            f.uid == request.uid && !world.slices.get(&f.slice).is_none_or(|s| s.deleting)
        });
        let wants: Vec<&Arc<NicWant>> =
            desired.nics.values().filter(|n| n.uid == request.uid).collect();
        let mut fresh = Vec::new();
        for want in wants {
            let Some(router) = desired.routers.get(&want.slice) else { continue };
            let done = match self.rule(&world, &desired, &want.slice).await {
                Ok(()) => self.attach_now(want, router).await,
                Err(error) => Err(error),
            };
            match done {
                Ok(true) => fresh.push(want),
                Ok(false) => {}
                Err(error) => {
                    all = false;
                    tracing::warn!(slice = want.slice, pod = ?want.pod, %error, "attaching failed; it is tried again");
                }
            }
        }
        self.metrics.attached_in(begun.elapsed());
        // The asker may have given up waiting.
        let _ = request.done.send(all);
        fresh.into_iter().for_each(|want| self.announce(want));
    }

    /// Brings a router's packet rules to what they should be, before anything else of it is made:
    /// what has no rules yet must not pass.
    async fn rule(
        &mut self,
        world: &World,
        desired: &Desired,
        slice: &str,
    ) -> Result<(), ApplyError> {
        let entry = world.slices.get(slice).and_then(|entry| entry.valid.as_ref());
        let (Some(entry), Some(router)) = (entry, desired.routers.get(slice)) else {
            return Ok(());
        };
        let ns = self.applier.router(&router.netns).await?;
        let want = policy::want(world, desired, entry, &self.node, Instant::now());
        let own = world.own_node(slice, &self.node.name);
        let before = own.and_then(|n| n.status.as_ref()).map(|s| s.policies.as_slice());
        let network = self.applier.network();
        self.policies.sync(network, slice, &ns, want, before.unwrap_or_default()).await?;
        // After what may pass. Without services pods still have their slice.
        let nics = desired.nics.iter().filter(|((s, _), nic)| s == slice && !nic.gateway);
        let own: BTreeSet<_> =
            nics.flat_map(|(_, nic)| nic.port.addresses.iter().copied()).collect();
        let want = services::want(world, entry, &self.node.name, own, Instant::now());
        if let Err(error) = self.translations.sync(network, slice, &ns, want).await {
            self.metrics.failed(error.reason());
            tracing::warn!(slice, %error, "virtual addresses are not as they should be; they are loaded anew");
        }
        Ok(())
    }

    /// Returns whether the pod had no such NIC before.
    async fn attach_now(
        &mut self,
        want: &Arc<NicWant>,
        router: &RouterWant,
    ) -> Result<bool, ApplyError> {
        let key = (want.slice.clone(), want.uid.clone());
        if self.done.get(&key) == Some(want) {
            return Ok(false);
        }
        if !self.ready.contains(&want.slice) {
            self.applier.converge_router(router).await?;
            self.ready.insert(want.slice.clone());
        }
        let state = self.applier.router_port(&router.netns, &want.port.device).await?;
        let fresh = self.attach(want, &router.netns, &state).await?;
        // Routes to a gateway are still to come.
        if want.gateway {
            self.clean.remove(&want.slice);
        } else if let Some(clean) = self.clean.get_mut(&want.slice) {
            clean.ports.insert(want.uid.clone(), want.port.clone());
        }
        Ok(fresh)
    }

    /// Returns whether the pod had no such NIC before.
    async fn attach(
        &mut self,
        want: &Arc<NicWant>,
        netns: &str,
        router: &State,
    ) -> Result<bool, ApplyError> {
        let fresh = router.link(&want.port.device).is_none();
        self.applier.converge_nic(want, netns, router).await?;
        let nics = self.present.entry(want.uid.clone()).or_default();
        nics.insert(want.slice.clone(), want.nic.clone());
        self.done.insert((want.slice.clone(), want.uid.clone()), want.clone());
        Ok(fresh)
    }

    /// Tells people of a NIC that was made.
    fn announce(&self, want: &NicWant) {
        self.metrics.attached(&want.slice);
        tracing::info!(slice = want.slice, namespace = want.pod.0, pod = want.pod.1, nic = want.nic, addresses = ?want.port.addresses, "attached");
        self.notify(Notice::attached(want));
    }

    fn notify(&self, notice: Notice) {
        // Events are a courtesy: when the API server is slow, attaching does not wait for it.
        drop(self.notices.try_send(notice));
    }
}

/// A failure that was there in the last round.
struct Failing {
    reason: &'static str,
    since: Instant,
    told: bool,
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
