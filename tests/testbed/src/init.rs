//! A machine's first process: sets the machine up and keeps its daemons running.
//!
//! It starts in two steps. [`boot`] joins the machine's cgroup, enters fresh
//! namespaces and starts the first process in them, which runs [`run`]. That one
//! prepares the file system, waits for its standard input to say that the
//! network is plugged in, and then only starts daemons and collects the dead.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::cgroup;
use crate::process;
use crate::units::{Need, Unit};

/// Where a machine sees the testbed's programs.
pub const PROGRAMS: &str = "/opt/slicewire-testbed";

/// Everything a machine needs to start, as a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boot {
    /// The host name.
    pub hostname: String,
    /// A stable identity, 32 hexadecimal digits.
    pub machine_id: String,
    /// The machine's directory on the host: `disk`, `kubernetes`, `log`, `stopped`.
    pub directory: PathBuf,
    /// The host's directory of built programs, seen at [`PROGRAMS`].
    pub bin: PathBuf,
    /// The programs' directory below that one.
    pub toolset: String,
    /// Below each hierarchy's root.
    pub cgroup: String,
    /// Where names are resolved.
    pub nameserver: String,
    /// Commands for `ip -batch`.
    pub ip: String,
    /// Paths below /proc/sys and values.
    pub sysctls: Vec<(String, String)>,
    /// Rules for `nft`, or nothing.
    pub nft: String,
    /// The daemons.
    pub units: Vec<Unit>,
}

impl Boot {
    fn load(path: &Path) -> Result<Self> {
        let text = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(serde_json::from_slice(&text)?)
    }

    /// The PATH inside the machine.
    pub fn path(&self) -> String {
        format!(
            "{PROGRAMS}/{}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            self.toolset
        )
    }
}

/// Starts a machine's first process and returns its number.
pub fn boot(config: &Path) -> Result<u32> {
    let boot = Boot::load(config)?;
    cgroup::join(&boot.cgroup)?;
    // Neither the terminal's signals nor its end are the machine's concern.
    nix::unistd::setsid()?;
    unshare(
        CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWUTS
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWPID
            | CloneFlags::CLONE_NEWNET,
    )
    .context("cannot make namespaces")?;
    let log = File::create(boot.directory.join("log/init.log"))?;
    let child = Command::new(std::env::current_exe()?)
        .arg("node-init")
        .arg(config)
        .current_dir("/")
        .stdin(Stdio::inherit())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()?;
    Ok(child.id())
}

/// A machine's first process. Returns only when the machine cannot start.
pub fn run(config: &Path) -> Result<()> {
    let boot = Boot::load(config)?;
    prepare_files(&boot).context("cannot prepare the file system")?;
    fs::write("/proc/sys/kernel/hostname", &boot.hostname)?;
    let mut plugged = [0u8; 1];
    if std::io::stdin().read(&mut plugged)? == 0 {
        bail!("given up before the network was plugged in");
    }
    prepare_network(&boot).context("cannot prepare the network")?;
    supervise(&boot)
}

fn prepare_network(boot: &Boot) -> Result<()> {
    for (path, value) in &boot.sysctls {
        fs::write(Path::new("/proc/sys").join(path), value)
            .with_context(|| format!("cannot set {path}"))?;
    }
    process::run_with_input(Command::new("ip").args(["-batch", "-"]), boot.ip.as_bytes())?;
    if !boot.nft.is_empty() {
        process::run_with_input(Command::new("nft").args(["-f", "-"]), boot.nft.as_bytes())?;
    }
    Ok(())
}

/// Gives the machine its own view: what a real one keeps on its disk comes
/// from `disk` and outlives it, what it keeps in memory starts empty.
fn prepare_files(boot: &Boot) -> Result<()> {
    set_flags("/", MsFlags::MS_PRIVATE)?;
    release_namespaces();
    let disk = boot.directory.join("disk");
    for (below, target) in [("lib", "/var/lib"), ("log", "/var/log"), ("opt", "/opt")] {
        bind(&disk.join(below), Path::new(target))?;
    }
    prepare_etc(boot, &disk)?;
    fs::create_dir_all(PROGRAMS)?;
    bind(&boot.bin, Path::new(PROGRAMS))?;
    attach("tmpfs", "/run", "mode=755")?;
    fs::create_dir_all("/run/lock")?;
    attach("proc", "/proc", "")?;
    prepare_sys()?;
    // As systemd does: without it no mount of a pod reaches the machine.
    set_flags("/", MsFlags::MS_SHARED)
}

/// Lets go of the host's named network namespaces: mounts that are only hidden
/// would keep them for as long as this machine runs, deleted or not.
fn release_namespaces() {
    let named = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let directory = Path::new("/run/netns").to_owned();
    for path in named.map(|entry| entry.path()).chain([directory]) {
        // Until nothing is mounted there, or nothing is there.
        while umount2(&path, MntFlags::MNT_DETACH).is_ok() {}
    }
}

