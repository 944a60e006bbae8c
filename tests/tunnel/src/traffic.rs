//! Traffic that counts what became of every packet.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::{host::Host, netns::Netns, pinger};

/// Longest time a transfer may stand still.
const STALL: Duration = Duration::from_secs(20);

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
}

impl Pings {
    /// A single ping of the usual size.
    #[must_use]
    pub fn one() -> Self {
        Self { count: 1, interval: 1000, size: 56, patience: 1000 }
    }

    /// `count` pings of the usual size, `interval` milliseconds apart.
    #[must_use]
    pub fn many(count: u32, interval: u32) -> Self {
        Self { count, interval, size: 56, patience: 3000 }
    }

    /// Pings that ought not to be answered: a second of them, and a moment more.
    #[must_use]
    pub fn unanswered() -> Self {
        Self { count: 20, interval: 50, size: 56, patience: 300 }
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
    // A guest's own ping waits for the last answers only as long as its interval.
    let interval = pings.interval.max(50);
    let count = (pings.count * pings.interval).div_ceil(interval).max(1);
    let (seconds, size) = (f64::from(interval) / 1000.0, pings.size.max(16));
    let patience = pings.patience.div_ceil(1000);
    let text = host.sh(&format!(
        "ping -n -q -M do -c {count} -i {seconds} -s {size} -W {patience} {target} 2>&1 || true"
    ))?;
    parse_answers(&text)
}

/// Sends `bytes` bytes over TCP from a namespace to an address of another one, and the same back;
/// every byte is checked.
///
/// # Errors
/// When the connection fails, stalls, or a byte is wrong.
pub fn transfer(from: &Netns, to: &Netns, target: SocketAddr, bytes: usize) -> Result<()> {
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
            send(&mut server, bytes)?;
            Ok(server.shutdown(Shutdown::Write)?)
        });
        send(&mut client, bytes).and_then(|()| check(&mut client, bytes))?;
        serving.join().map_err(|_| anyhow!("the receiver panicked"))?
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

/// `N packets transmitted, N received, [+N duplicates,] …`.
fn parse_answers(text: &str) -> Result<Answers> {
    let Some(line) = text.lines().find(|line| line.contains("packets transmitted")) else {
        bail!("ping said {text:?}");
    };
    let number = |marker: &str| {
        let part = line.split(',').find(|part| part.contains(marker))?;
        part.trim().trim_start_matches('+').split(' ').next()?.parse().ok()
    };
    Ok(Answers {
        sent: number("transmitted").with_context(|| line.to_owned())?,
        received: number("received").with_context(|| line.to_owned())?,
        duplicates: number("duplicates").unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pings_are_counted() {
        let plain = "5 packets transmitted, 4 received, 20% packet loss, time 4ms";
        let answers = parse_answers(plain).unwrap();
        assert_eq!(answers, Answers { sent: 5, received: 4, duplicates: 0 });
        let more = "500 packets transmitted, 500 received, +3 duplicates, 0% packet loss, time 1ms";
        assert_eq!(parse_answers(more).unwrap().duplicates, 3);
        assert!(parse_answers("ping: unknown host").is_err());
    }
}
