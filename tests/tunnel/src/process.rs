//! Child processes that never outlive what started them.

use std::{
    fs::File,
    os::{fd::AsFd, unix::process::CommandExt},
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    sched::{CloneFlags, setns},
    sys::{
        prctl,
        signal::{Signal, kill},
    },
    unistd::Pid,
};

/// How long a process may take to end after SIGTERM before it is killed.
const GRACE: Duration = Duration::from_secs(10);

/// Runs `command` to its end and returns what it wrote to standard output.
///
/// # Errors
/// When it cannot be started or does not exit with zero; the message holds its command line and
/// what it wrote.
pub fn output(command: &mut Command) -> Result<String> {
    let shown = format!("{command:?}");
    let done = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {shown}; is the program installed?"))?;
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    if done.status.success() {
        return Ok(text);
    }
    let errors = String::from_utf8_lossy(&done.stderr);
    bail!("{shown} ended with {}:\n{text}{errors}", done.status)
}

/// Makes `command` run in the network namespace `namespace` (an open `/run/netns/…`), and die
/// with the thread that starts it.
pub fn place(command: &mut Command, namespace: File) {
    // SAFETY: between fork and exec only setns and prctl are called, both async-signal-safe.
    unsafe {
        command.pre_exec(move || {
            setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET)?;
            prctl::set_pdeathsig(Signal::SIGKILL)?;
            Ok(())
        });
    }
}

/// A running daemon; dropping it ends it.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Daemon {
    /// Starts `command` with its output in the file `log`.
    ///
    /// # Errors
    /// When the log cannot be written or the program cannot be started.
    pub fn start(name: &str, command: &mut Command, log: PathBuf) -> Result<Self> {
        let file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot start {name}: {command:?}"))?;
        Ok(Self { child, name: name.to_owned(), log })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Polls `ready` until it holds.
    ///
    /// # Errors
    /// When the process ends first or `limit` passes; with the end of its log.
    pub fn wait_until(&mut self, limit: Duration, mut ready: impl FnMut() -> bool) -> Result<()> {
        let deadline = Instant::now() + limit;
        while !ready() {
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended early with {status}:\n{}", self.name, self.log_tail());
            }
            if Instant::now() > deadline {
                bail!("{} was not ready after {limit:?}:\n{}", self.name, self.log_tail());
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// The last lines it wrote.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// Ends it and returns its last lines.
    ///
    /// # Errors
    /// When it must be killed, or ends with an error.
    pub fn end(&mut self) -> Result<String> {
        self.stop();
        let status = self.child.wait()?;
        if !status.success() {
            bail!("{} ended with {status}:\n{}", self.name, self.log_tail());
        }
        Ok(self.log_tail())
    }

    fn stop(&mut self) {
        let _ = i32::try_from(self.child.id()).map(|pid| kill(Pid::from_raw(pid), Signal::SIGTERM));
        let deadline = Instant::now() + GRACE;
        while Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.stop();
        let _ = std::fs::remove_file(&self.log);
    }
}
