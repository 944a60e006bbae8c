//! One peer: its tunnel, where it is, and what it did.

use std::net::SocketAddr;
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use boringtun::noise::errors::WireGuardError;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Tunn, TunnResult};

use super::turns::Turns;
use crate::config::PeerConfig;
use crate::counters::{Drop, Traffic};
use crate::key::{PresharedKey, PrivateKey, PublicKey};

/// Bytes a message adds to the packet in it.
pub const OVERHEAD: usize = 32;
/// Bytes every buffer for a message or packet must have at least: a handshake initiation.
pub const MIN_BUFFER: usize = 148;

/// For how long a session may be used after its handshake (`REJECT_AFTER_TIME`).
const SESSION_LIFE: Duration = Duration::from_secs(180);
/// How long one waits for an answer to a handshake before the next attempt (`REKEY_TIMEOUT`).
const REKEY_TIMEOUT: Duration = Duration::from_secs(5);
/// See [`State::due`].
const ATTEMPT_INTERVAL: Duration = Duration::from_secs(30);
/// First byte of a handshake's second message.
const RESPONSE: u8 = 2;
/// First byte of a message that carries data.
const DATA: u8 = 4;

/// How many messages one session may carry in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MessageLimits {
    /// From this one on, a new session is asked for (`REKEY_AFTER_MESSAGES`).
    pub renew: u64,
    /// From this one on, none is sent (`REJECT_AFTER_MESSAGES`).
    pub refuse: u64,
}

impl Default for MessageLimits {
    fn default() -> Self {
        // The protocol would allow almost 2^64; so far from there, nothing can ever wrap around.
        Self { renew: 1 << 60, refuse: 1 << 61 }
    }
}

/// When a configured endpoint replaces the address a peer was last heard from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoints {
    /// Whenever there is one in the configuration.
    Always,
    /// When it is another one than the configuration had before.
    WhenChanged,
}

/// What became of an authenticated message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opened {
    /// A packet of this many bytes is in the buffer.
    Packet(usize),
    /// A message of this many bytes is in the buffer and wants to be sent.
    Reply(usize),
    /// Nothing to pass on.
    Nothing,
}

/// A peer. All methods may be called from several threads.
pub struct Peer {
    public_key: PublicKey,
    state: Turns<State>,
    traffic: Traffic,
}

/// A tunnel, and the upper 24 bits of the indices by which messages name its sessions.
pub(super) struct Tunnel {
    index: u32,
    tunn: Tunn,
    limits: MessageLimits,
    /// Number of the message sent last.
    counter: u64,
    /// When a session was last asked for because the messages ran out.
    asked: Option<Instant>,
    /// The other end has shown that it has the keys of a session of this tunnel, too.
    confirmed: bool,
}

struct State {
    tunnel: Tunnel,
    /// The tunnel with the pre-shared key before, and since when it is that. It carries the
    /// traffic until the new one has a session, and is heard until its sessions have expired.
    before: Option<(Tunnel, Instant)>,
    /// When the new tunnel may next try a handshake while the one before still works.
    next_attempt: Option<Instant>,
    preshared_key: Option<PresharedKey>,
    endpoint: Option<SocketAddr>,
    /// What the configuration said last, so that saying it again does not undo roaming.
    configured: Option<SocketAddr>,
    keepalive: Option<Duration>,
    last_traffic: Option<Instant>,
    last_handshake: Option<Instant>,
}

impl Peer {
    pub(super) fn new(config: &PeerConfig, tunnel: Tunnel) -> Self {
        Self {
            public_key: config.public_key,
            state: Turns::new(State {
                tunnel,
                before: None,
                next_attempt: None,
                preshared_key: config.preshared_key.clone(),
                endpoint: config.endpoint,
                configured: config.endpoint,
                keepalive: config.keepalive,
                last_traffic: None,
                last_handshake: None,
            }),
            traffic: Traffic::default(),
        }
    }

    /// Takes over what may change without a new tunnel.
    pub(super) fn adopt(&self, config: &PeerConfig, endpoints: Endpoints) {
        let mut state = self.lock();
        let changed = endpoints == Endpoints::Always || state.configured != config.endpoint;
        if config.endpoint.is_some() && changed {
            state.endpoint = config.endpoint;
        }
        state.configured = config.endpoint;
        if state.keepalive != config.keepalive {
            state.keepalive = config.keepalive;
            state.last_traffic = None;
        }
    }

    /// True if `config` has another pre-shared key.
    pub(super) fn needs_tunnel(&self, config: &PeerConfig) -> bool {
        self.lock().preshared_key != config.preshared_key
    }

