//! `bench-service-reach`: from a ServiceExport in one cluster to an answer by name in the other.
//!
//! A pod in one cluster asks a Service of the other cluster by its name, over and over, as any program
//! would: the resolver of its C library, the cluster's DNS, HTTP. Each sample has a name of its own, is
//! exported, answered, and not exported any more. Half of the clients have been asking since before the
//! export, so that whoever remembers that there was no such name is part of what is measured; the
//! other half begin to ask right after it.
//!
//! Times are from the API server's answer to the export, or to its deletion. They are read inside of
//! the pod and here from one clock, in steps of 10 ms.
//!
//! Needs root; uses the testbed named by `SLICEWIRE_TESTBED`.

mod client;
mod sample;

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Parser;
use slicewire_bench_report::{Better, Report, Runs, Table, percentile, rotation};
use slicewire_tests::World;
use slicewire_tests::bench;
use slicewire_tests::story::say;
use slicewire_tests::world::WORKERS;

use crate::sample::{Begins, Sampler};

const BEFORE: &str = "ServiceExport to the first answer, asked for since before";
const AFTER: &str = "ServiceExport to the first answer, asked for from then on";
const LAST: &str = "ServiceExport deleted to the last request that is answered";
const GONE: &str = "ServiceExport deleted to the client's being told that there is no such name";
const OURS: &str = "slicewire";
/// Milliseconds. Of deletions nobody set a goal: this is what a person takes for at once.
const LIMIT: f64 = 1_000.0;
const SLICE: &str = "service-reach";
const NAMESPACE: &str = "bench-service-reach";
const POD: &str = "app";

/// Measures how soon an export is of use in another cluster.
#[derive(Debug, Parser)]
#[command(name = "bench-service-reach")]
struct Args {
    /// How many times a Service is exported for either kind of client.
    #[arg(long, default_value_t = 20)]
    rounds: usize,
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    ensure!(args.rounds > 0, "--rounds must be at least 1");
    let runtime = bench::runtime()?;
    let world = bench::world()?;
    bench::pods(&world, NAMESPACE, POD)?;
    world.slice(SLICE, "10.93.0.0/16", NAMESPACE)?;
    let measured = measure(&world, &runtime, args.rounds);
    bench::remove_namespaces(&world, NAMESPACE);
    world.delete_slice(SLICE)?;
    tell(&measured?)
}

fn measure(world: &World, runtime: &tokio::runtime::Runtime, rounds: usize) -> Result<Runs> {
    let [near, far] = WORKERS;
    for address in world.addresses(far, NAMESPACE, POD, SLICE)? {
        world.reaches((near, NAMESPACE, POD), address, 60)?;
    }
    let exporter = runtime.block_on(bench::client(&world.kubeconfig(far)))?;
    let sampler = Sampler { world, runtime, exporter: &exporter };
    let kinds = [(Begins::Before, BEFORE), (Begins::After, AFTER)];
    let mut runs = Runs::default();
    for round in 0..rounds {
        for index in rotation(kinds.len(), round) {
            let (begins, what) = kinds[index];
            let name = format!("web-{}-{round}", if index == 0 { "before" } else { "after" });
            match sampler.measure(&name, begins) {
                Ok(took) => {
                    let (first, last, gone) = (took.first, took.last, took.gone);
                    say(&format!(
                        "{name}: answered after {first:.0} ms; deleted: the last answer after \
                         {last:.0} ms, no such name after {gone:.0} ms"
                    ));
                    runs.push(what, OURS, first);
                    runs.push(LAST, OURS, last);
                    runs.push(GONE, OURS, gone);
                }
                Err(error) => {
                    say(&format!("{name}: {error:#}"));
                    runs.fail(what, OURS, format!("{error:#}"));
                }
            }
        }
    }
    Ok(runs)
}

fn tell(runs: &Runs) -> Result<ExitCode> {
    let all = [BEFORE, AFTER, LAST, GONE];
    let mut table = Table::new(["ms", "p50", "p90", "p99", "least", "most", "samples"]);
    for what in all {
        let times = runs.get(what, OURS).unwrap_or_default();
        let at = |percent| percentile(times, percent);
        let cells = [50.0, 90.0, 99.0, 0.0, 100.0]
            .map(|p| at(p).map_or("-".to_owned(), |ms| format!("{ms:.0}")));
        let row = [what.to_owned()].into_iter().chain(cells).chain([times.len().to_string()]);
        table.row(row);
    }
    let out = &mut io::stdout().lock();
    writeln!(out)?;
    table.print(out)?;
    let mut report = Report::new("service-reach");
    for what in all {
        report.limit(runs, what, "ms", Better::Lower, OURS, LIMIT);
    }
    report.failures(runs);
    Ok(report.finish(out)?.exit_code())
}
