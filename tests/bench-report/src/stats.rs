//! Medians, percentiles and the order of interleaved runs.

/// The value in the middle of `values`; the mean of the two in the middle for an even number.
/// `None` when there is none, or when one is not a number.
#[must_use]
pub fn median(values: &[f64]) -> Option<f64> {
    let sorted = sorted(values)?;
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    if sorted.len() % 2 == 1 {
        return Some(upper);
    }
    Some(f64::midpoint(*sorted.get(middle.checked_sub(1)?)?, upper))
}

/// The smallest of `values` that at least `percent` per cent of them do not exceed (nearest rank,
/// so the result was really measured). `None` when there are no values, one is not a number, or
/// `percent` is outside 0..=100.
#[must_use]
pub fn percentile(values: &[f64], percent: f64) -> Option<f64> {
    if !(0.0..=100.0).contains(&percent) {
        return None;
    }
    let sorted = sorted(values)?;
    let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied()
}

/// The order in which `count` candidates run in round `round`: each round begins with another one
/// and every other round goes backwards, so that no candidate always runs after the same one or
/// always at the time the machine is warmest.
#[must_use]
pub fn rotation(count: usize, round: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).map(|index| (index + round) % count).collect();
    if round % 2 == 1 {
        order.reverse();
    }
    order
}

fn sorted(values: &[f64]) -> Option<Vec<f64>> {
    if values.iter().any(|value| value.is_nan()) {
        return None;
    }
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    Some(sorted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn medians_of_odd_and_even_numbers_of_runs() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[1.0, f64::NAN]), None);
    }

    #[test]
    fn percentiles_are_measured_values() {
        let values: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(percentile(&values, 50.0), Some(50.0));
        assert_eq!(percentile(&values, 99.0), Some(99.0));
        assert_eq!(percentile(&values, 100.0), Some(100.0));
        assert_eq!(percentile(&values, 0.0), Some(1.0));
        assert_eq!(percentile(&values, 101.0), None);
        assert_eq!(percentile(&[7.0], 99.0), Some(7.0));
    }

    proptest! {
        #[test]
        fn every_round_runs_every_candidate_once(count in 1usize..12, round in 0usize..40) {
            let mut order = rotation(count, round);
            order.sort_unstable();
            prop_assert_eq!(order, (0..count).collect::<Vec<_>>());
        }

        #[test]
        fn the_median_lies_between_the_extremes(
            values in proptest::collection::vec(-1e9f64..1e9, 1..50)
        ) {
            let middle = median(&values).unwrap();
            let below = values.iter().filter(|value| **value <= middle).count();
            let above = values.iter().filter(|value| **value >= middle).count();
            prop_assert!(below * 2 >= values.len() && above * 2 >= values.len());
        }
    }
}
