//! `bench-first-packet`: from a SliceConfig to the first answered ping between two clusters.
//!
//! A pod runs in either cluster and knows of no slice. Each round applies a new SliceConfig and
//! pings from inside the one pod's network namespace, every few milliseconds, from the moment the
//! other pod has an address of the slice; then the slice is deleted. What is told on the way (by
//! objects, by logs, by the pods' namespaces) is printed as a time line, so that one sees where
//! the time goes. Images are in the nodes before it begins.
//!
//! Needs root; uses the testbed named by `SLICEWIRE_TESTBED`.

mod logs;
mod observe;
mod round;
mod timeline;

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Parser;
use slicewire_bench_report::{Better, Report, Runs};
use slicewire_tests::bench;
use slicewire_tests::story::say;

use crate::round::Round;
use crate::timeline::Timeline;

const WHAT: &str = "SliceConfig to first ping between clusters";
const OURS: &str = "slicewire";
/// Seconds.
const LIMIT: f64 = 3.0;
const NAMESPACE: &str = "bench-first-packet";
const POD: &str = "app";

/// Measures how soon a new slice carries packets.
#[derive(Debug, Parser)]
#[command(name = "bench-first-packet")]
struct Args {
    /// How many slices, one after the other.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Show the time line of every round, too.
    #[arg(long)]
    each: bool,
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    ensure!(args.rounds > 0, "--rounds must be at least 1");
    let runtime = bench::runtime()?;
    let world = bench::world()?;
    bench::pods(&world, NAMESPACE, POD)?;
    let mut runs = Runs::default();
    let mut timelines = Vec::new();
    for number in 1..=args.rounds {
        let round = Round { world: &world, runtime: &runtime, number };
        match round.measure() {
            Ok((seconds, timeline)) => {
                say(&format!("round {number}/{}: {seconds:.2} s", args.rounds));
                runs.push(WHAT, OURS, seconds);
                if args.each {
                    timeline::print(std::slice::from_ref(&timeline), &mut io::stdout())?;
                }
                timelines.push(timeline);
            }
            Err(error) => {
                say(&format!("round {number}/{}: {error:#}", args.rounds));
                runs.fail(WHAT, OURS, format!("{error:#}"));
            }
        }
        round.clear()?;
    }
    bench::remove_namespaces(&world, NAMESPACE);
    tell(&runs, &timelines)
}

fn tell(runs: &Runs, timelines: &[Timeline]) -> Result<ExitCode> {
    let out = &mut io::stdout().lock();
    writeln!(out, "\nwhere the time goes, in ms after the SliceConfig was sent:")?;
    timeline::print(timelines, out)?;
    writeln!(out, "\nfor comparison: KubeSlice states about 120 s; it was not measured here")?;
    let mut report = Report::new("first-packet");
    report.limit(runs, WHAT, "s", Better::Lower, OURS, LIMIT);
    Ok(report.finish(out)?.exit_code())
}
