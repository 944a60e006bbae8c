//! From the TUN device to the network.

use std::io::ErrorKind;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::Shared;
use super::batch::Batch;
use super::waiting::{Turn, Waiting};
use crate::core::peer::Peer;
use crate::core::tables::Tables;
use crate::counters::Drop;
use crate::io::udp::Udp;
use crate::packet::ip;
use crate::packet::split::split;
use crate::packet::vnet::VnetHdr;

/// Reads before what has been read is sent, so that a busy device does not hold it back.
const READS: usize = 64;

/// Super-packets that are sealed between two looks at what else has come. Each is a little more
/// than a train once it is sealed, and what is left over costs the kernel as much as a train: of
/// several in a row, the next one fills it up. It also wakes the receiver less often.
const SUPER_PACKETS: usize = 3;

/// Lengths are rounded up to this, so that they tell less (WireGuard paper, 5.4.6).
const PADDING: usize = 16;
/// The longest packet.
const LARGEST: usize = 65_535;

/// The length of a packet with its padding: never more than the device's MTU, because the way out
/// may have no room for more.
fn padded(len: usize, mtu: usize) -> usize {
    len.next_multiple_of(PADDING).min(mtu).max(len)
}

/// A queue of the TUN device, and what has been read from it.
pub(super) struct Outbound<'a> {
    shared: &'a Shared,
    queue: usize,
    batch: Batch,
    waiting: Waiting,
    padded: Box<[u8]>,
}

impl<'a> Outbound<'a> {
    pub(super) fn new(shared: &'a Shared, queue: usize) -> Self {
        let padded = vec![0; LARGEST + PADDING].into_boxed_slice();
        Self { shared, queue, batch: Batch::new(), waiting: Waiting::new(), padded }
    }

    /// The queue, to wait for.
    pub(super) fn fd(&self) -> RawFd {
        self.shared.tun.fd(self.queue)
    }

    /// Empties the queue, sends single packets, then some super-packets. False when there is
    /// nothing more.
    pub(super) fn step(&mut self) -> bool {
        let Self { shared, queue, batch, waiting, padded } = self;
        let (tables, udp) = (shared.device.tables(), shared.udp());
        let round = Round {
            shared,
            queue: *queue,
            batch,
            tables,
            udp,
            now: Instant::now(),
            padded,
            mtu: shared.mtu(),
        };
        round.run(waiting)
    }
}

/// One batch: what holds during it.
struct Round<'a> {
    shared: &'a Shared,
    queue: usize,
    batch: &'a mut Batch,
    tables: Arc<Tables>,
    udp: Arc<Udp>,
    now: Instant,
    padded: &'a mut [u8],
    mtu: usize,
}

impl Round<'_> {
    fn run(mut self, waiting: &mut Waiting) -> bool {
        let more = self.read(waiting);
        for _ in 0..SUPER_PACKETS {
            let Some(mut held) = waiting.next() else { break };
            let hdr = held.hdr;
            self.encrypt(&hdr, held.packet());
            waiting.give_back(held);
        }
        self.send();
        self.shared.queue_depths[self.queue].store(waiting.len(), Ordering::Relaxed);
        more || waiting.len() > 0
    }

    /// False when the device has nothing more.
    fn read(&mut self, waiting: &mut Waiting) -> bool {
        for _ in 0..READS {
            match self.shared.tun.read(self.queue, waiting.room()) {
                Ok((hdr, range)) => {
                    let flow = waiting.flow(range.clone());
                    self.shared.flow_out.observe(flow);
                    match waiting.take(hdr, range.clone(), flow) {
                        Turn::Now => self.encrypt(&hdr, waiting.current(range)),
                        Turn::Later => {}
                        Turn::Never(packets) => self.drop(Drop::QueueFull, packets),
                    }
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => {
                    if e.raw_os_error() == Some(libc::EBADFD) {
                        tracing::error!("somebody removed the TUN device; the engine stops");
                        self.shared.stop();
                    }
                    return false;
                }
            }
        }
        true
    }

    fn send(&mut self) {
        self.shared.send(&self.udp, &self.batch.buf, &self.batch.trains);
        self.batch.clear();
    }

    fn drop(&self, reason: Drop, packets: u64) {
        self.shared.device.drops().add(reason, packets);
    }

    /// Encrypts all packets of one super-packet.
    fn encrypt(&mut self, hdr: &VnetHdr, packet: &mut [u8]) {
        let Some(destination) = ip::destination(packet) else {
            return self.drop(Drop::MalformedInner, 1);
        };
        let Some(peer) = self.tables.route(destination).cloned() else {
            return self.drop(Drop::NoRoute, 1);
        };
        let cut = split(hdr, packet, |segment| {
            self.seal(&peer, segment);
            if self.batch.is_over_capacity() {
                self.send();
            }
        });
        if cut.is_err() {
            self.drop(Drop::MalformedInner, 1);
        }
        if self.batch.is_full() {
            self.send();
        }
    }

    fn seal(&mut self, peer: &Peer, segment: &[u8]) {
        let (len, padded) = (segment.len(), padded(segment.len(), self.mtu));
        let segment = if padded == len {
            segment
        } else {
            self.padded[..len].copy_from_slice(segment);
            self.padded[len..padded].fill(0);
            &self.padded[..padded]
        };
        match peer.seal(segment, self.batch.room(), self.now) {
            Ok((_, 0)) => {}
            Ok((to, len)) => self.batch.push(to, len),
            Err(reason) => self.drop(reason, 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_stays_within_the_mtu() {
        assert_eq!([0, 1, 16, 17, 1400].map(|len| padded(len, 1420)), [0, 16, 16, 32, 1408]);
        assert_eq!([1409, 1417, 1420].map(|len| padded(len, 1420)), [1420; 3]);
        // Packets from before the MTU was lowered.
        assert_eq!(padded(1417, 1280), 1417);
    }
}
