//! From the TUN device to the network.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::Shared;
use super::batch::Batch;
use super::waiting::{Turn, Waiting};
use crate::core::peer::Peer;
use crate::core::tables::Tables;
use crate::counters::Drop;
use crate::io::sched;
use crate::io::udp::Udp;
use crate::io::wait;
use crate::packet::ip;
use crate::packet::split::split;
use crate::packet::vnet::VnetHdr;

/// Reads before what has been read is sent, so that a busy device does not hold it back.
const READS: usize = 64;

/// Runs until the engine stops.
pub(super) fn run(shared: &Shared) {
    sched::prefer_latency();
    let mut batch = Batch::new();
    let mut waiting = Waiting::new();
    while !shared.stopped() {
        if let Err(error) = wait::readable(shared.tun.fd(), &shared.wake_outbound) {
            tracing::error!(%error, "cannot wait for the TUN device; the engine stops");
            return shared.stop();
        }
        while !shared.stopped() && Round::new(shared, &mut batch).run(&mut waiting) {}
    }
}

/// One batch: what holds during it.
struct Round<'a> {
    shared: &'a Shared,
    batch: &'a mut Batch,
    tables: Arc<Tables>,
    udp: Arc<Udp>,
    now: Instant,
}

impl<'a> Round<'a> {
    fn new(shared: &'a Shared, batch: &'a mut Batch) -> Self {
        let (tables, udp) = (shared.device.tables(), shared.udp());
        Self { shared, batch, tables, udp, now: Instant::now() }
    }

    /// Empties the device, sends single packets, then one super-packet. False when there is
    /// nothing more.
    fn run(mut self, waiting: &mut Waiting) -> bool {
        let more = self.read(waiting);
        if let Some(mut held) = waiting.next() {
            let hdr = held.hdr;
            self.encrypt(&hdr, held.packet());
            waiting.give_back(held);
        }
        self.send();
        self.shared.queue_depth.store(waiting.len(), Ordering::Relaxed);
        more || waiting.len() > 0
    }

    /// False when the device has nothing more.
    fn read(&mut self, waiting: &mut Waiting) -> bool {
        for _ in 0..READS {
            match self.shared.tun.read(waiting.room()) {
                Ok((hdr, range)) => match waiting.take(hdr, range.clone()) {
                    Turn::Now => self.encrypt(&hdr, waiting.current(range)),
                    Turn::Later => {}
                    Turn::Never(packets) => self.drop(Drop::QueueFull, packets),
                },
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
        match peer.seal(segment, self.batch.room(), self.now) {
            Ok((_, 0)) => {}
            Ok((to, len)) => self.batch.push(to, len),
            Err(reason) => self.drop(reason, 1),
        }
    }
}
