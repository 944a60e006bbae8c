//! The UDP socket: batches in both directions, with segmentation offload where the kernel has it.

use std::io;
use std::mem::{size_of, zeroed};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, Ordering};

use super::addr::RawAddr;

/// Messages taken from the socket with one system call.
pub(crate) const RECV_BATCH: usize = 16;
/// Sends given to the socket with one system call.
pub(crate) const SEND_BATCH: usize = 16;
/// The largest datagram, or train of datagrams joined by the kernel.
const DATAGRAM: usize = 65_536;
/// What the socket may hold in each direction: some milliseconds of a fast link.
const SOCKET_BUFFER: libc::c_int = 4 << 20;
const UDP_SEGMENT: libc::c_int = 103;
const UDP_GRO: libc::c_int = 104;
/// Memory of a socket as `enum sk_meminfo_vars` has it; the first is what waits (Linux 4.12).
const SO_MEMINFO: libc::c_int = 55;
const MEMINFO: usize = 9;
/// Room for one control message that carries an int.
const CONTROL: usize = 64;

/// Datagrams of one destination, one behind the other in a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Train {
    /// Where they go.
    pub(crate) to: SocketAddr,
    /// Where the first begins.
    pub(crate) start: usize,
    /// Where the last ends.
    pub(crate) end: usize,
    /// Bytes of each but the last, which may be shorter.
    pub(crate) size: usize,
}

impl Train {
    fn len(&self) -> usize {
        self.end - self.start
    }

    fn is_single(&self) -> bool {
        self.len() <= self.size
    }
}

/// A UDP socket for both families.
#[derive(Debug)]
pub(crate) struct Udp {
    fd: OwnedFd,
    v6: bool,
    port: u16,
    gso: AtomicBool,
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

impl Udp {
    /// Listens on `port` (0: any) of all addresses. `fwmark` 0 means none.
    pub(crate) fn bind(port: u16, fwmark: u32, offload: bool) -> io::Result<Self> {
        match Self::open(libc::AF_INET6, port, fwmark, offload) {
            Err(e)
                if matches!(e.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)) =>
            {
                Self::open(libc::AF_INET, port, fwmark, offload)
            }
            result => result,
        }
    }

    fn open(family: libc::c_int, port: u16, fwmark: u32, offload: bool) -> io::Result<Self> {
        // SAFETY: takes no pointers; the result is checked.
        let fd = check(unsafe { libc::socket(family, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) })?;
        // SAFETY: `fd` is new and ours alone.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let v6 = family == libc::AF_INET6;
        let mut udp = Self { fd, v6, port, gso: AtomicBool::new(false) };
        if v6 {
            udp.set(libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 0)?;
        }
        if fwmark != 0 {
            udp.set(libc::SOL_SOCKET, libc::SO_MARK, fwmark as libc::c_int)?;
        }
        udp.size_buffers();
        udp.forbid_fragments();
        udp.listen(port)?;
        if offload {
            let gro = udp.set(libc::IPPROTO_UDP, UDP_GRO, 1).is_ok();
            let gso = udp.set(libc::IPPROTO_UDP, UDP_SEGMENT, 0).is_ok();
            udp.gso = AtomicBool::new(gso);
            tracing::debug!(gso, gro, port = udp.port, "UDP socket open");
        }
        Ok(udp)
    }

    /// Buffers beyond the system's limit need a privilege; without it, as much as it gives.
    fn size_buffers(&self) {
        for (force, plain) in
            [(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF), (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF)]
        {
            if self.set(libc::SOL_SOCKET, force, SOCKET_BUFFER).is_err()
                && let Err(error) = self.set(libc::SOL_SOCKET, plain, SOCKET_BUFFER)
            {
                tracing::debug!(%error, "socket buffer stays as it is");
            }
        }
    }

    /// Sets "don't fragment" without believing what strangers say about the path's MTU, so that
    /// the path can be measured from inside.
    fn forbid_fragments(&self) {
        let v4 = self.set(libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE);
        let v6 = if self.v6 {
            self.set(libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE)
        } else {
            Ok(())
        };
        if let Err(error) = v4.and(v6) {
            tracing::warn!(%error, "packets may be fragmented on the way");
        }
    }

    fn listen(&mut self, port: u16) -> io::Result<()> {
        let any: SocketAddr = if self.v6 {
            (std::net::Ipv6Addr::UNSPECIFIED, port).into()
        } else {
            (std::net::Ipv4Addr::UNSPECIFIED, port).into()
        };
        let mut addr = RawAddr::new(any, self.v6).ok_or(io::ErrorKind::Unsupported)?;
        let fd = self.fd.as_raw_fd();
        // SAFETY: the pointer and length are those of `addr`.
        check(unsafe { libc::bind(fd, (&raw const addr.storage).cast(), addr.len) })?;
        // SAFETY: as above; the kernel writes at most `addr.len` bytes, all of it ours.
        check(unsafe { libc::getsockname(fd, (&raw mut addr.storage).cast(), &raw mut addr.len) })?;
        self.port = addr.get().map_or(port, |a| a.port());
        Ok(())
    }

