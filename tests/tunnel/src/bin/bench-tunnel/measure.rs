//! What is measured of one candidate in one round.

use std::time::Duration;

use anyhow::{Context, Result};
use slicewire_bench_report::{Better, Runs};
use slicewire_tunnel_tests::{device::Implementation, flood::Flood};

use crate::{
    candidates::{Candidate, PORT, Running},
    processor::peak_memory,
    tcp::{Tcp, tcp, under_load},
    topology::{GATEWAYS, Mode, Net},
    udp::{RoundTrips, flood, round_trips},
};

/// Payload of a small packet, in bytes.
const SMALL: usize = 200;
/// Payload of a datagram that makes an IP packet of 1,400 bytes.
const LARGE: usize = 1372;
/// The moderate load, in Mbit/s.
const LOAD: u32 = 300;
/// Peers of the run with many.
const MANY: usize = 100;
/// Forged initiations in a burst, twice a second.
const FORGED: usize = 500;

pub(crate) const PEAK: &str = "peak RSS";
pub(crate) const MANY_PEERS: &str = "veth TCP 1 stream, 100 peers";
pub(crate) const UNDER_FLOOD: &str = "veth TCP 1 stream, 1,000 forged initiations/s";
/// Name of the run that ours with many peers, or under a flood, is compared with.
pub(crate) const UNDISTURBED: &str = "the same, one peer";

/// How much is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Everything, or the key figures.
    pub(crate) full: bool,
    /// Seconds of a TCP run.
    pub(crate) seconds: u32,
}

/// One figure of the report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Metric {
    pub(crate) what: String,
    pub(crate) unit: &'static str,
    pub(crate) better: Better,
}

impl Plan {
    /// The numbers of TCP streams in `mode`.
    fn streams(self, mode: Mode) -> &'static [u32] {
        match (self.full, mode) {
            (true, Mode::Veth) => &[1, 4, 32],
            (true, Mode::Wire) => &[1, 4],
            (false, Mode::Veth) => &[1, 4],
            (false, Mode::Wire) => &[1],
        }
    }

    /// Every figure that `candidate` has.
    pub(crate) fn metrics(self, candidate: Candidate) -> Vec<Metric> {
        let mut metrics = Vec::new();
        let mut add = |what: String, unit, better| metrics.push(Metric { what, unit, better });
        for mode in [Mode::Veth, Mode::Wire] {
            for streams in self.streams(mode) {
                add(tcp_name(mode, *streams), "Gbit/s", Better::Higher);
            }
            add(cpu_name(mode, "machine"), "s/GB", Better::Lower);
            if candidate.is_process() {
                add(cpu_name(mode, "gateways"), "s/GB", Better::Lower);
            }
        }
        add("small packets 200 B".to_owned(), "kpps", Better::Higher);
        if self.full {
            add("UDP goodput 1,400 B".to_owned(), "Gbit/s", Better::Higher);
        }
        for load in ["idle", "300 Mbit/s", "saturated"] {
            for percent in ["p50", "p99"] {
                add(format!("RTT {load} {percent}"), "µs", Better::Lower);
            }
        }
        if candidate.is_process() {
            add(PEAK.to_owned(), "MB", Better::Lower);
        }
        metrics
    }
}

pub(crate) fn tcp_name(mode: Mode, streams: u32) -> String {
    format!("{} TCP {streams} stream{}", mode.name(), if streams == 1 { "" } else { "s" })
}

pub(crate) fn cpu_name(mode: Mode, whose: &str) -> String {
    format!("{} CPU of the {whose}", mode.name())
}

/// Measures everything of `candidate` once; what cannot be measured is kept as a failure.
pub(crate) fn measure(candidate: Candidate, plan: Plan, runs: &mut Runs) {
    if let Err(error) = one_peer(candidate, plan, runs) {
        for metric in plan.metrics(candidate) {
            runs.fail(&metric.what, candidate.name(), format!("{error:#}"));
        }
    }
    let ours_or_go = [Implementation::Ours, Implementation::WireguardGo];
    if plan.full && ours_or_go.map(Candidate::WireGuard).contains(&candidate) {
        match many_peers(candidate, plan) {
            Ok(run) => runs.push(MANY_PEERS, candidate.name(), run.gbits),
            Err(error) => runs.fail(MANY_PEERS, candidate.name(), format!("{error:#}")),
        }
    }
}

