//! The command line of the testbed.

mod faults;

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use slicewire_testbed::build::Toolset;
use slicewire_testbed::paths::Paths;
use slicewire_testbed::{ClusterSpec, Progress, Spec, Testbed, images, init, packages, relay};

/// Real Kubernetes clusters on this machine, for tests and demonstrations.
#[derive(Parser)]
#[command(name = "testbed", version)]
struct Arguments {
    /// Which testbed: several can be up at once.
    #[arg(long, global = true, env = "SLICEWIRE_TESTBED", default_value = "main")]
    name: String,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Build Kubernetes and what belongs to it, once, and make the testbed's images.
    Build,
    /// Bring clusters up, or complete and repair those that are.
    Up {
        /// A cluster and its number of nodes, as in east:2; without any: hub:0 east:2 west:2.
        #[arg(long = "cluster", value_name = "NAME:NODES")]
        clusters: Vec<ClusterSpec>,
    },
    /// Take everything down and leave nothing behind.
    Down,
    /// Show what runs.
    Status,
    /// Run a command inside a node or control plane.
    Exec {
        /// As in `status`: east-1, hub-cp.
        machine: String,
        /// The command and its arguments.
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Load an OCI or Docker image archive into the nodes that do not have it.
    Load {
        /// The archives.
        #[arg(required = true)]
        archives: Vec<PathBuf>,
        /// Only into this cluster's nodes; may be repeated.
        #[arg(long = "cluster")]
        clusters: Vec<String>,
    },
    /// Print the path of a cluster's kubeconfig.
    Kubeconfig {
        /// The cluster.
        cluster: String,
    },
    /// Run kubectl on a cluster.
    Kubectl {
        /// The cluster.
        cluster: String,
        /// What kubectl is told.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Print the path of a built program: kubectl, helm, etcd, ctr, ...
    Path {
        /// The program.
        program: String,
    },
    /// Break something, or mend it again.
    #[command(subcommand)]
    Fault(faults::Fault),
    #[command(hide = true)]
    Relay { rules: PathBuf, cgroup: String, inner: String, outer: String },
    #[command(hide = true)]
    NodeBoot { config: PathBuf },
    #[command(hide = true)]
    NodeInit { config: PathBuf },
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            // Without standard error there is nobody to tell.
            let _ = writeln!(std::io::stderr(), "testbed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<ExitCode> {
    let progress = Progress::new();
    let name = &arguments.name;
    match arguments.action {
        Action::Build => {
            packages::ensure(&progress)?;
            let paths = Paths::new(name)?;
            let tools = Toolset::ensure(&paths, &progress)?;
            images::ensure(&paths, &tools, &progress)?;
            say(&tools.directory.display().to_string())?;
        }
        Action::Up { clusters } => up(name, clusters, &progress)?,
        Action::Down => Testbed::down(name, &progress)?,
        Action::Status => say(Testbed::open(name)?.status().trim_end())?,
        Action::Exec { machine, command } => {
            let words: Vec<&str> = command.iter().map(String::as_str).collect();
            return Err(Testbed::open(name)?.exec_command(&machine, &words)?.exec().into());
        }
        Action::Load { archives, clusters } => {
            let testbed = Testbed::open(name)?;
            for archive in archives {
                let taken = testbed.load(&archive, &clusters)?;
                progress.step(&format!("{}: loaded into {taken} nodes", archive.display()));
            }
        }
        Action::Kubeconfig { cluster } => {
            let testbed = Testbed::open(name)?;
            testbed.cluster(&cluster)?;
            say(&testbed.kubeconfig(&cluster).display().to_string())?;
        }
        Action::Kubectl { cluster, arguments } => {
            let testbed = Testbed::open(name)?;
            testbed.cluster(&cluster)?;
            return Err(testbed.kubectl_command(&cluster).args(arguments).exec().into());
        }
        Action::Path { program } => {
            let path = Toolset::planned(&Paths::new(name)?)?.program(&program);
            let path = path.canonicalize().map(|_| path).with_context(|| {
                format!("{program} is not there: build it with `testbed build`, if it is one of the testbed's")
            })?;
            say(&path.display().to_string())?;
        }
        Action::Fault(fault) => {
            let done = faults::run(&Testbed::open(name)?, fault)?;
            progress.step(&done);
        }
        Action::Relay { rules, cgroup, inner, outer } => {
            relay::run(rules, &cgroup, &inner, &outer)?
        }
        Action::NodeBoot { config } => say(&init::boot(&config)?.to_string())?,
        Action::NodeInit { config } => init::run(&config)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn up(name: &str, clusters: Vec<ClusterSpec>, progress: &Progress) -> Result<()> {
    let spec = match clusters.is_empty() {
        true => Spec::standard(name),
        false => Spec { name: name.to_owned(), clusters },
    };
    let testbed = Testbed::up(&spec, progress)?;
    say(testbed.status().trim_end())
}

fn say(text: &str) -> Result<()> {
    Ok(writeln!(std::io::stdout(), "{text}")?)
}
