//! `bench-policy`: what policies cost.
//!
//! *Load*: rules and endpoints into the kernel of a slice router, one endpoint's change, one
//! policy's change. *Packets*: throughput and round trips through the router, with all those rules
//! against none, and against as many rules asked one by one.
//!
//! Needs root, `iperf3` and `nft`; uses network namespaces of its own.

mod load;
mod packets;
mod slice;

use std::io;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Parser;
use slicewire_bench_report::{Report, Runs};

/// Measures what policies cost.
#[derive(Debug, Parser)]
#[command(name = "bench-policy")]
struct Args {
    /// Rules, over all policies.
    #[arg(long, default_value_t = 10_000)]
    rules: usize,
    /// Endpoints of the slice, each with an address of either family.
    #[arg(long, default_value_t = 100_000)]
    endpoints: usize,
    /// Pods on the node.
    #[arg(long, default_value_t = 100)]
    pods: usize,
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
    ensure!(args.rounds > 0 && args.pods > 1, "at least one round and two pods are needed");
    ensure!(args.rules >= 100 && args.endpoints > args.pods, "too few rules or endpoints");
    let mut report = Report::new("policy");
    let mut runs = Runs::default();
    for shape in slice::SHAPES {
        load::measure(&args, shape, &mut runs).await?;
    }
    load::tell(&runs, &mut report);
    if args.seconds > 0 {
        let mut runs = Runs::default();
        packets::measure(&args, &mut runs).await?;
        packets::tell(&runs, &mut report);
        report.failures(&runs);
    }
    Ok(report.finish(&mut io::stdout())?.exit_code())
}
