//! `bench-policy-reach`: from a policy on the hub to packets that are dropped in another cluster.
//!
//! A pod in one cluster pings one in the other every millisecond or so, from inside its network
//! namespace. Each round applies a SlicePolicy on the hub that the other cluster's nodes carry out,
//! and looks when the last answer came; then it is deleted, and looks when the first comes again.
//! Times are from the moment the request to the hub is sent.
//!
//! Needs root; uses the testbed named by `SLICEWIRE_TESTBED`.

mod round;

use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use slicewire_bench_report::{Better, Report, Runs, Table, percentile};
use slicewire_tests::World;
use slicewire_tests::bench::{self, netns::Netns};
use slicewire_tests::story::say;
use slicewire_tests::world::WORKERS;

use crate::round::Round;

const CUT: &str = "SlicePolicy on the hub to packets dropped in the other cluster";
const FREE: &str = "SlicePolicy deleted on the hub to packets passing in the other cluster";
const OURS: &str = "slicewire";
/// Milliseconds. Nobody set a goal: this is what a person takes for at once.
const LIMIT: f64 = 1_000.0;
const SLICE: &str = "reach";
const NAMESPACE: &str = "bench-policy-reach";
const POD: &str = "app";

/// Measures how soon a policy holds in another cluster.
#[derive(Debug, Parser)]
#[command(name = "bench-policy-reach")]
struct Args {
    /// How many times a policy is applied and deleted.
    #[arg(long, default_value_t = 30)]
    rounds: usize,
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    ensure!(args.rounds > 0, "--rounds must be at least 1");
    let runtime = bench::runtime()?;
    let world = bench::world()?;
    bench::pods(&world, NAMESPACE, POD)?;
    world.slice(SLICE, "10.92.0.0/16", NAMESPACE)?;
    let measured = measure(&world, &runtime, args.rounds);
    world.delete_slice(SLICE)?;
    bench::remove_namespaces(&world, NAMESPACE);
    tell(&measured?)
}

fn measure(world: &World, runtime: &tokio::runtime::Runtime, rounds: usize) -> Result<Runs> {
    let to = address(world)?;
    world.reaches((WORKERS[0], NAMESPACE, POD), IpAddr::V4(to), 60)?;
    let from = Netns::of_pod(world, WORKERS[0], NAMESPACE, POD)?;
    let hub = runtime.block_on(bench::client(&world.kubeconfig("hub")))?;
    let round = Round { runtime, hub: &hub, from: &from, to };
    let mut runs = Runs::default();
    for number in 1..=rounds {
        match round.measure() {
            Ok((cut, free)) => {
                say(&format!(
                    "round {number}/{rounds}: cut after {cut:.0} ms, free after {free:.0} ms"
                ));
                runs.push(CUT, OURS, cut);
                runs.push(FREE, OURS, free);
            }
            Err(error) => {
                say(&format!("round {number}/{rounds}: {error:#}"));
                runs.fail(CUT, OURS, format!("{error:#}"));
                round.clear()?;
            }
        }
    }
    Ok(runs)
}

fn address(world: &World) -> Result<Ipv4Addr> {
    let all = world.addresses(WORKERS[1], NAMESPACE, POD, SLICE)?;
    let v4 = all.into_iter().find_map(|address| match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    });
    v4.context("no IPv4 address")
}

fn tell(runs: &Runs) -> Result<ExitCode> {
    let mut table = Table::new(["ms", "p50", "p90", "p99", "least", "most", "rounds"]);
    let mut tails = Runs::default();
    for what in [CUT, FREE] {
        let times = runs.get(what, OURS).unwrap_or_default();
        let at = |percent| percentile(times, percent);
        let cells = [50.0, 90.0, 99.0, 0.0, 100.0]
            .map(|p| at(p).map_or("-".to_owned(), |ms| format!("{ms:.0}")));
        let row = [what.to_owned()].into_iter().chain(cells).chain([times.len().to_string()]);
        table.row(row);
        tails.push(&p99(what), OURS, at(99.0).unwrap_or(f64::NAN));
    }
    let out = &mut io::stdout().lock();
    writeln!(out)?;
    table.print(out)?;
    let mut report = Report::new("policy-reach");
    for what in [CUT, FREE] {
        report.limit(runs, what, "ms", Better::Lower, OURS, LIMIT);
        report.limit(&tails, &p99(what), "ms", Better::Lower, OURS, LIMIT);
    }
    Ok(report.finish(out)?.exit_code())
}

fn p99(what: &str) -> String {
    format!("{what}, p99")
}
