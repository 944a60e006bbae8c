//! Pings of our own: every answer is awaited, checked and counted.
//!
//! `ping` gives up on the last packets after twice the longest round trip it saw, which on a busy
//! machine looks like loss. This one waits.

use std::{
    collections::{BTreeSet, VecDeque},
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::{AsRawFd, OwnedFd},
    sync::{Condvar, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, setsockopt, socket, sockopt,
};

use crate::{
    netns::Netns,
    traffic::{Answers, Pings},
};

/// Room for answers that arrive all at once.
const BUFFER: usize = 4 << 20;
/// Length of an echo message's header.
const HEADER: usize = 8;

/// Pings `target` from `namespace`; packets are never fragmented.
///
/// # Errors
/// When no socket can be opened, or an answer's bytes are wrong. Unanswered pings are no error,
/// and neither is a send that fails while the tunnel is away: it counts as sent and unanswered.
pub fn ping(namespace: &Netns, target: IpAddr, pings: Pings) -> Result<Answers> {
    series(namespace.enter(|| open(target))?, target, pings)
}

/// The same from the namespace this program runs in.
///
/// # Errors
/// As [`ping`].
pub fn ping_here(target: IpAddr, pings: Pings) -> Result<Answers> {
    series(open(target)?, target, pings)
}

fn series(socket: UdpSocket, target: IpAddr, pings: Pings) -> Result<Answers> {
    let interval = Duration::from_millis(pings.interval.into());
    let request = if target.is_ipv4() { 8 } else { 128 };
    let sender = socket.try_clone()?;
    let flight = Flight::default();
    thread::scope(|scope| {
        let sending = scope.spawn(|| {
            for number in 0..pings.count {
                let next = Instant::now() + interval;
                flight.wait(pings);
                let _ = sender.send(&message(request, number, pings.size));
                if number + 1 < pings.count {
                    thread::sleep(next.saturating_duration_since(Instant::now()));
                }
            }
        });
        collect(&socket, pings, &flight, || sending.is_finished())
    })
}

/// When the pings that are neither answered nor given up were sent, oldest first.
#[derive(Default)]
struct Flight {
    sent: Mutex<VecDeque<Instant>>,
    landed: Condvar,
}

impl Flight {
    /// Waits until one more may be sent, and counts it.
    fn wait(&self, pings: Pings) {
        let patience = Duration::from_millis(pings.patience.into());
        let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        while sent.len() >= pings.window as usize {
            let left =
                sent.front().map_or(Duration::ZERO, |at| patience.saturating_sub(at.elapsed()));
            if left.is_zero() {
                sent.pop_front();
                break;
            }
            let waited = self.landed.wait_timeout(sent, left);
            sent = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        sent.push_back(Instant::now());
    }

    /// One of them was answered; which one does not matter.
    fn land(&self) {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        self.landed.notify_one();
    }
}

/// Receives until everything is answered, or nothing came for a while after the last was sent.
fn collect(
    socket: &UdpSocket,
    pings: Pings,
    flight: &Flight,
    all_sent: impl Fn() -> bool,
) -> Result<Answers> {
    let patience = Duration::from_millis(pings.patience.into());
    let mut seen = BTreeSet::new();
    let mut answers = Answers { sent: pings.count, received: 0, duplicates: 0 };
    let mut buffer = vec![0; 1 << 16];
    let mut last = Instant::now();
    // A moment longer than needed, for duplicates.
    let settle = Duration::from_millis(20);
    loop {
        match socket.recv(&mut buffer) {
            Ok(length) => {
                let number = check(&buffer[..length], pings)?;
                last = Instant::now();
                if seen.insert(number) {
                    answers.received += 1;
                    flight.land();
                } else {
                    answers.duplicates += 1;
                }
            }
            Err(_) if !all_sent() => last = Instant::now(),
            Err(_) => {}
        }
        let complete = answers.received == pings.count;
        if all_sent() && last.elapsed() > if complete { settle } else { patience } {
            return Ok(answers);
        }
    }
}

/// An echo request. The kernel fills in identifier and checksum.
fn message(kind: u8, number: u32, size: u32) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0, 0, 0];
    message.extend(((number % 0x1_0000) as u16).to_be_bytes());
    message.extend((0..size).map(|position| pattern(number, position)));
    message
}

/// The number of the ping that was answered.
fn check(answer: &[u8], pings: Pings) -> Result<u32> {
    let sequence = answer.get(6..HEADER).context("an answer without a header")?;
    let number = u32::from(u16::from_be_bytes([sequence[0], sequence[1]]));
    let expected = (0..pings.size).map(|position| pattern(number, position));
    let right = answer[HEADER..].iter().copied().eq(expected);
    ensure!(right, "the answer to ping {number} holds wrong bytes");
    Ok(number)
}

fn pattern(number: u32, position: u32) -> u8 {
    (number.wrapping_mul(31).wrapping_add(position.wrapping_mul(7))) as u8
}

fn open(target: IpAddr) -> Result<UdpSocket> {
    let everyone = "0 2147483647";
    std::fs::write("/proc/sys/net/ipv4/ping_group_range", everyone)
        .context("cannot allow ping sockets")?;
    let (family, protocol) = match target {
        IpAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp),
        IpAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6),
    };
    let descriptor: OwnedFd = socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, protocol)?;
    setsockopt(&descriptor, sockopt::RcvBufForce, &BUFFER)?;
    match target {
        IpAddr::V4(_) => never_fragment(&descriptor)?,
        IpAddr::V6(_) => setsockopt(&descriptor, sockopt::Ipv6DontFrag, &true)?,
    }
    let socket = UdpSocket::from(descriptor);
    socket.connect(SocketAddr::new(target, 0)).with_context(|| format!("no way to {target}"))?;
    socket.set_read_timeout(Some(Duration::from_millis(5)))?;
    Ok(socket)
}

/// IP_MTU_DISCOVER = IP_PMTUDISC_DO, as ip(7) has it.
fn never_fragment(descriptor: &OwnedFd) -> Result<()> {
    let value = libc::IP_PMTUDISC_DO;
    // SAFETY: the value is an int that outlives the call, and its size is the one given.
    let failed = unsafe {
        libc::setsockopt(
            descriptor.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_MTU_DISCOVER,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    ensure!(failed == 0, "IP_MTU_DISCOVER: {}", std::io::Error::last_os_error());
    Ok(())
}
