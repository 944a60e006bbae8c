//! What is measured of one candidate in one round.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use slicewire_bench_report::Runs;
use slicewire_tunnel_tests::{device::Implementation, flood::Flood};

use crate::{
    candidates::{Candidate, PORT, Running},
    plan::{
        CLOSED_PORT, LARGE, MANY_PEERS, PEAK, Part, Plan, SMALL, UNDER_FLOOD, UNDISTURBED,
        cpu_name, has_many_peers, tcp_name,
    },
    processor::peak_memory,
    tcp::{Tcp, tcp, under_load},
    topology::{GATEWAYS, Mode, Net},
    udp::{RoundTrips, flood, round_trips},
};

/// Payload of a small packet, in bytes.
const SMALL_PAYLOAD: usize = 200;
/// Payload of a datagram that makes an IP packet of 1,400 bytes.
const LARGE_PAYLOAD: usize = 1372;
/// The moderate load, in Mbit/s.
const LOAD: u32 = 300;
/// Peers of the run with many.
const MANY: usize = 100;
/// Forged initiations a second.
const FORGED: u32 = 20_000;
/// A UDP port that nobody listens on.
const CLOSED: u16 = 9;

/// Measures everything of `candidate` once; what cannot be measured is kept as a failure.
pub(crate) fn measure(candidate: Candidate, plan: &Plan, runs: &mut Runs) {
    if let Err(error) = one_peer(candidate, plan, runs) {
        for metric in plan.metrics(candidate) {
            runs.fail(&metric.what, candidate.name(), format!("{error:#}"));
        }
    }
    if plan.has(Part::Peers) && has_many_peers(candidate) {
        many_peers(candidate, plan, runs);
    }
}

/// The figures with one peer. An error is one that leaves nothing to measure.
fn one_peer(candidate: Candidate, plan: &Plan, runs: &mut Runs) -> Result<()> {
    let net = Net::new()?;
    net.set_mode(Mode::Veth)?;
    let running = candidate.start(&net)?;
    let name = candidate.name();
    let pids = running.pids();
    if plan.has(Part::Idle) {
        keep_trips(runs, name, "idle", round_trips(&net, Duration::from_secs(1)));
    }
    if plan.has(Part::Tcp) {
        throughput(candidate, plan, runs, &net, &pids, Mode::Veth);
    }
    if plan.has(Part::Saturated) {
        let (run, trips) = saturated(&net, plan, &pids);
        keep_trips(runs, name, "saturated", trips);
        keep(runs, name, &tcp_name(Mode::Veth, 4), run.map(|run| run.gbits));
    }
    if plan.has(Part::Tcp) && candidate.is_process() {
        keep(runs, name, PEAK, peak_memory(&pids));
    }
    if plan.has(Part::Load) {
        let loaded = under_load(&net, LOAD, 2, || round_trips(&net, Duration::from_millis(1200)));
        keep_trips(runs, name, "300 Mbit/s", loaded);
    }
    let window = Duration::from_millis(1500);
    if plan.has(Part::Small) {
        keep(runs, name, SMALL, flood(&net, SMALL_PAYLOAD, window).map(|rate| rate / 1e3));
    }
    if plan.has(Part::Udp) {
        let bits = |rate| rate * LARGE_PAYLOAD as f64 * 8.0 / 1e9;
        keep(runs, name, LARGE, flood(&net, LARGE_PAYLOAD, window).map(bits));
    }
    if plan.has(Part::Flood) && candidate == Candidate::WireGuard(Implementation::Ours) {
        forged(name, plan, runs, &net, &running);
    }
    if plan.has(Part::Wire) {
        net.set_mode(Mode::Wire)?;
        throughput(candidate, plan, runs, &net, &pids, Mode::Wire);
    }
    Ok(())
}

/// TCP with several numbers of streams; the processor's time with one.
fn throughput(
    candidate: Candidate,
    plan: &Plan,
    runs: &mut Runs,
    net: &Net,
    pids: &[u32],
    mode: Mode,
) {
    let name = candidate.name();
    let one = tcp(net, 1, plan.seconds, pids);
    let per_gb = |pick: fn(&Tcp) -> f64| match &one {
        Ok(run) => Ok(pick(run) / run.gigabytes),
        Err(error) => Err(anyhow::anyhow!("{error:#}")),
    };
    keep(runs, name, &cpu_name(mode, "machine"), per_gb(|run| run.used.machine));
    if candidate.is_process() {
        keep(runs, name, &cpu_name(mode, "gateways"), per_gb(|run| run.used.gateways));
    }
    keep(runs, name, &tcp_name(mode, 1), one.map(|run| run.gbits));
    let several = if mode == Mode::Wire { &[4, 32][..] } else { &[32] };
    for streams in several {
        let run = tcp(net, *streams, plan.seconds, pids);
        keep(runs, name, &tcp_name(mode, *streams), run.map(|run| run.gbits));
    }
}

/// Four streams, and round trips in the middle of them.
fn saturated(net: &Net, plan: &Plan, pids: &[u32]) -> (Result<Tcp>, Result<RoundTrips>) {
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

/// Throughput while strangers ask for handshakes with the gateway's public key, and while they
/// knock at a port where nobody is, one right after the other.
fn forged(name: &str, plan: &Plan, runs: &mut Runs, net: &Net, running: &Running) {
    let pids = running.pids();
    let attacked = |port: u16| -> Result<f64> {
        let public = running.public.context("no public key")?;
        let namespace = net.gateways[0].namespace().context("a gateway is a namespace")?;
        let target = format!("{}:{port}", GATEWAYS[1]);
        let flood = Flood::steady(namespace, &target, public, FORGED)?;
        let done = tcp(net, 1, plan.seconds, &pids)?;
        let wanted = u64::from(FORGED) * u64::from(plan.seconds);
        ensure!(flood.sent() * 2 > wanted, "the flood sent only {} initiations", flood.sent());
        Ok(done.gbits)
    };
    keep(runs, CLOSED_PORT, UNDER_FLOOD, attacked(CLOSED));
    keep(runs, name, UNDER_FLOOD, attacked(PORT));
}

/// Throughput with one peer, and with 99 more that are never heard of, one right after the other.
fn many_peers(candidate: Candidate, plan: &Plan, runs: &mut Runs) {
    let run = || -> Result<(f64, f64)> {
        let net = Net::new()?;
        net.set_mode(Mode::Veth)?;
        let running = candidate.start(&net)?;
        let tcp = || tcp(&net, 1, plan.seconds, &running.pids()).map(|run| run.gbits);
        let one = tcp()?;
        running.add_strangers(&net, MANY - 1)?;
        Ok((one, tcp()?))
    };
    match run() {
        Ok((one, many)) => {
            runs.push(MANY_PEERS, candidate.name(), many);
            if candidate == Candidate::WireGuard(Implementation::Ours) {
                runs.push(MANY_PEERS, UNDISTURBED, one);
            }
        }
        Err(error) => runs.fail(MANY_PEERS, candidate.name(), format!("{error:#}")),
    }
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
