//! Search for the largest packet that passes a tunnel.
//!
//! Packetization-layer path MTU discovery in the manner of RFC 8899: sizes are tried with padded
//! probes that must not be fragmented, and no message from a router is needed. The device's MTU
//! comes first, because it nearly always passes; then the floor; then the sizes between by
//! bisection. A size that was found is confirmed every few seconds, so that a path that begins to
//! swallow large packets is noticed, and the search is repeated now and then upwards.

use std::time::Duration;

/// No search goes below this: IPv6's least link MTU (RFC 8200, section 5).
const FLOOR: u16 = 1280;
/// Times a size is tried before it is believed not to pass.
const ATTEMPTS: u8 = 3;
/// Time between two confirmations of the size that was found.
const CONFIRM: Duration = Duration::from_secs(5);
/// Time between two searches.
const SEARCH: Duration = Duration::from_secs(600);
/// Time before the next search when not even the floor passed.
const RETRY: Duration = Duration::from_secs(60);

/// A probe to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Trial {
    /// Its number, to be repeated in the answer.
    pub(super) number: u64,
    /// Bytes of its IP packet.
    pub(super) size: u16,
}

/// The search for one tunnel.
#[derive(Debug)]
pub(super) struct PathMtu {
    device_mtu: u16,
    known: Option<u16>,
    phase: Phase,
    /// Attempts made at the size of the phase.
    attempts: u8,
    in_flight: Option<(Trial, Duration)>,
    next_number: u64,
    next_search: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The tunnel is down.
    Paused,
    /// Known; confirmed again at this time.
    Waiting(Duration),
    /// Does what is known still pass?
    Confirming,
    /// Does the device's MTU pass?
    Ceiling,
    /// Does the floor pass?
    Floor,
    /// `passes` does, `fails` does not.
    Between { passes: u16, fails: u16 },
}

impl PathMtu {
    pub(super) fn new(device_mtu: u16) -> Self {
        Self {
            device_mtu,
            known: None,
            phase: Phase::Paused,
            attempts: 0,
            in_flight: None,
            next_number: 0,
            next_search: Duration::ZERO,
        }
    }

    /// Begins a search; what was known stays known until it is contradicted.
    pub(super) fn begin(&mut self, now: Duration) {
        self.next_search = now + SEARCH;
        self.enter(Phase::Ceiling);
    }

    /// Stops asking; an answer would mean nothing now.
    pub(super) fn pause(&mut self) {
        self.enter(Phase::Paused);
    }

    pub(super) fn known(&self) -> Option<u16> {
        self.known
    }

    /// The next probe, if one is due; its answer is waited for `timeout`.
    pub(super) fn poll(&mut self, now: Duration, timeout: Duration) -> Option<Trial> {
        if let Phase::Waiting(until) = self.phase
            && now >= until
        {
            if now >= self.next_search {
                self.begin(now);
            } else {
                self.enter(Phase::Confirming);
            }
        }
        if self.in_flight.is_some() {
            return None;
        }
        let trial = Trial { number: self.next_number, size: self.size()? };
        self.next_number += 1;
        self.attempts += 1;
        self.in_flight = Some((trial, now + timeout));
        Some(trial)
    }

    /// Takes an answer; returns the path MTU if that is news.
    pub(super) fn answered(&mut self, number: u64, now: Duration) -> Option<u16> {
        let (trial, _) = self.in_flight.filter(|(trial, _)| trial.number == number)?;
        match self.phase {
            Phase::Between { fails, .. } => self.narrow(trial.size, fails, now),
            Phase::Floor => self.narrow(trial.size, self.device_mtu, now),
            _ => self.settle(trial.size, now),
        }
    }

    /// A size was refused before it left; returns the path MTU if that is news.
    pub(super) fn refused(&mut self, number: u64, now: Duration) -> Option<u16> {
        let (trial, _) = self.in_flight.filter(|(trial, _)| trial.number == number)?;
        self.failed(trial.size, now)
    }

    /// Lets time pass; returns the path MTU if that is news.
    pub(super) fn expire(&mut self, now: Duration) -> Option<u16> {
        let (trial, _) = self.in_flight.filter(|(_, until)| now >= *until)?;
        self.in_flight = None;
        if self.attempts < ATTEMPTS { None } else { self.failed(trial.size, now) }
    }

    /// When there is something to do next; zero means at once.
    pub(super) fn deadline(&self) -> Option<Duration> {
        match (self.in_flight, self.phase) {
            (Some((_, until)), _) => Some(until),
            (None, Phase::Paused) => None,
            (None, Phase::Waiting(until)) => Some(until),
            (None, _) => Some(Duration::ZERO),
        }
    }

    fn floor(&self) -> u16 {
        FLOOR.min(self.device_mtu)
    }

    fn size(&self) -> Option<u16> {
        match self.phase {
            Phase::Paused | Phase::Waiting(_) => None,
            Phase::Confirming => self.known,
            Phase::Ceiling => Some(self.device_mtu),
            Phase::Floor => Some(self.floor()),
            Phase::Between { passes, fails } => Some(passes + (fails - passes) / 2),
        }
    }

    fn failed(&mut self, size: u16, now: Duration) -> Option<u16> {
        match self.phase {
            Phase::Between { passes, .. } => self.narrow(passes, size, now),
            Phase::Confirming => {
                self.begin(now);
                None
            }
            Phase::Ceiling if self.floor() < self.device_mtu => {
                self.enter(Phase::Floor);
                None
            }
            _ => {
                self.known = None;
                self.next_search = now + RETRY;
                self.enter(Phase::Waiting(self.next_search));
                None
            }
        }
    }

    fn narrow(&mut self, passes: u16, fails: u16, now: Duration) -> Option<u16> {
        if fails - passes <= 1 {
            return self.settle(passes, now);
        }
        self.enter(Phase::Between { passes, fails });
        None
    }

    fn settle(&mut self, size: u16, now: Duration) -> Option<u16> {
        self.enter(Phase::Waiting(now + CONFIRM));
        (self.known.replace(size) != Some(size)).then_some(size)
    }

    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.attempts = 0;
        self.in_flight = None;
    }
}
