//! Bytes put on a network device as they are.

use std::{ffi::CString, io, os::fd::AsRawFd};

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use crate::netns::Netns;

/// Sends each of `packets` by the device `name` of `namespace`, as if the kernel had made it.
///
/// # Errors
/// When the device is not there or refuses a packet.
pub fn send(namespace: &Netns, name: &str, packets: &[Vec<u8>]) -> Result<()> {
    namespace
        .enter(|| {
            let socket =
                socket(AddressFamily::Packet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
            let text = CString::new(name)?;
            // SAFETY: the pointer is that of a C string that outlives the call.
            let index = unsafe { libc::if_nametoindex(text.as_ptr()) };
            ensure!(index > 0, "no device {name}");
            for packet in packets {
                let version = packet.first().map(|byte| byte >> 4);
                let protocol = if version == Some(6) { libc::ETH_P_IPV6 } else { libc::ETH_P_IP };
                let address = libc::sockaddr_ll {
                    sll_family: libc::AF_PACKET as libc::c_ushort,
                    sll_protocol: (protocol as u16).to_be(),
                    sll_ifindex: i32::try_from(index)?,
                    sll_hatype: 0,
                    sll_pkttype: 0,
                    sll_halen: 0,
                    sll_addr: [0; 8],
                };
                // SAFETY: pointers and lengths are those of `packet` and `address`, which outlive it.
                let sent = unsafe {
                    libc::sendto(
                        socket.as_raw_fd(),
                        packet.as_ptr().cast(),
                        packet.len(),
                        0,
                        (&raw const address).cast(),
                        size_of_val(&address) as libc::socklen_t,
                    )
                };
                ensure!(sent >= 0, "{name} refused a packet: {}", io::Error::last_os_error());
            }
            Ok(())
        })
        .context("raw packets")
}
