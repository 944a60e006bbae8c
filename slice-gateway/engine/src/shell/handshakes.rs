//! Handshakes, away from the path of packets.
//!
//! Whoever can reach the socket can send as many handshake messages as he likes, and each costs
//! more than a packet of a peer does. So they wait in short queues for a thread of their own, and
//! what does not fit is dropped: a flood of them delays no packet.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::Shared;
use crate::core::device::Received;
use crate::core::peer::{MIN_BUFFER, Peer};
use crate::counters::Drop;
use crate::io::udp::Udp;

/// First byte of a handshake's first message, the only one that strangers can make.
const INITIATION: u8 = 1;
/// First byte of the last kind of message that belongs to handshakes.
const COOKIE: u8 = 3;
/// Messages of each kind that wait at most.
const LIMIT: usize = 256;
/// The longest of these messages.
const LENGTH: usize = 148;

/// A message and its sender.
struct Waiting {
    from: SocketAddr,
    message: [u8; LENGTH],
    len: usize,
}

struct Queues {
    initiations: VecDeque<Waiting>,
    /// Responses and cookies: they come after something we sent, and go first.
    answers: VecDeque<Waiting>,
}

/// What waits for the thread.
pub(super) struct Handshakes {
    queues: Mutex<Queues>,
    more: Condvar,
}

impl Default for Handshakes {
    fn default() -> Self {
        let queue = || VecDeque::with_capacity(LIMIT);
        let queues = Mutex::new(Queues { initiations: queue(), answers: queue() });
        Self { queues, more: Condvar::new() }
    }
}

impl Handshakes {
    fn lock(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a message that carries no data into its queue.
    pub(super) fn put(&self, from: SocketAddr, message: &[u8]) -> Result<(), Drop> {
        let kind = message.first().copied().unwrap_or_default();
        if !(INITIATION..=COOKIE).contains(&kind) || message.len() > LENGTH {
            return Err(Drop::MalformedMessage);
        }
        let mut queues = self.lock();
        let initiation = kind == INITIATION;
        let queue = if initiation { &mut queues.initiations } else { &mut queues.answers };
        if queue.len() >= LIMIT {
            return Err(Drop::RateLimited);
        }
        let mut waiting = Waiting { from, message: [0; LENGTH], len: message.len() };
        waiting.message[..message.len()].copy_from_slice(message);
        queue.push_back(waiting);
        drop(queues);
        self.more.notify_one();
        Ok(())
    }

    /// Makes the thread look whether it shall end.
    pub(super) fn wake(&self) {
        // With the lock, so that the thread is either before its look or asleep.
        let _queues = self.lock();
        self.more.notify_all();
    }

    /// The next message; `None` when the engine stops.
    fn next(&self, stopped: impl Fn() -> bool) -> Option<Waiting> {
        let mut queues = self.lock();
        while !stopped() {
            if let Some(next) = queues.answers.pop_front() {
                return Some(next);
            }
            if let Some(next) = queues.initiations.pop_front() {
                return Some(next);
            }
            queues = self.more.wait(queues).unwrap_or_else(PoisonError::into_inner);
        }
        None
    }
}

/// Runs until the engine stops.
pub(super) fn run(shared: &Shared) {
    let mut out = [0; MIN_BUFFER];
    while let Some(next) = shared.handshakes.next(|| shared.stopped()) {
        let (tables, udp) = (shared.device.tables(), shared.udp());
        let (message, now) = (&next.message[..next.len], Instant::now());
        if let Ok(Received::Reply(len, peer)) =
            shared.device.receive(&tables, next.from, message, &mut out, now)
        {
            shared.send_one(&udp, next.from, &out[..len]);
            if let Some(peer) = peer {
                send_queued(shared, &udp, &peer);
            }
        }
    }
}

/// Sends what waited for the session that has just been made.
fn send_queued(shared: &Shared, udp: &Udp, peer: &Peer) {
    let mut out = vec![0u8; 65_568];
    while let Some((to, len)) = peer.next_queued(&mut out) {
        shared.send_one(udp, to, &out[..len]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from() -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], 9))
    }

    #[test]
    fn answers_pass_a_flood_of_initiations() {
        let handshakes = Handshakes::default();
        for _ in 0..LIMIT {
            assert_eq!(handshakes.put(from(), &[1; 148]), Ok(()));
        }
        assert_eq!(handshakes.put(from(), &[1; 148]), Err(Drop::RateLimited));
        assert_eq!(handshakes.put(from(), &[2; 92]), Ok(()));
        let next = handshakes.next(|| false).map(|w| (w.message[0], w.len));
        assert_eq!(next, Some((2, 92)));
        assert_eq!(handshakes.next(|| false).map(|w| w.len), Some(148));
        assert_eq!(handshakes.put(from(), &[1; 148]), Ok(()));
        assert!(handshakes.next(|| true).is_none());
    }

    #[test]
    fn what_is_no_message_is_not_kept() {
        let handshakes = Handshakes::default();
        for message in [&[][..], &[0; 148], &[4; 40], &[1; 149], &[9; 3]] {
            assert_eq!(handshakes.put(from(), message), Err(Drop::MalformedMessage));
        }
    }
}
