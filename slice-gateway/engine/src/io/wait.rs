//! Waiting for a descriptor, and being woken.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::{io, thread};

/// Wakes a thread that waits.
#[derive(Debug)]
pub(crate) struct Waker(OwnedFd);

impl Waker {
    /// A waker nobody has used yet.
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: takes no pointers; the result is checked before it becomes an owned descriptor.
        let fd = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` is new and ours alone.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Makes the waiting thread, or the next one to wait, go on.
    pub(crate) fn wake(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: the pointer and length are those of `one`. The only failure is a counter that
        // is full, which wakes just as well.
        unsafe { libc::write(self.0.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }

    fn clear(&self) {
        let mut count = [0u8; 8];
        // SAFETY: the pointer and length are those of `count`; nothing to read is no failure.
        unsafe { libc::read(self.0.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
    }
}

/// Waits until `fd` can be read or `waker` was used; true in the latter case.
pub(crate) fn readable(fd: RawFd, waker: &Waker) -> io::Result<bool> {
    let woken = poll(fd, waker, -1)?.woken;
    if woken {
        waker.clear();
    }
    Ok(woken)
}

/// Lets others have the processor once; true if `fd` can be read then. Not if `waker` was used,
/// which it leaves as it is.
pub(crate) fn readable_after_others(fd: RawFd, waker: &Waker) -> io::Result<bool> {
    thread::yield_now();
    let Ready { readable, woken } = poll(fd, waker, 0)?;
    Ok(readable && !woken)
}

/// What a thread that waits may go on with.
struct Ready {
    readable: bool,
    woken: bool,
}

/// Waits for either for so many milliseconds; -1 is for ever. A signal ends it early.
fn poll(fd: RawFd, waker: &Waker, milliseconds: libc::c_int) -> io::Result<Ready> {
    let entry = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    let mut fds = [entry(fd), entry(waker.0.as_raw_fd())];
    // SAFETY: the pointer and count are those of `fds`.
    if unsafe { libc::poll(fds.as_mut_ptr(), 2, milliseconds) } < 0 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    let [readable, woken] = fds.map(|entry| entry.revents != 0);
    Ok(Ready { readable, woken })
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    /// A socket that a datagram to itself waits in.
    fn full() -> io::Result<UdpSocket> {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.send_to(&[1], socket.local_addr()?)?;
        Ok(socket)
    }

    #[test]
    fn what_is_there_is_not_waited_for() -> io::Result<()> {
        let (socket, waker) = (full()?, Waker::new()?);
        assert!(!readable(socket.as_raw_fd(), &waker)?);
        assert!(readable_after_others(socket.as_raw_fd(), &waker)?);
        Ok(())
    }

    #[test]
    fn what_is_not_there_is_not_waited_for() -> io::Result<()> {
        let (socket, waker) = (UdpSocket::bind("127.0.0.1:0")?, Waker::new()?);
        assert!(!readable_after_others(socket.as_raw_fd(), &waker)?);
        Ok(())
    }

    #[test]
    fn a_flood_does_not_hide_who_wakes() -> io::Result<()> {
        let (socket, waker) = (full()?, Waker::new()?);
        waker.wake();
        assert!(!readable_after_others(socket.as_raw_fd(), &waker)?);
        assert!(readable(socket.as_raw_fd(), &waker)?);
        assert!(!readable(socket.as_raw_fd(), &waker)?);
        Ok(())
    }
}
