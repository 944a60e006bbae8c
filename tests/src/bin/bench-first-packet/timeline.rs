//! What happened when.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use slicewire_bench_report::{Table, median};

/// The first time of everything that happened in a round. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Timeline(Arc<Mutex<Marks>>);

#[derive(Debug)]
struct Marks {
    begun: SystemTime,
    at: BTreeMap<String, SystemTime>,
}

impl Timeline {
    /// A round that has not begun.
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(Marks { begun: SystemTime::now(), at: BTreeMap::new() })))
    }

    /// The round begins: what was before is forgotten.
    pub(crate) fn begin(&self) {
        *self.lock() = Marks { begun: SystemTime::now(), at: BTreeMap::new() };
    }

    /// Something happens now; only its first time counts.
    pub(crate) fn mark(&self, what: &str) {
        self.mark_at(what, SystemTime::now());
    }

    /// Something happened; only its first time counts, and nothing from before the round.
    pub(crate) fn mark_at(&self, what: &str, at: SystemTime) {
        let mut marks = self.lock();
        if at >= marks.begun {
            let first = marks.at.entry(what.to_owned()).or_insert(at);
            *first = at.min(*first);
        }
    }

    /// Milliseconds from the round's beginning to each mark.
    fn millis(&self) -> BTreeMap<String, f64> {
        let marks = self.lock();
        let since = |at: &SystemTime| at.duration_since(marks.begun).unwrap_or_default();
        marks.at.iter().map(|(what, at)| (what.clone(), since(at).as_secs_f64() * 1e3)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Marks> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Prints the marks of several rounds, in the order of their medians.
pub(crate) fn print(rounds: &[Timeline], out: &mut impl Write) -> io::Result<()> {
    let mut all: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for (what, at) in rounds.iter().flat_map(Timeline::millis) {
        all.entry(what).or_default().push(at);
    }
    let mut rows: Vec<(f64, String, Vec<f64>)> =
        all.into_iter().filter_map(|(what, at)| Some((median(&at)?, what, at))).collect();
    rows.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut table = Table::new(["median", "least", "most", "seen in", "what"]);
    for (middle, what, at) in rows {
        let least = at.iter().copied().fold(f64::INFINITY, f64::min);
        let most = at.iter().copied().fold(0.0, f64::max);
        let seen = format!("{}/{}", at.len(), rounds.len());
        let ms = |value: f64| format!("{value:.0}");
        table.row([ms(middle), ms(least), ms(most), seen, what]);
    }
    table.print(out)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_first_time_counts_and_what_was_before_does_not() {
        let line = Timeline::new();
        let begun = line.lock().begun;
        let at = |ms| begun + Duration::from_millis(ms);
        line.mark_at("a", at(30));
        line.mark_at("a", at(20));
        line.mark_at("a", at(40));
        line.mark_at("b", begun - Duration::from_millis(1));
        assert_eq!(line.millis(), BTreeMap::from([("a".to_owned(), 20.0)]));
    }
}