fn prepare_etc(boot: &Boot, disk: &Path) -> Result<()> {
    let (upper, work) = (disk.join("etc"), disk.join("etc-work"));
    fs::create_dir_all(&upper)?;
    fs::create_dir_all(&work)?;
    let options = format!("lowerdir=/etc,upperdir={},workdir={}", upper.display(), work.display());
    attach("overlay", "/etc", &options)?;
    let name = &boot.hostname;
    let files = [
        ("hostname", format!("{name}\n")),
        ("hosts", format!("127.0.0.1 localhost {name}\n::1 localhost {name}\n")),
        ("resolv.conf", format!("nameserver {}\n", boot.nameserver)),
        ("machine-id", format!("{}\n", boot.machine_id)),
    ];
    for (file, content) in files {
        let path = Path::new("/etc").join(file);
        // It may be a link to somewhere else.
        let _ = fs::remove_file(&path);
        fs::write(path, content)?;
    }
    bind(&boot.directory.join("kubernetes"), Path::new("/etc/kubernetes"))?;
    bind(&disk.join("cni"), Path::new("/etc/cni/net.d"))
}

/// A /sys that shows the machine's own network devices and the host's cgroups.
fn prepare_sys() -> Result<()> {
    fs::create_dir_all("/run/sys")?;
    attach("sysfs", "/run/sys", "")?;
    for below in ["fs/cgroup", "fs/bpf"] {
        let (from, to) = (Path::new("/sys").join(below), Path::new("/run/sys").join(below));
        if from.exists() && to.exists() {
            bind(&from, &to)?;
        }
    }
    mount(Some("/run/sys"), "/sys", None::<&str>, MsFlags::MS_MOVE, None::<&str>)?;
    fs::remove_dir("/run/sys")?;
    Ok(())
}

fn set_flags(target: &str, flags: MsFlags) -> Result<()> {
    let flags = flags | MsFlags::MS_REC;
    mount(None::<&str>, target, None::<&str>, flags, None::<&str>)
        .with_context(|| format!("cannot change the propagation of {target}"))
}

fn bind(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(from)?;
    fs::create_dir_all(to)?;
    let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(Some(from), to, None::<&str>, flags, None::<&str>)
        .with_context(|| format!("cannot show {} at {}", from.display(), to.display()))
}

fn attach(kind: &str, target: &str, options: &str) -> Result<()> {
    mount(Some(kind), target, Some(kind), MsFlags::empty(), Some(options))
        .with_context(|| format!("cannot mount {kind} at {target}"))
}

/// What is known of a daemon.
enum State {
    Running(Pid),
    /// Not before the first moment; without regard to its needs after the second.
    Due(Instant, Instant),
}

const PATIENCE: Duration = Duration::from_secs(20);
const RESTART: Duration = Duration::from_millis(500);
const LOOK: Duration = Duration::from_millis(50);

/// What is written into a stopped daemon's marker once the daemon is gone: ended
/// and collected, and not about to be started.
pub(crate) const DOWN: &[u8] = b"down";

/// Keeps the daemons running, except those with a file of their name in `stopped`.
fn supervise(boot: &Boot) -> ! {
    let now = Instant::now();
    let mut states: BTreeMap<&str, State> =
        boot.units.iter().map(|u| (u.name.as_str(), State::Due(now, now + PATIENCE))).collect();
    loop {
        let ended = reap();
        let now = Instant::now();
        for unit in &boot.units {
            let Some(state) = states.get_mut(unit.name.as_str()) else { continue };
            let marker = boot.directory.join("stopped").join(&unit.name);
            let stopped = marker.exists();
            match state {
                State::Running(pid) if ended.contains(pid) => {
                    *state = State::Due(now + RESTART, now + RESTART + PATIENCE);
                }
                State::Running(pid) if stopped => {
                    // Gone already, or collected by the next look.
                    let _ = kill(*pid, Signal::SIGKILL);
                }
                State::Due(_, limit) if stopped => {
                    *limit = now + PATIENCE;
                    // Whoever asks waits for this; one that started it again meanwhile does not.
                    let _ = File::options()
                        .write(true)
                        .open(&marker)
                        .and_then(|mut marker| marker.write_all(DOWN));
                }
                State::Due(earliest, limit)
                    if now >= *earliest && (now >= *limit || unit.needs.iter().all(met)) =>
                {
                    *state = start(boot, unit).map_or_else(
                        |error| {
                            // To init.log; a full disk is no reason to end the machine.
                            let _ = writeln!(std::io::stderr(), "{}: {error:#}", unit.name);
                            State::Due(now + RESTART, now + PATIENCE)
                        },
                        State::Running,
                    );
                }
                State::Running(_) | State::Due(..) => {}
            }
        }
        std::thread::sleep(LOOK);
    }
}

/// Collects all dead children: the daemons, and orphans of all kinds.
fn reap() -> Vec<Pid> {
    let mut ended = Vec::new();
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return ended,
            Ok(status) => ended.extend(status.pid()),
            Err(_) => return ended,
        }
    }
}

fn met(need: &Need) -> bool {
    match need {
        Need::Tcp(address, port) => {
            let address = (*address, *port).into();
            TcpStream::connect_timeout(&address, Duration::from_millis(100)).is_ok()
        }
        Need::Socket(path) => path.exists(),
    }
}

fn start(boot: &Boot, unit: &Unit) -> Result<Pid> {
    let log = boot.directory.join("log").join(format!("{}.log", unit.name));
    let log = File::options().create(true).append(true).open(log)?;
    let child = Command::new(Path::new(PROGRAMS).join(&boot.toolset).join(&unit.name))
        .args(&unit.args)
        .env_clear()
        .env("PATH", boot.path())
        .env("HOME", "/root")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0)
        .spawn()?;
    Ok(Pid::from_raw(i32::try_from(child.id())?))
}
