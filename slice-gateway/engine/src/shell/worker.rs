//! The threads that move packets, and what each of them does: one for every queue of the TUN
//! device and one for the socket. The kernel keeps a flow in its queue, and a peer on its socket.

use std::io;

use super::Shared;
use super::inbound::Inbound;
use super::outbound::Outbound;
use crate::io::sched;
use crate::io::wait::{self, Waker};

/// More queues than this wait for each other more than they do: a peer's sessions serve one thread
/// at a time, and what is outside of that is less than a quarter of the work.
const MOST_QUEUES: usize = 4;

/// What a thread does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Reads this queue of the TUN device.
    Outbound(usize),
    /// Reads the socket.
    Inbound,
}

/// How many queues the TUN device should have.
pub(super) fn queues(processors: usize) -> usize {
    (processors / 2).clamp(1, MOST_QUEUES)
}

/// The threads for a device that has got this many queues.
pub(super) fn roles(queues: usize) -> impl Iterator<Item = Role> {
    (0..queues).map(Role::Outbound).chain([Role::Inbound])
}

impl Role {
    /// The priority asked for, as `nice(2)` has it. What waits in the socket delays every flow,
    /// and is lost when the socket is full; what waits at the device delays nobody else, and slows
    /// its sender down. So where both directions need one processor, what arrives goes first.
    fn nice(self) -> i32 {
        match self {
            Self::Outbound(_) => 0,
            Self::Inbound => -10,
        }
    }

    /// The thread's name.
    pub(super) fn name(self) -> String {
        match self {
            Self::Outbound(queue) => format!("wg-out-{queue}"),
            Self::Inbound => "wg-in".to_owned(),
        }
    }
}

/// Runs until the engine stops.
pub(super) fn run(shared: &Shared, role: Role, waker: &Waker) {
    sched::prefer_latency(role.nice());
    let ended = match role {
        Role::Outbound(queue) => read_device(shared, queue, waker),
        Role::Inbound => read_socket(shared, waker),
    };
    if let Err(error) = ended {
        tracing::error!(%error, "cannot wait for packets; the engine stops");
        shared.stop();
    }
}

fn read_device(shared: &Shared, queue: usize, waker: &Waker) -> io::Result<()> {
    let mut outbound = Outbound::new(shared, queue);
    while !shared.stopped() {
        wait::readable(outbound.fd(), waker)?;
        while !shared.stopped() && outbound.step() {}
    }
    Ok(())
}

fn read_socket(shared: &Shared, waker: &Waker) -> io::Result<()> {
    let mut inbound = Inbound::new(shared);
    while !shared.stopped() {
        if wait::readable(inbound.fd(), waker)? {
            // The socket may have been replaced.
            inbound.renew();
        }
        // A flow that is alone does not interrupt what works for it: see `lone`.
        while !shared.stopped()
            && (inbound.step()
                || shared.has_one_flow() && wait::readable_after_others(inbound.fd(), waker)?)
        {
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_queue_and_the_socket_have_exactly_one_thread() {
        for processors in 1..=64 {
            let roles: Vec<Role> = roles(queues(processors)).collect();
            let read = roles.iter().filter(|role| matches!(role, Role::Outbound(_))).count();
            assert_eq!(read, queues(processors));
            assert_eq!(roles.iter().filter(|role| **role == Role::Inbound).count(), 1);
            assert!(roles.len() <= processors.max(2));
        }
        assert_eq!((queues(1), queues(2), queues(4), queues(64)), (1, 1, 2, 4));
    }
}
