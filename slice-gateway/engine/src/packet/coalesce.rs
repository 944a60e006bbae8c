//! Joins packets from the network into super-packets for the TUN device.
//!
//! A packet is decrypted where it would have to be if it continues the flow of the packet
//! before: its payload right behind that flow's payload, its headers over the end of that
//! payload, which is put aside meanwhile. In the common case nothing is then moved but those
//! headers. Nothing waits: the caller flushes at the end of every batch.

pub use super::flow::Joins;
use super::flow::{self, Candidate, MAX_HEADERS};
use super::vnet::{self, VnetHdr};
use super::{checksum, ip};

/// Flows that are joined at the same time.
const SLOTS: usize = 8;
/// Packets in one super-packet; the kernel's limit for UDP.
const MAX_COUNT: usize = 64;
/// An IP packet's greatest length.
const MAX_LEN: usize = 65_535;
/// A super-packet and behind it one more packet that turns out not to belong to it.
const BUFFER: usize = 2 * MAX_LEN + MAX_HEADERS;

/// Takes finished packets.
pub trait Sink {
    /// Writes one packet or super-packet.
    fn write(&mut self, hdr: &VnetHdr, packet: &[u8]);
}

struct Slot {
    buf: Box<[u8]>,
    /// The first packet's headers.
    hdr: [u8; MAX_HEADERS],
    first: Candidate,
    /// Bytes used in `buf`; 0 when the slot is free.
    end: usize,
    count: usize,
    next_seq: u32,
    /// Only one packet's checksum has not been looked at: the first one's.
    verified: bool,
    closed: bool,
    push: bool,
}

impl Slot {
    fn new() -> Self {
        let first = Candidate {
            tcp: false,
            ip_len: 0,
            headers: 0,
            payload: 0,
            seq: 0,
            push: false,
            id: None,
        };
        Self {
            buf: vec![0; BUFFER].into_boxed_slice(),
            hdr: [0; MAX_HEADERS],
            first,
            end: 0,
            count: 0,
            next_seq: 0,
            verified: false,
            closed: false,
            push: false,
        }
    }

    fn open(&mut self, packet: &[u8], c: Candidate) {
        self.buf[..packet.len()].copy_from_slice(packet);
        self.hdr[..c.headers].copy_from_slice(&packet[..c.headers]);
        self.first = c;
        self.end = packet.len();
        self.count = 1;
        self.next_seq = c.seq.wrapping_add(c.payload as u32);
        self.verified = false;
        self.closed = c.push;
        self.push = c.push;
    }

    fn continues(&self, packet: &[u8], c: &Candidate) -> bool {
        !self.closed
            && self.count < MAX_COUNT
            && c.tcp == self.first.tcp
            && c.headers == self.first.headers
            && c.payload <= self.first.payload
            && self.end + c.payload <= MAX_LEN
            && (!c.tcp || c.seq == self.next_seq)
            && c.id == self.first.id.map(|id| id.wrapping_add(self.count as u16))
            && flow::same_tuple(&self.hdr[..c.headers], packet)
            && flow::same_headers(&self.hdr[..c.headers], packet, c)
    }

    /// Looks at the first packet's checksum when a second one comes.
    fn verify_first(&mut self) -> bool {
        if !self.verified {
            self.verified = flow::intact(&self.buf[..self.end], &self.first);
            self.closed |= !self.verified;
        }
        self.verified
    }

    /// The payload is in place; counts it in.
    fn grow(&mut self, c: &Candidate) {
        self.end += c.payload;
        self.count += 1;
        self.next_seq = c.seq.wrapping_add(c.payload as u32);
        self.push |= c.push;
        self.closed |= c.push || c.payload < self.first.payload;
    }

    fn flush(&mut self, sink: &mut impl Sink) {
        let end = std::mem::take(&mut self.end);
        let packet = &mut self.buf[..end];
        if self.count == 1 {
            return sink.write(&VnetHdr::default(), packet);
        }
        let Candidate { tcp, ip_len, headers, payload, .. } = self.first;
        ip::set_length(packet, ip_len, end);
        let protocol = if tcp { ip::TCP } else { ip::UDP };
        let pseudo = checksum::fold(ip::pseudo_sum(packet, protocol, end - ip_len));
        let v4 = packet[0] >> 4 == 4;
        let transport = &mut packet[ip_len..];
        let field = if tcp { ip::TCP_CHECKSUM } else { ip::UDP_CHECKSUM };
        if tcp {
            transport[13] |= u8::from(self.push) << 3;
        } else {
            let len = transport.len() as u16;
            transport[4..6].copy_from_slice(&len.to_be_bytes());
        }
        transport[field..field + 2].copy_from_slice(&pseudo);
        let gso_type = match (tcp, v4) {
            (true, true) => vnet::GSO_TCPV4,
            (true, false) => vnet::GSO_TCPV6,
            (false, _) => vnet::GSO_UDP_L4,
        };
        let hdr = VnetHdr {
            flags: vnet::NEEDS_CSUM,
            gso_type,
            hdr_len: headers as u16,
            gso_size: payload as u16,
            csum_start: ip_len as u16,
            csum_offset: field as u16,
        };
        sink.write(&hdr, packet);
    }
}

