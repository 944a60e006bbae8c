//! Echo requests of IPv4, one at a time, from the calling thread's network namespace.

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, recv, sendto,
    setsockopt, socket,
};
use nix::sys::time::{TimeVal, TimeValLike};

const REQUEST: u8 = 8;
const REPLY: u8 = 0;

/// Pings from one namespace.
#[derive(Debug)]
pub struct Pinger {
    socket: OwnedFd,
    id: u16,
    sequence: u16,
}

impl Pinger {
    /// A pinger that waits at most this long for each answer.
    ///
    /// # Errors
    /// No raw socket: that takes root.
    pub fn new(patience: Duration) -> Result<Self> {
        let kind = (AddressFamily::Inet, SockType::Raw);
        let socket = socket(kind.0, kind.1, SockFlag::SOCK_CLOEXEC, SockProtocol::Icmp)
            .context("no raw socket; run as root")?;
        let micros = i64::try_from(patience.as_micros()).context("too long a patience")?;
        setsockopt(&socket, ReceiveTimeout, &TimeVal::microseconds(micros))?;
        // Any number will do that others are unlikely to use at the same time.
        let id = u16::try_from(std::process::id() % 0xffff).unwrap_or(1);
        Ok(Self { socket, id, sequence: 0 })
    }

    /// Sends one request; whether it could be sent and any answer of `to` came within the patience.
    pub fn ping(&mut self, to: Ipv4Addr) -> bool {
        self.sequence = self.sequence.wrapping_add(1);
        let request = request(self.id, self.sequence);
        let address = SockaddrIn::from(std::net::SocketAddrV4::new(to, 0));
        if sendto(self.socket.as_raw_fd(), &request, &address, MsgFlags::empty()).is_err() {
            return false;
        }
        let mut packet = [0; 512];
        // Everything the host gets comes here; at the first silence of the patience's length, no.
        while let Ok(length) = recv(self.socket.as_raw_fd(), &mut packet, MsgFlags::empty()) {
            if answers(packet.get(..length).unwrap_or_default(), to, self.id) {
                return true;
            }
        }
        false
    }
}

fn request(id: u16, sequence: u16) -> [u8; 16] {
    let mut packet = [0; 16];
    let ([a, b], [c, d]) = (id.to_be_bytes(), sequence.to_be_bytes());
    packet[0] = REQUEST;
    [packet[4], packet[5], packet[6], packet[7]] = [a, b, c, d];
    let [high, low] = checksum(&packet).to_be_bytes();
    [packet[2], packet[3]] = [high, low];
    packet
}

/// The Internet checksum (RFC 1071) of an even number of bytes.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks_exact(2).map(|w| match w {
        [high, low] => u32::from(u16::from_be_bytes([*high, *low])),
        _ => 0,
    });
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    // One carry at most is left.
    !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap_or(u16::MAX)
}

/// Whether an IPv4 packet is an echo reply of `from` to requests with this identifier.
fn answers(packet: &[u8], from: Ipv4Addr, id: u16) -> bool {
    let header = usize::from(packet.first().map_or(0, |b| b & 0x0f)) * 4;
    let source = packet.get(12..16);
    let icmp = packet.get(header..).unwrap_or_default();
    source == Some(&from.octets()[..])
        && icmp.first() == Some(&REPLY)
        && icmp.get(4..6) == Some(&id.to_be_bytes()[..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_sums_up_to_zero() {
        assert_eq!(checksum(&request(0xabcd, 0xffff)), 0);
        assert_eq!(request(1, 2)[..8], [8, 0, 0xf7, 0xfc, 0, 1, 0, 2]);
    }

    #[test]
    fn only_the_asked_answers() {
        let from = Ipv4Addr::new(10, 1, 2, 3);
        let mut packet = vec![0x45; 20];
        packet[12..16].copy_from_slice(&from.octets());
        packet.extend([0, 0, 0, 0, 0x12, 0x34, 0, 1]);
        assert!(answers(&packet, from, 0x1234));
        assert!(!answers(&packet, from, 0x1235));
        assert!(!answers(&packet, Ipv4Addr::new(10, 1, 2, 4), 0x1234));
        packet[20] = REQUEST;
        assert!(!answers(&packet, from, 0x1234));
        assert!(!answers(&[], from, 0));
    }
}
