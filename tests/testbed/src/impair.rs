//! What happens to a packet on an impaired path: decided here, done by the relay.

use std::fmt;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// How long a packet is held back to be overtaken, on a path without delay.
const HELD_BACK: Duration = Duration::from_millis(5);

/// What a path does to packets, in each direction.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Impairment {
    /// Added to each packet's way.
    pub delay: Duration,
    /// The delay varies by up to this, evenly; packets stay in order.
    pub jitter: Duration,
    /// The share of packets lost, 0 to 1.
    pub loss: f64,
    /// The share of packets, 0 to 1, that overtake those before them or, on a
    /// path without delay, are overtaken.
    pub reorder: f64,
}

impl Impairment {
    /// What is wrong with the values, if anything.
    pub fn faults(&self) -> Vec<String> {
        let share = |name: &str, value: f64| {
            let fine = (0.0..=1.0).contains(&value);
            (!fine).then(|| format!("{name} of {} %: 0 to 100 is possible", value * 100.0))
        };
        let mut faults: Vec<String> = [share("loss", self.loss), share("reordering", self.reorder)]
            .into_iter()
            .flatten()
            .collect();
        if self.delay + self.jitter > Duration::from_secs(10) {
            faults
                .push("delay and jitter of more than 10 s: at most 10 000 ms are possible".into());
        }
        faults
    }
}

impl fmt::Display for Impairment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |duration: Duration| duration.as_secs_f64() * 1000.0;
        let (delay, jitter) = (ms(self.delay), ms(self.jitter));
        let (loss, reorder) = (self.loss * 100.0, self.reorder * 100.0);
        write!(f, "{delay} ms ± {jitter}, {loss} % lost, {reorder} % reordered")
    }
}

/// One direction of a path with its history.
#[derive(Debug, Clone)]
pub struct Direction {
    random: Random,
    /// When the last packet in order is due: the next is not before that.
    last: Option<Instant>,
}

impl Direction {
    /// A direction without history; the same seed gives the same fates.
    pub fn new(seed: u64) -> Self {
        Self { random: Random::new(seed), last: None }
    }

    /// When a packet that comes `now` is to go on; `None` when it is lost.
    pub fn judge(&mut self, what: &Impairment, now: Instant) -> Option<Instant> {
        if self.random.share() < what.loss {
            return None;
        }
        if self.random.share() < what.reorder {
            return Some(if what.delay.is_zero() { now + HELD_BACK } else { now });
        }
        let shift = what.jitter.mul_f64(self.random.share() * 2.0);
        // Never before it came: jitter may exceed the delay.
        let wait = (what.delay + shift).saturating_sub(what.jitter);
        let due = self.last.map_or(now + wait, |last| last.max(now + wait));
        self.last = Some(due);
        Some(due)
    }
}

/// A small generator (xorshift64*, Vigna 2016): repeatable, and nothing secret.
#[derive(Debug, Clone)]
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        // Its state must not be 0, and neighbouring seeds must differ widely.
        Self((seed ^ 0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9) | 1)
    }

    /// Evenly in 0 to 1, without 1.
    fn share(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let bits = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32;
        f64::from(u32::try_from(bits).unwrap_or(u32::MAX)) / (f64::from(u32::MAX) + 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn fates(what: Impairment, count: u32) -> Vec<Option<Duration>> {
        let begin = Instant::now();
        let mut direction = Direction::new(7);
        let fate = |i: u32| Some(direction.judge(&what, begin + MS * i)?.duration_since(begin));
        (0..count).map(fate).collect()
    }

    #[test]
    fn an_unimpaired_path_is_immediate() {
        let expected: Vec<_> = (0..50).map(|i| Some(MS * i)).collect();
        assert_eq!(fates(Impairment::default(), 50), expected);
    }

    #[test]
    fn delay_is_added_to_each() {
        let what = Impairment { delay: 30 * MS, ..Default::default() };
        let expected: Vec<_> = (0..50).map(|i| Some(MS * (i + 30))).collect();
        assert_eq!(fates(what, 50), expected);
    }

    #[test]
    fn jitter_varies_within_bounds_and_keeps_the_order() {
        let what = Impairment { delay: 30 * MS, jitter: 10 * MS, ..Default::default() };
        let due: Vec<Duration> = fates(what, 1000).into_iter().flatten().collect();
        assert!(due.is_sorted());
        for (i, due) in (0u32..).zip(&due) {
            assert!(*due >= MS * (i + 20) && *due <= MS * (i + 40), "packet {i} at {due:?}");
        }
        let late = (0u32..).zip(&due).filter(|(i, due)| **due > MS * (i + 31)).count();
        assert!(late > 200, "{late}");
    }

    #[test]
    fn the_share_asked_for_is_lost() {
        let what = Impairment { loss: 0.1, ..Default::default() };
        let lost = fates(what, 10_000).iter().filter(|fate| fate.is_none()).count();
        assert!((850..1150).contains(&lost), "{lost}");
        assert!(
            fates(Impairment { loss: 1.0, ..Default::default() }, 100).iter().all(Option::is_none)
        );
    }

    #[test]
    fn reordered_packets_overtake_or_are_overtaken() {
        for delay in [Duration::ZERO, MS * 20] {
            let what = Impairment { delay, reorder: 0.2, ..Default::default() };
            let due: Vec<Duration> = fates(what, 1000).into_iter().flatten().collect();
            let swaps = due.windows(2).filter(|pair| pair[1] < pair[0]).count();
            assert!((100..300).contains(&swaps), "{delay:?}: {swaps}");
        }
    }

    #[test]
    fn impossible_values_are_named_together() {
        let what =
            Impairment { loss: 1.5, reorder: -0.1, delay: 20_000 * MS, ..Default::default() };
        assert_eq!(what.faults().len(), 3);
        assert!(Impairment::default().faults().is_empty());
    }
}
