//! A router that misbehaves: a UDP relay between two ends that damages packets on purpose.
//!
//! Whatever it does to a packet, it also passes the packet itself on once (except
//! [`Faults::Loss`]): what the ends then lose, they lost by themselves.

use std::{
    collections::VecDeque,
    io::ErrorKind,
    net::UdpSocket,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use nix::sys::socket::{setsockopt, sockopt};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::SliceRandom};

use crate::netns::Netns;

/// How many packets may be overtaken: less than every implementation's replay window.
const DEPTH: usize = 24;
/// For how long nothing must have come until packets that are held back go on: longer than the
/// time between two packets of any series, so that some are overtaken.
const HOLD: Duration = Duration::from_millis(10);
/// Room for what comes while a busy machine does not run the relay.
const BUFFER: usize = 4 << 20;
/// Age from which a packet is replayed: the end has surely taken the first one by then.
const SETTLED: Duration = Duration::from_millis(50);
/// How many earlier packets can be replayed.
const MEMORY: usize = 256;

/// Message type of transport data.
const DATA: u8 = 4;
/// Length of a keepalive: transport data with nothing inside.
const KEEPALIVE: usize = 32;

/// What happens to packets on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Faults {
    /// Nothing.
    None,
    /// Every packet is followed by an earlier one, sent from another port.
    Replay,
    /// Packets overtake each other.
    Reorder,
    /// Every packet is preceded by a shorter copy.
    Truncate,
    /// Every packet is preceded by an empty datagram.
    Empty,
    /// Every packet is preceded by a copy with one bit flipped.
    Corrupt,
    /// One packet of ten is lost.
    Loss,
}

/// A running relay; dropping it ends it.
#[derive(Debug)]
pub struct Relay {
    stop: Arc<AtomicBool>,
    harm: Arc<AtomicU64>,
    keepalives: [Arc<AtomicU64>; 2],
    threads: Vec<JoinHandle<()>>,
}

/// One direction of the relay.
struct Lane {
    source: UdpSocket,
    target: UdpSocket,
    stray: UdpSocket,
    address: String,
    faults: Faults,
    random: StdRng,
    memory: VecDeque<(Instant, Vec<u8>)>,
    held: Vec<Vec<u8>>,
    harm: Arc<AtomicU64>,
    keepalives: Arc<AtomicU64>,
}

impl Relay {
    /// Starts a relay in `namespace`. For each end: the relay's socket towards it, and the end's
    /// own address. Who is `led_away` by packets from another port gets none from there.
    ///
    /// # Errors
    /// When a socket cannot be bound.
    pub fn start(
        namespace: &Netns,
        ends: [(String, String); 2],
        faults: Faults,
        led_away: [bool; 2],
    ) -> Result<Self> {
        let [(near_left, left), (near_right, right)] = ends;
        let open = |address: &str| {
            namespace.enter(|| {
                let socket = bind(address)?;
                socket.set_read_timeout(Some(HOLD))?;
                setsockopt(&socket, sockopt::RcvBufForce, &BUFFER)?;
                Ok(socket)
            })
        };
        let (towards_left, towards_right) = (open(&near_left)?, open(&near_right)?);
        let stop = Arc::new(AtomicBool::new(false));
        let harm = Arc::new(AtomicU64::new(0));
        let mut threads = Vec::new();
        let lanes = [
            (&towards_left, &towards_right, right, led_away[1]),
            (&towards_right, &towards_left, left, led_away[0]),
        ];
        // The first lane carries what comes from the first end.
        let keepalives: [Arc<AtomicU64>; 2] = Default::default();
        for (seed, ((source, target, address, led_away), count)) in
            (0u64..).zip(lanes.into_iter().zip(&keepalives))
        {
            let any = if address.contains('.') { "0.0.0.0:0" } else { "[::]:0" };
            let stray = if led_away { target.try_clone()? } else { open(any)? };
            let lane = Lane {
                source: source.try_clone()?,
                target: target.try_clone()?,
                stray,
                address,
                faults,
                random: StdRng::seed_from_u64(seed),
                memory: VecDeque::new(),
                held: Vec::new(),
                harm: Arc::clone(&harm),
                keepalives: Arc::clone(count),
            };
            let stop = Arc::clone(&stop);
            threads.push(thread::spawn(move || lane.run(&stop)));
        }
        Ok(Self { stop, harm, keepalives, threads })
    }

