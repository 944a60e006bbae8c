//! The shell: threads that move bytes between the TUN device, the core and the UDP socket.

mod batch;
mod handshakes;
mod inbound;
mod lone;
mod outbound;
mod pressure;
mod waiting;
mod worker;

use std::io;
use std::net::SocketAddr;
use std::num::NonZero;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock};
use std::thread::{JoinHandle, available_parallelism};
use std::time::{Duration, Instant, SystemTime};

use crate::config::{Config, Options};
use crate::core::device::Device;
use crate::core::peer::Endpoints;
use crate::counters::{Drop as DropReason, TrafficStats};
use crate::io::tun::Tun;
use crate::io::udp::{Train, Udp};
use crate::io::wait::Waker;
use crate::key::PublicKey;
use crate::uapi;
use lone::Lone;
use worker::Role;

/// How often peers' timers are looked at.
const TICK: Duration = Duration::from_millis(200);

/// Why the engine could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The TUN device could not be made.
    #[error(
        "cannot make the TUN device {name}: {source}; /dev/net/tun and CAP_NET_ADMIN are needed"
    )]
    Device {
        /// The device's name.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The UDP socket could not be opened.
    #[error("cannot listen on UDP port {port}: {source}; choose another listen port")]
    Listen {
        /// The port asked for.
        port: u16,
        /// What the kernel said.
        source: io::Error,
    },
    /// The control socket could not be made.
    #[error("cannot make the control socket: {0}; another engine may have this interface's name")]
    Control(io::Error),
    /// The mark could not be set.
    #[error("cannot mark packets with {mark}: {source}; CAP_NET_ADMIN is needed")]
    Mark {
        /// The mark asked for.
        mark: u32,
        /// What the kernel said.
        source: io::Error,
    },
    /// A thread or a descriptor could not be had.
    #[error("cannot start the engine's threads: {0}")]
    Threads(io::Error),
}

impl EngineError {
    /// A short stable name.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Device { .. } => "DeviceUnavailable",
            Self::Listen { .. } => "ListenFailed",
            Self::Control(_) => "ControlSocketUnavailable",
            Self::Mark { .. } => "MarkRefused",
            Self::Threads(_) => "ThreadsUnavailable",
        }
    }
}

/// A peer's state at one moment.
#[derive(Debug, Clone)]
pub struct PeerStats {
    /// The key that names it.
    pub public_key: PublicKey,
    /// Where it is, as far as known.
    pub endpoint: Option<SocketAddr>,
    /// What it sent and was sent.
    pub traffic: TrafficStats,
    /// When the last handshake was completed.
    pub last_handshake: Option<SystemTime>,
}

/// A device's state at one moment.
#[derive(Debug, Clone)]
pub struct Stats {
    /// UDP port it listens on.
    pub listen_port: u16,
    /// The peers, by key.
    pub peers: Vec<PeerStats>,
    /// Dropped packets by reason, only those that have occurred.
    pub drops: Vec<(DropReason, u64)>,
    /// Super-packets that wait to be encrypted.
    pub queue_depth: usize,
    /// At that depth, further ones are dropped.
    pub queue_limit: usize,
}

/// What the threads share.
pub(crate) struct Shared {
    options: Options,
    config: Mutex<Config>,
    device: Device,
    tun: Tun,
    udp: RwLock<Arc<Udp>>,
    handshakes: handshakes::Handshakes,
    /// What comes from the socket, and what from the device.
    flow_in: Lone,
    flow_out: Lone,
    /// The device's MTU, looked up now and then: others may change it.
    mtu: AtomicUsize,
    /// By queue of the device.
    queue_depths: Vec<AtomicUsize>,
    stop: AtomicBool,
    /// The threads that move packets, each with what wakes it.
    workers: Vec<(Role, Waker)>,
    wake_control: Waker,
    tick_now: Condvar,
    tick_lock: Mutex<()>,
}