    fn set(&self, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
        let len = size_of::<libc::c_int>() as libc::socklen_t;
        // SAFETY: the pointer and length are those of `value`.
        check(unsafe {
            libc::setsockopt(self.fd.as_raw_fd(), level, name, (&raw const value).cast(), len)
        })
        .map(drop)
    }

    /// Marks what is sent from now on; 0 for no mark.
    pub(crate) fn set_fwmark(&self, fwmark: u32) -> io::Result<()> {
        self.set(libc::SOL_SOCKET, libc::SO_MARK, fwmark as libc::c_int)
    }

    /// The port it listens on.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The descriptor, to wait for.
    pub(crate) fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// Sends all trains of `buf`; `failed` hears of each train that could not be sent, with the
    /// number of its datagrams.
    pub(crate) fn send(
        &self,
        buf: &[u8],
        trains: &[Train],
        mut failed: impl FnMut(&io::Error, u64),
    ) {
        for chunk in trains.chunks(SEND_BATCH) {
            let mut rest = chunk;
            while let Some(first) = rest.first() {
                let whole = self.gso.load(Ordering::Relaxed) || first.is_single();
                let sent = if whole { self.send_trains(buf, rest) } else { Ok(0) };
                match sent {
                    Ok(n) if n > 0 => rest = &rest[n..],
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    other => {
                        self.send_singly(buf, first, other.err(), &mut failed);
                        rest = &rest[1..];
                    }
                }
            }
        }
    }

    /// Sends a train that the kernel or the device did not take, one datagram at a time.
    fn send_singly(
        &self,
        buf: &[u8],
        train: &Train,
        refused: Option<io::Error>,
        failed: &mut impl FnMut(&io::Error, u64),
    ) {
        if let Some(error) = refused {
            // EIO: the device on the way out cannot do checksums for segments.
            if error.raw_os_error() == Some(libc::EIO) && !train.is_single() {
                tracing::info!(
                    "segmentation offload is not possible on the way out; going on without"
                );
                self.gso.store(false, Ordering::Relaxed);
            } else if train.is_single() {
                return failed(&error, 1);
            }
        }
        for start in (train.start..train.end).step_by(train.size.max(1)) {
            let single = Train { start, end: train.end.min(start + train.size), ..*train };
            if let Err(error) = self.send_trains(buf, &[single]) {
                failed(&error, 1);
            }
        }
    }

    /// Gives the trains to the kernel; returns how many it took before the first failure.
    fn send_trains(&self, buf: &[u8], trains: &[Train]) -> io::Result<usize> {
        let mut addrs = [RawAddr::empty(); SEND_BATCH];
        let mut controls = [Control([0; CONTROL]); SEND_BATCH];
        // SAFETY: `iovec` and `mmsghdr` are plain data for which all zeroes is a valid value.
        let mut iovs: [libc::iovec; SEND_BATCH] = unsafe { zeroed() };
        // SAFETY: as above.
        let mut msgs: [libc::mmsghdr; SEND_BATCH] = unsafe { zeroed() };
        let count = trains.len().min(SEND_BATCH);
        for (i, train) in trains.iter().take(count).enumerate() {
            let Some(addr) = RawAddr::new(train.to, self.v6) else {
                return if i > 0 { self.give(&mut msgs[..i]) } else { Err(no_family()) };
            };
            if i > 0 && !train.is_single() && !self.gso.load(Ordering::Relaxed) {
                return self.give(&mut msgs[..i]);
            }
            addrs[i] = addr;
            let data = &buf[train.start..train.end];
            iovs[i] =
                libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() };
            let hdr = &mut msgs[i].msg_hdr;
            hdr.msg_name = (&raw mut addrs[i].storage).cast();
            hdr.msg_namelen = addrs[i].len;
            hdr.msg_iov = &raw mut iovs[i];
            hdr.msg_iovlen = 1;
            if !train.is_single() {
                controls[i].put_segment(hdr, train.size as u16);
            }
        }
        self.give(&mut msgs[..count])
    }

    fn give(&self, msgs: &mut [libc::mmsghdr]) -> io::Result<usize> {
        let fd = self.fd.as_raw_fd();
        // SAFETY: the pointer and count are those of `msgs`, whose own pointers lead to arrays in
        // the caller's frame and to its buffer; sendmmsg reads them only during the call.
        let n = unsafe { libc::sendmmsg(fd, msgs.as_mut_ptr(), msgs.len() as libc::c_uint, 0) };
        check(n).map(|n| n as usize)
    }

    /// Bytes that wait to be taken, with what the kernel needs to keep them; 0 if it does not say.
    pub(crate) fn backlog(&self) -> usize {
        let mut info = [0_u32; MEMINFO];
        let mut len = size_of_val(&info) as libc::socklen_t;
        let fd = self.fd.as_raw_fd();
        // SAFETY: the pointers and the length are those of `info` and of `len` itself.
        let got = unsafe {
            let value = (&raw mut info).cast();
            libc::getsockopt(fd, libc::SOL_SOCKET, SO_MEMINFO, value, &raw mut len)
        };
        if got == 0 { info[0] as usize } else { 0 }
    }

    /// Takes what has arrived, up to [`RECV_BATCH`] trains, without waiting. Returns how many.
    pub(crate) fn recv(&self, batch: &mut RecvBatch) -> io::Result<usize> {
        // SAFETY: `iovec` and `mmsghdr` are plain data for which all zeroes is a valid value.
        let mut iovs: [libc::iovec; RECV_BATCH] = unsafe { zeroed() };
        // SAFETY: as above.
        let mut msgs: [libc::mmsghdr; RECV_BATCH] = unsafe { zeroed() };
        for (i, slot) in batch.slots.iter_mut().enumerate() {
            iovs[i] = libc::iovec { iov_base: slot.data.as_mut_ptr().cast(), iov_len: DATAGRAM };
            slot.addr = RawAddr::empty();
            let hdr = &mut msgs[i].msg_hdr;
            hdr.msg_name = (&raw mut slot.addr.storage).cast();
            hdr.msg_namelen = slot.addr.len;
            hdr.msg_iov = &raw mut iovs[i];
            hdr.msg_iovlen = 1;
            hdr.msg_control = slot.control.0.as_mut_ptr().cast();
            hdr.msg_controllen = CONTROL as _;
        }
        // SAFETY: the pointer and count are those of `msgs`, whose own pointers lead to `iovs`
        // and to buffers of `batch` of the lengths given; nothing else uses them during the call.
        let n = unsafe {
            libc::recvmmsg(
                self.fd.as_raw_fd(),
                msgs.as_mut_ptr(),
                RECV_BATCH as libc::c_uint,
                libc::MSG_DONTWAIT,
                null_mut(),
            )
        };
        let n = check(n)? as usize;
        for (slot, msg) in batch.slots.iter_mut().zip(&msgs).take(n) {
            slot.len = msg.msg_len as usize;
            slot.size = gro_size(&msg.msg_hdr).unwrap_or(slot.len);
        }
        Ok(n)
    }
}

