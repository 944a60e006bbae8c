//! Whether a packet can be part of a super-packet, and of which.
//!
//! The rules are those of the kernel's own receive offload: only packets that differ in nothing
//! but sequence number, length, IPv4 identification and checksums are joined, so that cutting
//! the super-packet again yields what was sent.

use super::checksum;
use super::ip::{self, TCP, UDP};

const ACK: u8 = 0x10;
const PSH: u8 = 0x08;

/// Longest headers a candidate has: IPv6 and TCP with all options.
pub(super) const MAX_HEADERS: usize = 100;

/// A packet that may be joined with others, described.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate {
    pub(super) tcp: bool,
    pub(super) ip_len: usize,
    pub(super) headers: usize,
    pub(super) payload: usize,
    pub(super) seq: u32,
    pub(super) push: bool,
    /// The IPv4 identification, where it means something: the packet may be fragmented.
    pub(super) id: Option<u16>,
}

/// Which kinds of super-packet the device takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Joins {
    /// TCP segments of both families.
    pub tcp: bool,
    /// UDP datagrams of both families.
    pub udp: bool,
}

/// Describes a packet of plain headers that carries data; `None` for everything else.
/// `packet` is exactly as long as its IP header says.
pub(super) fn candidate(packet: &[u8], joins: Joins) -> Option<Candidate> {
    let (ip_len, protocol) = match packet.first()? {
        // No options, not a fragment.
        0x45 if packet.len() >= 20 && ip::u16_at(packet, 6) & 0x3fff == 0 => (20, packet[9]),
        version if version >> 4 == 6 && packet.len() >= 40 => (40, packet[6]),
        _ => return None,
    };
    let rest = &packet[ip_len..];
    let id = (ip_len == 20 && packet[6] & 0x40 == 0).then(|| ip::u16_at(packet, 4));
    match protocol {
        TCP if joins.tcp && rest.len() > 20 => {
            let headers = ip_len + usize::from(rest[12] >> 4) * 4;
            let plain = rest[13] & !PSH == ACK && rest[12] & 0x0f == 0;
            (plain && headers >= ip_len + 20 && headers < packet.len()).then(|| Candidate {
                tcp: true,
                ip_len,
                headers,
                payload: packet.len() - headers,
                seq: ip::u32_at(rest, 4),
                push: rest[13] & PSH != 0,
                id,
            })
        }
        UDP if joins.udp && rest.len() > 8 => {
            let whole = usize::from(ip::u16_at(rest, 4)) == rest.len();
            let summed = rest[6..8] != [0, 0];
            (whole && summed).then(|| Candidate {
                tcp: false,
                ip_len,
                headers: ip_len + 8,
                payload: rest.len() - 8,
                seq: 0,
                push: false,
                id,
            })
        }
        _ => None,
    }
}

/// True if the transport checksum is right.
pub(super) fn intact(packet: &[u8], c: &Candidate) -> bool {
    let protocol = if c.tcp { TCP } else { UDP };
    let sum = ip::pseudo_sum(packet, protocol, packet.len() - c.ip_len);
    checksum::intact(checksum::add(sum, &packet[c.ip_len..]))
}

/// True if both packets have the same addresses, protocol and ports. Both have no IPv4 options.
pub(super) fn same_tuple(a: &[u8], b: &[u8]) -> bool {
    match (a.first().map(|v| v >> 4), b.first().map(|v| v >> 4)) {
        (Some(4), Some(4)) if a.len() >= 24 && b.len() >= 24 => {
            a[9] == b[9] && a[12..24] == b[12..24]
        }
        (Some(6), Some(6)) if a.len() >= 44 && b.len() >= 44 => {
            a[6] == b[6] && a[8..44] == b[8..44]
        }
        _ => false,
    }
}

/// True if the headers of two candidates of one tuple differ only in what joining restores.
pub(super) fn same_headers(a: &[u8], b: &[u8], c: &Candidate) -> bool {
    if a.len() < c.headers || b.len() < c.headers {
        return false;
    }
    let ip_same = if c.ip_len == 20 {
        a[..2] == b[..2] && a[6..9] == b[6..9]
    } else {
        a[..4] == b[..4] && a[7] == b[7]
    };
    let (x, y) = (&a[c.ip_len..c.headers], &b[c.ip_len..c.headers]);
    ip_same
        && (!c.tcp
            || (x[8..13] == y[8..13]
                && x[13] & !PSH == y[13] & !PSH
                && x[14..16] == y[14..16]
                && x[18..] == y[18..]))
}

/// A number for a packet's flow: packets of one flow have the same one.
pub(crate) fn flow_hash(packet: &[u8]) -> u8 {
    let (addresses, ports, protocol) = match packet.first().map(|v| v >> 4) {
        Some(4) if packet.len() >= 20 => {
            let fragment = ip::u16_at(packet, 6) & 0x3fff != 0;
            let ports = usize::from(packet[0] & 15) * 4;
            (&packet[12..20], (!fragment).then_some(ports), packet[9])
        }
        Some(6) if packet.len() >= 40 => (&packet[8..40], Some(40), packet[6]),
        _ => return 0,
    };
    // Where there are no ports, addresses and protocol alone make the flow.
    let ports = ports.filter(|_| protocol == TCP || protocol == UDP);
    let ports = ports.and_then(|at| packet.get(at..at + 4)).unwrap_or_default();
    let words = addresses.as_chunks::<4>().0.iter().chain(ports.as_chunks::<4>().0);
    let hash = words.fold(u64::from(protocol), |hash, word| {
        (hash ^ u64::from(u32::from_ne_bytes(*word))).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    });
    (hash >> 56) as u8
}
