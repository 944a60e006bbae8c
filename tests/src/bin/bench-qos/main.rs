//! `bench-qos`: how well limits are kept, and what keeping them costs.
//!
//! Two slice routers, each with a pod, share one uplink of a given rate with a deep queue, as real
//! ones have. *Ceilings*: what passes, in TCP with several streams and in UDP. *Guarantees*: what a
//! slice with one gets against another that wants everything. *Round trips* of an idle slice while
//! the other fills the uplink, against none. *Cost*: processor time for a gigabyte, shaped with a
//! ceiling that is never reached against not shaped.
//!
//! Needs root, `iperf3` and `tc`; uses network namespaces of its own.

mod lab;
mod measure;

use std::io;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Parser;
use slicewire_bench_report::{Report, Runs};

/// Measures how well limits are kept, and what that costs.
#[derive(Debug, Parser)]
#[command(name = "bench-qos")]
struct Args {
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// How many times everything is measured.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let args = Args::parse();
    ensure!(args.rounds > 0 && args.seconds > 1, "at least one round of two seconds is needed");
    let mut report = Report::new("qos");
    let mut runs = Runs::default();
    let lab = lab::Lab::new().await?;
    let measured = measure::all(&lab, &args, &mut runs).await;
    lab.remove().await?;
    measured?;
    measure::tell(&runs, &mut report);
    report.failures(&runs);
    Ok(report.finish(&mut io::stdout())?.exit_code())
}
