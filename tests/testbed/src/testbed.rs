//! A testbed, running or not: the handle everything else works on.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::build::Toolset;
use crate::init::Boot;
use crate::paths::Paths;
use crate::plan::{Cluster, Machine, Plan};
use crate::process::{self, Identity, run, run_with_input};
use crate::spec::Spec;

/// What is remembered of a testbed that was brought up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Remembered {
    /// What was asked for.
    pub spec: Spec,
    /// The WAN block it got.
    pub index: u8,
}

/// One testbed.
#[derive(Debug, Clone)]
pub struct Testbed {
    /// Where its things are.
    pub paths: Paths,
    /// Its names and addresses.
    pub plan: Plan,
    /// The programs it runs.
    pub tools: Toolset,
}

impl Testbed {
    /// The testbed of that name.
    ///
    /// # Errors
    /// When none of that name was brought up.
    pub fn open(name: &str) -> Result<Self> {
        let paths = Paths::new(name)?;
        let Some(remembered) = remembered(&paths)? else {
            bail!("there is no testbed '{name}': bring it up with `testbed up`");
        };
        let plan = Plan::new(&remembered.spec, remembered.index);
        Ok(Self { tools: Toolset::planned(&paths)?, paths, plan })
    }

    /// The machine of that name.
    ///
    /// # Errors
    /// When there is none; the message names those there are.
    pub fn machine(&self, name: &str) -> Result<&Machine> {
        self.plan.machine(name).with_context(|| {
            let known: Vec<&str> = self.plan.machines().map(|m| m.name.as_str()).collect();
            format!("no machine '{name}': there are {}", known.join(", "))
        })
    }

    /// The cluster of that name.
    ///
    /// # Errors
    /// When there is none; the message names those there are.
    pub fn cluster(&self, name: &str) -> Result<&Cluster> {
        self.plan.cluster(name).with_context(|| {
            let known: Vec<&str> = self.plan.clusters.iter().map(|c| c.name.as_str()).collect();
            format!("no cluster '{name}': there are {}", known.join(", "))
        })
    }

    /// The administrator's kubeconfig of a cluster.
    pub fn kubeconfig(&self, cluster: &str) -> PathBuf {
        self.paths.kubeconfig(cluster)
    }

    /// A `kubectl` command on a cluster, to be given arguments.
    pub fn kubectl_command(&self, cluster: &str) -> Command {
        let mut command = Command::new(self.tools.program("kubectl"));
        command.arg("--kubeconfig").arg(self.kubeconfig(cluster));
        command
    }

    /// Runs `kubectl` on a cluster; its output.
    ///
    /// # Errors
    /// When it fails, with all it said.
    pub fn kubectl(&self, cluster: &str, args: &[&str]) -> Result<String> {
        run(self.kubectl_command(cluster).args(args))
    }

    /// Applies objects, as YAML or JSON, to a cluster.
    ///
    /// # Errors
    /// When `kubectl apply` fails, with all it said.
    pub fn apply(&self, cluster: &str, objects: &str) -> Result<String> {
        let args = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
        run_with_input(self.kubectl_command(cluster).args(args), objects.as_bytes())
    }

    /// A command that runs in a machine's namespaces, to be started or awaited.
    ///
    /// # Errors
    /// When there is no such machine or it is off.
    pub fn exec_command(&self, machine: &str, args: &[&str]) -> Result<Command> {
        let machine = self.machine(machine)?;
        let Some(init) = self.init(machine) else {
            bail!("{0} is off: switch it on with `testbed fault power-on {0}`", machine.name);
        };
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--target={}", init.pid))
            .args(["--mount", "--uts", "--ipc", "--net", "--pid", "--wd=/", "--"])
            .args(args)
            .env("PATH", self.boot(machine)?.path());
        Ok(command)
    }

    /// Runs a command in a machine's namespaces to its end, whatever that is.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn exec(&self, machine: &str, args: &[&str]) -> Result<Output> {
        let mut command = self.exec_command(machine, args)?;
        command.output().with_context(|| format!("cannot run {}", process::describe(&command)))
    }

    /// Runs a command in a machine's namespaces; its output.
    ///
    /// # Errors
    /// When it fails, with all it said.
    pub fn exec_checked(&self, machine: &str, args: &[&str]) -> Result<String> {
        run(&mut self.exec_command(machine, args)?)
    }

    /// Keeps others from changing this testbed until dropped.
    pub(crate) fn lock(&self) -> Result<Flock<File>> {
        lock_one(&self.paths)
    }

    /// The machine's first process, if it is on.
    pub fn init(&self, machine: &Machine) -> Option<Identity> {
        Identity::load(&self.init_file(machine))
    }

    /// Where the machine's first process is remembered.
    pub(crate) fn init_file(&self, machine: &Machine) -> PathBuf {
        self.paths.machine(&machine.name).join("init.json")
    }

    /// Where the machine's boot configuration is.
    pub(crate) fn boot_file(&self, machine: &Machine) -> PathBuf {
        self.paths.machine(&machine.name).join("boot.json")
    }

    fn boot(&self, machine: &Machine) -> Result<Boot> {
        Ok(serde_json::from_slice(&fs::read(self.boot_file(machine))?)?)
    }

    /// The machine's cgroup, below each hierarchy's root.
    pub fn machine_cgroup(&self, machine: &Machine) -> String {
        format!("{}/{}", self.plan.cgroup(), machine.name)
    }
}

/// What is remembered of a testbed, if it was brought up.
pub(crate) fn remembered(paths: &Paths) -> Result<Option<Remembered>> {
    match fs::read(paths.state().join("testbed.json")) {
        Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

pub(crate) fn remember(paths: &Paths, what: &Remembered) -> Result<()> {
    process::write_whole(&paths.state().join("testbed.json"), &serde_json::to_vec(what)?)
}

/// Keeps others from changing the testbeds of this machine at the same time.
pub(crate) fn lock_all(paths: &Paths) -> Result<Flock<File>> {
    lock_file(&paths.testbeds().join("lock"))
}

/// Keeps others from changing one testbed at the same time. To be taken before
/// [`lock_all`] by whoever needs both.
pub(crate) fn lock_one(paths: &Paths) -> Result<Flock<File>> {
    lock_file(&paths.lock())
}

/// An exclusive lock on a file that is made if need be.
pub(crate) fn lock_file(path: &Path) -> Result<Flock<File>> {
    fs::create_dir_all(path.parent().context("a file needs a directory")?)?;
    loop {
        let file = File::create(path)?;
        let lock = Flock::lock(file, FlockArg::LockExclusive)
            .map_err(|(_, errno)| errno)
            .with_context(|| format!("cannot lock {}", path.display()))?;
        // Whoever had it may have taken the file away.
        if fs::metadata(path).is_ok_and(|now| lock.metadata().is_ok_and(|l| l.ino() == now.ino())) {
            return Ok(lock);
        }
    }
}
