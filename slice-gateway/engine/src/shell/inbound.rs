//! From the network to the TUN device.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Instant;

use super::Shared;
use super::pressure::Pressure;
use crate::core::device::Received;
use crate::core::peer::MIN_BUFFER;
use crate::core::tables::Tables;
use crate::counters::Drop;
use crate::io::udp::{RECV_BATCH, RecvBatch, Udp};
use crate::packet::coalesce::{Coalescer, Sink};
use crate::packet::flow::flow_hash;
use crate::packet::vnet::VnetHdr;

/// First byte of a message that carries data.
const DATA: u8 = 4;
/// Bytes of messages opened in one step: about two super-packets' worth.
const STEP: usize = 130_000;
/// Messages from this length on are those of flows that fill queues.
const BULK: usize = 512;

/// What has been taken from the socket, and how far it has been opened.
pub(super) struct Inbound<'a> {
    shared: &'a Shared,
    udp: Arc<Udp>,
    batch: RecvBatch,
    next: usize,
    taken: usize,
    join: Coalescer,
    /// How long the socket has had too much.
    pressure: Pressure,
    /// The next large message is to be dropped.
    surplus: bool,
}

impl<'a> Inbound<'a> {
    pub(super) fn new(shared: &'a Shared) -> Self {
        let join = Coalescer::new(shared.tun.joins());
        let batch = RecvBatch::default();
        Self {
            shared,
            udp: shared.udp(),
            batch,
            next: 0,
            taken: 0,
            join,
            pressure: Pressure::default(),
            surplus: false,
        }
    }

    /// The socket, to wait for.
    pub(super) fn fd(&self) -> RawFd {
        self.udp.fd()
    }

    /// Takes up the socket that the engine has now.
    pub(super) fn renew(&mut self) {
        self.udp = self.shared.udp();
    }

    /// Opens about [`STEP`] bytes, less if there are not so many, and writes all packets in them.
    /// False when the socket likely has nothing more: asking it would cost as much as waiting
    /// for it.
    pub(super) fn step(&mut self) -> bool {
        let (mut bytes, mut more) = (0, true);
        while more && bytes < STEP {
            if self.next == self.taken {
                match self.take() {
                    Ok(()) => {}
                    // An error is that of an earlier send (port unreachable): read on.
                    Err(e) => more = !matches!(e.kind(), ErrorKind::WouldBlock),
                }
                if self.taken == 0 {
                    break;
                }
            }
            bytes += self.open(STEP - bytes);
            more = self.next < self.taken || self.taken == RECV_BATCH;
        }
        self.join.flush(&mut Device(self.shared));
        more
    }

    /// Takes what is in the socket.
    fn take(&mut self) -> io::Result<()> {
        (self.next, self.taken) = (0, 0);
        self.taken = self.udp.recv(&mut self.batch)?;
        let behind = if self.taken == RECV_BATCH { self.udp.backlog() } else { 0 };
        let queued = self.batch.bytes(self.taken) + behind;
        self.surplus |= self.pressure.observe(queued, Instant::now());
        Ok(())
    }

    /// Opens at least `enough` bytes of what has been taken, or all; returns how many.
    fn open(&mut self, enough: usize) -> usize {
        let mut opening = Opening {
            shared: self.shared,
            tables: &self.shared.device.tables(),
            join: &mut self.join,
            now: Instant::now(),
        };
        let mut bytes = 0;
        while self.next < self.taken && bytes < enough {
            if let Some((from, messages)) = self.batch.train(self.next) {
                for message in messages {
                    bytes += message.len();
                    if self.surplus && message.len() >= BULK {
                        self.surplus = false;
                        self.shared.device.drops().add(Drop::Delayed, 1);
                    } else {
                        opening.receive(from, message);
                    }
                }
            }
            self.next += 1;
        }
        bytes
    }
}

/// What holds during one step.
struct Opening<'a> {
    shared: &'a Shared,
    tables: &'a Tables,
    join: &'a mut Coalescer,
    now: Instant,
}

impl Opening<'_> {
    fn receive(&mut self, from: SocketAddr, message: &[u8]) {
        if message.first() != Some(&DATA) {
            if let Err(reason) = self.shared.handshakes.put(from, message) {
                self.shared.device.drops().add(reason, 1);
            }
            return;
        }
        let out = self.join.landing(message.len().max(MIN_BUFFER));
        match self.shared.device.receive(self.tables, from, message, out, self.now) {
            Ok(Received::Packet(len)) => {
                self.shared.flow_in.observe(flow_hash(&out[..len]));
                self.join.commit(len, &mut Device(self.shared));
            }
            // Data is not answered.
            Ok(Received::Reply(..) | Received::Nothing) | Err(_) => self.join.abandon(),
        }
    }
}

/// Writes to the TUN device and counts what it does not take.
struct Device<'a>(&'a Shared);

impl Sink for Device<'_> {
    fn write(&mut self, hdr: &VnetHdr, packet: &[u8]) {
        let tun = &self.0.tun;
        // The kernel hands a flow's packets out by the queue its answers were written to.
        let queue =
            if tun.queues() > 1 { usize::from(flow_hash(packet)) % tun.queues() } else { 0 };
        if let Err(error) = tun.write(queue, hdr, packet) {
            tracing::trace!(%error, "packet not written");
            self.0.device.drops().add(Drop::DeviceRefused, 1);
        }
    }
}