    /// Takes up the pre-shared key of `config` for all handshakes from now on. Sessions go on.
    pub(super) fn renew(&self, config: &PeerConfig, new: Tunnel, now: Instant) {
        let mut state = self.lock();
        state.preshared_key = config.preshared_key.clone();
        state.next_attempt = None;
        let old = std::mem::replace(&mut state.tunnel, new);
        // Of two changes in a row, the older tunnel is the one that surely has a session.
        if old.has_session() || state.before.is_none() {
            state.before = Some((old, now));
        }
    }

    /// Ends all sessions and goes on with `new`, which has another private key.
    pub(super) fn restart(&self, config: &PeerConfig, new: Tunnel) {
        let mut state = self.lock();
        state.preshared_key = config.preshared_key.clone();
        state.tunnel = new;
        state.before = None;
        state.last_traffic = None;
    }

    /// The upper 24 bits of the indices of this peer's messages; the first is the newest.
    pub(super) fn indices(&self) -> impl Iterator<Item = u32> {
        let state = self.lock();
        let before = state.before.as_ref().map(|(tunnel, _)| tunnel.index);
        [Some(state.tunnel.index), before].into_iter().flatten()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.take()
    }

    /// The key that names the peer.
    pub fn public_key(&self) -> PublicKey {
        self.public_key
    }

    /// What the peer sent and was sent.
    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// Where the peer is, as far as known.
    pub fn endpoint(&self) -> Option<SocketAddr> {
        self.lock().endpoint
    }

    /// When the last handshake was completed.
    pub fn last_handshake(&self) -> Option<Instant> {
        self.lock().last_handshake
    }

    /// Makes the message for `packet` in `out`, which has room for it and [`OVERHEAD`], at least
    /// [`MIN_BUFFER`]. Returns where it goes and its length: that of a handshake if there is no
    /// session yet (the packet is then kept), 0 if one is on its way already.
    pub fn seal(
        &self,
        packet: &[u8],
        out: &mut [u8],
        now: Instant,
    ) -> Result<(SocketAddr, usize), Drop> {
        let mut state = self.lock();
        let to = state.endpoint.ok_or(Drop::NoEndpoint)?;
        let len = state.sealed(packet, out);
        if len > 0 {
            state.last_traffic = Some(now);
            self.traffic.sent(len, 1);
        }
        Ok((to, len))
    }

    /// Opens a message of this peer into `out`, which has room for all of the message, at least
    /// [`MIN_BUFFER`]. `index` is the receiver index in the message, without its lowest byte;
    /// a handshake's first message has none.
    pub(super) fn open(
        &self,
        index: Option<u32>,
        from: SocketAddr,
        message: &[u8],
        out: &mut [u8],
        now: Instant,
    ) -> Result<Opened, Drop> {
        let mut state = self.lock();
        let tunnel = state.tunnel_of(index).ok_or(Drop::UnknownIndex)?;
        let opened = match tunnel.tunn.decapsulate(Some(from.ip()), message, out) {
            TunnResult::WriteToTunnelV4(packet, _) => Opened::Packet(packet.len()),
            TunnResult::WriteToTunnelV6(packet, _) => Opened::Packet(packet.len()),
            TunnResult::WriteToNetwork(reply) => Opened::Reply(reply.len()),
            TunnResult::Done => Opened::Nothing,
            TunnResult::Err(error) => return Err(drop_reason(&error)),
        };
        tunnel.heard(message);
        // A cookie reply proves nothing about who sent it.
        if message.first() != Some(&3) {
            if state.endpoint != Some(from) {
                state.endpoint = Some(from);
            }
            state.last_traffic = Some(now);
            self.traffic.received(message.len(), 1);
        }
        if let Opened::Reply(len) = opened {
            state.last_handshake = Some(now);
            self.traffic.handshake();
            self.traffic.sent(len, 1);
        }
        Ok(opened)
    }

    /// The next message for a packet that waited for a session, in `out` (65,568 bytes).
    pub fn next_queued(&self, out: &mut [u8]) -> Option<(SocketAddr, usize)> {
        let mut state = self.lock();
        let to = state.endpoint?;
        match state.tunnel.tunn.decapsulate(None, &[], out) {
            TunnResult::WriteToNetwork(message) => {
                self.traffic.sent(message.len(), 1);
                Some((to, message.len()))
            }
            _ => None,
        }
    }

    /// Lets time pass; returns a message that has become due, in `out` ([`MIN_BUFFER`] bytes).
    pub(super) fn tick(&self, out: &mut [u8], now: Instant) -> Option<(SocketAddr, usize)> {
        let mut state = self.lock();
        let due = state.due(out, now);
        let to = state.endpoint?;
        let quiet = state.keepalive.is_some_and(|interval| {
            state.last_traffic.is_none_or(|at| now.duration_since(at) >= interval)
        });
        let len = if due == 0 && quiet { state.sealed(&[], out) } else { due };
        if due > 0 || quiet {
            state.last_traffic = Some(now);
        }
        if len > 0 {
            self.traffic.sent(len, 1);
        }
        (len > 0).then_some((to, len))
    }
}

