//! `bench-attach`: how long a pod's start is held up until its slice NIC is usable, with 100 pods
//! of the slice on the node, against the CNI plugin `bridge` making an ordinary NIC there.
//!
//! Measured from outside: one plugin of the container runtime is called just before the daemon
//! and one just after it, for every sandbox whose network is ready. Between the two only the
//! daemon works. The second then enters the pod's namespace, before any container runs there, and
//! pings another pod over the new NIC, which shows that it is usable. `bridge` is run as the
//! runtime runs it: with fresh namespaces, in the node's own network namespace, in between.
//!
//! The machines of the other worker cluster, which have no part in this, are switched off meanwhile:
//! three clusters on one machine wait for each other's processors.
//!
//! Needs root; uses the testbed named by `SLICEWIRE_TESTBED`.

mod bridge;
mod ours;
mod pods;
mod quiet;

use std::io;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Parser;
use slicewire_bench_report::{Better, Report, Runs, Table, median, percentile, rotation};
use slicewire_tests::World;
use slicewire_tests::bench;
use slicewire_tests::story::say;

const OURS: &str = "slicewire";
const BRIDGE: &str = "bridge";
/// Until the daemon lets the runtime go on, having made the NIC.
const NIC: &str = "sandbox ready to NIC usable";
/// The same and a ping to another pod over it.
const PING: &str = "sandbox ready to first ping answered";
/// Milliseconds.
const LIMIT_P50: f64 = 10.0;
/// Milliseconds.
const LIMIT_P99: f64 = 50.0;

/// Measures how soon a new pod has its NIC.
#[derive(Debug, Parser)]
#[command(name = "bench-attach")]
struct Args {
    /// How many times both are measured, in turns.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How many pods each starts in a round, one after the other.
    #[arg(long, default_value_t = 20)]
    each: usize,
    /// How many other pods of the slice are on the node.
    #[arg(long, default_value_t = 100)]
    pods: usize,
    /// Leave the other pods for the next run.
    #[arg(long)]
    keep: bool,
}

/// Milliseconds of every run, by round.
#[derive(Debug, Default)]
struct Measured {
    nic: Vec<Vec<f64>>,
    ping: Vec<Vec<f64>>,
    bridge: Vec<Vec<f64>>,
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    ensure!(args.rounds > 0 && args.each > 0 && args.pods > 0, "every number must be at least 1");
    // Fails only if another part of the process chose before, which is as good.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let world = bench::world()?;
    let mut measured = Measured::default();
    let outcome = measure(&world, &args, &mut measured);
    if let Err(error) = &outcome {
        say(&format!("ended early: {error:#}"));
    }
    if !args.keep {
        pods::clear(&world)?;
    }
    tell(&measured, outcome.err())
}

fn measure(world: &World, args: &Args, measured: &mut Measured) -> Result<()> {
    let target = pods::crowd(world, args.pods)?;
    say(&format!("{} pods of the slice are on {}", args.pods, pods::NODE));
    let _quiet = quiet::Quiet::begin(world)?;
    let mut ours = ours::Ours::start(world, target)?;
    let mut bridge = bridge::Bridge::start(world, pods::NODE, args.pods)?;
    for round in 0..args.rounds {
        for who in rotation(2, round) {
            if who == 0 {
                let (nic, ping) = ours.round(args.each)?;
                say(&format!("round {}: ours {}", round + 1, spread(&nic)));
                measured.nic.push(nic);
                measured.ping.push(ping);
            } else {
                let times = bridge.round(args.each)?;
                say(&format!("round {}: bridge {}", round + 1, spread(&times)));
                measured.bridge.push(times);
            }
        }
    }
    Ok(())
}

fn spread(times: &[f64]) -> String {
    let at = |percent| percentile(times, percent).unwrap_or(f64::NAN);
    format!("p50 {:.1} ms, most {:.1} ms", at(50.0), at(100.0))
}

fn tell(measured: &Measured, error: Option<anyhow::Error>) -> Result<ExitCode> {
    let out = &mut io::stdout().lock();
    let mut table = Table::new(["ms", "p50", "p90", "p99", "least", "most", "pods"]);
    let mut runs = Runs::default();
    let rows =
        [(NIC, OURS, &measured.nic), (PING, OURS, &measured.ping), (NIC, BRIDGE, &measured.bridge)];
    for (what, who, rounds) in rows {
        let all: Vec<f64> = rounds.iter().flatten().copied().collect();
        let at =
            |percent| percentile(&all, percent).map_or("-".to_owned(), |ms| format!("{ms:.2}"));
        let name = format!("{who}: {}", if who == BRIDGE { "ADD" } else { what });
        table.row([name, at(50.0), at(90.0), at(99.0), at(0.0), at(100.0), all.len().to_string()]);
        for round in rounds {
            runs.push(&p50(what), who, median(round).unwrap_or(f64::NAN));
        }
        // A round alone has too few pods for a 99th percentile.
        runs.push(&p99(what), who, percentile(&all, 99.0).unwrap_or(f64::NAN));
        if let Some(error) = &error {
            runs.fail(&p50(what), who, format!("{error:#}"));
        }
    }
    table.print(out)?;
    let mut report = Report::new("attach");
    for what in [NIC, PING] {
        report.limit(&runs, &p50(what), "ms", Better::Lower, OURS, LIMIT_P50);
        report.limit(&runs, &p99(what), "ms", Better::Lower, OURS, LIMIT_P99);
    }
    report.compare(&runs, &p50(NIC), "ms", Better::Lower, OURS, BRIDGE, None);
    report.compare(&runs, &p99(NIC), "ms", Better::Lower, OURS, BRIDGE, None);
    report.failures(&runs);
    Ok(report.finish(out)?.exit_code())
}

fn p50(what: &str) -> String {
    format!("{what}, p50")
}

fn p99(what: &str) -> String {
    format!("{what}, p99")
}
