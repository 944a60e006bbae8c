//! The gateway's program.

mod backend;
mod kubernetes;
mod standalone;

use clap::{Parser, Subcommand};

/// Slicewire's gateway: WireGuard tunnels, in the kernel or by the embedded engine.
#[derive(Debug, Parser)]
#[command(name = "slice-gateway", version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs a gateway of a slice: its tunnels follow its SliceGateway.
    Kubernetes(kubernetes::Args),
    /// Runs one WireGuard device from a file in wg-quick's format, without Kubernetes.
    Run(standalone::Args),
}

fn main() -> anyhow::Result<()> {
    slicewire_runtime::init_telemetry();
    match Args::parse().command {
        Command::Kubernetes(args) => kubernetes::run(args),
        Command::Run(args) => standalone::run(&args),
    }
}
