//! `bench-dns`: the DNS server of a node against CoreDNS.
//!
//! Both answer for the same services: ours as the daemon does, from what a node is told of them;
//! CoreDNS by its `kubernetes` plugin from an API server that has them, with its cache. Questions per
//! second as many as there can be, first with all processors for both the server and who asks, then with
//! half a one for the server; latencies at a fixed rate, and memory afterwards. The limit for a single
//! client, which a benchmark is, is taken off ours; everything else is as the daemon has it.
//!
//! Needs root, `dnsperf`, and builds CoreDNS and Kubernetes as the testbed does. Everything runs in a
//! network namespace of this process's own, which ends with it.

mod api;
mod load;
mod names;
mod serve;
mod servers;

use std::io;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};
use nix::sched::{CloneFlags, unshare};
use slicewire_bench_report::{Better, Report, Runs, rotation};
use slicewire_testbed::Progress;
use slicewire_testbed::build::Toolset;
use slicewire_testbed::paths::Paths;

use crate::servers::{COREDNS, OURS, Server};

const MAXIMUM: &str = "questions a second";
const PROCESSOR: &str = "processor time of an answer, as many as there can be";
const ASKER: &str = "processor time of a question, the asker's, as many as there can be";
const P50: &str = "answer at 10,000 questions a second, median";
const P99: &str = "answer at 10,000 questions a second, 99th percentile";
const MEMORY: &str = "resident memory after that";
const LIMITED: &str = "questions a second with half a processor";
/// So many processors a server has then: so few that it never waits for who asks.
const LIMIT: f64 = 0.5;
/// Questions a second at which latencies are measured.
const RATE: u32 = 10_000;

/// Measures the DNS server of a node.
#[derive(Debug, Parser)]
#[command(name = "bench-dns")]
struct Args {
    /// Services; a tenth of them headless.
    #[arg(long, default_value_t = 10_000)]
    services: u32,
    /// Endpoints of each.
    #[arg(long, default_value_t = 10)]
    endpoints: u32,
    /// How many times everything is measured.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    #[command(subcommand)]
    part: Option<Part>,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// Is our server, on a port of the local host.
    #[command(hide = true)]
    Serve { port: u16 },
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    ensure!(args.rounds > 0 && args.seconds > 0, "at least one round of a second is needed");
    ensure!((100..=50_000).contains(&args.services), "there are 100 to 50,000 services");
    ensure!((1..=20).contains(&args.endpoints), "a service has 1 to 20 endpoints");
    if let Some(Part::Serve { port }) = args.part {
        serve::serve(args.services, args.endpoints, port)?;
        return Ok(ExitCode::SUCCESS);
    }
    let tools = Toolset::ensure(&Paths::new("bench-dns")?, &Progress::new())?;
    enter()?;
    let mut runs = Runs::default();
    slicewire_tests::bench::runtime()?.block_on(measure(&args, &tools, &mut runs))?;
    let mut report = Report::new("dns");
    tell(&runs, &mut report);
    report.failures(&runs);
    Ok(report.finish(&mut io::stdout())?.exit_code())
}

/// Goes into a network namespace with nothing but itself. No other thread may run yet.
fn enter() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).context("a network namespace needs root")?;
    for words in ["link set lo up", "address add 192.0.2.1/32 dev lo"] {
        let done = Command::new("ip").args(words.split(' ')).status()?;
        ensure!(done.success(), "ip {words} failed");
    }
    Ok(())
}

async fn measure(args: &Args, tools: &Toolset, runs: &mut Runs) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let api = api::Api::start(tools, directory.path()).await?;
    api.fill(args.services, args.endpoints).await?;
    let questions = directory.path().join("questions");
    std::fs::write(&questions, names::questions(args.services))?;
    let servers = [
        Server::ours(args.services, args.endpoints)?,
        Server::coredns(tools, directory.path(), &api.kubeconfig())?,
    ];
    for server in &servers {
        server.wait(args.services)?;
    }
    let load = load::Load { questions: &questions, time: Duration::from_secs(args.seconds) };
    for round in 0..args.rounds {
        for index in rotation(servers.len(), round) {
            once(&load, &servers[index], runs);
        }
    }
    for server in &servers {
        match server.resident() {
            Ok(megabytes) => runs.push(MEMORY, server.name, megabytes),
            Err(error) => runs.fail(MEMORY, server.name, format!("{error:#}")),
        }
    }
    Ok(())
}

fn once(load: &load::Load<'_>, server: &Server, runs: &mut Runs) {
    match maximum(load, server) {
        Ok(Most { rate, processor, asker }) => {
            runs.push(MAXIMUM, server.name, rate);
            runs.push(PROCESSOR, server.name, processor);
            runs.push(ASKER, server.name, asker);
        }
        Err(error) => runs.fail(MAXIMUM, server.name, format!("{error:#}")),
    }
    match server.limited(LIMIT, || load.maximum(server.port)) {
        Ok((rate, _)) => runs.push(LIMITED, server.name, rate),
        Err(error) => runs.fail(LIMITED, server.name, format!("{error:#}")),
    }
    match load.latencies(server.port, RATE) {
        Ok([median, late]) => {
            runs.push(P50, server.name, median);
            runs.push(P99, server.name, late);
        }
        Err(error) => runs.fail(P50, server.name, format!("{error:#}")),
    }
}

/// Answers a second, and what one takes of the processors, in microseconds: who asks shares them, so
/// that answers a second say less about servers the faster they are.
struct Most {
    rate: f64,
    processor: f64,
    asker: f64,
}

fn maximum(load: &load::Load<'_>, server: &Server) -> Result<Most> {
    let before = server.used()?;
    let (rate, asker) = load.maximum(server.port)?;
    let used = server.used()?.saturating_sub(before);
    let processor = used.as_secs_f64() * 1e6 / (rate * load.time.as_secs_f64());
    Ok(Most { rate, processor, asker })
}

fn tell(runs: &Runs, report: &mut Report) {
    let rows = [
        (MAXIMUM, "1/s", Better::Higher, Some(3.0)),
        (LIMITED, "1/s", Better::Higher, Some(3.0)),
        (PROCESSOR, "us", Better::Lower, Some(3.0)),
        (ASKER, "us", Better::Lower, None),
        (P50, "us", Better::Lower, Some(1.0)),
        (P99, "us", Better::Lower, Some(1.0)),
        (MEMORY, "MB", Better::Lower, Some(3.0)),
    ];
    for (what, unit, better, goal) in rows {
        report.compare(runs, what, unit, better, OURS, COREDNS, goal);
    }
}
