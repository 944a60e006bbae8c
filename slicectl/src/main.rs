//! The command line: from empty clusters to a slice, and back.

mod apply;
mod cluster;
mod install;
mod join;
mod manifests;
mod progress;
mod ready;
mod status;
mod table;
mod uninstall;

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

/// Private networks for chosen pods across Kubernetes clusters.
///
/// Three commands from empty clusters to a slice: `slicectl install hub`, `slicectl join` for each
/// cluster, `kubectl apply` of a SliceConfig on the hub.
#[derive(Parser)]
#[command(name = "slicectl", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install a part of Slicewire.
    #[command(subcommand)]
    Install(Install),
    /// Make a cluster a member of a project: installs the worker and gives it its credential.
    Join(join::Arguments),
    /// Show slices: gateways, tunnels, pods, what is not ready and why. Exit status 2: not ready.
    Status(status::Arguments),
    /// Remove Slicewire without a trace; pods keep running.
    #[command(subcommand)]
    Uninstall(Uninstall),
}

#[derive(Subcommand)]
enum Install {
    /// The hub, where projects, clusters and slices are declared.
    Hub(install::HubArguments),
}

#[derive(Subcommand)]
enum Uninstall {
    /// The hub: all slices, clusters and projects, then the hub itself.
    Hub(uninstall::Arguments),
    /// A worker: detaches all pods, cleans every node, then removes the components.
    Worker(uninstall::Arguments),
}

/// Which images to run.
#[derive(Args, Clone)]
pub(crate) struct ImageArguments {
    /// Registry and path of the images.
    #[arg(long, default_value = "slicewire.dev")]
    pub(crate) image_prefix: String,
    /// Tag of the images.
    #[arg(long, default_value = env!("CARGO_PKG_VERSION"))]
    pub(crate) image_tag: String,
    /// When nodes pull images: Always, IfNotPresent or Never.
    #[arg(long, default_value = "IfNotPresent", value_parser = ["Always", "IfNotPresent", "Never"])]
    pub(crate) image_pull_policy: String,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            progress::line(&format!("error: cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(cli)) {
        Ok(code) => code,
        Err(error) => {
            progress::line(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        Command::Install(Install::Hub(arguments)) => install::hub(arguments).await?,
        Command::Join(arguments) => join::join(arguments).await?,
        Command::Status(arguments) => return status::status(arguments).await,
        Command::Uninstall(Uninstall::Hub(arguments)) => uninstall::hub(arguments).await?,
        Command::Uninstall(Uninstall::Worker(arguments)) => uninstall::worker(arguments).await?,
    }
    Ok(ExitCode::SUCCESS)
}
