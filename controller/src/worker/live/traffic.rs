//! What passes the tunnels.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use k8s_openapi::jiff::Timestamp;
use slicewire_api::{MAX_TUNNELS, TunnelTraffic, WorkerTrafficStatus};
use slicewire_core::gateway::Traffic;
use slicewire_core::name::Lane;
use slicewire_core::traffic::{INTERVAL, Sample, Told, Tunnel, is_news, told};
use slicewire_runtime::reconcile::Next;

use crate::kubernetes::change::Change;
use crate::kubernetes::write::next;
use crate::worker::Worker;
use crate::worker::gateway::rounding::two_digits;
use crate::worker::gateway::streams::Report;

/// What was counted and told last, by slice. Clones share it.
#[derive(Clone)]
pub(in crate::worker) struct Meter {
    slices: Arc<Mutex<BTreeMap<String, Last>>>,
    /// What times are counted from.
    start: Instant,
}

impl Default for Meter {
    fn default() -> Self {
        Self { slices: Arc::default(), start: Instant::now() }
    }
}

#[derive(Default)]
struct Last {
    counted: Option<Instant>,
    samples: BTreeMap<Tunnel, Sample>,
    told: BTreeMap<Tunnel, Told>,
    told_at: Option<Instant>,
}

/// Counts what passes a slice's tunnels, and tells the hub when that is worth it.
pub(in crate::worker) async fn publish(worker: &Worker, slice: &str) -> Next {
    let Some(session) = worker.hub.session() else { return Next::Wait };
    let place = worker.told.traffic.get(&session.namespace, slice);
    let Some(place) = place.filter(|p| p.metadata.deletion_timestamp.is_none()) else {
        worker.meter.forget(slice);
        return Next::Wait;
    };
    let heard = worker.streams.heard(slice);
    let news = match worker.meter.count(slice, &heard, Instant::now()) {
        Counted::TooSoon(rest) => return Next::After(rest),
        Counted::Nothing => return Next::After(INTERVAL),
        Counted::News(news) => news,
    };
    let status = status(&news, Timestamp::now());
    // What an earlier process told.
    let same = place.status.as_ref().is_some_and(|s| s.tunnels == status.tunnels);
    let steps = if same { Vec::new() } else { vec![vec![Change::status(&*place, &status)]] };
    let outcome = session.tell(steps, |object| worker.note(object)).await;
    if outcome.is_ok() {
        worker.meter.done(slice, news, Instant::now());
    }
    next(&outcome, Next::After(INTERVAL))
}

enum Counted {
    /// It was counted just now.
    TooSoon(std::time::Duration),
    /// Nothing is worth a report.
    Nothing,
    News(BTreeMap<Tunnel, Told>),
}

impl Meter {
    fn count(
        &self,
        slice: &str,
        heard: &BTreeMap<Lane, (Instant, Report)>,
        now: Instant,
    ) -> Counted {
        let mut slices = self.slices.lock().unwrap_or_else(PoisonError::into_inner);
        let last = slices.entry(slice.to_owned()).or_default();
        let since = last.counted.map(|at| now.saturating_duration_since(at));
        if let Some(rest) = since.and_then(|s| INTERVAL.checked_sub(s)).filter(|r| !r.is_zero()) {
            return Counted::TooSoon(rest);
        }
        let samples = self.samples(heard);
        let one = |(tunnel, now): (&Tunnel, &Sample)| {
            (tunnel.clone(), told(last.samples.get(tunnel), now))
        };
        let counts: BTreeMap<Tunnel, Told> = samples.iter().map(one).collect();
        // Without a count before there are no rates yet.
        let first = last.counted.replace(now).is_none();
        last.samples = samples;
        let age =
            last.told_at.map_or(std::time::Duration::MAX, |at| now.saturating_duration_since(at));
        if first || !is_news(&last.told, &counts, age) {
            return Counted::Nothing;
        }
        Counted::News(counts)
    }

