//! When to drop a packet so that senders slow down.
//!
//! A queue that is long for a moment is a burst, and does no harm. One that is never short is
//! delay without use: whoever sends has more under way than fits, and the queue only holds it.
//! Senders notice by a lost packet. So from time to time one is dropped while the queue never gets
//! short, sooner after sooner; that is CoDel (RFC 8289), with the queue measured in bytes, since
//! nothing tells how long a message has waited.

use std::time::{Duration, Instant};

/// Queues below this many bytes are short: a few super-packets.
const SHORT: usize = 256 * 1024;
/// For how long the queue may be longer: some round trips.
const INTERVAL: Duration = Duration::from_millis(100);
/// A queue that has been short for less than this takes up dropping where it was.
const MEMORY: Duration = Duration::from_millis(1600);

/// What is remembered of the queue.
#[derive(Debug, Default)]
pub(super) struct Pressure {
    /// When it will have been long for too long.
    patience: Option<Instant>,
    /// When the next one is dropped, and how many have been.
    dropping: Option<(Instant, u32)>,
    /// The same when dropping last ended.
    before: Option<(Instant, u32)>,
}

impl Pressure {
    /// Takes note of the queue's length in bytes; true if one packet is to be dropped.
    pub(super) fn observe(&mut self, queued: usize, now: Instant) -> bool {
        if queued < SHORT {
            self.patience = None;
            self.before = self.dropping.take().or(self.before);
            return false;
        }
        let patience = *self.patience.get_or_insert(now + INTERVAL);
        let (at, count) = match self.dropping {
            Some((next, _)) if now < next => return false,
            Some((next, count)) => (next, count + 1),
            None if now < patience => return false,
            None => (now, self.resumed(now)),
        };
        self.dropping = Some((at + INTERVAL.div_f64(f64::from(count).sqrt()), count));
        true
    }

    fn resumed(&self, now: Instant) -> u32 {
        let recent = self.before.filter(|(at, _)| now.duration_since(*at) < MEMORY);
        recent.map_or(1, |(_, count)| count.saturating_sub(2).max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Drops in each of `seconds` with a queue of `length(millisecond)` bytes, asked every
    /// millisecond.
    fn drops(seconds: u64, length: impl Fn(u64) -> usize) -> Vec<usize> {
        let (start, mut pressure) = (Instant::now(), Pressure::default());
        let mut count = |ms: u64| pressure.observe(length(ms), start + Duration::from_millis(ms));
        (0..seconds).map(|s| (s * 1000..(s + 1) * 1000).filter(|ms| count(*ms)).count()).collect()
    }

    #[test]
    fn bursts_are_left_alone() {
        assert_eq!(drops(3, |_| SHORT - 1), [0, 0, 0]);
        assert_eq!(drops(3, |ms| if ms % 90 == 0 { 0 } else { 100 * SHORT }), [0, 0, 0]);
    }

    #[test]
    fn a_queue_that_stays_long_loses_packets_sooner_after_sooner() {
        let lost = drops(4, |_| 2 * SHORT);
        assert!(lost[0] >= 10 && lost.is_sorted() && lost[3] > 2 * lost[0], "{lost:?}");
        // Never more than a small part of what passes.
        assert!(lost[3] < 200, "{lost:?}");
    }

    #[test]
    fn a_queue_that_was_short_for_a_moment_goes_on_losing() {
        let calm = |ms: u64| (2000..2010).contains(&ms);
        let lost = drops(3, |ms| if calm(ms) { 0 } else { 2 * SHORT });
        assert!(lost[2] > lost[0], "{lost:?}");
        let lost = drops(6, |ms| if (2000..5000).contains(&ms) { 0 } else { 2 * SHORT });
        assert_eq!(lost[5], lost[0], "{lost:?}");
    }
}
