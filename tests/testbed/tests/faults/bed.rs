//! The testbed under test, used as people use it: through its command line.

use std::process::{Command, Output};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use slicewire_testbed::paths::Paths;
use slicewire_testbed::plan::Machine;
use slicewire_testbed::{ClusterSpec, Testbed};

/// Its name; nobody else's may be called that.
pub(crate) const NAME: &str = "selftest";

/// The testbed under test.
pub(crate) struct Bed;

impl Bed {
    /// A handle; nothing is started.
    pub(crate) fn new() -> Self {
        Self
    }

    /// Its clusters, as on the command line.
    pub(crate) fn clusters(&self) -> [ClusterSpec; 2] {
        ["east", "west"].map(|name| ClusterSpec { name: name.to_owned(), nodes: 1 })
    }

    /// The command line `testbed --name selftest …`, to be started or awaited.
    pub(crate) fn command(&self, words: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_testbed"));
        command.args(["--name", NAME]).args(words.split_whitespace());
        command
    }

    /// The `up` of all clusters.
    pub(crate) fn up(&self) -> Command {
        let mut command = self.command("up");
        for cluster in self.clusters() {
            command.arg("--cluster").arg(cluster.to_string());
        }
        command
    }

    /// Runs `testbed --name selftest …`, whatever comes of it.
    pub(crate) fn output(&self, words: &str) -> Result<Output> {
        self.command(words).output().with_context(|| format!("cannot run testbed {words}"))
    }

    /// Runs it to its success; its standard output.
    pub(crate) fn run(&self, words: &str) -> Result<String> {
        checked(words, self.output(words)?)
    }

    /// Runs it to its failure; its standard error.
    pub(crate) fn refused(&self, words: &str) -> Result<String> {
        let output = self.output(words)?;
        ensure!(!output.status.success(), "testbed {words} succeeded");
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// Runs a shell script on a machine to its success; its standard output.
    pub(crate) fn sh(&self, machine: &str, script: &str) -> Result<String> {
        let mut command = self.command(&format!("exec {machine} --"));
        let output = command.args(["sh", "-ec", script]).output()?;
        checked(&format!("exec {machine}: {script}"), output)
    }

    /// Takes all faults back, as far as that is possible.
    pub(crate) fn clear(&self) {
        // There may be no testbed, or it is what is broken.
        let _ = self.output("fault clear");
    }

    /// A machine's names and addresses.
    pub(crate) fn machine(&self, name: &str) -> Result<Machine> {
        Ok(Testbed::open(NAME)?.machine(name)?.clone())
    }

    /// Where the testbed's things are.
    pub(crate) fn paths(&self) -> Result<Paths> {
        Paths::new(NAME)
    }

    /// The numbers, in the machine, of its processes that run a program.
    pub(crate) fn pids(&self, machine: &str, program: &str) -> Result<Vec<String>> {
        let said = self.sh(machine, &format!("pgrep -x {program} || true"))?;
        Ok(said.lines().map(str::to_owned).collect())
    }
}

fn checked(words: &str, output: Output) -> Result<String> {
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    bail!("testbed {words}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
}

/// Polls until something is so; how long it took.
pub(crate) fn until(
    what: &str,
    seconds: u64,
    mut so: impl FnMut() -> Result<bool>,
) -> Result<Duration> {
    let begin = Instant::now();
    while !so()? {
        ensure!(begin.elapsed().as_secs() < seconds, "{what}: not within {seconds} s");
        sleep(Duration::from_millis(100));
    }
    Ok(begin.elapsed())
}
