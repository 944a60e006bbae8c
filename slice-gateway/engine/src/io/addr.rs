//! Socket addresses as the kernel wants them. One dual-stack socket carries both families, IPv4
//! as mapped addresses; where the kernel has no IPv6 the socket is plain IPv4.

use std::mem::{size_of, zeroed};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// Room for an address of either family.
#[derive(Clone, Copy)]
pub(super) struct RawAddr {
    pub(super) storage: libc::sockaddr_storage,
    pub(super) len: libc::socklen_t,
}

impl RawAddr {
    pub(super) fn empty() -> Self {
        // SAFETY: `sockaddr_storage` is plain data for which all zeroes is a valid value.
        let storage = unsafe { zeroed() };
        Self { storage, len: size_of::<libc::sockaddr_storage>() as libc::socklen_t }
    }

    /// `addr` for a socket of IPv6 (`v6`) or IPv4; `None` for IPv6 on an IPv4 socket.
    pub(super) fn new(addr: SocketAddr, v6: bool) -> Option<Self> {
        let mut raw = Self::empty();
        match (addr, v6) {
            (SocketAddr::V4(a), false) => raw.put_v4(a),
            (SocketAddr::V4(a), true) => {
                raw.put_v6(SocketAddrV6::new(a.ip().to_ipv6_mapped(), a.port(), 0, 0));
            }
            (SocketAddr::V6(a), true) => raw.put_v6(a),
            (SocketAddr::V6(_), false) => return None,
        }
        Some(raw)
    }

    fn put_v4(&mut self, a: SocketAddrV4) {
        // SAFETY: `sockaddr_storage` is made to be large and aligned enough for any address.
        let sin = unsafe { &mut *(&raw mut self.storage).cast::<libc::sockaddr_in>() };
        sin.sin_family = libc::AF_INET as libc::sa_family_t;
        sin.sin_port = a.port().to_be();
        sin.sin_addr.s_addr = u32::from_ne_bytes(a.ip().octets());
        self.len = size_of::<libc::sockaddr_in>() as libc::socklen_t;
    }

    fn put_v6(&mut self, a: SocketAddrV6) {
        // SAFETY: as in `put_v4`.
        let sin6 = unsafe { &mut *(&raw mut self.storage).cast::<libc::sockaddr_in6>() };
        sin6.sin6_family = libc::AF_INET6 as libc::sa_family_t;
        sin6.sin6_port = a.port().to_be();
        sin6.sin6_addr.s6_addr = a.ip().octets();
        sin6.sin6_scope_id = a.scope_id();
        self.len = size_of::<libc::sockaddr_in6>() as libc::socklen_t;
    }

    /// The address the kernel wrote; `None` if it is of another family.
    pub(super) fn get(&self) -> Option<SocketAddr> {
        match i32::from(self.storage.ss_family) {
            libc::AF_INET => {
                // SAFETY: the family says what the storage holds; size and alignment suffice.
                let sin = unsafe { &*(&raw const self.storage).cast::<libc::sockaddr_in>() };
                let ip = Ipv4Addr::from(sin.sin_addr.s_addr.to_ne_bytes());
                Some(SocketAddr::new(IpAddr::V4(ip), u16::from_be(sin.sin_port)))
            }
            libc::AF_INET6 => {
                // SAFETY: as above.
                let sin6 = unsafe { &*(&raw const self.storage).cast::<libc::sockaddr_in6>() };
                let ip = Ipv6Addr::from(sin6.sin6_addr.s6_addr);
                let port = u16::from_be(sin6.sin6_port);
                Some(match ip.to_ipv4_mapped() {
                    Some(v4) => SocketAddr::new(IpAddr::V4(v4), port),
                    None => SocketAddr::V6(SocketAddrV6::new(ip, port, 0, sin6.sin6_scope_id)),
                })
            }
            _ => None,
        }
    }
}
