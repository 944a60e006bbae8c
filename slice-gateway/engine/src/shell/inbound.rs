//! From the network to the TUN device.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Instant;

use super::Shared;
use crate::core::device::Received;
use crate::core::peer::{MIN_BUFFER, Peer};
use crate::core::tables::Tables;
use crate::counters::Drop;
use crate::io::sched;
use crate::io::udp::{RECV_BATCH, RecvBatch, Udp};
use crate::io::wait;
use crate::packet::coalesce::{Coalescer, Sink};
use crate::packet::vnet::VnetHdr;

/// Runs until the engine stops.
pub(super) fn run(shared: &Shared) {
    sched::prefer_latency();
    let mut batch = RecvBatch::default();
    let mut join = Coalescer::new(shared.tun.joins());
    let mut udp = shared.udp();
    while !shared.stopped() {
        match wait::readable(udp.fd(), &shared.wake_inbound) {
            Ok(false) => {}
            // The socket may have been replaced.
            Ok(true) => udp = shared.udp(),
            Err(error) => {
                tracing::error!(%error, "cannot wait for the socket; the engine stops");
                return shared.stop();
            }
        }
        while !shared.stopped() && round(shared, &udp, &mut batch, &mut join) {}
    }
}

/// One batch; false when the socket likely has nothing more: asking it would cost as much as
/// waiting for it.
fn round(shared: &Shared, udp: &Udp, batch: &mut RecvBatch, join: &mut Coalescer) -> bool {
    let count = match udp.recv(batch) {
        Ok(count) => count,
        Err(e) => {
            // Errors are those of earlier sends (port unreachable): nothing to do but read on.
            return !matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
        }
    };
    let (tables, now) = (shared.device.tables(), Instant::now());
    for (from, message) in batch.datagrams(count) {
        receive(shared, &tables, udp, from, message, join, now);
    }
    join.flush(&mut Device(shared));
    count == RECV_BATCH
}

fn receive(
    shared: &Shared,
    tables: &Tables,
    udp: &Udp,
    from: SocketAddr,
    message: &[u8],
    join: &mut Coalescer,
    now: Instant,
) {
    let out = join.landing(message.len().max(MIN_BUFFER));
    match shared.device.receive(tables, from, message, out, now) {
        Ok(Received::Packet(len)) => return join.commit(len, &mut Device(shared)),
        Ok(Received::Reply(len, peer)) => {
            shared.send_one(udp, from, &out[..len]);
            if let Some(peer) = peer {
                send_queued(shared, udp, &peer);
            }
        }
        Ok(Received::Nothing) | Err(_) => {}
    }
    join.abandon();
}

/// Sends what waited for the session that has just been made.
fn send_queued(shared: &Shared, udp: &Udp, peer: &Peer) {
    let mut out = vec![0u8; 65_568];
    while let Some((to, len)) = peer.next_queued(&mut out) {
        shared.send_one(udp, to, &out[..len]);
    }
}

/// Writes to the TUN device and counts what it does not take.
struct Device<'a>(&'a Shared);

impl Sink for Device<'_> {
    fn write(&mut self, hdr: &VnetHdr, packet: &[u8]) {
        if let Err(error) = self.0.tun.write(hdr, packet) {
            tracing::trace!(%error, "packet not written");
            self.0.device.drops().add(Drop::DeviceRefused, 1);
        }
    }
}
