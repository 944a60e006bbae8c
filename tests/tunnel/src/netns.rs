//! Network namespaces of our own.

use std::{
    fs::{self, File},
    os::fd::AsFd,
    path::Path,
    process::Command,
    sync::{
        Once,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

use anyhow::{Context, Result, anyhow, ensure};
use nix::{
    sched::{CloneFlags, setns},
    unistd::geteuid,
};

use crate::process::{output, place};

/// Every namespace made here is called `swt<pid>n<number><label>`.
const PREFIX: &str = "swt";
/// Longest time a command run in a namespace may take.
const LIMIT: &str = "60";

/// A network namespace; dropping it deletes it.
#[derive(Debug)]
pub struct Netns {
    name: String,
}

/// A number no other object of this process has; it makes names unique.
pub fn unique() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl Netns {
    /// Makes a namespace with its loopback up; `label` is a short hint for people.
    ///
    /// # Errors
    /// Without root, or when the namespace cannot be made.
    pub fn new(label: &str) -> Result<Self> {
        ensure!(geteuid().is_root(), "network namespaces need root: run this as root");
        static REAP: Once = Once::new();
        REAP.call_once(remove_abandoned);
        let name = format!("{PREFIX}{}n{}{label}", std::process::id(), unique());
        output(Command::new("ip").args(["netns", "add", &name]))?;
        let made = Self { name };
        made.sh("ip link set lo up; sysctl -qw net.ipv6.conf.all.accept_dad=0 \
                 net.ipv6.conf.default.accept_dad=0")?;
        Ok(made)
    }

    /// Its name below `/run/netns`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs a shell script in it and returns its standard output.
    ///
    /// # Errors
    /// When any command of the script fails or a minute passes.
    pub fn sh(&self, script: &str) -> Result<String> {
        let mut command = self.command("timeout")?;
        output(command.args([LIMIT, "sh", "-ec", script]))
            .with_context(|| format!("in namespace {}", self.name))
    }

    /// A command that will run in it.
    ///
    /// # Errors
    /// When the namespace is gone.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Result<Command> {
        let mut command = Command::new(program);
        place(&mut command, self.open()?);
        Ok(command)
    }

    /// Runs `act` on a thread inside it: sockets opened there stay in the namespace.
    ///
    /// # Errors
    /// Those of `act`, or when the namespace cannot be entered.
    pub fn enter<T: Send>(&self, act: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let file = self.open()?;
        thread::scope(|scope| {
            let inside = scope.spawn(move || {
                setns(file.as_fd(), CloneFlags::CLONE_NEWNET).context("cannot enter namespace")?;
                act()
            });
            inside.join().map_err(|_| anyhow!("a thread in namespace {} panicked", self.name))?
        })
    }

    fn open(&self) -> Result<File> {
        let path = Path::new("/run/netns").join(&self.name);
        File::open(&path).with_context(|| format!("cannot open {}", path.display()))
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = output(Command::new("ip").args(["netns", "del", &self.name]));
    }
}

/// Connects two namespaces with a veth pair: (namespace, interface) twice, and the MTU of both.
///
/// # Errors
/// When a name is taken or a namespace is gone.
pub fn veth(left: (&Netns, &str), right: (&Netns, &str), mtu: u32) -> Result<()> {
    left.0.sh(&format!(
        "ip link add {} mtu {mtu} type veth peer name {} netns {} mtu {mtu}; ip link set {} up",
        left.1, right.1, right.0.name, left.1
    ))?;
    right.0.sh(&format!("ip link set {} up", right.1))?;
    Ok(())
}

/// Deletes namespaces whose process was killed before it could.
fn remove_abandoned() {
    let Ok(entries) = fs::read_dir("/run/netns") else { return };
    for name in entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()) {
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split_once('n'));
        if let Some(pid) = owner.and_then(|(pid, _)| pid.parse::<u32>().ok())
            && !Path::new("/proc").join(pid.to_string()).exists()
        {
            let _ = output(Command::new("ip").args(["netns", "del", &name]));
        }
    }
}
