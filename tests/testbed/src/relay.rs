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
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use serde::{Deserialize, Serialize};

use crate::cgroup;
use crate::impair::{Direction, Impairment};
use crate::process::{wait_for, write_whole};

/// How often the rules are read again.
const RELOAD: Duration = Duration::from_millis(50);

/// The most that may wait, in bytes: half a second of a gigabit.
const BACKLOG: usize = 64 << 20;

/// A relay's rules, as a file: the other machine's link address, and what
/// happens to frames from and to it. All other frames pass at once.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Rules {
    /// Grows with each change.
    pub version: u64,
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
    /// That of the rules when it was set: set anew, it starts its seed's fates anew.
    pub version: u64,
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

    /// Sets what happens between this machine and a peer; no impairment removes the rule.
    pub fn set(&mut self, peer: &str, mac: [u8; 6], impairment: Impairment, seed: u64) {
        self.version += 1;
        self.peers.remove(peer);
        if impairment != Impairment::default() {
            let rule = Rule { mac, impairment, seed, version: self.version };
            self.peers.insert(peer.to_owned(), rule);
        }
    }

    /// Waits until the relay that reads `file` goes by these rules.
    ///
    /// # Errors
    /// When it does not within some seconds.
    pub fn await_use(&self, file: &Path) -> Result<()> {
        let used = || Self::load(&used_file(file)).is_ok_and(|used| used == *self);
        wait_for("the relay takes its new rules", Duration::from_secs(10), used)
    }

    /// The rule for a frame, if it goes to a peer (`outward`) or comes from one.
    fn of(&self, frame: &[u8], outward: bool) -> Option<(&String, &Rule)> {
        // An Ethernet header: destination, then source.
        let address = frame.get(if outward { 0..6 } else { 6..12 })?;
        self.peers.iter().find(|(_, rule)| rule.mac == address)
    }
}

/// Where a relay says which rules it goes by.
fn used_file(rules: &Path) -> PathBuf {
    rules.with_extension("used")
}

/// A frame that waits, ordered by its time and then by its arrival.
type Waiting = Reverse<(Instant, u64, bool, Vec<u8>)>;

/// The bytes of the frames that wait.
type Backlog = AtomicUsize;

/// Relays until killed. Says `ready` once both devices are there.
///
/// # Errors
/// When the devices cannot be made or do not work any more.
pub fn run(rules_file: PathBuf, cgroup: &str, inner: &str, outer: &str) -> Result<()> {
    cgroup::join(cgroup)?;
    nix::unistd::setsid()?;
    let (inner, outer) = (Arc::new(tap(inner)?), Arc::new(tap(outer)?));
    let first = Rules::load(&rules_file)?;
    tell(&rules_file, &first)?;
    let rules = Arc::new(RwLock::new(first));
    let backlog = Arc::new(Backlog::new(0));
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
            backlog: Arc::clone(&backlog),
        };
        readers.push(thread::spawn(move || reader.run()));
    }
    thread::spawn(move || deliver(&receiver, &backlog, &inner, &outer));
    while readers.iter().all(|reader| !reader.is_finished()) {
        thread::sleep(RELOAD);
        renew(&rules_file, &rules)?;
    }
    bail!("a device of the relay is gone")
}

/// Goes by the file's rules if they have changed, and says so.
fn renew(rules_file: &Path, rules: &RwLock<Rules>) -> Result<()> {
    let new = Rules::load(rules_file)?;
    let mut current = rules.write().map_err(|_| anyhow!("the rules are lost"))?;
    if *current != new {
        current.clone_from(&new);
        drop(current);
        tell(rules_file, &new)?;
    }
    Ok(())
}

fn tell(rules_file: &Path, rules: &Rules) -> Result<()> {
    write_whole(&used_file(rules_file), &serde_json::to_vec(rules)?)
}

struct Reader {
    from: Arc<File>,
    to: Arc<File>,
    outward: bool,
    rules: Arc<RwLock<Rules>>,
    later: Sender<(Instant, bool, Vec<u8>)>,
    backlog: Arc<Backlog>,
}

impl Reader {
    fn run(self) -> Result<()> {
        let mut buffer = [0u8; 65536];
        let mut histories = BTreeMap::new();
        loop {
            let length = (&*self.from).read(&mut buffer)?;
            let frame = &buffer[..length];
            let now = Instant::now();
            match self.judge(frame, now, &mut histories)? {
                None => {}
                // A full device loses frames as any network does.
                Some(due) if due <= now => drop((&*self.to).write(frame)),
                // So does a full queue.
                Some(_) if self.backlog.load(Relaxed) + length > BACKLOG => {}
                Some(due) => {
                    self.backlog.fetch_add(length, Relaxed);
                    self.later.send((due, self.outward, frame.to_vec()))?;
                }
            }
        }
    }

    /// When a frame is to go on; `None` when it is lost.
    fn judge(
        &self,
        frame: &[u8],
        now: Instant,
        histories: &mut BTreeMap<String, (u64, Direction)>,
    ) -> Result<Option<Instant>> {
        let rules = self.rules.read().map_err(|_| anyhow!("the rules are lost"))?;
        let Some((peer, rule)) = rules.of(frame, self.outward) else { return Ok(Some(now)) };
        let fresh = || (rule.version, Direction::new(rule.seed ^ u64::from(self.outward)));
        let history = histories.entry(peer.clone()).or_insert_with(fresh);
        if history.0 != rule.version {
            *history = fresh();
        }
        Ok(history.1.judge(&rule.impairment, now))
    }
}

/// Sends waiting frames on when they are due.
fn deliver(
    arriving: &Receiver<(Instant, bool, Vec<u8>)>,
    backlog: &Backlog,
    inner: &File,
    outer: &File,
) {
    let mut waiting: BinaryHeap<Waiting> = BinaryHeap::new();
    let mut number = 0;
    loop {
        let now = Instant::now();
        while waiting.peek().is_some_and(|Reverse((due, ..))| *due <= now) {
            if let Some(Reverse((_, _, outward, frame))) = waiting.pop() {
                backlog.fetch_sub(frame.len(), Relaxed);
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
        let mut rules = Rules::default();
        rules.set("west-1", [2; 6], Impairment { loss: 0.5, ..Default::default() }, 1);
        let frame = |to: u8, from: u8| [[to; 6].as_slice(), &[from; 6], b"\x08\x00"].concat();
        assert!(rules.of(&frame(2, 9), true).is_some());
        assert!(rules.of(&frame(9, 2), false).is_some());
        assert!(rules.of(&frame(9, 2), true).is_none());
        assert!(rules.of(&frame(3, 9), true).is_none());
        assert!(rules.of(b"short", true).is_none());
    }

    #[test]
    fn a_rule_set_again_is_another_one_and_an_empty_one_is_none() {
        let what = Impairment { loss: 0.5, ..Default::default() };
        let mut rules = Rules::default();
        rules.set("west-1", [2; 6], what, 1);
        let first = rules.clone();
        rules.set("west-1", [2; 6], what, 1);
        assert_ne!(first.peers, rules.peers);
        rules.set("west-1", [2; 6], Impairment::default(), 1);
        assert!(rules.peers.is_empty());
        rules.set("west-1", [2; 6], what, 1);
        assert_ne!(first.peers, rules.peers);
    }
}
