//! The loop that keeps a gateway what its plan says, and tells how it is.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use slicewire_api::SliceGatewaySpec;
use slicewire_core::gateway::{Traffic, Tunnel, Tunnels};
use slicewire_core::name::Lane;
use slicewire_core::violation::{self, Violation};
use slicewire_engine::{PrivateKey, PublicKey};
use slicewire_kernel::{Errors, Kernel, Network as _, Ns, NsId};
use slicewire_runtime::ReadyGuard;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::device::{self, Spec};
use super::endpoints::Endpoints;
use super::plan::{self, Plan};
use super::source::Plans;
use crate::backend::{Backend, BackendError, PeerState};

/// How often the tunnels are looked at.
const LOOK: Duration = Duration::from_millis(250);
/// How often the device is compared with the plan although nothing said it changed.
const RESYNC: Duration = Duration::from_secs(10);
/// How soon a failed attempt is repeated.
const RETRY: Duration = Duration::from_secs(1);

/// Who this gateway is.
pub(super) struct Identity {
    pub(super) lane: Lane,
    pub(super) key: Arc<PrivateKey>,
    pub(super) listen_port: u16,
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

/// Why the device is not what the plan says.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Backend(#[from] BackendError),
    #[error(transparent)]
    Observe(#[from] slicewire_kernel::Error),
    #[error(transparent)]
    Apply(#[from] Errors),
}

impl Failure {
    fn reason(&self) -> &'static str {
        match self {
            Self::Backend(error) => error.reason(),
            Self::Observe(error) => error.reason(),
            Self::Apply(errors) => errors.reason(),
        }
    }
}

/// A gateway.
pub(super) struct Gateway {
    identity: Identity,
    device: Spec,
    kernel: Kernel,
    ns: Ns,
    backend: Option<Backend>,
    plan: Option<Plan>,
    faults: Vec<Violation>,
    endpoints: Endpoints,
    started: Instant,
    /// When the device is next compared with the plan.
    due: Instant,
    snapshot: watch::Sender<Option<Arc<Snapshot>>>,
}

impl Gateway {
    /// A gateway in this process's network namespace that does nothing yet.
    pub(super) async fn open(
        identity: Identity,
        device: Spec,
        snapshot: watch::Sender<Option<Arc<Snapshot>>>,
    ) -> anyhow::Result<Self> {
        let kernel = Kernel::new();
        let ns = kernel.open(&NsId::Current).await.context("cannot speak netlink")?;
        let now = Instant::now();
        Ok(Self {
            identity,
            device,
            kernel,
            ns,
            backend: None,
            plan: None,
            faults: Vec::new(),
            endpoints: Endpoints::default(),
            started: now,
            due: now,
            snapshot,
        })
    }

    /// Follows the plans until `stop`. `ready` is dropped when the device first is what its plan
    /// says.
    pub(super) async fn run(
        mut self,
        mut plans: Plans,
        ready: ReadyGuard,
        stop: CancellationToken,
    ) {
        let mut ready = Some(ready);
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                Some(spec) = plans.recv() => self.adopt(&spec),
                _ = look.tick() => {}
            }
            if Instant::now() >= self.due {
                let done = self.converge().await;
                self.due = Instant::now() + if done { RESYNC } else { RETRY };
                if done && self.plan.is_some() {
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
                    let (tunnels, lane) = (plan.tunnels.len(), plan.lane);
                    tracing::info!(slice = %plan.slice, lane, tunnels, "new plan");
                    self.plan = Some(plan);
                    self.due = Instant::now();
                }
            }
        }
    }

    async fn converge(&mut self) -> bool {
        let Some(plan) = self.plan.take() else { return true };
        let result = self.realise(&plan).await;
        self.plan = Some(plan);
        match result {
            Ok(()) => true,
            Err(error) => {
                let reason = error.reason();
                tracing::warn!(reason, %error, "the device is not what the plan says; trying again");
                false
            }
        }
    }

    async fn realise(&mut self, plan: &Plan) -> Result<(), Failure> {
        let name = self.device.name.as_str();
        if self.backend.is_none() {
            let choice = self.device.choice;
            let backend = Backend::start(choice, &self.kernel, &self.ns, name, plan.mtu).await?;
            tracing::info!(device = name, backend = backend.name(), "WireGuard device is up");
            self.backend = Some(backend);
        }
        let ops = device::changes(name, plan, &self.ns.observe().await?);
        if !ops.is_empty() {
            self.ns.apply(ops).await?;
        }
        self.configure(plan, &[]).await
    }

    async fn configure(&mut self, plan: &Plan, left_out: &[PublicKey]) -> Result<(), Failure> {
        let Identity { key, listen_port, .. } = &self.identity;
        let config = plan.config(key, *listen_port, |t| self.endpoints.pick(t), left_out);
        if let Some(backend) = &mut self.backend {
            backend.apply(config).await?;
        }
        Ok(())
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
        let Some(backend) = &self.backend else { return Ok(()) };
        let peers = backend.peers().await?;
        let wall = SystemTime::now();
        let age = |key: &PublicKey| {
            let at = peers.get(key)?.last_handshake?;
            Some(wall.duration_since(at).unwrap_or_default())
        };
        let again = self.endpoints.step(&plan.tunnels, age, self.started.elapsed());
        let traffic = |key: &PublicKey| peers.get(key).copied().unwrap_or_default();
        let tunnels = tunnels(plan, &self.device.name, backend.name(), traffic);
        let drops = backend.drops();
        self.publish(tunnels, drops);
        if !again.is_empty() {
            tracing::debug!(?again, "calling peers anew");
            self.configure(plan, &again).await?;
            self.configure(plan, &[]).await?;
        }
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
            let next = Snapshot { tunnels, drops, plan_faults, version };
            let changed = last.as_deref() != Some(&next);
            *last = Some(Arc::new(next));
            changed
        });
    }
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

fn tunnels(
    plan: &Plan,
    device: &str,
    backend: &str,
    state: impl Fn(&PublicKey) -> PeerState,
) -> Tunnels {
    let tunnel = |planned: &plan::PlannedTunnel| {
        let state = state(&planned.public_key);
        Tunnel {
            cluster: planned.cluster.clone(),
            public_key: *planned.public_key.as_bytes(),
            addresses: planned.addresses.clone(),
            prefixes: planned.prefixes.clone(),
            endpoint: state.last_handshake.and(state.endpoint),
            traffic: Traffic {
                last_handshake_ms: state.last_handshake.and_then(epoch_ms),
                rx_bytes: state.rx_bytes,
                tx_bytes: state.tx_bytes,
            },
        }
    };
    Tunnels {
        slice: plan.slice.clone(),
        cluster: plan.cluster.clone(),
        lane: plan.lane,
        device: device.to_owned(),
        backend: backend.to_owned(),
        addresses: plan.addresses.clone(),
        prefixes: plan.prefixes.clone(),
        tunnels: plan.tunnels.iter().map(tunnel).collect(),
    }
}

/// Whole tenths of a second, so that a time computed twice from two clocks is the same.
fn epoch_ms(at: SystemTime) -> Option<u64> {
    let ms = at.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_millis();
    u64::try_from(ms / 100 * 100).ok()
}
