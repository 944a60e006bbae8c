//! The TUN device.

use std::ffi::CString;
use std::io;
use std::mem::zeroed;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use crate::packet::coalesce::Joins;
use crate::packet::vnet::{self, VnetHdr};

const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
const TUNSETOFFLOAD: libc::c_ulong = 0x4004_54d0;
const TUNSETVNETHDRSZ: libc::c_ulong = 0x4004_54d8;
const TUN_F_CSUM: libc::c_ulong = 0x01;
const TUN_F_TSO: libc::c_ulong = 0x02 | 0x04 | 0x08;
const TUN_F_USO: libc::c_ulong = 0x20 | 0x40;

/// The most a read yields: a vnet header and the largest packet.
pub(crate) const READ_SIZE: usize = vnet::LEN + 65_536;

/// A TUN device, gone when dropped.
#[derive(Debug)]
pub(crate) struct Tun {
    /// One descriptor a queue, at least one.
    queues: Vec<OwnedFd>,
    name: CString,
    vnet: bool,
    joins: Joins,
}

/// Returns the error of a system call that said -1.
fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn request(name: &CString) -> libc::ifreq {
    // SAFETY: `ifreq` is plain data for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.as_bytes()) {
        *to = *from as libc::c_char;
    }
    request
}

fn open_control() -> io::Result<OwnedFd> {
    let flags = libc::O_RDWR | libc::O_NONBLOCK | libc::O_CLOEXEC;
    // SAFETY: the path is a C string; the result is checked.
    let fd = check(unsafe { libc::open(c"/dev/net/tun".as_ptr(), flags) })?;
    // SAFETY: `fd` is new and ours alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Makes the character device 10:200 (Documentation/admin-guide/devices.txt), for which CAP_MKNOD
/// is enough.
fn make_control() -> io::Result<()> {
    std::fs::create_dir_all("/dev/net")?;
    let device = libc::makedev(10, 200);
    // SAFETY: the path is a C string; the result is checked.
    let made = unsafe { libc::mknod(c"/dev/net/tun".as_ptr(), libc::S_IFCHR | 0o600, device) };
    check(made).map(drop)
}

/// Opens one queue of the device, which is made if there is none yet.
fn attach(name: &CString, flags: libc::c_int) -> io::Result<OwnedFd> {
    let fd = open_control().or_else(|error| match error.raw_os_error() {
        // Containers get a /dev of their own, mostly without it.
        Some(libc::ENOENT) => make_control().and_then(|()| open_control()),
        _ => Err(error),
    })?;
    let mut request = request(name);
    request.ifr_ifru.ifru_flags = flags as i16;
    // SAFETY: TUNSETIFF reads and writes one `ifreq`.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), TUNSETIFF, &raw mut request) })?;
    Ok(fd)
}

impl Tun {
    /// Makes the device with up to `queues` queues. With `offload`, takes super-packets if the
    /// kernel has them.
    pub(crate) fn open(name: &str, offload: bool, queues: usize) -> io::Result<Self> {
        let fits = !name.is_empty() && name.len() < libc::IFNAMSIZ;
        let name = CString::new(name).ok().filter(|_| fits).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidInput, "an interface name has 1 to 15 bytes")
        })?;
        let create = |vnet| {
            let several = (queues > 1).then(|| Self::create(&name, vnet, queues));
            several.and_then(Result::ok).map_or_else(|| Self::create(&name, vnet, 1), Ok)
        };
        let made = if offload { create(true).or_else(|_| create(false)) } else { create(false) };
        made.inspect(|tun| {
            let queues = tun.queues();
            tracing::debug!(?name, tun.vnet, tun.joins.tcp, tun.joins.udp, queues, "device made");
        })
    }

    fn create(name: &CString, vnet: bool, queues: usize) -> io::Result<Self> {
        let vnet_flag = if vnet { libc::IFF_VNET_HDR } else { 0 };
        let queue_flag = if queues > 1 { libc::IFF_MULTI_QUEUE } else { 0 };
        let flags = libc::IFF_TUN | libc::IFF_NO_PI | vnet_flag | queue_flag;
        let queues = (0..queues).map(|_| attach(name, flags)).collect::<io::Result<_>>()?;
        let mut tun = Self { queues, name: name.clone(), vnet, joins: Joins::default() };
        if vnet {
            tun.set_offloads()?;
        }
        Ok(tun)
    }

    /// The descriptor that stands for the device.
    fn first(&self) -> RawFd {
        self.fd(0)
    }

    fn set_offloads(&mut self) -> io::Result<()> {
        let len = vnet::LEN as libc::c_int;
        // SAFETY: TUNSETVNETHDRSZ reads one int.
        check(unsafe { libc::ioctl(self.first(), TUNSETVNETHDRSZ, &raw const len) })?;
        if self.offload(TUN_F_CSUM | TUN_F_TSO | TUN_F_USO).is_ok() {
            self.joins = Joins { tcp: true, udp: true };
        } else {
            self.offload(TUN_F_CSUM | TUN_F_TSO)?;
            self.joins = Joins { tcp: true, udp: false };
        }
        Ok(())
    }

    fn offload(&self, flags: libc::c_ulong) -> io::Result<()> {
        // SAFETY: TUNSETOFFLOAD takes its argument by value.
        check(unsafe { libc::ioctl(self.first(), TUNSETOFFLOAD, flags) }).map(drop)
    }

    /// Sets the MTU in bytes and the length of the queue in packets, and brings the device up.
    pub(crate) fn bring_up(&self, mtu: u16, queue: u32) -> io::Result<()> {
        self.set_mtu(mtu)?;
        self.configure(
            libc::SIOCSIFTXQLEN,
            |r| r.ifr_ifru.ifru_metric = queue as libc::c_int,
            |_| {},
        )?;
        let mut flags = 0;
        self.configure(
            libc::SIOCGIFFLAGS,
            |_| {},
            |r| {
                // SAFETY: SIOCGIFFLAGS wrote this member.
                flags = unsafe { r.ifr_ifru.ifru_flags };
            },
        )?;
        let up = flags | libc::IFF_UP as i16;
        self.configure(libc::SIOCSIFFLAGS, |r| r.ifr_ifru.ifru_flags = up, |_| {})
    }

    /// Sets the MTU in bytes.
    pub(crate) fn set_mtu(&self, mtu: u16) -> io::Result<()> {
        self.configure(libc::SIOCSIFMTU, |r| r.ifr_ifru.ifru_mtu = libc::c_int::from(mtu), |_| {})
    }

    /// The MTU in bytes.
    pub(crate) fn mtu(&self) -> io::Result<usize> {
        let mut mtu = 0;
        self.configure(
            libc::SIOCGIFMTU,
            |_| {},
            |r| {
                // SAFETY: SIOCGIFMTU wrote this member.
                mtu = unsafe { r.ifr_ifru.ifru_mtu };
            },
        )?;
        Ok(usize::try_from(mtu).unwrap_or_default())
    }

    fn configure(
        &self,
        what: libc::c_ulong,
        fill: impl FnOnce(&mut libc::ifreq),
        take: impl FnOnce(&libc::ifreq),
    ) -> io::Result<()> {
        let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC;
        // SAFETY: takes no pointers; the result is checked.
        let socket = check(unsafe { libc::socket(libc::AF_INET, kind, 0) })?;
        // SAFETY: `socket` is new and ours alone.
        let socket = unsafe { OwnedFd::from_raw_fd(socket) };
        let mut request = request(&self.name);
        fill(&mut request);
        // SAFETY: the interface ioctls used here read and write one `ifreq`.
        check(unsafe { libc::ioctl(socket.as_raw_fd(), what, &raw mut request) })?;
        take(&request);
        Ok(())
    }

    /// Which super-packets may be written.
    pub(crate) fn joins(&self) -> Joins {
        self.joins
    }

    /// How many queues there are; at least one.
    pub(crate) fn queues(&self) -> usize {
        self.queues.len()
    }

    /// The descriptor of a queue, to wait for.
    pub(crate) fn fd(&self, queue: usize) -> RawFd {
        self.queues[queue].as_raw_fd()
    }

    /// Reads one packet or super-packet. Returns where in `buf` ([`READ_SIZE`] bytes) it is.
    pub(crate) fn read(
        &self,
        queue: usize,
        buf: &mut [u8],
    ) -> io::Result<(VnetHdr, std::ops::Range<usize>)> {
        // SAFETY: the pointer and length are those of `buf`.
        let n = unsafe { libc::read(self.fd(queue), buf.as_mut_ptr().cast(), buf.len()) };
        let n = usize::try_from(n).map_err(|_| io::Error::last_os_error())?;
        if !self.vnet {
            return Ok((VnetHdr::default(), 0..n));
        }
        match buf.first_chunk::<{ vnet::LEN }>() {
            Some(hdr) if n >= vnet::LEN => Ok((VnetHdr::decode(hdr), vnet::LEN..n)),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Writes one packet or super-packet.
    pub(crate) fn write(&self, queue: usize, hdr: &VnetHdr, packet: &[u8]) -> io::Result<()> {
        let hdr = hdr.encode();
        let part = |data: &[u8]| libc::iovec {
            iov_base: data.as_ptr().cast_mut().cast(),
            iov_len: data.len(),
        };
        let parts = [part(&hdr), part(packet)];
        let parts = if self.vnet { &parts[..] } else { &parts[1..] };
        // SAFETY: the vectors point to `hdr` and `packet`, which outlive the call and are only
        // read by it.
        let n = unsafe { libc::writev(self.fd(queue), parts.as_ptr(), parts.len() as libc::c_int) };
        if n < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}
