//! `bench-services`: what virtual addresses cost.
//!
//! *Load*: services and their endpoints into the kernel of a slice router, and single changes, from
//! what is told of a service to the kernel's word that it is done. *Packets*: throughput, connections
//! and round trips to a virtual address against the pod's own through the same router. Both against
//! rules of kube-proxy's form, loaded by `nft` as kube-proxy does.
//!
//! Needs root, `iperf3` and `nft`; uses network namespaces of its own.

mod load;
mod packets;
mod proxy;
mod service;

use std::io;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Parser;
use slicewire_bench_report::{Report, Runs};

/// Measures what virtual addresses cost.
#[derive(Debug, Parser)]
#[command(name = "bench-services")]
struct Args {
    /// Services, each with a virtual address and a port.
    #[arg(long, default_value_t = 10_000)]
    services: u32,
    /// Endpoints of each.
    #[arg(long, default_value_t = 10)]
    endpoints: u32,
    /// How many times everything is measured.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of each measurement of packets; 0: none.
    #[arg(long, default_value_t = 3)]
    seconds: u64,
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let args = Args::parse();
    ensure!(args.rounds > 0, "at least one round is needed");
    ensure!((100..=50_000).contains(&args.services), "there are 100 to 50,000 services");
    ensure!((2..=20).contains(&args.endpoints), "a service has 2 to 20 endpoints");
    let mut report = Report::new("services");
    let mut runs = Runs::default();
    load::measure(&args, &mut runs).await?;
    load::tell(&runs, &mut report);
    if args.seconds > 0 {
        packets::measure(&args, &mut runs).await?;
        load::tell_theirs(&runs, &mut report);
        packets::tell(&runs, &mut report);
    }
    report.failures(&runs);
    Ok(report.finish(&mut io::stdout())?.exit_code())
}
