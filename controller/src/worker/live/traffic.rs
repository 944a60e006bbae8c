//! What passes the tunnels.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

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

/// What was counted last, by slice. Clones share it.
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

struct Last {
    at: Instant,
    samples: BTreeMap<Tunnel, Sample>,
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
    let counts = match worker.meter.count(slice, &heard, Instant::now()) {
        Counted::TooSoon(rest) => return Next::After(rest),
        Counted::First => return Next::After(INTERVAL),
        Counted::Again(counts) => counts,
    };
    // What the hub has, and not what it was sent: a report may be lost, or an earlier process's.
    let steps =
        match next_status(&place.status.clone().unwrap_or_default(), counts, Timestamp::now()) {
            Some(status) => vec![vec![Change::status(&*place, &status)]],
            None => Vec::new(),
        };
    let outcome = session.tell(steps, |object| worker.note(object)).await;
    next(&outcome, Next::After(INTERVAL))
}

enum Counted {
    /// It was counted just now.
    TooSoon(Duration),
    /// There is nothing yet to tell rates by.
    First,
    /// What has passed, and how fast.
    Again(BTreeMap<Tunnel, Told>),
}

impl Meter {
    fn count(
        &self,
        slice: &str,
        heard: &BTreeMap<Lane, (Instant, Report)>,
        now: Instant,
    ) -> Counted {
        let mut slices = self.slices.lock().unwrap_or_else(PoisonError::into_inner);
        let since = slices.get(slice).map(|last| now.saturating_duration_since(last.at));
        if let Some(rest) = since.and_then(|s| INTERVAL.checked_sub(s)).filter(|r| !r.is_zero()) {
            return Counted::TooSoon(rest);
        }
        let samples = self.samples(heard);
        let before = slices.insert(slice.to_owned(), Last { at: now, samples: samples.clone() });
        let Some(before) = before else { return Counted::First };
        let one = |(tunnel, now): (Tunnel, Sample)| {
            let told = told(before.samples.get(&tunnel), &now);
            (tunnel, told)
        };
        Counted::Again(samples.into_iter().map(one).collect())
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

    fn forget(&self, slice: &str) {
        self.slices.lock().unwrap_or_else(PoisonError::into_inner).remove(slice);
    }
}

/// What is to be told after `old`; nothing where it is not worth it.
fn next_status(
    old: &WorkerTrafficStatus,
    mut counts: BTreeMap<Tunnel, Told>,
    now: Timestamp,
) -> Option<WorkerTrafficStatus> {
    let left_out = match counts.keys().nth(MAX_TUNNELS).cloned() {
        Some(first) => counts.split_off(&first).len(),
        None => 0,
    };
    let at = old.counted_at.as_ref().and_then(|at| at.parse::<Timestamp>().ok());
    // A clock that was put back makes a report old.
    let age = at.and_then(|at| Duration::try_from(now.duration_since(at)).ok());
    let before = old.tunnels.iter().map(known).collect();
    is_news(&before, &counts, age.unwrap_or(Duration::MAX)).then(|| WorkerTrafficStatus {
        counted_at: Some(now.to_string()),
        tunnels: counts.iter().map(report).collect(),
        left_out: i32::try_from(left_out).unwrap_or(i32::MAX),
    })
}

fn report(((lane, cluster), told): (&Tunnel, &Told)) -> TunnelTraffic {
    let bytes = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    TunnelTraffic {
        lane: *lane,
        cluster: cluster.clone(),
        sent_bytes: bytes(told.sent),
        received_bytes: bytes(told.received),
        sent_rate: two_digits(told.sent_rate),
        received_rate: two_digits(told.received_rate),
    }
}

fn known(told: &TunnelTraffic) -> (Tunnel, Told) {
    let count = |said: i64| u64::try_from(said).unwrap_or(0);
    let tunnel = (told.lane, told.cluster.clone());
    let told = Told {
        sent: count(told.sent_bytes),
        received: count(told.received_bytes),
        sent_rate: count(told.sent_rate),
        received_rate: count(told.received_rate),
    };
    (tunnel, told)
}

#[cfg(test)]
mod tests {
    use slicewire_rpc::gateway::v1::{Route, WatchRoutesResponse};

    use super::*;

    fn heard(at: Instant, sent: u64) -> BTreeMap<Lane, (Instant, Report)> {
        let route = Route { cluster: "west".into(), tx_bytes: sent, ..Route::default() };
        let report = WatchRoutesResponse { routes: vec![route], ..Default::default() };
        [(3, (at, Arc::new(report)))].into()
    }

    #[test]
    fn rates_are_known_from_the_second_count_on_and_never_in_a_hurry() {
        let (meter, start) = (Meter::default(), Instant::now());
        let count = |after: Duration, sent| {
            let at = start + after;
            meter.count("blue", &heard(at, sent), at)
        };
        assert!(matches!(count(Duration::ZERO, 0), Counted::First));
        assert!(matches!(count(Duration::from_secs(1), 9_000_000), Counted::TooSoon(_)));
        let Counted::Again(counts) = count(INTERVAL, 30_000_000) else { panic!("no rates") };
        assert_eq!(counts[&(3, "west".to_owned())].sent_rate, 16_000_000);
        let Counted::Again(counts) = count(2 * INTERVAL, 30_000_000) else { panic!("no rates") };
        assert_eq!(counts[&(3, "west".to_owned())].sent_rate, 0);
        meter.forget("blue");
        assert!(matches!(count(2 * INTERVAL, 30_000_000), Counted::First));
    }

    fn counts(sent: u64, sent_rate: u64) -> BTreeMap<Tunnel, Told> {
        [((3, "west".to_owned()), Told { sent, sent_rate, ..Told::default() })].into()
    }

    #[test]
    fn what_the_hub_has_decides_whether_there_is_news() {
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        let nothing = WorkerTrafficStatus::default();
        let first = next_status(&nothing, counts(1 << 30, 1_234_567), at(1_000)).unwrap();
        let told = &first.tunnels[0];
        assert_eq!((told.lane, told.cluster.as_str(), told.sent_rate), (3, "west", 1_200_000));
        // It still has the old one, whatever it was sent: the news is news again.
        assert!(next_status(&nothing, counts(1 << 30, 1_234_567), at(1_015)).is_some());
        assert_eq!(next_status(&first, counts(1 << 30, 1_234_567), at(2_000)), None);
        let steady = counts(2 << 30, 1_234_567);
        assert_eq!(next_status(&first, steady.clone(), at(1_015)), None);
        assert!(next_status(&first, steady.clone(), at(1_060)).is_some());
        assert!(next_status(&first, steady, at(10)).is_some(), "the clock was put back");
        assert!(next_status(&first, counts(1 << 30, 0), at(1_015)).is_some());
        assert!(next_status(&first, BTreeMap::new(), at(1_015)).is_some());
    }

    #[test]
    fn a_report_is_cut_and_says_so_and_what_was_cut_is_no_news() {
        let told = Told { sent: u64::MAX, ..Told::default() };
        let many: BTreeMap<Tunnel, Told> =
            (0..MAX_TUNNELS + 5).map(|i| ((0, format!("c{i:05}")), told)).collect();
        let now = Timestamp::UNIX_EPOCH;
        let status = next_status(&WorkerTrafficStatus::default(), many.clone(), now).unwrap();
        assert_eq!((status.tunnels.len(), status.left_out), (MAX_TUNNELS, 5));
        assert_eq!(status.tunnels[0].sent_bytes, i64::MAX);
        assert_eq!(next_status(&status, many, now), None);
    }
}
