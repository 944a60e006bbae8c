//! Every run of every candidate, and every run that failed.

use std::collections::BTreeMap;

/// The runs of one benchmark, by what was measured and for which candidate.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Runs {
    values: BTreeMap<Key, Vec<f64>>,
    failures: BTreeMap<Key, String>,
}

/// What was measured, then the candidate.
type Key = (String, String);

impl Runs {
    /// Keeps one run. A value that is not finite is kept as a failure instead: it cannot have been
    /// measured.
    pub fn push(&mut self, what: &str, candidate: &str, value: f64) {
        if value.is_finite() {
            self.values.entry(key(what, candidate)).or_default().push(value);
        } else {
            self.fail(what, candidate, format!("the run gave {value}, which is no measurement"));
        }
    }

    /// Keeps that a run could not be measured. From now on `what` has no figure for `candidate`:
    /// a median over the runs that happened to succeed would flatter it.
    pub fn fail(&mut self, what: &str, candidate: &str, reason: impl Into<String>) {
        self.failures.entry(key(what, candidate)).or_insert_with(|| reason.into());
    }

    /// Every run in the order measured, or why there is no figure.
    ///
    /// # Errors
    /// The first failure's reason, or that nothing was run.
    pub fn get(&self, what: &str, candidate: &str) -> Result<&[f64], String> {
        let key = key(what, candidate);
        if let Some(reason) = self.failures.get(&key) {
            return Err(reason.clone());
        }
        match self.values.get(&key) {
            Some(values) if !values.is_empty() => Ok(values),
            _ => Err("was never run".to_owned()),
        }
    }

    /// Every failure as (what, candidate, reason), sorted.
    pub fn failures(&self) -> impl Iterator<Item = (&str, &str, &str)> {
        self.failures
            .iter()
            .map(|((what, candidate), reason)| (what.as_str(), candidate.as_str(), reason.as_str()))
    }
}

fn key(what: &str, candidate: &str) -> Key {
    (what.to_owned(), candidate.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_failed_run_takes_the_figure_away() {
        let mut runs = Runs::default();
        runs.push("tcp", "ours", 5.0);
        assert_eq!(runs.get("tcp", "ours"), Ok(&[5.0][..]));
        runs.fail("tcp", "ours", "iperf3 ended with 1");
        runs.fail("tcp", "ours", "later reason");
        assert_eq!(runs.get("tcp", "ours"), Err("iperf3 ended with 1".to_owned()));
    }

    #[test]
    fn what_is_not_a_number_was_not_measured() {
        let mut runs = Runs::default();
        runs.push("tcp", "ours", f64::INFINITY);
        assert!(runs.get("tcp", "ours").is_err());
        assert!(runs.get("tcp", "theirs").unwrap_err().contains("never run"));
        assert_eq!(runs.failures().count(), 1);
    }
}
