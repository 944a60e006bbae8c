//! `bench-api`: the hub's API for portals, against `kubectl` and the API server on the same machine.
//!
//! A hub without nodes, a real API server, holds 100 clusters and 1,000 slices in 10 projects, all
//! planned by the hub controller that also serves the API. Measured are: getting, listing and creating
//! slices; calls per second; how soon 1,000 watchers hear of a change and what they cost; and what one
//! identity's flood does to another. Everything shares the machine, the watchers included. Needs root
//! and `target/release/controller`; uses a testbed of its own, `api-bench`, which it takes down.

mod calls;
mod flood;
mod hub;
mod load;
mod watchers;

use std::io;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Parser;
use slicewire_bench_report::{Better, Report, Runs};
use slicewire_testbed::{ClusterSpec, Progress, Spec, Testbed};
use slicewire_tests::story::say;

use crate::hub::Hub;

const TESTBED: &str = "api-bench";

/// Measures the API for portals.
#[derive(Debug, Parser)]
#[command(name = "bench-api")]
struct Args {
    /// Projects; each has its share of clusters and slices.
    #[arg(long, default_value_t = 10)]
    projects: usize,
    /// Clusters in all.
    #[arg(long, default_value_t = 100)]
    clusters: usize,
    /// Slices in all.
    #[arg(long, default_value_t = 1000)]
    slices: usize,
    /// Watchers at a time.
    #[arg(long, default_value_t = 1000)]
    watchers: usize,
    /// How many times everything is measured.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Leave the testbed up, and take up one that was left: objects that are there are not made again.
    #[arg(long)]
    keep: bool,
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    ensure!(args.projects > 0 && args.rounds > 0, "every number must be at least 1");
    ensure!(args.clusters >= 2 * args.projects, "every project needs two clusters");
    let clusters = vec![ClusterSpec { name: "hub".to_owned(), nodes: 0 }];
    let testbed = Testbed::up(&Spec { name: TESTBED.to_owned(), clusters }, &Progress::new())?;
    let measured = measure(&testbed, &args);
    if !args.keep {
        Testbed::down(TESTBED, &Progress::new())?;
    }
    tell(&measured?)
}

fn measure(testbed: &Testbed, args: &Args) -> Result<Runs> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize()?;
    let place = hub::prepare(testbed, &root)?;
    let mut runs = Runs::default();
    // Without limits, so that they are not what is measured.
    let hub = Hub::start(testbed, &place, true)?;
    let tokens = load::load(testbed, &hub, args)?;
    for round in 0..args.rounds {
        say(&format!("round {}/{}: calls", round + 1, args.rounds));
        calls::measure(testbed, &hub, &tokens, round, &mut runs)?;
    }
    drop(hub);
    // As it comes.
    let hub = Hub::start(testbed, &place, false)?;
    hub.settle()?;
    watchers::measure(testbed, &hub, &tokens, args, &mut runs)?;
    for round in 0..args.rounds {
        say(&format!("round {}/{}: flood", round + 1, args.rounds));
        flood::measure(&hub, &tokens, &mut runs)?;
    }
    Ok(runs)
}

fn tell(runs: &Runs) -> Result<ExitCode> {
    let out = &mut io::stdout().lock();
    let mut report = Report::new("api");
    for call in ["get a slice", "list 500 slices", "create a slice"] {
        for part in ["p50", "p99"] {
            let what = format!("{call}, {part}");
            report.compare(runs, &what, "ms", Better::Lower, "ours", "kubectl --raw", Some(1.0));
            report.compare(
                runs,
                &what,
                "ms",
                Better::Lower,
                "ours",
                "API server, connection kept",
                None,
            );
        }
    }
    let (what, unit) = ("gets a second, 16 at a time", "1/s");
    report.compare(runs, what, unit, Better::Higher, "ours", "kubectl --raw", Some(1.0));
    report.compare(runs, what, unit, Better::Higher, "ours", "API server, connection kept", None);
    let limits = [
        (watchers::FAN_OUT, "ms", 100.0),
        (watchers::RESIDENT, "MB", 120.0),
        // A thousand of them have to find room in it.
        (watchers::PER_WATCHER, "kB", 100.0),
        (flood::RATIO, "times", 2.0),
    ];
    for (what, unit, limit) in limits {
        report.limit(runs, what, unit, Better::Lower, "ours", limit);
    }
    report.failures(runs);
    Ok(report.finish(out)?.exit_code())
}