    fn samples(&self, heard: &BTreeMap<Lane, (Instant, Report)>) -> BTreeMap<Tunnel, Sample> {
        let of_lane = |(lane, (at, report)): (&Lane, &(Instant, Report))| {
            let (lane, at) = (*lane, at.saturating_duration_since(self.start));
            let sample = |route: &slicewire_rpc::gateway::v1::Route| {
                let traffic = Traffic {
                    last_handshake_ms: None,
                    rx_bytes: route.rx_bytes,
                    tx_bytes: route.tx_bytes,
                };
                let sample = Sample { at, generation: route.generation, traffic };
                ((lane, route.cluster.clone()), sample)
            };
            report.routes.iter().map(sample).collect::<Vec<_>>()
        };
        heard.iter().flat_map(of_lane).collect()
    }

    fn done(&self, slice: &str, told: BTreeMap<Tunnel, Told>, now: Instant) {
        let mut slices = self.slices.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = slices.get_mut(slice) {
            (last.told, last.told_at) = (told, Some(now));
        }
    }

    fn forget(&self, slice: &str) {
        self.slices.lock().unwrap_or_else(PoisonError::into_inner).remove(slice);
    }
}

fn status(news: &BTreeMap<Tunnel, Told>, now: Timestamp) -> WorkerTrafficStatus {
    let bytes = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    let one = |((lane, cluster), told): (&Tunnel, &Told)| TunnelTraffic {
        lane: *lane,
        cluster: cluster.clone(),
        sent_bytes: bytes(told.sent),
        received_bytes: bytes(told.received),
        sent_rate: two_digits(told.sent_rate),
        received_rate: two_digits(told.received_rate),
    };
    WorkerTrafficStatus {
        counted_at: Some(now.to_string()),
        tunnels: news.iter().map(one).take(MAX_TUNNELS).collect(),
        left_out: i32::try_from(news.len().saturating_sub(MAX_TUNNELS)).unwrap_or(i32::MAX),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use slicewire_rpc::gateway::v1::{Route, WatchRoutesResponse};

    use super::*;

    fn heard(at: Instant, sent: u64) -> BTreeMap<Lane, (Instant, Report)> {
        let route = Route { cluster: "west".into(), tx_bytes: sent, ..Route::default() };
        let report = WatchRoutesResponse { routes: vec![route], ..Default::default() };
        [(3, (at, Arc::new(report)))].into()
    }

    #[test]
    fn rates_are_told_from_the_second_count_on_and_never_in_a_hurry() {
        let (meter, start) = (Meter::default(), Instant::now());
        let count = |after: Duration, sent| {
            let at = start + after;
            meter.count("blue", &heard(at, sent), at)
        };
        assert!(matches!(count(Duration::ZERO, 0), Counted::Nothing));
        assert!(matches!(count(Duration::from_secs(1), 9_000_000), Counted::TooSoon(_)));
        let Counted::News(news) = count(INTERVAL, 30_000_000) else { panic!("no news") };
        assert_eq!(news[&(3, "west".to_owned())].sent_rate, 16_000_000);
        // What could not be told is told the next time.
        let Counted::News(news) = count(2 * INTERVAL, 60_000_000) else { panic!("no news") };
        meter.done("blue", news, start + 2 * INTERVAL);
        assert!(matches!(count(3 * INTERVAL, 90_000_000), Counted::Nothing), "a steady stream");
        assert!(matches!(count(4 * INTERVAL, 90_000_000), Counted::News(_)), "its end");
        meter.forget("blue");
        assert!(matches!(count(4 * INTERVAL, 90_000_000), Counted::Nothing));
    }

    #[test]
    fn a_report_is_rounded_and_cut_and_says_so() {
        let told = Told { sent: u64::MAX, sent_rate: 1_234_567, ..Told::default() };
        let many = (0..MAX_TUNNELS + 5).map(|i| ((0, format!("c{i:05}")), told)).collect();
        let status = status(&many, Timestamp::UNIX_EPOCH);
        assert_eq!((status.tunnels.len(), status.left_out), (MAX_TUNNELS, 5));
        let first = &status.tunnels[0];
        assert_eq!((first.sent_bytes, first.sent_rate), (i64::MAX, 1_200_000));
    }
}
