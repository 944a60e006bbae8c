//! The loop that keeps a gateway what its plan says, and tells how it is.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use slicewire_api::SliceGatewaySpec;
use slicewire_core::gateway::{Traffic, Tunnel, Tunnels};
use slicewire_core::name::{Lane, gateway_device};
use slicewire_core::violation::{self, Violation};
use slicewire_kernel::{Errors, Kernel, Network as _, Ns, NsId};
use slicewire_runtime::ReadyGuard;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::keys::Keys;
use super::limits::Limits;
use super::plan::{self, Plan, PlannedGeneration};
use super::slot::{self, Slot};
use super::source::Plans;
use crate::backend::{BackendError, Choice};

/// How often the tunnels are looked at.
const LOOK: Duration = Duration::from_millis(250);
/// The same while a peer is being called.
const LOOK_EAGERLY: Duration = Duration::from_millis(50);
/// How often the device is compared with the plan although nothing said it changed.
const RESYNC: Duration = Duration::from_secs(10);
/// How soon a failed attempt is repeated.
const RETRY: Duration = Duration::from_secs(1);

/// Who this gateway is.
pub(super) struct Identity {
    pub(super) lane: Lane,
    pub(super) keys: Keys,
    /// UDP port of even generations of keys; odd ones have the next.
    pub(super) listen_port: u16,
    pub(super) choice: Choice,
}

/// The gateway's state at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Snapshot {
    pub(super) tunnels: Tunnels,
    pub(super) drops: Vec<(&'static str, u64)>,
    pub(super) plan_faults: usize,
    /// Differs from the last snapshot's if more than counters changed.
    pub(super) version: u64,
}

/// Where watchers find the newest snapshot; `None` before the device is up.
pub(super) type Snapshots = watch::Receiver<Option<Arc<Snapshot>>>;

/// Why the devices are not what the plan says.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error(transparent)]
    Backend(#[from] BackendError),
    #[error(transparent)]
    Observe(#[from] slicewire_kernel::Error),
    #[error(transparent)]
    Apply(#[from] Errors),
    #[error(
        "there is no private key {0}: the gateway's key Secret has to be mounted there, with one \
         entry a lane and generation; or make a key with `wg genkey`"
    )]
    NoKey(String),
    #[error("{0}")]
    BadKey(String),
}

impl Failure {
    fn reason(&self) -> &'static str {
        match self {
            Self::Backend(error) => error.reason(),
            Self::Observe(error) => error.reason(),
            Self::Apply(errors) => errors.reason(),
            Self::NoKey(_) => "NoKey",
            Self::BadKey(_) => "BadKey",
        }
    }
}

/// How far the plan is brought about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Done {
    Whole,
    /// What is there works; keys of the next generation have not come yet.
    WaitsForKeys,
}

/// A gateway.
pub(super) struct Gateway {
    identity: Identity,
    kernel: Kernel,
    ns: Ns,
    /// The open generations of keys, at most one a device.
    slots: Vec<Slot>,
    limits: Limits,
    plan: Option<Plan>,
    faults: Vec<Violation>,
    started: Instant,
    /// When the devices are next compared with the plan.
    due: Instant,
    snapshot: watch::Sender<Option<Arc<Snapshot>>>,
}

impl Gateway {
    /// A gateway in this process's network namespace that does nothing yet.
    pub(super) async fn open(
        identity: Identity,
        snapshot: watch::Sender<Option<Arc<Snapshot>>>,
    ) -> anyhow::Result<Self> {
        let kernel = Kernel::new();
        let ns = kernel.open(&NsId::Current).await.context("cannot speak netlink")?;
        let now = Instant::now();
        Ok(Self {
            identity,
            kernel,
            ns,
            slots: Vec::new(),
            limits: Limits::default(),
            plan: None,
            faults: Vec::new(),
            started: now,
            due: now,
            snapshot,
        })
    }

