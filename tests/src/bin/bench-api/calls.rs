//! One call after the other, and many at a time.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use slicewire_bench_report::{Runs, percentile, rotation};

use crate::hub::Hub;
use crate::ways::{Deed, Way, Ways};

/// Calls of each kind and way in a round, by turns.
const CALLS: usize = 100;
/// Calls under way at a time where calls per second are counted.
pub(crate) const AT_A_TIME: usize = 16;
/// For how long they are counted.
const LONG: Duration = Duration::from_secs(2);
/// Most objects made in that time: each is planned by the hub, and deleted after the round.
const MADE: usize = 48;

/// Latency of one after the other, as it is called in the report.
pub(crate) fn latency(deed: Deed, percent: &str) -> String {
    format!("{}, {percent}", deed.what())
}

/// Throughput, as it is called in the report.
pub(crate) fn throughput(deed: Deed) -> String {
    format!("{}, calls a second, {AT_A_TIME} at a time", deed.what())
}

/// A round.
pub(crate) fn measure(hub: &Hub, ways: &Ways, round: usize, runs: &mut Runs) -> Result<()> {
    let run = &hub.portal.runtime;
    for deed in Deed::ALL {
        let mut times = Way::ALL.map(|way| (way, Vec::new()));
        for call in 0..CALLS {
            for turn in rotation(times.len(), call) {
                let (way, times) = times.get_mut(turn).context("no such way")?;
                let begun = Instant::now();
                run.block_on(ways.call(*way, deed, &name(deed, *way, "o", round, call)))?;
                times.push(begun.elapsed().as_secs_f64() * 1e3);
            }
        }
        for (way, times) in times {
            for (percent, part) in [(50.0, "p50"), (99.0, "p99")] {
                let at = percentile(&times, percent).unwrap_or(f64::NAN);
                runs.push(&latency(deed, part), way.who(), at);
            }
        }
        for turn in rotation(Way::ALL.len(), round) {
            let way = *Way::ALL.get(turn).context("no such way")?;
            let rate = run.block_on(rate(ways, way, deed, round))?;
            runs.push(&throughput(deed), way.who(), rate);
        }
    }
    Ok(())
}

/// Which slice a call is for: one of a hundred, or a new one.
fn name(deed: Deed, way: Way, part: &str, round: usize, call: usize) -> String {
    match deed {
        Deed::Create => format!("x{round}-{part}{}-{call}", way as usize),
        Deed::Get | Deed::List => format!("s{}", call % 100),
    }
}

async fn rate(ways: &Ways, way: Way, deed: Deed, round: usize) -> Result<f64> {
    let most = if deed == Deed::Create { MADE } else { usize::MAX };
    let (begun, next) = (Instant::now(), AtomicUsize::new(0));
    let one = |_| async {
        let mut done = 0usize;
        while begun.elapsed() < LONG {
            let call = next.fetch_add(1, Ordering::Relaxed);
            if call >= most {
                break;
            }
            ways.call(way, deed, &name(deed, way, "m", round, call)).await?;
            done += 1;
        }
        anyhow::Ok(done)
    };
    let done = futures::future::try_join_all((0..AT_A_TIME).map(one)).await?;
    Ok(done.iter().sum::<usize>() as f64 / begun.elapsed().as_secs_f64())
}
