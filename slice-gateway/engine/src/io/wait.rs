//! Waiting for a descriptor, and being woken.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

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
    let poll = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    let mut fds = [poll(fd), poll(waker.0.as_raw_fd())];
    // SAFETY: the pointer and count are those of `fds`.
    let n = unsafe { libc::poll(fds.as_mut_ptr(), 2, -1) };
    if n < 0 {
        let error = io::Error::last_os_error();
        return if error.kind() == io::ErrorKind::Interrupted { Ok(false) } else { Err(error) };
    }
    let woken = fds[1].revents != 0;
    if woken {
        waker.clear();
    }
    Ok(woken)
}