impl Shared {
    fn new(options: Options) -> Result<Self, EngineError> {
        let device_error = |source| EngineError::Device { name: options.interface.clone(), source };
        let queues = worker::queues(available_parallelism().map_or(1, NonZero::get));
        let tun = Tun::open(&options.interface, options.offload, queues).map_err(device_error)?;
        tun.bring_up(options.mtu, options.queue).map_err(device_error)?;
        let udp = bind(0, 0, options.offload)?;
        let mtu = usize::from(options.mtu);
        let workers = worker::roles(tun.queues()).map(|role| Ok((role, Waker::new()?)));
        let workers = workers.collect::<io::Result<_>>();
        Ok(Self {
            device: Device::new(options.message_limits),
            options,
            config: Mutex::default(),
            udp: RwLock::new(Arc::new(udp)),
            handshakes: handshakes::Handshakes::default(),
            flow_in: Lone::default(),
            flow_out: Lone::default(),
            mtu: AtomicUsize::new(mtu),
            queue_depths: (0..tun.queues()).map(|_| AtomicUsize::new(0)).collect(),
            workers: workers.map_err(EngineError::Threads)?,
            tun,
            stop: AtomicBool::new(false),
            wake_control: Waker::new().map_err(EngineError::Threads)?,
            tick_now: Condvar::new(),
            tick_lock: Mutex::default(),
        })
    }

    fn udp(&self) -> Arc<Udp> {
        self.udp.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn mtu(&self) -> usize {
        self.mtu.load(Ordering::Relaxed)
    }

    fn look_up_mtu(&self) {
        if let Ok(mtu) = self.tun.mtu() {
            self.mtu.store(mtu, Ordering::Relaxed);
        }
    }

    /// True if all that has passed for a while was one flow in each direction.
    fn has_one_flow(&self) -> bool {
        self.flow_in.is_certain() && self.flow_out.is_certain()
    }

    pub(crate) fn stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// Makes all threads end.
    fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.handshakes.wake();
        self.wake_workers();
        self.wake_control.wake();
        self.tick_now.notify_all();
    }

    fn wake_workers(&self) {
        self.workers.iter().for_each(|(_, waker)| waker.wake());
    }

    /// Wakes the thread of the control socket when the engine stops.
    pub(crate) fn control_waker(&self) -> &Waker {
        &self.wake_control
    }

    fn send(&self, udp: &Udp, buf: &[u8], trains: &[Train]) {
        udp.send(buf, trains, |error, packets| {
            let reason = match error.raw_os_error() {
                Some(libc::EMSGSIZE | libc::EINVAL) => DropReason::TooBig,
                _ => DropReason::SendFailed,
            };
            tracing::trace!(%error, "datagram not sent");
            self.device.drops().add(reason, packets);
        });
    }

    fn send_one(&self, udp: &Udp, to: SocketAddr, message: &[u8]) {
        let len = message.len();
        self.send(udp, message, &[Train { to, start: 0, end: len, size: len }]);
    }

    /// Changes the configuration in one step. `change` returns false to leave all as it was.
    pub(crate) fn update(
        &self,
        endpoints: Endpoints,
        change: impl FnOnce(&mut Config) -> bool,
    ) -> Result<bool, EngineError> {
        let mut current = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = current.clone();
        if !change(&mut next) {
            return Ok(false);
        }
        self.change_socket(&current, &next)?;
        self.device.apply(&next, endpoints, Instant::now());
        *current = next;
        drop(current);
        // Keepalives of new peers go out now, not at the next tick.
        self.tick_now.notify_all();
        Ok(true)
    }

    fn change_socket(&self, current: &Config, next: &Config) -> Result<(), EngineError> {
        let udp = self.udp();
        let port = next.listen_port;
        if port != current.listen_port && port != udp.port() {
            let new = bind(port, next.fwmark, self.options.offload)?;
            *self.udp.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(new);
            self.wake_workers();
        } else if next.fwmark != current.fwmark {
            udp.set_fwmark(next.fwmark)
                .map_err(|source| EngineError::Mark { mark: next.fwmark, source })?;
        }
        Ok(())
    }

