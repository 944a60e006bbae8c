//! The probes' sockets: bound to the tunnels' device, never fragmented.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, setsockopt, socket, sockopt,
};
use tokio::net::UdpSocket;

/// Opens a UDP socket on `address` that sends and receives over `device` only, so that no probe
/// takes another way and no answer comes from elsewhere. Its packets carry "don't fragment" and
/// may be as large as the device allows, whatever the kernel believes about the path.
///
/// # Errors
/// What the kernel refused.
pub(crate) fn open(address: SocketAddr, device: &str) -> io::Result<UdpSocket> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(family, SockType::Datagram, flags, None)?;
    setsockopt(&fd, sockopt::BindToDevice, &device.into())?;
    do_not_fragment(&fd, address.ip())?;
    bind(fd.as_raw_fd(), &SockaddrStorage::from(address))?;
    UdpSocket::from_std(std::net::UdpSocket::from(fd))
}

fn do_not_fragment(fd: &OwnedFd, address: IpAddr) -> io::Result<()> {
    let (level, option, value) = match address {
        IpAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE),
        IpAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE),
    };
    set_int(fd, level, option, value)?;
    if address.is_ipv6() {
        // Without it the sender's own kernel would fragment what is larger than the path's MTU.
        set_int(fd, libc::IPPROTO_IPV6, libc::IPV6_DONTFRAG, 1)?;
    }
    Ok(())
}

fn set_int(fd: &OwnedFd, level: i32, option: i32, value: i32) -> io::Result<()> {
    let length = size_of_val(&value) as libc::socklen_t;
    // SAFETY: the pointer and length are those of `value`, which outlives the call.
    let done = unsafe {
        libc::setsockopt(fd.as_raw_fd(), level, option, (&raw const value).cast(), length)
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
