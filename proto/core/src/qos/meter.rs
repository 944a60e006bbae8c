//! What was delivered over the last minute and hour.

use std::collections::VecDeque;

use super::rate::Rate;

/// Time between samples that are kept, in milliseconds.
const STEP: u64 = 5_000;
const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;

/// Counters of a slice's shapers, as they only ever grow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Bytes that left the node.
    pub left: u64,
    /// Bytes that arrived.
    pub arrived: u64,
    /// Packets dropped because a queue was full, both directions.
    pub dropped: u64,
}

/// What was delivered over some time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Delivered {
    /// Left the node, on average.
    pub left: Rate,
    /// Arrived, on average.
    pub arrived: Rate,
    /// Packets dropped because a queue was full.
    pub dropped: u64,
}

/// Remembers counters for an hour.
#[derive(Debug, Clone, Default)]
pub struct Meter {
    raw: Totals,
    sum: Totals,
    kept: VecDeque<(u64, Totals)>,
}

impl Meter {
    /// Takes in counters as read at `now` (milliseconds, never goes back). Counters that went back
    /// were made anew and count from zero.
    pub fn record(&mut self, now: u64, raw: Totals) {
        let grown = |new: u64, old: u64| new.checked_sub(old).unwrap_or(new);
        if self.kept.is_empty() {
            self.raw = raw;
        }
        self.sum.left += grown(raw.left, self.raw.left);
        self.sum.arrived += grown(raw.arrived, self.raw.arrived);
        self.sum.dropped += grown(raw.dropped, self.raw.dropped);
        self.raw = raw;
        if self.kept.back().is_none_or(|(at, _)| now.saturating_sub(*at) >= STEP) {
            self.kept.push_back((now, self.sum));
        }
        // The first sample that is old enough is where the hour begins.
        while self.kept.get(1).is_some_and(|(at, _)| now.saturating_sub(*at) >= HOUR) {
            self.kept.pop_front();
        }
    }

    /// All since the first reading.
    pub fn totals(&self) -> Totals {
        self.sum
    }

    /// Over the last minute, or since the first reading if that is less.
    pub fn minute(&self, now: u64) -> Delivered {
        self.since(now, MINUTE)
    }

    /// Over the last hour, or since the first reading if that is less.
    pub fn hour(&self, now: u64) -> Delivered {
        self.since(now, HOUR)
    }

    fn since(&self, now: u64, span: u64) -> Delivered {
        let start = now.saturating_sub(span);
        let later = self.kept.partition_point(|(at, _)| *at <= start);
        let Some((at, old)) = self.kept.get(later.saturating_sub(1)) else {
            return Delivered::default();
        };
        let time = now.saturating_sub(*at);
        if time == 0 {
            return Delivered::default();
        }
        let rate = |new: u64, old: u64| {
            let bits = u128::from(new.saturating_sub(old)) * 8_000 / u128::from(time);
            Rate(u64::try_from(bits).unwrap_or(u64::MAX))
        };
        Delivered {
            left: rate(self.sum.left, old.left),
            arrived: rate(self.sum.arrived, old.arrived),
            dropped: self.sum.dropped.saturating_sub(old.dropped),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_minute_and_the_last_hour_are_averages() {
        let mut meter = Meter::default();
        let mut totals = Totals { left: 5_000, ..Totals::default() };
        // An hour and ten minutes at 1 Mbit/s, then a minute at 8.
        for second in 0..4_260_u64 {
            totals.left += if second < 4_200 { 125_000 } else { 1_000_000 };
            totals.dropped += u64::from(second >= 4_200);
            meter.record(second * 1_000, totals);
        }
        let now = 4_259_000;
        let minute = meter.minute(now);
        assert!((7_500_000..=8_000_000).contains(&minute.left.0), "{minute:?}");
        let hour = meter.hour(now);
        assert!((1_100_000..=1_120_000).contains(&hour.left.0), "{hour:?}");
        assert_eq!((hour.arrived, hour.dropped), (Rate(0), 60));
        assert!(meter.kept.len() <= 722);
    }

    #[test]
    fn before_a_minute_has_passed_it_is_what_there_was_and_a_new_counter_is_no_loss() {
        let mut meter = Meter::default();
        let at = |left| Totals { left, ..Totals::default() };
        assert_eq!(meter.minute(0), Delivered::default());
        meter.record(0, at(1_000_000));
        meter.record(5_000, at(1_625_000));
        assert_eq!(meter.minute(5_000).left, Rate(1_000_000));
        meter.record(10_000, at(625_000));
        assert_eq!(meter.minute(10_000).left, Rate(1_000_000));
        assert_eq!(meter.totals().left, 1_250_000);
    }
}
