//! One identity calls as often as it can: what another one feels.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use slicewire_bench_report::{Runs, percentile};
use slicewire_tests::story::say;

use crate::hub::Hub;
use crate::ways::{Deed, ask};

pub(crate) const RATIO: &str = "another's p99 in a flood, of what it is without";
/// Calls of the flood under way at a time.
const FLOOD: usize = 256;
/// Calls of the other, and the time between two: far below its limit.
const CALLS: usize = 400;
const PAUSE: Duration = Duration::from_millis(25);

pub(crate) fn measure(hub: &Hub, tokens: &[String], runs: &mut Runs) -> Result<()> {
    let calm = calls(hub, tokens)?;
    let run = &hub.portal.runtime;
    let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let token = tokens.first().context("no callers")?;
    let channel = run.block_on(hub.portal.connect())?;
    for _ in 0..FLOOD {
        let (stop, count) = (stop.clone(), count.clone());
        let (channel, token) = (channel.clone(), token.clone());
        run.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                // Most are refused.
                let _ = ask(&channel, &token, Deed::Get, "s1").await;
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    let begun = Instant::now();
    let flooded = calls(hub, tokens);
    stop.store(true, Ordering::Relaxed);
    let rate = count.load(Ordering::Relaxed) as f64 / begun.elapsed().as_secs_f64();
    ensure!(rate > 500.0, "{rate:.0} calls a second are no flood");
    let p99 = |times: &[f64]| percentile(times, 99.0).unwrap_or(f64::NAN);
    let (without, with) = (p99(&calm), p99(&flooded?));
    say(&format!("p99 {without:.1} ms; with another's {rate:.0} calls a second {with:.1} ms"));
    runs.push(RATIO, "ours", with / without);
    thread::sleep(Duration::from_millis(500));
    Ok(())
}

/// Times of calls by the second caller, in milliseconds.
fn calls(hub: &Hub, tokens: &[String]) -> Result<Vec<f64>> {
    let run = &hub.portal.runtime;
    let token = tokens.get(1).context("no second caller")?;
    let channel = run.block_on(hub.portal.connect())?;
    let mut times = Vec::new();
    for _ in 0..CALLS {
        let begun = Instant::now();
        run.block_on(ask(&channel, token, Deed::Get, "s1"))?;
        times.push(begun.elapsed().as_secs_f64() * 1e3);
        thread::sleep(PAUSE);
    }
    Ok(times)
}
