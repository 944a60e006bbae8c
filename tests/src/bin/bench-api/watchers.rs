//! Many watchers: how soon all of them hear of a change, and what they cost.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hyper::Request;
use serde_json::{Value, json};
use slicewire_bench_report::{Runs, percentile};
use slicewire_rpc::hub::v1alpha1 as rpc;
use slicewire_rpc::hub::v1alpha1::EventType;
use slicewire_rpc::hub::v1alpha1::slice_service_client::SliceServiceClient;
use slicewire_testbed::Testbed;
use slicewire_tests::portal::with_token;
use slicewire_tests::story::say;
use tokio::sync::mpsc;
use tonic::Streaming;

use crate::Args;
use crate::hub::{Hub, wait};
use crate::load::{self, Callers};

pub(crate) const FAN_OUT: &str = "a change at every watcher, p99";
pub(crate) const RESIDENT: &str = "resident size of the hub with all watchers";
pub(crate) const PER_WATCHER: &str = "memory of a watcher";

/// Streams of one caller: as many as the hub lets.
const EACH: usize = 100;
/// Changes in a round.
const CHANGES: usize = 10;
/// What every watcher watches: a project's slices.
const PROJECT: &str = "b1";

pub(crate) fn measure(
    testbed: &Testbed,
    hub: &Hub,
    callers: &Callers,
    args: &Args,
    runs: &mut Runs,
) -> Result<()> {
    ensure!(args.watchers <= callers.tokens.len() * EACH, "there are not callers enough");
    let run = &hub.portal.runtime;
    let client = run.block_on(load::client(&testbed.kubeconfig("hub")))?;
    let before = hub.resident()?;
    let (heard, mut hearing) = mpsc::unbounded_channel();
    let synced = Arc::new(AtomicUsize::new(0));
    for first in (0..args.watchers).step_by(EACH) {
        let token = callers.tokens.get(first / EACH).context("no caller")?;
        let channel = run.block_on(hub.portal.connect())?;
        for _ in first..args.watchers.min(first + EACH) {
            let request = rpc::WatchSlicesRequest { project: PROJECT.into(), ..Default::default() };
            let mut slices = SliceServiceClient::new(channel.clone());
            let stream =
                run.block_on(slices.watch_slices(with_token(token, request)))?.into_inner();
            run.spawn(listen(stream, heard.clone(), synced.clone()));
        }
    }
    wait("all watchers know all", 120, || Ok(synced.load(Ordering::Relaxed) == args.watchers))?;
    thread::sleep(Duration::from_secs(2));
    let with = hub.resident()?;
    say(&format!("{} watchers: {before:.1} MB before, {with:.1} MB with them", args.watchers));
    let watchers = args.watchers as f64;
    for round in 0..args.rounds {
        let mut times = Vec::new();
        for change in 0..CHANGES {
            let mark = format!("{round}-{change}");
            let patch = json!({"metadata": {"annotations": {"bench": mark}}});
            let path = format!(
                "/apis/slicewire.dev/v1alpha1/namespaces/slicewire-{PROJECT}/sliceconfigs/s1"
            );
            let request =
                Request::patch(path).header("content-type", "application/merge-patch+json");
            let begun = Instant::now();
            run.block_on(client.request::<Value>(request.body(patch.to_string().into_bytes())?))?;
            let mut missing = args.watchers;
            while missing > 0 {
                let next =
                    async { tokio::time::timeout(Duration::from_secs(20), hearing.recv()).await };
                let (told, at) = run.block_on(next)?.context("a watch ended")?;
                if told == mark {
                    times.push(at.duration_since(begun).as_secs_f64() * 1e3);
                    missing -= 1;
                }
            }
        }
        runs.push(FAN_OUT, "ours", percentile(&times, 99.0).unwrap_or(f64::NAN));
        runs.push(RESIDENT, "ours", hub.resident()?);
        runs.push(PER_WATCHER, "ours", (with - before).max(0.0) * 1e3 / watchers);
    }
    Ok(())
}

/// Tells the mark of each change, and when it came.
async fn listen(
    mut stream: Streaming<rpc::WatchSlicesResponse>,
    heard: mpsc::UnboundedSender<(String, Instant)>,
    synced: Arc<AtomicUsize>,
) {
    while let Ok(Some(told)) = stream.message().await {
        let at = Instant::now();
        match told.r#type() {
            EventType::Synced => {
                synced.fetch_add(1, Ordering::Relaxed);
            }
            EventType::Changed => {
                let metadata = told.slice.and_then(|s| s.metadata).unwrap_or_default();
                if let Some(mark) = metadata.annotations.get("bench") {
                    // Nobody listens any more: the round is over.
                    let _ = heard.send((mark.clone(), at));
                }
            }
            _ => {}
        }
    }
}
