//! `bench-tunnel`: the tunnel between two gateways, ours and everyone else's, in one run.
//!
//! Every round starts every candidate afresh, in another order, and measures it in the topology
//! of [`topology`]; the report compares medians over the rounds and writes
//! `target/bench/tunnel.jsonl`. Needs root, iperf3, ethtool, wireguard-tools and openssl.

mod candidates;
mod measure;
mod processor;
mod summary;
mod tcp;
mod topology;
mod udp;

use std::{
    io::{self, Write},
    process::ExitCode,
    time::Instant,
};

use anyhow::{Result, ensure};
use clap::Parser;
use slicewire_bench_report::{Runs, rotation};

use crate::{
    candidates::{ALL, Candidate, QUICK},
    measure::{Plan, measure},
};

/// Measures tunnels against each other.
#[derive(Debug, Parser)]
#[command(name = "bench-tunnel")]
struct Args {
    /// How many times every candidate is measured [default: 5, or 3 with --quick].
    #[arg(long)]
    rounds: Option<usize>,
    /// Only the key figures, against wireguard-go, gotatun and boringtun.
    #[arg(long)]
    quick: bool,
    /// Only candidates whose names contain one of these words, and ours.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Seconds of every TCP run.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=60))]
    seconds: u32,
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    let rounds = args.rounds.unwrap_or(if args.quick { 3 } else { 5 });
    ensure!(rounds > 0, "--rounds must be at least 1");
    let everyone = if args.quick { &QUICK[..] } else { &ALL[..] };
    let candidates: Vec<Candidate> =
        everyone.iter().copied().filter(|candidate| wanted(*candidate, &args.only)).collect();
    let plan = Plan { full: !args.quick, seconds: args.seconds };
    let mut runs = Runs::default();
    let ready = prepare(&candidates, &mut runs, plan);
    let started = Instant::now();
    for round in 0..rounds {
        for index in rotation(ready.len(), round) {
            let candidate = ready[index];
            let text = format!("round {}/{rounds}: {}", round + 1, candidate.name());
            writeln!(io::stderr(), "[{:4.0} s] {text}", started.elapsed().as_secs_f64())?;
            runs.push(summary::FOREIGN, summary::MACHINE, processor::foreign_load()? * 100.0);
            measure(candidate, plan, &mut runs);
        }
    }
    let out = &mut io::stdout().lock();
    summary::overview(&runs, &candidates, plan, out)?;
    let report = summary::report(&runs, &candidates, plan);
    Ok(report.finish(out)?.exit_code())
}

/// Ours always; of the others, those asked for.
fn wanted(candidate: Candidate, only: &[String]) -> bool {
    candidate == ALL[0]
        || only.is_empty()
        || only.iter().any(|word| candidate.name().contains(word))
}

/// Builds what is needed; who cannot be built is noted and left out.
fn prepare(candidates: &[Candidate], runs: &mut Runs, plan: Plan) -> Vec<Candidate> {
    let mut ready = Vec::new();
    for candidate in candidates {
        match candidate.prepare() {
            Ok(()) => ready.push(*candidate),
            Err(error) => {
                for metric in plan.metrics(*candidate) {
                    runs.fail(&metric.what, candidate.name(), format!("{error:#}"));
                }
            }
        }
    }
    ready
}
