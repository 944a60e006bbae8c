//! UDP through the tunnel: as many packets as pass, and round trips.

use std::{
    io,
    mem::zeroed,
    net::UdpSocket,
    os::fd::{AsRawFd, OwnedFd},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use nix::sys::socket::{setsockopt, sockopt};
use slicewire_bench_report::percentile;

use crate::topology::{FAR, Net};

/// Packets of one system call.
const BATCH: usize = 64;
/// Room for what arrives while the receiver waits for the processor.
const BUFFER: usize = 8 << 20;
/// Time between two round trips.
const PACE: Duration = Duration::from_millis(1);
/// A round trip that takes longer counts as this long.
const PATIENCE: Duration = Duration::from_millis(500);
/// Size of a probe, in bytes of UDP.
const PROBE: usize = 64;

/// Round-trip times in microseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct RoundTrips {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
}

/// Sends datagrams of `size` bytes as fast as it can for `duration`; the packets per second that
/// arrived.
pub(crate) fn flood(net: &Net, size: usize, duration: Duration) -> Result<f64> {
    let sink = net.clients[1].enter(|| bind(&format!("{FAR}:5300")))?;
    let source = net.clients[0].enter(|| bind("0.0.0.0:0"))?;
    source.connect(format!("{FAR}:5300"))?;
    sink.set_read_timeout(Some(Duration::from_millis(100)))?;
    let (stop, count) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut batch = Batch::new(2048);
            while !stop.load(Ordering::Relaxed) {
                let received = batch.receive(&sink).unwrap_or(0);
                count.fetch_add(received, Ordering::Relaxed);
            }
        });
        let started = Instant::now();
        let mut batch = Batch::new(size);
        let mut failed = None;
        while started.elapsed() < duration && failed.is_none() {
            failed = batch.send(&source).err().filter(|error| !is_full(error));
        }
        let rate = count.load(Ordering::Relaxed) as f64 / started.elapsed().as_secs_f64();
        stop.store(true, Ordering::Relaxed);
        match failed {
            Some(error) => Err(anyhow!(error).context("cannot send")),
            None => Ok(rate),
        }
    })
    .and_then(|rate| {
        ensure!(rate > 0.0, "nothing arrived");
        Ok(rate)
    })
}

/// One round trip after the other for `duration`.
pub(crate) fn round_trips(net: &Net, duration: Duration) -> Result<RoundTrips> {
    let echo = net.clients[1].enter(|| bind(&format!("{FAR}:5301")))?;
    let probe = net.clients[0].enter(|| bind("0.0.0.0:0"))?;
    probe.connect(format!("{FAR}:5301"))?;
    probe.set_read_timeout(Some(PATIENCE))?;
    echo.set_read_timeout(Some(Duration::from_millis(100)))?;
    let stop = AtomicBool::new(false);
    let times = thread::scope(|scope| {
        scope.spawn(|| {
            let mut buffer = [0; PROBE];
            while !stop.load(Ordering::Relaxed) {
                if let Ok((length, from)) = echo.recv_from(&mut buffer) {
                    let _ = echo.send_to(&buffer[..length], from);
                }
            }
        });
        let times = probes(&probe, duration);
        stop.store(true, Ordering::Relaxed);
        times
    })?;
    let at = |percent| percentile(&times, percent).context("no round trip");
    Ok(RoundTrips { p50: at(50.0)?, p99: at(99.0)? })
}

fn probes(socket: &UdpSocket, duration: Duration) -> Result<Vec<f64>> {
    let (mut times, mut answered) = (Vec::new(), 0);
    let begin = Instant::now();
    let mut number = 0_u64;
    while begin.elapsed() < duration {
        number += 1;
        let started = Instant::now();
        socket.send(&message(number)).context("cannot send a probe")?;
        answered += usize::from(answer(socket, number));
        times.push(started.elapsed().min(PATIENCE).as_secs_f64() * 1e6);
        thread::sleep(PACE);
    }
    ensure!(answered * 10 >= times.len() * 9, "{answered} of {} probes answered", times.len());
    Ok(times)
}

/// Waits for the answer to probe `number`; late answers to earlier ones are passed over.
fn answer(socket: &UdpSocket, number: u64) -> bool {
    let mut buffer = [0; PROBE];
    while socket.recv(&mut buffer).is_ok() {
        if buffer == message(number) {
            return true;
        }
    }
    false
}

fn message(number: u64) -> [u8; PROBE] {
    let mut message = [0; PROBE];
    message[..8].copy_from_slice(&number.to_be_bytes());
    message
}

fn bind(address: &str) -> Result<UdpSocket> {
    let socket = UdpSocket::bind(address).with_context(|| format!("cannot bind {address}"))?;
    let owned: OwnedFd = socket.try_clone()?.into();
    setsockopt(&owned, sockopt::RcvBufForce, &BUFFER)?;
    Ok(socket)
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::EAGAIN | libc::EINTR))
}

/// Buffers for one system call of many packets.
struct Batch {
    _bytes: Vec<Vec<u8>>,
    _slices: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
}

impl Batch {
    fn new(size: usize) -> Self {
        let mut bytes = vec![vec![0_u8; size]; BATCH];
        let mut slices: Vec<libc::iovec> = bytes
            .iter_mut()
            .map(|buffer| libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: size })
            .collect();
        let headers = slices
            .iter_mut()
            .map(|slice| {
                // SAFETY: all zeroes is a valid value of this plain C structure.
                let mut header: libc::mmsghdr = unsafe { zeroed() };
                header.msg_hdr.msg_iov = slice;
                header.msg_hdr.msg_iovlen = 1;
                header
            })
            .collect();
        Self { _bytes: bytes, _slices: slices, headers }
    }

    fn send(&mut self, socket: &UdpSocket) -> io::Result<u64> {
        // SAFETY: the headers point into buffers that live as long as `self`.
        let sent = unsafe {
            libc::sendmmsg(socket.as_raw_fd(), self.headers.as_mut_ptr(), BATCH as u32, 0)
        };
        u64::try_from(sent).map_err(|_| io::Error::last_os_error())
    }

    fn receive(&mut self, socket: &UdpSocket) -> io::Result<u64> {
        // SAFETY: the headers point into buffers that live as long as `self`; no timeout is given.
        let received = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                BATCH as u32,
                libc::MSG_WAITFORONE,
                std::ptr::null_mut(),
            )
        };
        u64::try_from(received).map_err(|_| io::Error::last_os_error())
    }
}
