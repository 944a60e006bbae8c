//! Probes over a tunnel: when which one is sent, and what its answer means.
//!
//! Sans-IO: payloads of UDP datagrams and `now` go in, payloads and events come out. One
//! [`Prober`] per tunnel, driven by whoever owns the socket:
//!
//! 1. hand in every datagram that has arrived: [`Prober::handle`];
//! 2. let time pass: [`Prober::expire`];
//! 3. send what is due: [`Prober::poll`] until it returns `None`;
//! 4. sleep until [`Prober::deadline`] or a datagram.
//!
//! Step 1 before step 2 matters: a pause of the caller must not look like one of the tunnel.
//!
//! Security property: an answer counts only if it carries the prober's session, a random number
//! that nobody outside the tunnel sees, so that nobody else can keep a dead tunnel alive.
//! An answer is never longer than what it answers, so that a prober is no amplifier.

mod path_mtu;
pub mod wire;

use std::time::Duration;

use crate::health::{Health, Meter, Transition};
use path_mtu::PathMtu;
use wire::{Kind, Message};

/// Time between two echo probes.
pub const INTERVAL: Duration = Duration::from_millis(100);
/// Time between two echo probes of a tunnel that has been down for [`PATIENCE`].
pub const IDLE_INTERVAL: Duration = Duration::from_millis(500);
/// How long a tunnel that is down is probed as often as one that is up.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Something the owner of a tunnel wants to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The tunnel works, or no longer does.
    Tunnel(Transition),
    /// The largest IP packet that passes, in bytes, is known or has changed.
    PathMtu(u16),
}

/// The largest probe and the headers in front of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Bytes of IP and UDP headers in front of a probe: 28 or 48.
    pub headers: u16,
    /// The device's MTU: no IP packet is larger.
    pub device_mtu: u16,
}

/// Probes one tunnel.
#[derive(Debug)]
pub struct Prober {
    session: u64,
    sizes: Sizes,
    meter: Meter,
    mtu: PathMtu,
    next_echo: Duration,
    since: Duration,
}

impl Prober {
    /// A prober that begins at once. `session` is random and never used before.
    pub fn new(session: u64, sizes: Sizes, now: Duration) -> Self {
        Self {
            session,
            sizes,
            meter: Meter::default(),
            mtu: PathMtu::new(sizes.device_mtu),
            next_echo: now,
            since: now,
        }
    }

    /// Takes over another device MTU; the path is measured again.
    pub fn resize(&mut self, sizes: Sizes, now: Duration) {
        if self.sizes != sizes {
            self.sizes = sizes;
            self.mtu = PathMtu::new(sizes.device_mtu);
            if self.meter.up() {
                self.mtu.begin(now);
            }
        }
    }

    /// Takes a datagram that came over the tunnel, if it is an answer to this prober.
    pub fn handle(&mut self, payload: &[u8], now: Duration) -> Option<Event> {
        let message = Message::decode(payload).filter(|m| m.session == self.session)?;
        match message.kind {
            Kind::EchoReply => {
                let transition = self.meter.answered(message.number, now)?;
                Some(self.turned(transition, now))
            }
            Kind::SizeReply => self.mtu.answered(message.number, now).map(Event::PathMtu),
            Kind::Echo | Kind::Size => None,
        }
    }

    /// Lets time pass.
    pub fn expire(&mut self, now: Duration) -> Option<Event> {
        let down = self.meter.expire(now).map(|transition| self.turned(transition, now));
        let path_mtu = self.mtu.expire(now).map(Event::PathMtu);
        down.or(path_mtu)
    }

    /// The next payload to send now; padding included, so that its IP packet has the size meant.
    pub fn poll(&mut self, now: Duration) -> Option<Vec<u8>> {
        if now >= self.next_echo {
            let number = self.meter.sent(now);
            self.next_echo = (self.next_echo + self.interval(now)).max(now);
            return Some(self.message(Kind::Echo, number, now).encode(wire::LENGTH));
        }
        let trial = self.mtu.poll(now, self.meter.timeout())?;
        let length = usize::from(trial.size.saturating_sub(self.sizes.headers));
        Some(self.message(Kind::Size, trial.number, now).encode(length))
    }

    /// The system refused a datagram as too long for the way to the tunnel: that is an answer.
    pub fn refused(&mut self, payload: &[u8], now: Duration) -> Option<Event> {
        let message = Message::decode(payload)?;
        if message.kind != Kind::Size {
            return None;
        }
        self.mtu.refused(message.number, now).map(Event::PathMtu)
    }

    /// When there is something to do next.
    pub fn deadline(&self) -> Duration {
        let due = [self.meter.deadline(), self.mtu.deadline()];
        due.into_iter().flatten().fold(self.next_echo, Duration::min)
    }

    /// The tunnel's state.
    pub fn health(&self) -> Health {
        self.meter.health()
    }

    /// Largest IP packet that passes, in bytes; `None` while unknown.
    pub fn path_mtu(&self) -> Option<u16> {
        self.mtu.known()
    }

    fn turned(&mut self, transition: Transition, now: Duration) -> Event {
        self.since = now;
        match transition {
            Transition::Up => self.mtu.begin(now),
            Transition::Down => self.mtu.pause(),
        }
        Event::Tunnel(transition)
    }

    fn interval(&self, now: Duration) -> Duration {
        let hopeless = !self.meter.up() && now.saturating_sub(self.since) > PATIENCE;
        if hopeless { IDLE_INTERVAL } else { INTERVAL }
    }

    fn message(&self, kind: Kind, number: u64, now: Duration) -> Message {
        let sent_micros = u64::try_from(now.as_micros()).unwrap_or(u64::MAX);
        Message { kind, session: self.session, number, sent_micros }
    }
}

/// The answer to a probe, if `payload` is one; the caller has checked who sent it.
pub fn answer(payload: &[u8]) -> Option<Vec<u8>> {
    let message = Message::decode(payload)?;
    let kind = match message.kind {
        Kind::Echo => Kind::EchoReply,
        Kind::Size => Kind::SizeReply,
        Kind::EchoReply | Kind::SizeReply => return None,
    };
    Some(Message { kind, ..message }.encode(wire::LENGTH))
}

#[cfg(test)]
mod tests;
