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
mod ways;

use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, ensure};
use clap::Parser;
use slicewire_bench_report::{Better, Report, Runs};
use slicewire_testbed::{ClusterSpec, Progress, Spec, Testbed};
use slicewire_tests::story::say;

use crate::hub::Hub;
use crate::ways::{Deed, Way, Ways};

const TESTBED: &str = "api-bench";
const OURS: &str = "ours";

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
    #[arg(long, default_value_t = 3)]
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
    let mut runs = Runs::default();
    if let Err(error) = measure(&testbed, &args, &mut runs) {
        say(&format!("ended early: {error:#}"));
        runs.fail("all that was to follow", OURS, format!("{error:#}"));
    }
    if !args.keep {
        Testbed::down(TESTBED, &Progress::new())?;
    }
    tell(&runs)
}

fn measure(testbed: &Testbed, args: &Args, runs: &mut Runs) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize()?;
    let place = hub::prepare(testbed, &root)?;
    // Without limits, so that they are not what is measured.
    let hub = Hub::start(testbed, &place, true)?;
    let callers = load::load(testbed, &hub, args)?;
    let run = &hub.portal.runtime;
    let client = run.block_on(load::client(&testbed.kubeconfig("hub")))?;
    let ways = run.block_on(Ways::new(testbed, &hub, &callers))?;
    for round in 0..args.rounds {
        let begun = Instant::now();
        calls::measure(&hub, &ways, round, runs)?;
        let took = begun.elapsed().as_secs_f64();
        runs.push(hub::RESIDENT_CALLED, OURS, hub.resident()?);
        let begun = Instant::now();
        let made = run.block_on(load::clear(&client))?;
        hub.settle()?;
        say(&format!(
            "round {}/{}: called for {took:.0} s; {made} slices gone again in {:.0} s",
            round + 1,
            args.rounds,
            begun.elapsed().as_secs_f64()
        ));
    }
    drop(hub);
    // As it comes.
    let hub = Hub::start(testbed, &place, false)?;
    hub.settle()?;
    watchers::measure(testbed, &hub, &callers, args, runs)?;
    for round in 0..args.rounds {
        say(&format!("round {}/{}: flood", round + 1, args.rounds));
        flood::measure(&hub, &callers.tokens, runs)?;
    }
    Ok(())
}

fn tell(runs: &Runs) -> Result<ExitCode> {
    let out = &mut io::stdout().lock();
    let mut report = Report::new("api");
    let (kubectl, kept) = (Way::Kubectl.who(), Way::Kept.who());
    for deed in Deed::ALL {
        for part in ["p50", "p99"] {
            let what = calls::latency(deed, part);
            report.compare(runs, &what, "ms", Better::Lower, OURS, kubectl, Some(1.0));
            report.compare(runs, &what, "ms", Better::Lower, OURS, kept, None);
        }
        let what = calls::throughput(deed);
        report.compare(runs, &what, "1/s", Better::Higher, OURS, kubectl, Some(1.0));
        report.compare(runs, &what, "1/s", Better::Higher, OURS, kept, None);
    }
    let limits = [
        (watchers::FAN_OUT, "ms", 100.0),
        (watchers::RESIDENT, "MB", 120.0),
        (hub::RESIDENT_CALLED, "MB", 120.0),
        // A thousand of them have to find room in it.
        (watchers::PER_WATCHER, "kB", 100.0),
        (flood::RATIO, "times", 2.0),
    ];
    for (what, unit, limit) in limits {
        report.limit(runs, what, unit, Better::Lower, OURS, limit);
    }
    report.failures(runs);
    Ok(report.finish(out)?.exit_code())
}