impl Tunnel {
    pub(super) fn new(
        config: &PeerConfig,
        key: &PrivateKey,
        index: u32,
        limiter: Arc<RateLimiter>,
        limits: MessageLimits,
    ) -> Self {
        let preshared = config.preshared_key.as_ref().map(|k| *k.expose());
        let public = (*config.public_key.as_bytes()).into();
        let tunn = Tunn::new(key.secret(), public, preshared, None, index, Some(limiter));
        Self { index, tunn, limits, counter: 0, asked: None, confirmed: false }
    }

    fn has_session(&self) -> bool {
        self.confirmed && self.tunn.time_since_last_handshake().is_some()
    }

    fn update(&mut self, out: &mut [u8]) -> usize {
        match self.tunn.update_timers(out) {
            TunnResult::WriteToNetwork(message) => message.len(),
            _ => 0,
        }
    }

    /// Takes note of a message of the other end that was authentic.
    fn heard(&mut self, message: &[u8]) {
        self.confirmed |= matches!(message.first(), Some(&(RESPONSE | DATA)));
        if message.first() == Some(&RESPONSE) {
            // A new session, in use from now on.
            self.counter = 0;
        }
    }

    fn seal(&mut self, packet: &[u8], out: &mut [u8]) -> usize {
        let len = match self.tunn.encapsulate(packet, out) {
            TunnResult::WriteToNetwork(message) => message.len(),
            _ => return 0,
        };
        match counter(&out[..len]) {
            Some(counter) => self.counter = counter,
            None => return len,
        }
        // Which session it is, and so its number, shows only now. It is not sent.
        if self.counter < self.limits.refuse { len } else { 0 }
    }

    /// The handshake for a new session if this one has carried almost all it may.
    fn renew(&mut self, out: &mut [u8], now: Instant) -> usize {
        let patient = self.asked.is_some_and(|at| now.duration_since(at) < REKEY_TIMEOUT);
        if self.counter < self.limits.renew || patient {
            return 0;
        }
        self.asked = Some(now);
        match self.tunn.format_handshake_initiation(out, true) {
            TunnResult::WriteToNetwork(message) => message.len(),
            _ => 0,
        }
    }
}

impl State {
    fn tunnel_of(&mut self, index: Option<u32>) -> Option<&mut Tunnel> {
        match (index, &mut self.before) {
            (None, _) => Some(&mut self.tunnel),
            (Some(index), _) if index == self.tunnel.index => Some(&mut self.tunnel),
            (Some(index), Some((old, _))) if index == old.index => Some(old),
            _ => None,
        }
    }

    fn sealed(&mut self, packet: &[u8], out: &mut [u8]) -> usize {
        let tunnel = match &mut self.before {
            Some((old, _)) if !self.tunnel.has_session() && old.has_session() => old,
            _ => &mut self.tunnel,
        };
        tunnel.seal(packet, out)
    }

    /// The message that is due by the tunnels' timers.
    fn due(&mut self, out: &mut [u8], now: Instant) -> usize {
        self.before.take_if(|(_, since)| now.duration_since(*since) > SESSION_LIFE);
        let due = match self.tunnel.update(out) {
            0 => self.tunnel.renew(out, now),
            due => due,
        };
        let old = match &mut self.before {
            Some((old, _)) if !self.tunnel.has_session() && old.has_session() => old,
            _ => return due,
        };
        // The other end may not have the new pre-shared key yet, and every attempt in vain costs
        // it one of its few places for sessions. Once it has the key, it begins by itself.
        if self.next_attempt.is_none_or(|at| now >= at) {
            self.next_attempt = Some(now + ATTEMPT_INTERVAL);
            return match self.tunnel.tunn.format_handshake_initiation(out, true) {
                TunnResult::WriteToNetwork(message) => message.len(),
                _ => 0,
            };
        }
        // Handshakes are the new tunnel's business; keepalives of the old one still count.
        let due = old.update(out);
        if out[0] == DATA { due } else { 0 }
    }
}

/// The number of a message that carries data.
fn counter(message: &[u8]) -> Option<u64> {
    let counter = message.get(8..16)?.first_chunk::<8>()?;
    (message.first() == Some(&DATA)).then(|| u64::from_le_bytes(*counter))
}

fn drop_reason(error: &WireGuardError) -> Drop {
    match error {
        WireGuardError::InvalidCounter | WireGuardError::DuplicateCounter => Drop::Replayed,
        WireGuardError::WrongIndex | WireGuardError::NoCurrentSession => Drop::UnknownIndex,
        WireGuardError::InvalidPacket => Drop::MalformedContent,
        WireGuardError::UnderLoad => Drop::RateLimited,
        _ => Drop::Unauthenticated,
    }
}
