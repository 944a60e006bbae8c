//! A flood of handshake initiations that pass the first check and are otherwise worthless.
//!
//! Each carries a valid `mac1` (keyed BLAKE2s of the message under a hash of the responder's
//! public key, WireGuard paper §5.4.4), so the responder has to work on it until it feels under
//! load and answers with a cookie (message type 3) instead.

use std::{
    net::UdpSocket,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use blake2::{
    Blake2s256, Blake2sMac, Digest,
    digest::{KeyInit, Mac, consts::U16},
};

use crate::netns::Netns;

/// Length of a handshake initiation.
const INITIATION: usize = 148;
/// Where `mac1` begins.
const MAC1: usize = 116;
/// Length of a cookie reply.
const COOKIE: usize = 64;
/// Time between two bursts. They are rare and large: a queue that overflows is what makes some
/// implementations feel under load, and they do for a second; between the bursts there is time
/// for others.
const PAUSE: Duration = Duration::from_millis(500);

/// A running flood; dropping it ends it.
#[derive(Debug)]
pub struct Flood {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    cookies: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Flood {
    /// Floods `target` (`address:port`), whose public key is `public`, from `namespace`, with
    /// bursts of `burst` initiations twice a second.
    ///
    /// # Errors
    /// When no socket can be opened.
    pub fn start(namespace: &Netns, target: &str, public: [u8; 32], burst: usize) -> Result<Self> {
        Self::run(namespace, target, public, (burst, PAUSE))
    }

    /// Floods `target` with `rate` initiations a second, evenly.
    ///
    /// # Errors
    /// When no socket can be opened.
    pub fn steady(namespace: &Netns, target: &str, public: [u8; 32], rate: u32) -> Result<Self> {
        let step = Duration::from_millis(2);
        let burst = f64::from(rate) * step.as_secs_f64();
        Self::run(namespace, target, public, (burst.ceil() as usize, step))
    }

    fn run(
        namespace: &Netns,
        target: &str,
        public: [u8; 32],
        (burst, pause): (usize, Duration),
    ) -> Result<Self> {
        let socket = namespace.enter(|| {
            let any = if target.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
            let socket = UdpSocket::bind(any).context("cannot open a socket")?;
            socket.connect(target).with_context(|| format!("cannot reach {target}"))?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        })?;
        let stop = Arc::new(AtomicBool::new(false));
        let (sent, cookies) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let counters = (Arc::clone(&stop), Arc::clone(&sent), Arc::clone(&cookies));
        let thread = thread::spawn(move || {
            let (stop, sent, cookies) = counters;
            // Made beforehand: the sender's work is nothing that is to be measured.
            let messages: Vec<_> = (0..1000).map(|_| initiation(&public)).collect();
            let mut messages = messages.iter().cycle();
            let mut next = Instant::now();
            while !stop.load(Ordering::Relaxed) {
                for message in messages.by_ref().take(burst) {
                    if socket.send(message).is_ok() {
                        sent.fetch_add(1, Ordering::Relaxed);
                    }
                }
                cookies.fetch_add(collect(&socket), Ordering::Relaxed);
                // What a busy machine made us miss is caught up on, but not more than a little.
                next = (next + pause).max(Instant::now() - 10 * pause);
                thread::sleep(next.saturating_duration_since(Instant::now()));
            }
        });
        Ok(Self { stop, sent, cookies, thread: Some(thread) })
    }

    /// Initiations sent so far.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Cookie replies received so far.
    #[must_use]
    pub fn cookies(&self) -> u64 {
        self.cookies.load(Ordering::Relaxed)
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Counts the cookie replies that wait on the socket.
fn collect(socket: &UdpSocket) -> u64 {
    let mut buffer = [0; 256];
    let mut cookies = 0;
    while let Ok(length) = socket.recv(&mut buffer) {
        if length == COOKIE && buffer[0] == 3 {
            cookies += 1;
        }
    }
    cookies
}

/// An initiation with a random inside and a valid `mac1`.
fn initiation(public: &[u8; 32]) -> [u8; INITIATION] {
    let mut message = [0; INITIATION];
    message[0] = 1;
    for chunk in message[4..MAC1].chunks_mut(16) {
        chunk.copy_from_slice(&rand::random::<[u8; 16]>()[..chunk.len()]);
    }
    let key = Blake2s256::new().chain_update(b"mac1----").chain_update(public).finalize();
    if let Ok(mac) = <Blake2sMac<U16> as KeyInit>::new_from_slice(&key) {
        let tag = mac.chain_update(&message[..MAC1]).finalize().into_bytes();
        message[MAC1..MAC1 + 16].copy_from_slice(&tag);
    }
    message
}