/// Where the packet being decrypted is.
#[derive(Clone, Copy)]
enum Landed {
    Scratch,
    /// At the end of this slot, over the last bytes of its payload.
    Slot(usize),
}

/// Joins packets of several flows. See the module's text.
pub struct Coalescer {
    joins: Joins,
    slots: Vec<Slot>,
    /// Slots in use, oldest first.
    order: Vec<usize>,
    /// The slot that got the last packet.
    predicted: Option<usize>,
    landed: Landed,
    saved: [u8; MAX_HEADERS],
    scratch: Box<[u8]>,
}

impl Coalescer {
    /// A coalescer for a device that takes these kinds of super-packets.
    pub fn new(joins: Joins) -> Self {
        Self {
            joins,
            slots: (0..SLOTS).map(|_| Slot::new()).collect(),
            order: Vec::with_capacity(SLOTS),
            predicted: None,
            landed: Landed::Scratch,
            saved: [0; MAX_HEADERS],
            scratch: vec![0; MAX_LEN + 1].into_boxed_slice(),
        }
    }

    /// Lends the place for the next packet, at least `need` bytes (at most 65,536). Must be
    /// followed by [`Self::commit`] or [`Self::abandon`].
    pub fn landing(&mut self, need: usize) -> &mut [u8] {
        if let Some(at) = self.predicted
            && let slot = &mut self.slots[at]
            && slot.end > 0
            && !slot.closed
        {
            let headers = slot.first.headers;
            let start = slot.end - headers;
            self.saved[..headers].copy_from_slice(&slot.buf[start..slot.end]);
            self.landed = Landed::Slot(at);
            return &mut slot.buf[start..start + need];
        }
        self.landed = Landed::Scratch;
        &mut self.scratch[..need]
    }

    /// Forgets what is in the landing place.
    pub fn abandon(&mut self) {
        if let Landed::Slot(at) = std::mem::replace(&mut self.landed, Landed::Scratch) {
            let slot = &mut self.slots[at];
            let headers = slot.first.headers;
            slot.buf[slot.end - headers..slot.end].copy_from_slice(&self.saved[..headers]);
        }
    }

    /// The first `len` bytes of the landing place are a packet, as long as its IP header says.
    pub fn commit(&mut self, len: usize, sink: &mut impl Sink) {
        let Landed::Slot(at) = self.landed else { return self.place(len, sink) };
        let slot = &mut self.slots[at];
        let headers = slot.first.headers;
        let start = slot.end - headers;
        let packet = &slot.buf[start..start + len];
        let fits = flow::candidate(packet, self.joins)
            .filter(|c| slot.continues(packet, c) && flow::intact(packet, c));
        if let Some(c) = fits {
            let mut stash = [0u8; MAX_HEADERS];
            stash[..headers].copy_from_slice(&packet[..headers]);
            self.abandon();
            let slot = &mut self.slots[at];
            if slot.verify_first() {
                return slot.grow(&c);
            }
            self.scratch[..headers].copy_from_slice(&stash[..headers]);
            self.scratch[headers..len].copy_from_slice(&slot.buf[slot.end..][..c.payload]);
        } else {
            self.scratch[..len].copy_from_slice(packet);
            self.abandon();
        }
        self.place(len, sink);
    }

    /// Finds the place for the packet in the scratch buffer.
    fn place(&mut self, len: usize, sink: &mut impl Sink) {
        let packet = &self.scratch[..len];
        let Some(c) = flow::candidate(packet, self.joins) else {
            self.flush_tuple(len, sink);
            return sink.write(&VnetHdr::default(), &self.scratch[..len]);
        };
        for &at in &self.order {
            let slot = &mut self.slots[at];
            if slot.closed || !flow::same_tuple(&slot.hdr[..slot.first.headers], packet) {
                continue;
            }
            if slot.continues(packet, &c) && flow::intact(packet, &c) && slot.verify_first() {
                let end = slot.end;
                slot.buf[end..end + c.payload].copy_from_slice(&packet[c.headers..]);
                slot.grow(&c);
                self.predicted = Some(at);
                return;
            }
            // Later packets of the flow must stay behind this one.
            slot.closed = true;
        }
        let at = self.free_slot(sink);
        self.slots[at].open(&self.scratch[..len], c);
        self.order.push(at);
        self.predicted = Some(at);
    }

    /// Writes what is held of the flow of the packet in the scratch buffer, which goes next.
    fn flush_tuple(&mut self, len: usize, sink: &mut impl Sink) {
        let (slots, packet) = (&mut self.slots, &self.scratch[..len]);
        self.order.retain(|&at| {
            let slot = &mut slots[at];
            let same = flow::same_tuple(&slot.hdr[..slot.first.headers], packet);
            if same {
                slot.flush(sink);
            }
            !same
        });
    }

    fn free_slot(&mut self, sink: &mut impl Sink) -> usize {
        if let Some(free) = self.slots.iter().position(|s| s.end == 0) {
            return free;
        }
        let oldest = self.order.remove(0);
        self.slots[oldest].flush(sink);
        oldest
    }

    /// Writes everything that is held, in the order it came.
    pub fn flush(&mut self, sink: &mut impl Sink) {
        for at in self.order.drain(..) {
            self.slots[at].flush(sink);
        }
        self.predicted = None;
    }
}
