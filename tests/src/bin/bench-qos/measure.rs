//! The measurements, and their goals.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use slicewire_bench_report::{Better, Report, Runs, rotation, used};
use slicewire_core::qos::Rate;
use slicewire_core::qos::shape::Limit;
use slicewire_core::qos::share::{Sample, Sharer, Terms};
use slicewire_kernel::Shaper;

use crate::Args;
use crate::lab::Lab;

const M: u64 = 1_000_000;
const OURS: &str = "shaped";
const NONE: &str = "not shaped";
/// Streams of TCP; 0 stands for UDP.
const KINDS: [(usize, &str); 4] =
    [(1, "TCP, 1 stream"), (4, "TCP, 4 streams"), (32, "TCP, 32 streams"), (0, "UDP")];
const CEILING: u64 = 100;
const GUARANTEE: u64 = 60;
/// The uplink that slices share, in Mbit/s, and what of it they divide.
const UPLINK: u64 = 110;
const SHARED: u64 = 100;
const IDLE: &str = "round trip of an idle slice while another fills the uplink";
const COST: &str = "processor time for TCP, 1 stream, ceiling never reached";

fn off(kind: &str, what: &str) -> String {
    format!("{what}, {kind}: off by")
}

/// Measures everything, round by round.
pub(crate) async fn all(lab: &Lab, args: &Args, runs: &mut Runs) -> Result<()> {
    for round in 0..args.rounds {
        for index in rotation(KINDS.len(), round) {
            let (streams, kind) = KINDS[index];
            let rate = ceiling(lab, streams, args.seconds).await;
            note(
                runs,
                &off(kind, "ceiling of 100 Mbit/s"),
                OURS,
                rate.map(|r| deviation(r, CEILING)),
            );
            let rate = guarantee(lab, streams, args.seconds).await;
            let rate = rate.map(|r| deviation(r, GUARANTEE));
            note(runs, &off(kind, "guarantee of 60 Mbit/s against 16 streams"), OURS, rate);
        }
        for (loaded, who) in [(false, "idle uplink"), (true, OURS)] {
            let trip = round_trip(lab, loaded, args.seconds).await;
            note(runs, IDLE, who, trip);
        }
        for index in rotation(2, round) {
            let who = [OURS, NONE][index];
            let cost = cost(lab, who == OURS, args.seconds).await;
            note(runs, COST, who, cost);
        }
    }
    Ok(())
}

fn note(runs: &mut Runs, what: &str, who: &str, measured: Result<f64>) {
    match measured {
        Ok(value) => runs.push(what, who, value),
        Err(error) => runs.fail(what, who, format!("{error:#}")),
    }
}

/// Per cent, whichever way.
fn deviation(rate: f64, wanted: u64) -> f64 {
    (rate / wanted as f64 - 1.0).abs() * 100.0
}

async fn ceiling(lab: &Lab, streams: usize, seconds: u64) -> Result<f64> {
    lab.uplink(None)?;
    lab.shape(0, Some(Rate(CEILING * M))).await?;
    lab.flow(0, streams, seconds)?.rate()
}

/// The first slice has a guarantee, the second wants everything and comes first with what is spare.
async fn guarantee(lab: &Lab, streams: usize, seconds: u64) -> Result<f64> {
    let dividing = shared(lab).await?;
    let rival = lab.flow(1, 16, seconds + 3)?;
    std::thread::sleep(Duration::from_secs(1));
    let rate = lab.flow(0, streams, seconds)?.rate();
    let rival = rival.rate();
    dividing.end().await?;
    rival?;
    rate
}

async fn round_trip(lab: &Lab, loaded: bool, seconds: u64) -> Result<f64> {
    let dividing = shared(lab).await?;
    let load = loaded.then(|| lab.flow(1, 8, seconds + 3)).transpose()?;
    std::thread::sleep(Duration::from_secs(2));
    let trip = lab.round_trip(0, seconds);
    let load = load.map(crate::lab::Flow::rate).transpose();
    dividing.end().await?;
    load?;
    trip
}

/// Seconds of all processors for a gigabyte.
async fn cost(lab: &Lab, shaped: bool, seconds: u64) -> Result<f64> {
    lab.uplink(None)?;
    lab.shape(1, None).await?;
    lab.shape(0, shaped.then_some(Rate(100_000 * M))).await?;
    let before = used::machine()?;
    // A second more than is measured passes before.
    let rate = lab.flow(0, 1, seconds)?.rate()?;
    let gigabytes = rate * (seconds + 1) as f64 / 8_000.0;
    Ok((used::machine()? - before).as_secs_f64() / gigabytes)
}

/// The division of the uplink, as the daemon does it, until its end.
struct Dividing {
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<()>,
}

impl Dividing {
    /// Sets no limit any more when this returns.
    async fn end(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        Ok(self.task.await?)
    }
}

async fn shared(lab: &Lab) -> Result<Dividing> {
    lab.uplink(Some(UPLINK))?;
    for slice in [0, 1] {
        lab.shape(slice, Some(Rate(SHARED * M))).await?;
    }
    let stop = Arc::new(AtomicBool::new(false));
    let (ended, shapers) = (stop.clone(), lab.shapers.clone());
    let task = tokio::spawn(async move {
        let (begun, mut sharer) = (Instant::now(), Sharer::default());
        while !ended.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(25)).await;
            let now = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
            if divide(&shapers, &mut sharer, now).await.is_none() {
                return;
            }
        }
    });
    Ok(Dividing { stop, task })
}

async fn divide(shapers: &[Shaper; 2], sharer: &mut Sharer, now: u64) -> Option<()> {
    let link = Rate(SHARED * M);
    let mut samples = BTreeMap::new();
    for (n, shaper) in shapers.iter().enumerate() {
        let counted = shaper.counters().await.ok()??.leaving;
        let guarantee = (n == 0).then_some(Rate(GUARANTEE * M));
        let priority = if n == 0 { 1 } else { 7 };
        let sample = Sample { bytes: counted.bytes, backlog: counted.backlog };
        samples.insert(n.to_string(), (Terms { ceiling: None, guarantee, priority }, sample));
    }
    for (n, rate) in sharer.step(link, now, &samples) {
        let shaper = shapers.get(n.parse::<usize>().ok()?)?;
        let whole = Limit { rate: link, burst: None };
        shaper.set_limits(Limit { rate, burst: None }, whole).await.ok()?;
    }
    Some(())
}

/// Adds what was measured to the report: limits within 3 %, an idle slice's round trips within
/// twice those without load.
pub(crate) fn tell(runs: &Runs, report: &mut Report) {
    for (_, kind) in KINDS {
        for what in ["ceiling of 100 Mbit/s", "guarantee of 60 Mbit/s against 16 streams"] {
            report.limit(runs, &off(kind, what), "%", Better::Lower, OURS, 3.0);
        }
    }
    report.compare(runs, IDLE, "us", Better::Lower, OURS, "idle uplink", Some(0.5));
    report.compare(runs, COST, "s/GB", Better::Lower, OURS, NONE, None);
}