    /// Follows the plans until `stop`. `ready` is dropped when the devices first are what the plan
    /// says.
    pub(super) async fn run(
        mut self,
        mut plans: Plans,
        ready: ReadyGuard,
        stop: CancellationToken,
    ) {
        let mut ready = Some(ready);
        loop {
            let eager = self.slots.iter().any(Slot::eager);
            tokio::select! {
                () = stop.cancelled() => return,
                Some(spec) = plans.recv() => self.adopt(&spec),
                () = tokio::time::sleep(if eager { LOOK_EAGERLY } else { LOOK }) => {}
            }
            if Instant::now() >= self.due {
                let done = self.converge().await;
                let again = if done == Some(Done::Whole) { RESYNC } else { RETRY };
                self.due = Instant::now() + again;
                if done.is_some() && self.plan.is_some() {
                    drop(ready.take());
                }
            }
            self.look().await;
        }
    }

    /// Takes over a plan, unless it is none for this gateway; what runs then goes on.
    fn adopt(&mut self, spec: &SliceGatewaySpec) {
        match plan::of_lane(spec, self.identity.lane) {
            Err(faults) => {
                let faults = violation::summary(&faults);
                tracing::warn!(%faults, "the plan cannot be used; keeping to the last one");
            }
            Ok((plan, faults)) => {
                if !faults.is_empty() && faults != self.faults {
                    let faults = violation::summary(&faults);
                    tracing::warn!(%faults, "tunnels of the plan cannot be used and are left out");
                }
                self.faults = faults;
                if self.plan.as_ref() != Some(&plan) {
                    let lane = plan.lane;
                    for planned in &plan.generations {
                        let (generation, tunnels) = (planned.generation, planned.tunnels.len());
                        tracing::info!(slice = %plan.slice, lane, generation, tunnels, "new plan");
                    }
                    self.plan = Some(plan);
                    self.due = Instant::now();
                }
            }
        }
    }

    /// Makes all what the plan says; `None` where that failed.
    async fn converge(&mut self) -> Option<Done> {
        let Some(plan) = self.plan.take() else { return Some(Done::Whole) };
        let result = self.realise(&plan).await;
        self.plan = Some(plan);
        match result {
            Ok(done) => Some(done),
            Err(error) => {
                let reason = error.reason();
                tracing::warn!(reason, %error, "the device is not what the plan says; trying again");
                None
            }
        }
    }

