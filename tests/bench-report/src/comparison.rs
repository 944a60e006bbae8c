//! One line of the report: ours against something.

use serde::{Deserialize, Serialize};

use crate::stats::median;

/// Which direction is an improvement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    /// Throughput, packets per second.
    Higher,
    /// Latency, memory, CPU, losses.
    Lower,
}

/// Ours against a candidate or a limit; serialises to one line of `target/bench/<part>.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// What was measured, e.g. `veth TCP 1 stream`.
    pub what: String,
    /// Unit of `ours` and `theirs`.
    pub unit: String,
    /// Which direction is an improvement.
    pub better: Better,
    /// Every run of ours, in the order measured.
    pub ours: Vec<f64>,
    /// The candidate, or `limit` for an absolute bound.
    pub against: String,
    /// Every run of theirs; for a limit, the limit alone.
    pub theirs: Vec<f64>,
    /// Ratio of medians, above 1 when ours is better; null when the divisor is zero.
    pub ratio: Option<f64>,
    /// The ratio asked for.
    pub goal: Option<f64>,
    /// Whether the goal was reached; null without a goal.
    pub met: Option<bool>,
}

/// What is compared, before any figure.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Subject<'a> {
    pub(crate) what: &'a str,
    pub(crate) unit: &'a str,
    pub(crate) better: Better,
    pub(crate) against: &'a str,
    pub(crate) goal: Option<f64>,
}

impl Comparison {
    /// Compares medians. `None` when either side has no median.
    pub(crate) fn new(subject: Subject<'_>, ours: &[f64], theirs: &[f64]) -> Option<Self> {
        let (mine, other) = (median(ours)?, median(theirs)?);
        Some(Self {
            what: subject.what.to_owned(),
            unit: subject.unit.to_owned(),
            better: subject.better,
            ours: ours.to_vec(),
            against: subject.against.to_owned(),
            theirs: theirs.to_vec(),
            ratio: subject.better.ratio(mine, other),
            goal: subject.goal,
            met: subject.goal.map(|goal| subject.better.reaches(goal, mine, other)),
        })
    }
}

impl Better {
    /// How many times better `ours` is; equal zeros are as good as each other.
    fn ratio(self, ours: f64, theirs: f64) -> Option<f64> {
        let (numerator, denominator) = match self {
            Self::Higher => (ours, theirs),
            Self::Lower => (theirs, ours),
        };
        if numerator == denominator {
            return Some(1.0);
        }
        Some(numerator / denominator).filter(|ratio| ratio.is_finite())
    }

    /// Whether `ours` is at least `goal` times better; multiplied instead of divided, so that a
    /// measured zero needs no special case.
    fn reaches(self, goal: f64, ours: f64, theirs: f64) -> bool {
        match self {
            Self::Higher => ours >= goal * theirs,
            Self::Lower => ours * goal <= theirs,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compare(
        better: Better,
        ours: &[f64],
        theirs: &[f64],
        goal: Option<f64>,
    ) -> Option<Comparison> {
        let subject = Subject { what: "x", unit: "s", better, against: "them", goal };
        Comparison::new(subject, ours, theirs)
    }

    #[test]
    fn above_one_is_always_better_for_us() {
        let higher = compare(Better::Higher, &[6.0, 5.0, 9.0], &[4.0, 3.0, 1.0], Some(1.5));
        let higher = higher.unwrap();
        assert_eq!((higher.ratio, higher.met), (Some(2.0), Some(true)));
        let lower = compare(Better::Lower, &[2.0], &[3.0], Some(2.0)).unwrap();
        assert_eq!((lower.ratio, lower.met), (Some(1.5), Some(false)));
    }

    #[test]
    fn zero_losses_against_a_limit_of_zero_are_met() {
        let none = compare(Better::Lower, &[0.0], &[0.0], Some(1.0)).unwrap();
        assert_eq!((none.ratio, none.met), (Some(1.0), Some(true)));
        let some = compare(Better::Lower, &[3.0], &[0.0], Some(1.0)).unwrap();
        assert_eq!((some.ratio, some.met), (Some(0.0), Some(false)));
        let better = compare(Better::Lower, &[0.0], &[5.0], Some(1.0)).unwrap();
        assert_eq!((better.ratio, better.met), (None, Some(true)));
    }

    #[test]
    fn serialises_to_the_documented_object() {
        let line = compare(Better::Higher, &[1.0], &[2.0], None).unwrap();
        assert_eq!(
            serde_json::to_string(&line).unwrap(),
            r#"{"what":"x","unit":"s","better":"higher","ours":[1.0],"against":"them","theirs":[2.0],"ratio":0.5,"goal":null,"met":null}"#
        );
        assert!(compare(Better::Higher, &[], &[2.0], None).is_none());
    }
}