fn no_family() -> io::Error {
    io::Error::from_raw_os_error(libc::EAFNOSUPPORT)
}

/// The size of the datagrams the kernel joined; `None` if it did not.
fn gro_size(hdr: &libc::msghdr) -> Option<usize> {
    // SAFETY: the kernel filled in the control buffer and its length; the CMSG functions stay
    // inside it, and an int is read only from a message of the type that has one.
    unsafe {
        let mut cmsg = libc::CMSG_FIRSTHDR(hdr);
        while !cmsg.is_null() {
            if (*cmsg).cmsg_level == libc::IPPROTO_UDP && (*cmsg).cmsg_type == UDP_GRO {
                let size = libc::CMSG_DATA(cmsg).cast::<libc::c_int>().read_unaligned();
                return usize::try_from(size).ok().filter(|size| *size > 0);
            }
            cmsg = libc::CMSG_NXTHDR(hdr, cmsg);
        }
    }
    None
}

/// A control message's buffer, aligned as its header must be.
#[derive(Clone, Copy)]
#[repr(align(8))]
struct Control([u8; CONTROL]);

impl Control {
    fn put_segment(&mut self, hdr: &mut libc::msghdr, size: u16) {
        hdr.msg_control = self.0.as_mut_ptr().cast();
        // SAFETY: CMSG_SPACE and CMSG_LEN only compute. CONTROL is more than the space of one
        // u16, so CMSG_FIRSTHDR points into `self`, as do the header and data written.
        unsafe {
            hdr.msg_controllen = libc::CMSG_SPACE(size_of::<u16>() as u32) as _;
            let cmsg = libc::CMSG_FIRSTHDR(hdr);
            (*cmsg).cmsg_level = libc::IPPROTO_UDP;
            (*cmsg).cmsg_type = UDP_SEGMENT;
            (*cmsg).cmsg_len = libc::CMSG_LEN(size_of::<u16>() as u32) as _;
            libc::CMSG_DATA(cmsg).cast::<u16>().write_unaligned(size);
        }
    }
}

struct Slot {
    data: Box<[u8]>,
    control: Control,
    addr: RawAddr,
    len: usize,
    size: usize,
}

/// Buffers for [`Udp::recv`].
pub(crate) struct RecvBatch {
    slots: Vec<Slot>,
}

impl Default for RecvBatch {
    fn default() -> Self {
        let slot = || Slot {
            data: vec![0; DATAGRAM].into_boxed_slice(),
            control: Control([0; CONTROL]),
            addr: RawAddr::empty(),
            len: 0,
            size: 0,
        };
        Self { slots: (0..RECV_BATCH).map(|_| slot()).collect() }
    }
}

impl RecvBatch {
    /// Bytes of the first `count` trains.
    pub(crate) fn bytes(&self, count: usize) -> usize {
        self.slots.iter().take(count).map(|slot| slot.len).sum()
    }

    /// The datagrams of one train and their sender; `None` if that has no address.
    pub(crate) fn train(&self, at: usize) -> Option<(SocketAddr, impl Iterator<Item = &[u8]>)> {
        let slot = self.slots.get(at)?;
        Some((slot.addr.get()?, slot.data[..slot.len].chunks(slot.size.max(1))))
    }
}
