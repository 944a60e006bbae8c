//! Cuts a super-packet from the TUN device into the packets that go over the wire.
//!
//! Nothing is copied but headers: each packet's headers are written right before its payload,
//! over the end of the payload before it, which has been handed out already.

use super::checksum;
use super::ip::{self, TCP, UDP};
use super::vnet::{self, VnetHdr};

/// The most bytes of headers in front of a payload that are taken for real: an IPv4 or IPv6
/// header with options or extensions, and TCP's.
const MAX_HEADERS: usize = 256;

const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;

/// A vnet header that does not fit its packet.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SplitError {
    /// A field of the vnet header points outside the packet.
    #[error("vnet header points outside the packet")]
    OutOfBounds,
    /// The packet is not of the protocol the vnet header says.
    #[error("vnet header and packet disagree about the protocol")]
    Disagrees,
}

/// Hands each packet to `emit`, complete with checksums, and returns how many there were.
///
/// `packet` is overwritten on the way.
pub fn split(
    hdr: &VnetHdr,
    packet: &mut [u8],
    mut emit: impl FnMut(&[u8]),
) -> Result<usize, SplitError> {
    match hdr.gso_type & !vnet::GSO_ECN {
        vnet::GSO_NONE => {
            if hdr.flags & vnet::NEEDS_CSUM != 0 {
                complete_checksum(hdr, packet)?;
            }
            emit(packet);
            Ok(1)
        }
        kind => Cut::new(kind, hdr, packet)?.run(packet, &mut emit),
    }
}

fn complete_checksum(hdr: &VnetHdr, packet: &mut [u8]) -> Result<(), SplitError> {
    let start = usize::from(hdr.csum_start);
    let at = start + usize::from(hdr.csum_offset);
    if at + 2 > packet.len() {
        return Err(SplitError::OutOfBounds);
    }
    let sum = checksum::finish(checksum::add(0, &packet[start..]));
    // A UDP checksum of zero means "none": its other form is all ones.
    let sum = if hdr.csum_offset == 6 && sum == [0, 0] { [0xff, 0xff] } else { sum };
    packet[at..at + 2].copy_from_slice(&sum);
    Ok(())
}

/// What is the same for all packets of one super-packet.
struct Cut {
    tcp: bool,
    v4: bool,
    ip_len: usize,
    headers: usize,
    gso_size: usize,
}

impl Cut {
    fn new(kind: u8, hdr: &VnetHdr, packet: &[u8]) -> Result<Self, SplitError> {
        let version = packet.first().ok_or(SplitError::OutOfBounds)? >> 4;
        let (tcp, v4) = match (kind, version) {
            (vnet::GSO_TCPV4, 4) => (true, true),
            (vnet::GSO_TCPV6, 6) => (true, false),
            (vnet::GSO_UDP_L4, 4) => (false, true),
            (vnet::GSO_UDP_L4, 6) => (false, false),
            _ => return Err(SplitError::Disagrees),
        };
        let (ip_len, gso_size) = (usize::from(hdr.csum_start), usize::from(hdr.gso_size));
        let least = ip_len + if tcp { 20 } else { 8 };
        if ip_len < if v4 { 20 } else { 40 } || packet.len() < least || gso_size == 0 {
            return Err(SplitError::OutOfBounds);
        }
        if v4 && usize::from(packet[0] & 15) * 4 != ip_len {
            return Err(SplitError::Disagrees);
        }
        if v4 && packet[9] != if tcp { TCP } else { UDP } {
            return Err(SplitError::Disagrees);
        }
        let transport = if tcp { usize::from(packet[ip_len + 12] >> 4) * 4 } else { 8 };
        let headers = ip_len + transport;
        if headers < least || headers > packet.len() || headers > MAX_HEADERS {
            return Err(SplitError::OutOfBounds);
        }
        Ok(Self { tcp, v4, ip_len, headers, gso_size })
    }

    fn run(&self, packet: &mut [u8], emit: &mut impl FnMut(&[u8])) -> Result<usize, SplitError> {
        let mut template = [0u8; MAX_HEADERS];
        let template = &mut template[..self.headers];
        template.copy_from_slice(&packet[..self.headers]);
        let payload = packet.len() - self.headers;
        let count = payload.div_ceil(self.gso_size).max(1);
        for index in 0..count {
            let offset = index * self.gso_size;
            let len = self.headers + self.gso_size.min(payload - offset);
            let segment = &mut packet[offset..offset + len];
            segment[..self.headers].copy_from_slice(template);
            self.finish(segment, index, index + 1 == count);
            emit(segment);
        }
        Ok(count)
    }

    /// Makes the copied headers those of segment `index`.
    fn finish(&self, segment: &mut [u8], index: usize, last: bool) {
        let len = segment.len();
        if self.v4 {
            let id = ip::u16_at(segment, 4).wrapping_add(index as u16);
            segment[4..6].copy_from_slice(&id.to_be_bytes());
        }
        ip::set_length(segment, self.ip_len, len);
        let transport = len - self.ip_len;
        let protocol = if self.tcp { TCP } else { UDP };
        let pseudo = ip::pseudo_sum(segment, protocol, transport);
        let header = &mut segment[self.ip_len..];
        let field = if self.tcp {
            let seq = ip::u32_at(header, 4).wrapping_add((index * self.gso_size) as u32);
            header[4..8].copy_from_slice(&seq.to_be_bytes());
            if !last {
                header[13] &= !(FIN | PSH);
            }
            if index > 0 {
                header[13] &= !CWR;
            }
            ip::TCP_CHECKSUM
        } else {
            header[4..6].copy_from_slice(&(transport as u16).to_be_bytes());
            ip::UDP_CHECKSUM
        };
        header[field..field + 2].fill(0);
        let sum = checksum::finish(checksum::add(pseudo, header));
        let sum = if !self.tcp && sum == [0, 0] { [0xff, 0xff] } else { sum };
        header[field..field + 2].copy_from_slice(&sum);
    }
}
