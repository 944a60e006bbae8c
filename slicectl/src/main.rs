//! The command line: from empty clusters to a slice, and back.

mod apply;
mod cluster;
mod dns;
mod exchange;
mod explain;
mod install;
mod join;
mod leave;
mod manifests;
mod plain;
mod policy;
mod progress;
mod qos;
mod ready;
mod rotate_keys;
mod services;
mod status;
mod table;
mod ticket;
mod token;
mod uninstall;

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

/// Private networks for chosen pods across Kubernetes clusters.
///
/// From empty clusters to a slice: `slicectl install hub`; for each cluster `slicectl token create` on
/// the hub and `slicectl join` with what it prints; `kubectl apply` of a SliceConfig on the hub.
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
    /// Let clusters into a project.
    #[command(subcommand)]
    Token(token::Command),
    /// Make a cluster a member of a project: installs the worker and gives it its credential.
    Join(join::Arguments),
    /// End a membership from the cluster's side: tells the hub, then removes the worker.
    Leave(uninstall::Arguments),
    /// End a membership from the hub's side, at once, whether the cluster answers or not.
    Evict(leave::EvictArguments),
    /// Show slices: gateways, tunnels, pods, what is not ready and why. Exit status 2: not ready.
    Status(status::Arguments),
    /// Show what slices are promised and what they got, per cluster and node. Exit status 2: something
    /// promised cannot be kept.
    Qos(qos::Arguments),
    /// Show who may talk to whom on slices, and what a change would open or close.
    #[command(subcommand)]
    Policy(policy::Command),
    /// Give a slice's gateways new keys, and their tunnels new pre-shared keys, without losing a packet.
    RotateKeys(rotate_keys::Arguments),
    /// Show the services of a worker cluster's slices: addresses, ports, who is ready.
    Services(services::ServicesArguments),
    /// Tell what a name means to a pod, and why: clusters, endpoints, health. Exit status 2: nothing.
    Resolve(services::ResolveArguments),
    /// Show whether a worker cluster's DNS asks the nodes for names of slices, and what to do where it
    /// does not. Exit status 2: it does not.
    Dns(dns::Arguments),
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
        Command::Token(command) => return token::run(command).await,
        Command::Join(arguments) => join::join(arguments).await?,
        Command::Leave(arguments) => leave::leave(arguments).await?,
        Command::Evict(arguments) => leave::evict(arguments).await?,
        Command::Status(arguments) => return status::status(arguments).await,
        Command::Qos(arguments) => return qos::qos(arguments).await,
        Command::Policy(command) => return policy::run(command).await,
        Command::Dns(arguments) => return dns::tell(arguments).await,
        Command::RotateKeys(arguments) => rotate_keys::rotate_keys(arguments).await?,
        Command::Services(arguments) => return services::services(arguments).await,
        Command::Resolve(arguments) => return services::resolve(arguments).await,
        Command::Uninstall(Uninstall::Hub(arguments)) => uninstall::hub(arguments).await?,
        Command::Uninstall(Uninstall::Worker(arguments)) => uninstall::worker(arguments).await?,
    }
    Ok(ExitCode::SUCCESS)
}