/// The figures with one peer. An error is one that leaves nothing to measure.
fn one_peer(candidate: Candidate, plan: Plan, runs: &mut Runs) -> Result<()> {
    let net = Net::new()?;
    net.set_mode(Mode::Veth)?;
    let running = candidate.start(&net, 1)?;
    let name = candidate.name();
    let pids = running.pids();
    keep_trips(runs, name, "idle", round_trips(&net, Duration::from_secs(1)));
    throughput(candidate, plan, runs, &net, &pids, Mode::Veth);
    let loaded = under_load(&net, LOAD, 2, || round_trips(&net, Duration::from_millis(1200)));
    keep_trips(runs, name, "300 Mbit/s", loaded);
    let window = Duration::from_millis(1500);
    keep(runs, name, "small packets 200 B", flood(&net, SMALL, window).map(|rate| rate / 1e3));
    if plan.full {
        let bits = flood(&net, LARGE, window).map(|rate| rate * LARGE as f64 * 8.0 / 1e9);
        keep(runs, name, "UDP goodput 1,400 B", bits);
        if candidate == Candidate::WireGuard(Implementation::Ours) {
            forged(name, plan, runs, &net, &running);
        }
    }
    net.set_mode(Mode::Wire)?;
    throughput(candidate, plan, runs, &net, &pids, Mode::Wire);
    if candidate.is_process() {
        keep(runs, name, PEAK, peak_memory(&pids));
    }
    Ok(())
}

/// TCP with every number of streams; the processor's time with one, round trips during four.
fn throughput(
    candidate: Candidate,
    plan: Plan,
    runs: &mut Runs,
    net: &Net,
    pids: &[u32],
    mode: Mode,
) {
    let name = candidate.name();
    for streams in plan.streams(mode) {
        let run = if mode == Mode::Veth && *streams == 4 {
            let (run, trips) = saturated(net, plan, pids);
            keep_trips(runs, name, "saturated", trips);
            run
        } else {
            tcp(net, *streams, plan.seconds, pids)
        };
        if *streams == 1 {
            let per_gb = |pick: fn(&Tcp) -> f64| match &run {
                Ok(run) => Ok(pick(run) / run.gigabytes),
                Err(error) => Err(anyhow::anyhow!("{error:#}")),
            };
            keep(runs, name, &cpu_name(mode, "machine"), per_gb(|run| run.used.machine));
            if candidate.is_process() {
                keep(runs, name, &cpu_name(mode, "gateways"), per_gb(|run| run.used.gateways));
            }
            if mode == Mode::Veth && candidate == Candidate::WireGuard(Implementation::Ours) {
                let alone = run.as_ref().map(|run| run.gbits).unwrap_or(f64::NAN);
                if plan.full {
                    runs.push(MANY_PEERS, UNDISTURBED, alone);
                    runs.push(UNDER_FLOOD, UNDISTURBED, alone);
                }
            }
        }
        keep(runs, name, &tcp_name(mode, *streams), run.map(|run| run.gbits));
    }
}

/// Four streams, and round trips in the middle of them.
fn saturated(net: &Net, plan: Plan, pids: &[u32]) -> (Result<Tcp>, Result<RoundTrips>) {
    let time = Duration::from_millis(u64::from(plan.seconds) * 1000 - 600);
    std::thread::scope(|scope| {
        let trips = scope.spawn(move || {
            std::thread::sleep(Duration::from_millis(400));
            round_trips(net, time)
        });
        let run = tcp(net, 4, plan.seconds, pids);
        let trips = trips.join().unwrap_or_else(|_| Err(anyhow::anyhow!("the prober panicked")));
        (run, trips)
    })
}

/// Throughput while strangers ask for handshakes with the gateway's public key.
fn forged(name: &str, plan: Plan, runs: &mut Runs, net: &Net, running: &Running) {
    let run = || -> Result<f64> {
        let public = running.public.context("no public key")?;
        let namespace = net.gateways[0].namespace().context("a gateway is a namespace")?;
        let target = format!("{}:{PORT}", GATEWAYS[1]);
        let _flood = Flood::start(namespace, &target, public, FORGED)?;
        Ok(tcp(net, 1, plan.seconds, &running.pids())?.gbits)
    };
    keep(runs, name, UNDER_FLOOD, run());
}

fn many_peers(candidate: Candidate, plan: Plan) -> Result<Tcp> {
    let net = Net::new()?;
    net.set_mode(Mode::Veth)?;
    let running = candidate.start(&net, MANY)?;
    tcp(&net, 1, plan.seconds, &running.pids())
}

fn keep(runs: &mut Runs, name: &str, what: &str, value: Result<f64>) {
    match value {
        Ok(value) => runs.push(what, name, value),
        Err(error) => runs.fail(what, name, format!("{error:#}")),
    }
}

fn keep_trips(runs: &mut Runs, name: &str, load: &str, trips: Result<RoundTrips>) {
    match trips {
        Ok(RoundTrips { p50, p99 }) => {
            runs.push(&format!("RTT {load} p50"), name, p50);
            runs.push(&format!("RTT {load} p99"), name, p99);
        }
        Err(error) => {
            for percent in ["p50", "p99"] {
                runs.fail(&format!("RTT {load} {percent}"), name, format!("{error:#}"));
            }
        }
    }
}
