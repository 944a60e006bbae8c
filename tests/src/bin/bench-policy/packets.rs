//! Packets through a slice router: two pods with kernels of their own, under no rules, under all
//! of them, and under as many asked one by one. "No rules" is measured twice: how far the two figures
//! differ is how little a difference may say.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use slicewire_bench_report::{Better, Report, Runs, rotation};
use slicewire_core::policy::{Compiler, Delta};
use slicewire_tests::bench::router::{ECHO_PORT, Lab, Place, STREAM_PORT};

use crate::Args;
use crate::slice::{self, Shape};

const CANDIDATES: [&str; 4] = ["policies", "no rules", "one by one", "no rules, again"];
/// How long after a change of rules packets are measured.
const SETTLED: Duration = Duration::from_secs(1);
const THROUGHPUT: &str = "TCP, one stream";
const ROUND_TRIP: &str = "round trip on a connection, median";

/// Measures all candidates in turn.
pub(crate) async fn measure(args: &Args, runs: &mut Runs) -> Result<()> {
    let place = |number| Place {
        device: slice::device(number),
        mac: slice::mac(number),
        addresses: slice::addresses(number),
    };
    let lab = Lab::new("policy", [place(0), place(1)]).await?;
    let measured = rounds(&lab, args, runs).await;
    lab.remove().await?;
    measured
}

async fn rounds(lab: &Lab, args: &Args, runs: &mut Runs) -> Result<()> {
    let apps = slice::apps(args.endpoints);
    let policies = slice::policies(Shape::Shared, args.rules, args.pods, apps);
    let mut compiler = Compiler::new(1);
    compiler.change_endpoints(slice::endpoints(args.endpoints, args.pods)?);
    compiler.set_situation(slice::situation(policies, args.pods));
    for round in 0..args.rounds {
        for index in rotation(CANDIDATES.len(), round) {
            let who = CANDIDATES[index];
            rules(lab, who, &compiler, args.rules).await?;
            once(lab, who, args.seconds, runs);
        }
    }
    rules(lab, "no rules", &compiler, args.rules).await
}

async fn rules(lab: &Lab, who: &str, compiler: &Compiler, rules: usize) -> Result<()> {
    lab.filter.remove().await?;
    lab.shell("nft delete table inet contrast 2>/dev/null; true", "")?;
    match who {
        "policies" => lab.filter.apply(Delta::whole(compiler.ruleset())).await?,
        "one by one" => lab.shell("nft -f -", &linear(rules))?,
        _ => {}
    }
    // The kernel goes on freeing what the last rules took.
    tokio::time::sleep(SETTLED).await;
    Ok(())
}

fn once(lab: &Lab, who: &str, seconds: u64, runs: &mut Runs) {
    let mut note = |what: &str, measured: Result<f64>| match measured {
        Ok(value) => runs.push(what, who, value),
        Err(error) => runs.fail(what, who, format!("{error:#}")),
    };
    let server = slice::addresses(1)[0];
    // Streams differ from each other more than seconds of a stream do.
    for _ in 0..seconds {
        note(THROUGHPUT, lab.throughput(SocketAddr::new(server, STREAM_PORT), 1));
    }
    let echo = SocketAddr::new(server, ECHO_PORT);
    note(ROUND_TRIP, lab.round_trip(echo, server, Duration::from_secs(seconds)));
}

/// As many rules, each naming an address and a port, in one chain; what is measured comes last.
fn linear(rules: usize) -> String {
    let mut text = String::from(
        "table inet contrast {\nchain forward {\ntype filter hook forward priority 0; policy drop;\n\
         ct state established,related accept\n",
    );
    for number in 0..rules {
        let address = slice::addresses(1000 + number)[0];
        let port = 6000 + number % 50_000;
        text.push_str(&format!("ip saddr {address} tcp dport {port} accept\n"));
    }
    text.push_str("tcp dport 5000-5400 accept\n}\n}\n");
    text
}

/// Adds what was measured to the report, with its goals: less than 2 % of throughput, less than
/// 5 % of a round trip. Rules asked one by one cost an established connection its tracking and
/// one rule, which is the least that any rules with replies can cost.
pub(crate) fn tell(runs: &Runs, report: &mut Report) {
    let [ours, none, linear, again] = CANDIDATES;
    let rows =
        [(THROUGHPUT, "Gbit/s", Better::Higher, 0.98), (ROUND_TRIP, "us", Better::Lower, 0.95)];
    for (what, unit, better, goal) in rows {
        report.compare(runs, what, unit, better, ours, none, Some(goal));
        report.compare(runs, what, unit, better, ours, again, None);
        report.compare(runs, what, unit, better, ours, linear, None);
    }
}
