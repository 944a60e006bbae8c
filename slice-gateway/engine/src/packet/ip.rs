//! The little of IP, TCP and UDP that the engine has to read and write.

use std::net::IpAddr;

use super::checksum;

/// Protocol number of TCP.
pub const TCP: u8 = 6;
/// Protocol number of UDP.
pub const UDP: u8 = 17;

/// Where the checksum is in a TCP header.
pub const TCP_CHECKSUM: usize = 16;
/// Where the checksum is in a UDP header.
pub const UDP_CHECKSUM: usize = 6;

/// Reads a big-endian number; the caller has checked the bounds.
pub fn u16_at(data: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([data[at], data[at + 1]])
}

/// Reads a big-endian number; the caller has checked the bounds.
pub fn u32_at(data: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([data[at], data[at + 1], data[at + 2], data[at + 3]])
}

/// The address a packet goes to; `None` if it is no whole IP header.
pub fn destination(packet: &[u8]) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 => Some(IpAddr::from(*packet.get(..20)?[16..].first_chunk::<4>()?)),
        6 => Some(IpAddr::from(*packet.get(..40)?[24..].first_chunk::<16>()?)),
        _ => None,
    }
}

/// The address a packet says it comes from; `None` if it is no whole IP header.
pub fn source(packet: &[u8]) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 => Some(IpAddr::from(*packet.get(..20)?[12..].first_chunk::<4>()?)),
        6 => Some(IpAddr::from(*packet.get(..40)?[8..].first_chunk::<16>()?)),
        _ => None,
    }
}

/// The length a packet's own header gives it; `None` if that is more than is there or less than
/// the header itself. Anything behind it is padding.
pub fn length(packet: &[u8]) -> Option<usize> {
    let (least, length) = match packet.first()? >> 4 {
        4 if packet.len() >= 20 => {
            (usize::from(packet[0] & 15).max(5) * 4, usize::from(u16_at(packet, 2)))
        }
        6 if packet.len() >= 40 => (40, 40 + usize::from(u16_at(packet, 4))),
        _ => return None,
    };
    (length >= least && length <= packet.len()).then_some(length)
}

/// The sum over the pseudo-header of a packet whose transport part is `len` bytes.
pub fn pseudo_sum(packet: &[u8], protocol: u8, len: usize) -> u64 {
    let addresses = if packet[0] >> 4 == 4 { &packet[12..20] } else { &packet[8..40] };
    let sum = checksum::add(0, addresses);
    let sum = checksum::add_u16(sum, u16::from(protocol));
    let sum = checksum::add_u16(sum, (len >> 16) as u16);
    checksum::add_u16(sum, len as u16)
}

/// Writes the length of the whole packet into the IP header and, in IPv4, the header's checksum.
pub fn set_length(packet: &mut [u8], header: usize, len: usize) {
    if packet[0] >> 4 == 4 {
        packet[2..4].copy_from_slice(&(len as u16).to_be_bytes());
        packet[10..12].fill(0);
        let sum = checksum::finish(checksum::add(0, &packet[..header]));
        packet[10..12].copy_from_slice(&sum);
    } else {
        packet[4..6].copy_from_slice(&((len - 40) as u16).to_be_bytes());
    }
}
