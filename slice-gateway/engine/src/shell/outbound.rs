//! From the TUN device to the network.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Instant;

use super::Shared;
use super::batch::Batch;
use crate::core::peer::Peer;
use crate::core::tables::Tables;
use crate::counters::Drop;
use crate::io::sched;
use crate::io::tun::READ_SIZE;
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
    let mut buf = vec![0u8; READ_SIZE].into_boxed_slice();
    while !shared.stopped() {
        if let Err(error) = wait::readable(shared.tun.fd(), &shared.wake_outbound) {
            tracing::error!(%error, "cannot wait for the TUN device; outbound traffic stops");
            return;
        }
        while !shared.stopped() && round(shared, &mut buf, &mut batch) {}
    }
}

/// One batch; false when the device has nothing more.
fn round(shared: &Shared, buf: &mut [u8], batch: &mut Batch) -> bool {
    let (tables, udp, now) = (shared.device.tables(), shared.udp(), Instant::now());
    let mut more = true;
    for _ in 0..READS {
        match shared.tun.read(buf) {
            Ok((hdr, range)) => {
                packet(shared, &tables, &udp, &hdr, &mut buf[range], batch, now);
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => {
                if e.kind() != ErrorKind::WouldBlock {
                    tracing::debug!(error = %e, "cannot read from the TUN device");
                }
                more = false;
                break;
            }
        }
    }
    send(shared, &udp, batch);
    more
}

fn send(shared: &Shared, udp: &Udp, batch: &mut Batch) {
    shared.send(udp, &batch.buf, &batch.trains);
    batch.clear();
}

/// Encrypts all packets of one super-packet.
fn packet(
    shared: &Shared,
    tables: &Tables,
    udp: &Udp,
    hdr: &VnetHdr,
    packet: &mut [u8],
    batch: &mut Batch,
    now: Instant,
) {
    let drops = shared.device.drops();
    let Some(destination) = ip::destination(packet) else {
        return drops.add(Drop::MalformedInner, 1);
    };
    let Some(peer) = tables.route(destination) else { return drops.add(Drop::NoRoute, 1) };
    let cut = split(hdr, packet, |segment| {
        seal(shared, peer, segment, batch, now);
        if batch.is_over_capacity() {
            send(shared, udp, batch);
        }
    });
    if cut.is_err() {
        drops.add(Drop::MalformedInner, 1);
    }
    if batch.is_full() {
        send(shared, udp, batch);
    }
}

fn seal(shared: &Shared, peer: &Arc<Peer>, segment: &[u8], batch: &mut Batch, now: Instant) {
    match peer.seal(segment, batch.room(), now) {
        Ok((_, 0)) => {}
        Ok((to, len)) => batch.push(to, len),
        Err(reason) => shared.device.drops().add(reason, 1),
    }
}
