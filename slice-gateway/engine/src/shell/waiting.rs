//! Super-packets that wait to be encrypted.
//!
//! The device's own queue is first in, first out, and a super-packet in it takes as long as
//! fifty packets: a lone packet behind a full queue of them would wait for milliseconds. So that
//! queue is kept empty. Super-packets are put aside here, and everything else passes them,
//! unless it belongs to a flow that has one waiting: no flow is reordered.

use std::collections::VecDeque;
use std::ops::Range;

use crate::io::tun::READ_SIZE;
use crate::packet::flow::flow_hash;
use crate::packet::vnet::{self, VnetHdr};

/// Super-packets that wait at most: 8 MB, some milliseconds of work. More are dropped, which
/// tells their senders to slow down.
pub(super) const LIMIT: usize = 128;

/// A packet in a buffer of its own.
pub(super) struct Held {
    pub(super) hdr: VnetHdr,
    buf: Box<[u8]>,
    range: Range<usize>,
    flow: u8,
}

impl Held {
    pub(super) fn packet(&mut self) -> &mut [u8] {
        &mut self.buf[self.range.clone()]
    }
}

/// What to do with a packet that has been read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Encrypt it now.
    Now,
    /// It has been put aside.
    Later,
    /// It has been dropped; so many packets on the wire.
    Never(u64),
}

/// The waiting super-packets and the buffers for them.
pub(super) struct Waiting {
    queue: VecDeque<Held>,
    free: Vec<Box<[u8]>>,
    /// The buffer that is read into.
    current: Box<[u8]>,
    /// By flow: how many of it wait.
    flows: [u8; 256],
}

fn buffer() -> Box<[u8]> {
    vec![0; READ_SIZE].into_boxed_slice()
}

impl Waiting {
    pub(super) fn new() -> Self {
        Self {
            queue: VecDeque::with_capacity(LIMIT),
            free: Vec::new(),
            current: buffer(),
            flows: [0; 256],
        }
    }

    /// Where the next packet is read to.
    pub(super) fn room(&mut self) -> &mut [u8] {
        &mut self.current
    }

    /// The flow of the packet that has been read.
    pub(super) fn flow(&self, range: Range<usize>) -> u8 {
        flow_hash(&self.current[range])
    }

    /// Decides about that packet.
    pub(super) fn take(&mut self, hdr: VnetHdr, range: Range<usize>, flow: u8) -> Turn {
        let packet = &self.current[range.clone()];
        let single = hdr.gso_type == vnet::GSO_NONE;
        if single && self.flows[usize::from(flow)] == 0 {
            return Turn::Now;
        }
        if self.queue.len() >= LIMIT {
            let size = usize::from(hdr.gso_size).max(1);
            return Turn::Never(if single { 1 } else { packet.len().div_ceil(size) as u64 });
        }
        self.flows[usize::from(flow)] += 1;
        let next = self.free.pop().unwrap_or_else(buffer);
        let buf = std::mem::replace(&mut self.current, next);
        self.queue.push_back(Held { hdr, buf, range, flow });
        Turn::Later
    }

    /// The packet in [`Self::room`], for which it is [`Turn::Now`].
    pub(super) fn current(&mut self, range: Range<usize>) -> &mut [u8] {
        &mut self.current[range]
    }

    /// The one that has waited longest. Give it back when done.
    pub(super) fn next(&mut self) -> Option<Held> {
        let held = self.queue.pop_front()?;
        self.flows[usize::from(held.flow)] -= 1;
        Some(held)
    }

    pub(super) fn give_back(&mut self, held: Held) {
        self.free.push(held.buf);
    }

    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(flow: u8) -> [u8; 28] {
        let mut p = [0; 28];
        (p[0], p[9], p[19], p[23]) = (0x45, 17, 1, flow);
        p
    }

    fn offer(waiting: &mut Waiting, flow: u8, gso_type: u8) -> Turn {
        let packet = packet(flow);
        waiting.room()[..28].copy_from_slice(&packet);
        waiting.take(
            VnetHdr { gso_type, gso_size: 7, ..VnetHdr::default() },
            0..28,
            flow_hash(&packet),
        )
    }

    fn next_flow(waiting: &mut Waiting) -> Option<u8> {
        let mut held = waiting.next()?;
        let flow = held.packet()[23];
        waiting.give_back(held);
        Some(flow)
    }

    #[test]
    fn single_packets_pass_super_packets_of_other_flows_only() {
        let mut waiting = Waiting::new();
        assert_ne!(flow_hash(&packet(1)), flow_hash(&packet(2)));
        assert_eq!(offer(&mut waiting, 1, vnet::GSO_NONE), Turn::Now);
        assert_eq!(offer(&mut waiting, 1, vnet::GSO_UDP_L4), Turn::Later);
        assert_eq!(offer(&mut waiting, 2, vnet::GSO_NONE), Turn::Now);
        assert_eq!(offer(&mut waiting, 1, vnet::GSO_NONE), Turn::Later);
        assert_eq!(next_flow(&mut waiting), Some(1));
        assert_eq!(offer(&mut waiting, 1, vnet::GSO_NONE), Turn::Later);
        assert_eq!((next_flow(&mut waiting), next_flow(&mut waiting)), (Some(1), Some(1)));
        assert_eq!(offer(&mut waiting, 1, vnet::GSO_NONE), Turn::Now);
        assert_eq!(next_flow(&mut waiting), None);
    }

    #[test]
    fn what_is_too_much_is_dropped_and_counted_in_packets() {
        let mut waiting = Waiting::new();
        for _ in 0..LIMIT {
            assert_eq!(offer(&mut waiting, 1, vnet::GSO_UDP_L4), Turn::Later);
        }
        assert_eq!(offer(&mut waiting, 2, vnet::GSO_UDP_L4), Turn::Never(4));
        assert_eq!(offer(&mut waiting, 2, vnet::GSO_NONE), Turn::Now);
        assert_eq!(waiting.len(), LIMIT);
    }
}
