//! Traffic that counts what became of every packet.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::sys::socket::{setsockopt, sockopt};

use crate::{host::Host, netns::Netns, pinger};

/// Longest time a transfer may stand still.
const STALL: Duration = Duration::from_secs(60);

/// A series of pings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pings {
    /// How many.
    pub count: u32,
    /// Time between two of them, in milliseconds.
    pub interval: u32,
    /// Bytes of data in each; the packet is 28 (IPv4) or 48 (IPv6) bytes larger.
    pub size: u32,
    /// How long an answer may take, in milliseconds.
    pub patience: u32,
    /// So many may be on their way; the next one waits until one is answered or given up.
    pub window: u32,
}

/// Bytes on their way at most. A socket's receive buffer holds 212,992 bytes by default and counts
/// twice and more what a packet has: less than a quarter of it, so that a process that the machine
/// does not run for a while loses nothing.
const ON_THE_WAY: u32 = 40_000;

impl Pings {
    /// A single ping of the usual size.
    #[must_use]
    pub const fn one() -> Self {
        Self { count: 1, interval: 1000, size: 56, patience: 1000, window: 1 }
    }

    /// `count` pings of the usual size, `interval` milliseconds apart or more.
    #[must_use]
    pub const fn many(count: u32, interval: u32) -> Self {
        Self { count, interval, patience: 20_000, ..Self::one() }.sized(56)
    }

    /// The same with `size` bytes of data in each.
    #[must_use]
    pub const fn sized(self, size: u32) -> Self {
        // A small packet takes a buffer of 768 bytes, too.
        let buffer = if size < 700 { 700 } else { size };
        Self { size, window: ON_THE_WAY / buffer, ..self }
    }

    /// The same at a steady rate, whether answers come or not.
    #[must_use]
    pub const fn regardless(self) -> Self {
        Self { window: u32::MAX, ..self }
    }

    /// Pings that ought not to be answered: a second of them, and a moment more.
    #[must_use]
    pub const fn unanswered() -> Self {
        Self { count: 20, interval: 50, patience: 300, ..Self::one() }.regardless()
    }
}

/// What became of a series of pings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answers {
    /// Pings sent.
    pub sent: u32,
    /// Pings answered.
    pub received: u32,
    /// Answers that came more than once.
    pub duplicates: u32,
}

/// Pings `target` from `host`; packets are never fragmented.
///
/// # Errors
/// When ping cannot run or says something unknown. Unanswered pings are no error.
pub fn ping(host: &Host, target: &str, pings: Pings) -> Result<Answers> {
    if let Some(namespace) = host.namespace() {
        return pinger::ping(namespace, target.parse()?, pings);
    }
    let Pings { count, interval, size, patience, window } = pings;
    let options = format!("{count} {interval} {size} {patience} {window}");
    parse_answers(&host.sh(&format!("tunnel-pinger {target} {options}"))?)
}

/// Sends `bytes` bytes over TCP from a namespace to an address of another one, and `back` bytes the
/// other way; every byte is checked.
///
/// # Errors
/// When the connection fails, stalls, or a byte is wrong.
pub fn transfer(
    from: &Netns,
    to: &Netns,
    target: SocketAddr,
    (bytes, back): (usize, usize),
) -> Result<()> {
    let listener = to.enter(|| TcpListener::bind(target).context("cannot listen"))?;
    // Connected before it is accepted: nobody waits for a connection that never comes.
    let mut client =
        from.enter(|| TcpStream::connect_timeout(&target, STALL).context("cannot connect"))?;
    let (mut server, _) = listener.accept()?;
    for stream in [&client, &server] {
        stream.set_read_timeout(Some(STALL))?;
        stream.set_write_timeout(Some(STALL))?;
    }
    thread::scope(|scope| {
        let serving = scope.spawn(move || -> Result<()> {
            check(&mut server, bytes)?;
            send(&mut server, back)?;
            Ok(server.shutdown(Shutdown::Write)?)
        });
        send(&mut client, bytes).and_then(|()| check(&mut client, back))?;
        serving.join().map_err(|_| anyhow!("the receiver panicked"))?
    })
}

/// A stream of UDP datagrams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stream {
    /// Datagrams a second.
    pub rate: u32,
    /// Bytes in each.
    pub size: usize,
    /// How long.
    pub time: Duration,
}

/// Sends a stream from a namespace to an address of another one. Returns how many datagrams were
/// sent and how many arrived.
///
/// # Errors
/// When a socket cannot be opened.
pub fn stream(from: &Netns, to: &Netns, target: SocketAddr, stream: Stream) -> Result<(u64, u64)> {
    let receiver = to.enter(|| Ok(UdpSocket::bind(target)?))?;
    setsockopt(&receiver, sockopt::RcvBufForce, &(8 << 20))?;
    receiver.set_read_timeout(Some(Duration::from_millis(300)))?;
    let any = if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let sender = from.enter(|| Ok(UdpSocket::bind(any)?))?;
    sender.connect(target)?;
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let counting = scope.spawn(|| {
            let (mut count, mut buffer) = (0, [0; 2048]);
            loop {
                match receiver.recv(&mut buffer) {
                    Ok(_) => count += 1,
                    Err(_) if done.load(Ordering::Relaxed) => return count,
                    Err(_) => {}
                }
            }
        });
        let data = vec![7; stream.size];
        let start = Instant::now();
        let mut sent = 0;
        while start.elapsed() < stream.time {
            let due = start.elapsed().as_secs_f64() * f64::from(stream.rate);
            while (sent as f64) < due {
                let _ = sender.send(&data);
                sent += 1;
            }
            thread::sleep(Duration::from_millis(1));
        }
        done.store(true, Ordering::Relaxed);
        let arrived = counting.join().map_err(|_| anyhow!("the receiver panicked"))?;
        Ok((sent, arrived))
    })
}

/// The byte at `position` of every transfer: no two segments of usual sizes are alike.
fn pattern(position: usize) -> u8 {
    (position.wrapping_mul(2_654_435_761) >> 13) as u8
}

fn send(stream: &mut TcpStream, bytes: usize) -> Result<()> {
    let data: Vec<u8> = (0..bytes).map(pattern).collect();
    stream.write_all(&data).context("sending stopped")
}

fn check(stream: &mut TcpStream, bytes: usize) -> Result<()> {
    let mut buffer = vec![0; 1 << 16];
    let mut position = 0;
    while position < bytes {
        let length = stream.read(&mut buffer).with_context(|| format!("stopped at {position}"))?;
        ensure!(length > 0, "ended at {position} of {bytes}");
        for byte in &buffer[..length] {
            ensure!(*byte == pattern(position), "byte {position} is wrong");
            position += 1;
        }
    }
    Ok(())
}

/// Three numbers: sent, received, duplicates.
fn parse_answers(text: &str) -> Result<Answers> {
    let numbers: Result<Vec<u32>, _> = text.split_whitespace().map(str::parse).collect();
    match numbers.as_deref() {
        Ok(&[sent, received, duplicates]) => Ok(Answers { sent, received, duplicates }),
        _ => bail!("the pinger said {text:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pings_are_counted() {
        let answers = parse_answers("5 4 1\n").unwrap();
        assert_eq!(answers, Answers { sent: 5, received: 4, duplicates: 1 });
        assert!(parse_answers("cannot ping").is_err());
    }
}