    /// Closes what is not asked for any more, and then sees to every generation, however it goes
    /// with the others.
    async fn realise(&mut self, plan: &Plan) -> Result<Done, Failure> {
        let planned =
            |slot: &Slot| plan.generations.iter().any(|p| p.generation == slot.generation);
        let (keep, close): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.slots).into_iter().partition(planned);
        self.slots = keep;
        for slot in close {
            tracing::info!(generation = slot.generation, "the old keys are not used any more");
            slot.backend.remove().await?;
        }
        let devices: Vec<_> =
            plan.generations.iter().map(|p| gateway_device(p.generation)).collect();
        slot::remove_left(&self.ns, &devices).await?;
        let mut whole = Ok(Done::Whole);
        for planned in &plan.generations {
            match self.realise_generation(plan, planned).await {
                Ok(true) => {}
                Ok(false) => whole = whole.map(|_| Done::WaitsForKeys),
                Err(error) => whole = whole.and(Err(error)),
            }
        }
        self.limits.keep(&devices, ports(self.identity.listen_port), plan.qos).await;
        whole
    }

    /// Tells whether all keys for the generation were there.
    async fn realise_generation(
        &mut self,
        plan: &Plan,
        planned: &PlannedGeneration,
    ) -> Result<bool, Failure> {
        let Identity { keys, listen_port, choice, .. } = &self.identity;
        let generation = planned.generation;
        let at = self.slots.iter().position(|slot| slot.generation == generation);
        let at = match at {
            Some(at) => at,
            None => {
                let key = keys.private(generation);
                let key = key.map_err(|error| Failure::BadKey(format!("{error:#}")))?;
                let Some(key) = key else {
                    // That of the next generation comes later than the plan.
                    let missing = || Failure::NoKey(keys.path(generation).display().to_string());
                    return if planned.protected { Ok(false) } else { Err(missing()) };
                };
                let [even, odd] = ports(*listen_port);
                let port = if generation.is_multiple_of(2) { even } else { odd };
                let place = (&self.kernel, &self.ns);
                let slot = Slot::open(generation, key, port, plan.mtu, *choice, place).await?;
                self.slots.push(slot);
                self.slots.len() - 1
            }
        };
        match self.slots.get_mut(at) {
            Some(slot) => slot.realise(plan, planned, keys, &self.ns).await,
            None => Ok(false),
        }
    }

    /// Looks at the tunnels: calls those anew that do not answer, and tells how they are.
    async fn look(&mut self) {
        let Some(plan) = self.plan.take() else { return };
        if let Err(error) = self.attend(&plan).await {
            let reason = error.reason();
            tracing::warn!(reason, %error, "cannot attend to the tunnels; trying again");
            self.due = self.due.min(Instant::now() + RETRY);
        }
        self.plan = Some(plan);
    }

    async fn attend(&mut self, plan: &Plan) -> Result<(), Failure> {
        let Some(backend) = self.slots.first().map(|slot| slot.backend.name()) else {
            return Ok(());
        };
        let (mut tunnels, mut drops) = (Vec::new(), BTreeMap::<&str, u64>::new());
        for slot in &mut self.slots {
            tunnels.extend(slot.attend(self.started.elapsed()).await?);
            for (why, packets) in slot.backend.drops() {
                *drops.entry(why).or_default() += packets;
            }
        }
        let device = plan.generations.first().map_or("", |p| gateway_device(p.generation));
        let tunnels = Tunnels {
            slice: plan.slice.clone(),
            cluster: plan.cluster.clone(),
            lane: plan.lane,
            device: device.to_owned(),
            backend: backend.to_owned(),
            addresses: plan.addresses.clone(),
            prefixes: plan.prefixes.clone(),
            tunnels,
        };
        self.publish(tunnels, drops.into_iter().collect());
        Ok(())
    }

    fn publish(&self, tunnels: Tunnels, drops: Vec<(&'static str, u64)>) {
        let plan_faults = self.faults.len();
        self.snapshot.send_if_modified(|last| {
            let version = match last {
                Some(last) if news(&last.tunnels, &tunnels) => last.version + 1,
                Some(last) => last.version,
                None => 0,
            };
            for cluster in new_sessions(last.as_deref(), &tunnels) {
                tracing::info!(cluster, "tunnel has a session");
            }
            let next = Snapshot { tunnels, drops, plan_faults, version };
            let changed = last.as_deref() != Some(&next);
            *last = Some(Arc::new(next));
            changed
        });
    }
}

/// Clusters whose gateway has answered since `last`, for the first time.
fn new_sessions<'a>(last: Option<&Snapshot>, now: &'a Tunnels) -> Vec<&'a str> {
    let had = |key: &[u8; 32]| {
        let known = last.iter().flat_map(|last| &last.tunnels.tunnels);
        known.filter(|t| t.public_key == *key).any(|t| t.traffic.last_handshake_ms.is_some())
    };
    let new = |t: &&Tunnel| t.traffic.last_handshake_ms.is_some() && !had(&t.public_key);
    now.tunnels.iter().filter(new).map(|t| t.cluster.as_str()).collect()
}

/// Whether more changed than byte counters.
fn news(old: &Tunnels, new: &Tunnels) -> bool {
    let bare = |tunnels: &Tunnels| {
        let mut bare = tunnels.clone();
        for tunnel in &mut bare.tunnels {
            let last_handshake_ms = tunnel.traffic.last_handshake_ms;
            tunnel.traffic = Traffic { last_handshake_ms, ..Traffic::default() };
        }
        bare
    };
    bare(old) != bare(new)
}

/// The ports of even and of odd generations.
fn ports(first: u16) -> [u16; 2] {
    [first, first.wrapping_add(1)]
}