    /// How many packets it spoiled, lost, sent again or let be overtaken.
    #[must_use]
    pub fn harm(&self) -> u64 {
        self.harm.load(Ordering::Relaxed)
    }

    /// How many keepalives came from the first and from the second end.
    #[must_use]
    pub fn keepalives(&self) -> [u64; 2] {
        [0, 1].map(|end: usize| self.keepalives[end].load(Ordering::Relaxed))
    }
}

/// A process that another test starts holds copies of everybody's sockets for a moment, until it
/// has become its program: an address that was let go may still be taken.
fn bind(address: &str) -> Result<UdpSocket> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match UdpSocket::bind(address) {
            Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(20));
            }
            result => return result.with_context(|| format!("bind {address}")),
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Lane {
    fn run(mut self, stop: &AtomicBool) {
        let mut buffer = vec![0; 1 << 16];
        while !stop.load(Ordering::Relaxed) {
            match self.source.recv(&mut buffer) {
                Ok(length) => self.relay(&buffer[..length]),
                Err(_) => self.release(),
            }
        }
    }

    fn relay(&mut self, packet: &[u8]) {
        if packet.len() == KEEPALIVE && packet[0] == DATA {
            self.keepalives.fetch_add(1, Ordering::Relaxed);
        }
        match self.faults {
            Faults::None => self.pass(packet),
            Faults::Replay => {
                self.pass(packet);
                self.replay(packet);
            }
            Faults::Reorder => {
                self.held.push(packet.to_vec());
                if self.held.len() >= DEPTH {
                    self.release();
                }
            }
            Faults::Truncate => {
                let length = self.random.random_range(1..packet.len().max(2));
                self.hurt(packet.get(..length).unwrap_or(packet));
                self.pass(packet);
            }
            Faults::Empty => {
                self.hurt(&[]);
                self.pass(packet);
            }
            Faults::Corrupt => {
                let mut copy = packet.to_vec();
                let position = self.random.random_range(0..copy.len().max(1));
                if let Some(byte) = copy.get_mut(position) {
                    *byte ^= 1 << self.random.random_range(0..8);
                }
                self.hurt(&copy);
                self.pass(packet);
            }
            Faults::Loss if self.random.random_ratio(1, 10) => {
                self.harm.fetch_add(1, Ordering::Relaxed);
            }
            Faults::Loss => self.pass(packet),
        }
    }

    fn pass(&self, packet: &[u8]) {
        let _ = self.target.send_to(packet, &self.address);
    }

    /// Sends what the end must not accept.
    fn hurt(&self, packet: &[u8]) {
        self.harm.fetch_add(1, Ordering::Relaxed);
        self.pass(packet);
    }

    /// Replays come from another port: accepting one would also move the peer's endpoint to where
    /// nobody listens.
    fn replay(&mut self, packet: &[u8]) {
        self.memory.push_back((Instant::now(), packet.to_vec()));
        if self.memory.len() > MEMORY {
            self.memory.pop_front();
        }
        let old = self.memory.iter().take_while(|(time, _)| time.elapsed() > SETTLED).count();
        if old > 0
            && let Some((_, replayed)) = self.memory.get(self.random.random_range(0..old))
        {
            self.harm.fetch_add(1, Ordering::Relaxed);
            let _ = self.stray.send_to(replayed, &self.address);
        }
    }

    fn release(&mut self) {
        let mut held = std::mem::take(&mut self.held);
        if held.len() > 1 {
            self.harm.fetch_add(held.len() as u64 - 1, Ordering::Relaxed);
            held.shuffle(&mut self.random);
        }
        for packet in held {
            self.pass(&packet);
        }
    }
}