    pub(crate) fn config(&self) -> Config {
        self.config.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn interface(&self) -> &str {
        &self.options.interface
    }

    pub(crate) fn stats(&self) -> Stats {
        let (now, wall) = (Instant::now(), SystemTime::now());
        let tables = self.device.tables();
        let peers = tables.peers().map(|peer| PeerStats {
            public_key: peer.public_key(),
            endpoint: peer.endpoint(),
            traffic: peer.traffic().snapshot(),
            last_handshake: peer.last_handshake().map(|at| wall - now.duration_since(at)),
        });
        Stats {
            listen_port: self.udp().port(),
            peers: peers.collect(),
            drops: self.device.drops().snapshot(),
            queue_depth: self.queue_depths.iter().map(|depth| depth.load(Ordering::Relaxed)).sum(),
            queue_limit: waiting::LIMIT * self.queue_depths.len(),
        }
    }
}

/// A running device. [`EngineHandle::shutdown`], or dropping it, ends it and removes the device.
pub struct EngineHandle {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// The embedded WireGuard engine.
pub struct Engine;

impl Engine {
    /// Makes the TUN device, brings it up and starts moving packets. Addresses and routes are
    /// the caller's. Without a [`Config`] nothing passes yet.
    pub fn start(options: Options) -> Result<EngineHandle, EngineError> {
        let socket = options.control.as_ref().map(|dir| uapi::listen(dir, &options.interface));
        let socket = socket.transpose().map_err(EngineError::Control)?;
        let shared = Arc::new(Shared::new(options)?);
        let mut handle = EngineHandle { shared, threads: Vec::new() };
        for at in 0..handle.shared.workers.len() {
            let role = handle.shared.workers[at].0;
            let run = move |shared: &Shared| worker::run(shared, role, &shared.workers[at].1);
            handle.spawn(&role.name(), run)?;
        }
        handle.spawn("wg-handshake", handshakes::run)?;
        handle.spawn("wg-timer", run_timers)?;
        if let Some(socket) = socket {
            handle.spawn("wg-control", move |shared| uapi::serve(shared, &socket))?;
        }
        Ok(handle)
    }
}

fn bind(port: u16, fwmark: u32, offload: bool) -> Result<Udp, EngineError> {
    Udp::bind(port, fwmark, offload).map_err(|source| EngineError::Listen { port, source })
}

fn run_timers(shared: &Shared) {
    while !shared.stopped() {
        let udp = shared.udp();
        shared.look_up_mtu();
        shared.device.tick(Instant::now(), |to, message| shared.send_one(&udp, to, message));
        let lock = shared.tick_lock.lock().unwrap_or_else(PoisonError::into_inner);
        drop(shared.tick_now.wait_timeout(lock, TICK));
    }
}

impl EngineHandle {
    fn spawn(
        &mut self,
        name: &str,
        run: impl FnOnce(&Shared) + Send + 'static,
    ) -> Result<(), EngineError> {
        let shared = self.shared.clone();
        let thread = std::thread::Builder::new().name(name.into()).spawn(move || run(&shared));
        self.threads.push(thread.map_err(EngineError::Threads)?);
        Ok(())
    }

    /// Makes the device what `config` says. What stays the same goes on undisturbed: peers keep
    /// their sessions and, unless the configured endpoint changes, the address they were last
    /// heard from; the socket is kept while the port is.
    pub fn apply(&self, config: Config) -> Result<(), EngineError> {
        self.shared
            .update(Endpoints::WhenChanged, |current| {
                *current = config;
                true
            })
            .map(drop)
    }

    /// The configuration that holds.
    pub fn config(&self) -> Config {
        self.shared.config()
    }

    /// The device's name.
    pub fn interface(&self) -> &str {
        self.shared.interface()
    }

    /// Sets the MTU in bytes.
    pub fn set_mtu(&self, mtu: u16) -> Result<(), EngineError> {
        let name = self.interface().to_owned();
        self.shared.tun.set_mtu(mtu).map_err(|source| EngineError::Device { name, source })
    }

    /// What happened so far.
    pub fn stats(&self) -> Stats {
        self.shared.stats()
    }

    /// False once the engine has stopped by itself, because somebody removed its device.
    pub fn is_running(&self) -> bool {
        !self.shared.stopped()
    }

    /// Ends the threads and removes the device.
    pub fn shutdown(self) {
        drop(self);
    }
}

impl Drop for EngineHandle {
    fn drop(&mut self) {
        self.shared.stop();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the engine had panicked");
            }
        }
    }
}
