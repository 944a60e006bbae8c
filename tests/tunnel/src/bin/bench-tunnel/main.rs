//! `bench-tunnel`: the tunnel between two gateways, ours and everyone else's, in one run.
//!
//! Every round starts every candidate afresh, in another order, and measures it in the topology
//! of [`topology`]; the report compares medians over the rounds. A complete run of at least five
//! rounds writes `target/bench/tunnel.jsonl`, any other one `target/bench/tunnel-partial.jsonl`.
//! Needs root, iperf3, ethtool, wireguard-tools and openssl.

mod candidates;
mod measure;
mod plan;
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
    candidates::{ALL, Candidate},
    measure::measure,
    plan::{Part, Plan},
};

/// Fewer rounds than this are good for a look, not for a figure to be quoted.
const ROUNDS: usize = 5;

/// Measures tunnels against each other.
#[derive(Debug, Parser)]
#[command(name = "bench-tunnel")]
struct Args {
    /// How many times every candidate is measured.
    #[arg(long, default_value_t = ROUNDS)]
    rounds: usize,
    /// Only these measurements.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
    /// Only these candidates, and ours: `wireguard-go,boringtun`.
    #[arg(long, value_parser = candidate, value_delimiter = ',')]
    candidates: Vec<Candidate>,
    /// Seconds of every TCP run.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(2..=60))]
    seconds: u32,
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    ensure!(args.rounds > 0, "--rounds must be at least 1");
    let asked = |candidate: &Candidate| {
        args.candidates.is_empty() || args.candidates.contains(candidate) || *candidate == ALL[0]
    };
    let candidates: Vec<Candidate> = ALL.into_iter().filter(asked).collect();
    let plan = Plan::new(&args.only, args.seconds);
    let mut runs = Runs::default();
    let ready = prepare(&candidates, &mut runs, &plan)?;
    run(&ready, args.rounds, &plan, &mut runs)?;
    let out = &mut io::stdout().lock();
    summary::overview(&runs, &candidates, &plan, out)?;
    let complete = plan.is_complete() && candidates == ALL && args.rounds >= ROUNDS;
    let report = summary::report(complete, &runs, &candidates, &plan);
    Ok(report.finish(out)?.exit_code())
}

/// Every round, with a line of progress for every candidate's turn.
fn run(ready: &[Candidate], rounds: usize, plan: &Plan, runs: &mut Runs) -> Result<()> {
    let (started, turns) = (Instant::now(), rounds * ready.len());
    for round in 0..rounds {
        for (turn, index) in rotation(ready.len(), round).into_iter().enumerate() {
            let (candidate, done) = (ready[index], round * ready.len() + turn);
            let spent = started.elapsed().as_secs_f64();
            let left = match done {
                0 => String::new(),
                done => {
                    format!(", about {:.0} s left", spent / done as f64 * (turns - done) as f64)
                }
            };
            let text = format!("round {}/{rounds}: {}{left}", round + 1, candidate.name());
            writeln!(io::stderr(), "[{spent:4.0} s] {text}")?;
            runs.push(summary::FOREIGN, summary::MACHINE, processor::foreign_load()? * 100.0);
            measure(candidate, plan, runs);
        }
    }
    Ok(())
}

/// The candidate of this name; case does not matter.
fn candidate(name: &str) -> Result<Candidate, String> {
    let same = |candidate: &Candidate| candidate.name().eq_ignore_ascii_case(name);
    ALL.into_iter().find(same).ok_or_else(|| {
        let names: Vec<&str> = ALL.iter().map(|candidate| candidate.name()).collect();
        format!("no such candidate; there are {}", names.join(", "))
    })
}

/// Builds what is needed; who cannot be built is noted and left out. Without ours there is nothing
/// to compare the others with.
fn prepare(candidates: &[Candidate], runs: &mut Runs, plan: &Plan) -> Result<Vec<Candidate>> {
    let mut ready = Vec::new();
    for candidate in candidates {
        match candidate.prepare() {
            Ok(()) => ready.push(*candidate),
            Err(error) if *candidate == ALL[0] => return Err(error),
            Err(error) => {
                for metric in plan.metrics(*candidate) {
                    runs.fail(&metric.what, candidate.name(), format!("{error:#}"));
                }
            }
        }
    }
    Ok(ready)
}
