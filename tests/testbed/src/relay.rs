//! Delay, loss and reordering between machines, without help from the kernel.
//!
//! The relay is a process in the WAN's namespace, between one machine's port
//! and the bridge: the port moves to a small bridge of its own, and a TAP
//! device on either bridge makes every frame pass through here. As TAP devices
//! promise no offloads, frames arrive whole and with checksums.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::cgroup;
use crate::impair::{Direction, Impairment};

/// How often the rules are read again.
const RELOAD: Duration = Duration::from_millis(100);

/// A relay's rules, as a file: the other machine's link address, and what
/// happens to frames from and to it. All other frames pass at once.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Rules {
    /// By the peer's name, for people: link address, impairment and seed.
    pub peers: BTreeMap<String, Rule>,
}

/// What happens between two machines.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rule {
    /// The peer's link address.
    pub mac: [u8; 6],
    /// What happens to a frame, in each direction.
    pub impairment: Impairment,
    /// The same seed gives the same fates.
    pub seed: u64,
}

impl Rules {
    /// Reads the file; none is as good as an empty one.
    ///
    /// # Errors
    /// When it is not what [`Rules`] writes.
    pub fn load(path: &Path) -> Result<Self> {
        match fs::read(path) {
            Ok(text) => Ok(serde_json::from_slice(&text)?),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error.into()),
        }
    }

    /// The rule for a frame, if it goes to a peer (`outward`) or comes from one.
    fn of(&self, frame: &[u8], outward: bool) -> Option<(&String, &Rule)> {
        // An Ethernet header: destination, then source.
        let address = frame.get(if outward { 0..6 } else { 6..12 })?;
        self.peers.iter().find(|(_, rule)| rule.mac == address)
    }
}

/// A frame that waits, ordered by its time and then by its arrival.
type Waiting = Reverse<(Instant, u64, bool, Vec<u8>)>;

/// Relays until killed. Says `ready` once both devices are there.
///
/// # Errors
/// When the devices cannot be made or do not work any more.
pub fn run(rules_file: PathBuf, cgroup: &str, inner: &str, outer: &str) -> Result<()> {
    cgroup::join(cgroup)?;
    nix::unistd::setsid()?;
    let (inner, outer) = (Arc::new(tap(inner)?), Arc::new(tap(outer)?));
    let rules = Arc::new(RwLock::new(Rules::load(&rules_file)?));
    writeln!(std::io::stdout(), "ready")?;
    let (sender, receiver) = channel();
    let mut readers = Vec::new();
    for outward in [true, false] {
        let (from, to) = if outward { (&inner, &outer) } else { (&outer, &inner) };
        let reader = Reader {
            from: Arc::clone(from),
            to: Arc::clone(to),
            outward,
            rules: Arc::clone(&rules),
            later: sender.clone(),
        };
        readers.push(thread::spawn(move || reader.run()));
    }
    thread::spawn(move || deliver(&receiver, &inner, &outer));
    while readers.iter().all(|reader| !reader.is_finished()) {
        thread::sleep(RELOAD);
        // A file half written is read again the next time.
        if let (Ok(new), Ok(mut rules)) = (Rules::load(&rules_file), rules.write()) {
            *rules = new;
        }
    }
    bail!("a device of the relay is gone")
}

struct Reader {
    from: Arc<File>,
    to: Arc<File>,
    outward: bool,
    rules: Arc<RwLock<Rules>>,
    later: Sender<(Instant, bool, Vec<u8>)>,
}

impl Reader {
    fn run(self) -> Result<()> {
        let mut buffer = [0u8; 65536];
        let mut directions: BTreeMap<String, Direction> = BTreeMap::new();
        loop {
            let length = (&*self.from).read(&mut buffer)?;
            let frame = &buffer[..length];
            let now = Instant::now();
            let due = match self.rules.read() {
                Ok(rules) => match rules.of(frame, self.outward) {
                    Some((peer, rule)) => directions
                        .entry(peer.clone())
                        .or_insert_with(|| Direction::new(rule.seed ^ u64::from(self.outward)))
                        .judge(&rule.impairment, now),
                    None => Some(now),
                },
                Err(_) => bail!("the rules are lost"),
            };
            match due {
                None => {}
                // A full device loses frames as any network does.
                Some(due) if due <= now => drop((&*self.to).write(frame)),
                Some(due) => self.later.send((due, self.outward, frame.to_vec()))?,
            }
        }
    }
}

/// Sends waiting frames on when they are due.
fn deliver(arriving: &Receiver<(Instant, bool, Vec<u8>)>, inner: &File, outer: &File) {
    let mut waiting: BinaryHeap<Waiting> = BinaryHeap::new();
    let mut number = 0;
    loop {
        let now = Instant::now();
        while waiting.peek().is_some_and(|Reverse((due, ..))| *due <= now) {
            if let Some(Reverse((_, _, outward, frame))) = waiting.pop() {
                let mut to = if outward { outer } else { inner };
                // A full device loses frames as any network does.
                let _ = to.write(&frame);
            }
        }
        let idle = Duration::from_secs(1);
        let wait = waiting.peek().map_or(idle, |Reverse((due, ..))| due.duration_since(now));
        match arriving.recv_timeout(wait) {
            Ok((due, outward, frame)) => {
                number += 1;
                waiting.push(Reverse((due, number, outward, frame)));
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

nix::ioctl_write_ptr_bad!(
    /// Names and configures an open /dev/net/tun (the kernel's tuntap.rst).
    tun_set_iff,
    libc::TUNSETIFF,
    libc::ifreq
);

/// A TAP device that lives as long as the file.
fn tap(name: &str) -> Result<File> {
    let file = File::options().read(true).write(true).open("/dev/net/tun")?;
    // SAFETY: an all-zero ifreq is a valid value of that C structure.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        bail!("device name '{name}' is too long");
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::try_from(from).context("a device name is ASCII")?;
    }
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(libc::IFF_TAP | libc::IFF_NO_PI)?;
    // SAFETY: the descriptor is open and the structure outlives the call.
    unsafe { tun_set_iff(file.as_raw_fd(), &raw const request) }
        .with_context(|| format!("cannot make the device {name}"))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_frames_between_the_two_machines_are_impaired() {
        let rule = Rule { mac: [2; 6], impairment: Impairment::default(), seed: 1 };
        let rules = Rules { peers: [("west-1".to_owned(), rule)].into() };
        let frame = |to: u8, from: u8| [[to; 6].as_slice(), &[from; 6], b"\x08\x00"].concat();
        assert!(rules.of(&frame(2, 9), true).is_some());
        assert!(rules.of(&frame(9, 2), false).is_some());
        assert!(rules.of(&frame(9, 2), true).is_none());
        assert!(rules.of(&frame(3, 9), true).is_none());
        assert!(rules.of(b"short", true).is_none());
    }
}
