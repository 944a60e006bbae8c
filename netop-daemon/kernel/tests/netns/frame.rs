//! Raw frames, and sockets that put them on devices.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::IpAddr;
use std::os::fd::{AsRawFd as _, FromRawFd as _};

use nix::libc;
use slicewire_core::policy::Flow;
use slicewire_kernel::NsId;

use crate::lab::inside;

/// A device of a namespace, for whole frames.
pub(crate) struct Wire {
    socket: File,
}

impl Wire {
    /// Opens a device.
    pub(crate) fn open(ns: &NsId, device: &str) -> Self {
        let device = std::ffi::CString::new(device).unwrap();
        let socket = inside(ns, move || {
            let protocol = (libc::ETH_P_ALL as u16).to_be();
            let kind = libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
            // SAFETY: plain calls; the descriptor is owned by the file from here on.
            let socket = unsafe {
                let fd = libc::socket(libc::AF_PACKET, kind, i32::from(protocol));
                if fd < 0 {
                    return Err(io::Error::last_os_error());
                }
                File::from_raw_fd(fd)
            };
            // SAFETY: all-zero is a valid value of this plain structure.
            let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
            to.sll_family = libc::AF_PACKET as u16;
            to.sll_protocol = protocol;
            // SAFETY: the name ends with a zero; the address lives as long as the call.
            let bound = unsafe {
                to.sll_ifindex = libc::if_nametoindex(device.as_ptr()) as i32;
                let length = std::mem::size_of_val(&to) as u32;
                libc::bind(socket.as_raw_fd(), (&raw const to).cast(), length)
            };
            if bound < 0 { Err(io::Error::last_os_error()) } else { Ok(socket) }
        });
        Self { socket: socket.unwrap() }
    }

    /// Sends a frame.
    pub(crate) fn send(&self, frame: &[u8]) {
        (&self.socket).write_all(frame).unwrap();
    }

    /// The next frame that has come, if any.
    pub(crate) fn receive(&self) -> Option<Vec<u8>> {
        let mut buffer = vec![0; 2048];
        match (&self.socket).read(&mut buffer) {
            Ok(length) => {
                buffer.truncate(length);
                Some(buffer)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(error) => panic!("{error}"),
        }
    }
}

/// The first packet of a flow, with what tells it from all others in its last bytes.
pub(crate) fn first(flow: &Flow, own_port: u16, tag: u32) -> Vec<u8> {
    packet(flow, segment(flow, own_port, tag), flow.protocol)
}

fn segment(flow: &Flow, own_port: u16, tag: u32) -> Vec<u8> {
    let ports = [own_port.to_be_bytes(), flow.port.to_be_bytes()].concat();
    let tag = tag.to_be_bytes();
    match flow.protocol {
        // SYN, with a header of 20 bytes.
        6 => [&ports[..], &[0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0], &tag]
            .concat(),
        17 => [&ports[..], &[0, 12, 0, 0], &tag].concat(),
        // INIT, which ends with the first sequence number.
        132 => {
            let chunk = [1, 0, 0, 20, 0, 0, 0, 7, 0, 0, 255, 255, 0, 1, 0, 1];
            [&ports[..], &[0; 8], &chunk, &tag].concat()
        }
        // Echo request.
        1 => [&[8, 0, 0, 0], &own_port.to_be_bytes()[..], &[0, 1], &tag].concat(),
        58 => [&[128, 0, 0, 0], &own_port.to_be_bytes()[..], &[0, 1], &tag].concat(),
        _ => [&[0; 8][..], &tag].concat(),
    }
}

/// An IP packet.
pub(crate) fn packet(flow: &Flow, payload: Vec<u8>, protocol: u8) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap();
    match (flow.source, flow.destination) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let total = (length + 20).to_be_bytes();
            let head = [0x45, 0, total[0], total[1], 0, 0, 0, 0, 64, protocol, 0, 0];
            let mut head = [&head[..], &from.octets(), &to.octets()].concat();
            let sum = checksum(&head).to_be_bytes();
            head[10..12].copy_from_slice(&sum);
            [head, payload].concat()
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let length = length.to_be_bytes();
            let head = [0x60, 0, 0, 0, length[0], length[1], protocol, 64];
            [&head[..], &from.octets(), &to.octets(), &payload].concat()
        }
        _ => panic!("two families in one packet"),
    }
}

/// An Ethernet frame around an IP packet.
pub(crate) fn frame(from: [u8; 6], to: [u8; 6], packet: &[u8]) -> Vec<u8> {
    let kind = if packet[0] >> 4 == 4 { [0x08, 0x00] } else { [0x86, 0xdd] };
    [&to[..], &from, &kind, packet].concat()
}

/// An ARP request that says it is from an address.
pub(crate) fn arp(from: [u8; 6], claimed: [u8; 4], wanted: [u8; 4]) -> Vec<u8> {
    let head = [0, 1, 8, 0, 6, 4, 0, 1];
    [&[0xff; 6][..], &from, &[0x08, 0x06], &head, &from, &claimed, &[0; 6], &wanted].concat()
}

/// The last four bytes of an IP packet in a frame.
pub(crate) fn tag(frame: &[u8]) -> Option<u32> {
    let packet = frame.get(14..)?;
    let length = match frame.get(12..14)? {
        [0x08, 0x00] => usize::from(u16::from_be_bytes(packet.get(2..4)?.try_into().ok()?)),
        [0x86, 0xdd] => 40 + usize::from(u16::from_be_bytes(packet.get(4..6)?.try_into().ok()?)),
        _ => return None,
    };
    Some(u32::from_be_bytes(packet.get(length.checked_sub(4)?..length)?.try_into().ok()?))
}

fn checksum(head: &[u8]) -> u16 {
    let words = head.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}
