//! Whether a tunnel works, and how well: what follows from probes sent, answered and missed.
//!
//! A tunnel is up after the first answer and down after several probes in a row went unanswered.
//! How many depends on the loss that is normal there, so that a lossy path does not flap and a
//! clean one is given up within half a second.

use std::collections::VecDeque;
use std::time::Duration;

/// Probes older than this no longer count in the loss.
pub const LOSS_WINDOW: Duration = Duration::from_secs(60);
/// An answer is never given up sooner than this.
pub const MIN_TIMEOUT: Duration = Duration::from_millis(150);
/// An answer is given up at the latest after this, and that is the patience before the first one.
pub const MAX_TIMEOUT: Duration = Duration::from_secs(1);
/// Misses in a row that mean down on a path without losses.
const FEWEST_MISSES: u32 = 3;
/// Below this many probes a loss says little, so the share is taken of as many.
const FEW: u64 = 100;
/// Round-trip times the median is taken of.
const MEDIAN_OF: usize = 31;

/// A tunnel's state as probes show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Health {
    /// Whether probes come back.
    pub up: bool,
    /// Median of the last round-trip times; `None` before the first answer.
    pub rtt: Option<Duration>,
    /// Mean difference of successive round-trip times: the interarrival jitter of RFC 3550,
    /// section 6.4.1, taken over round trips.
    pub jitter: Duration,
    /// Probes of the last minute that got no answer, in thousandths; counted from the first answer
    /// on, once there is one.
    pub loss_permille: u16,
}

/// A change of [`Health::up`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transition {
    /// Probes come back again, or for the first time.
    Up,
    /// Probes no longer come back.
    Down,
}

/// What became of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Pending,
    Answered,
    /// Unanswered while the tunnel was up, as losses of a working path are.
    Lost,
    /// Unanswered because the tunnel was down: says nothing about the path's usual loss.
    Outage,
}

#[derive(Debug, Clone, Copy)]
struct Probe {
    sent: Duration,
    fate: Fate,
}

/// Judges a tunnel by its probes. Times are durations since any fixed moment.
#[derive(Debug, Default)]
pub struct Meter {
    up: bool,
    /// The probes of the last minute; the front one has the number `first`.
    probes: VecDeque<Probe>,
    first: u64,
    /// Everything below this number has its final fate or was pruned.
    settled: u64,
    highest_answered: Option<u64>,
    /// Probes missed since the last answer.
    missed: u32,
    rtts: VecDeque<Duration>,
    last_rtt: Option<Duration>,
    /// Jitter in sixteenths of a nanosecond, as RFC 3550's appendix A.8 keeps it.
    jitter_16: u64,
}

impl Meter {
    /// Notes that a probe leaves; returns its number.
    pub fn sent(&mut self, now: Duration) -> u64 {
        self.prune(now);
        self.probes.push_back(Probe { sent: now, fate: Fate::Pending });
        self.first + self.probes.len() as u64 - 1
    }

    /// Takes an answer. Duplicates and numbers that were never given change nothing. An answer
    /// that comes after it was given up still proves that the tunnel works.
    pub fn answered(&mut self, number: u64, now: Duration) -> Option<Transition> {
        let place = usize::try_from(number.checked_sub(self.first)?).ok()?;
        let probe = self.probes.get_mut(place)?;
        if probe.fate == Fate::Answered {
            return None;
        }
        probe.fate = Fate::Answered;
        let rtt = now.saturating_sub(probe.sent);
        if self.highest_answered.is_none() {
            // What went out before there was a tunnel was not lost by it.
            self.probes.drain(..place);
            self.first = number;
            self.settled = self.settled.max(number);
        }
        self.highest_answered = self.highest_answered.max(Some(number));
        self.missed = 0;
        self.round_trip(rtt);
        (!std::mem::replace(&mut self.up, true)).then_some(Transition::Up)
    }

    /// Lets time pass: gives up answers that are overdue. Hand in every answer that has already
    /// arrived before, so that a pause of the caller is not taken for one of the tunnel.
    pub fn expire(&mut self, now: Duration) -> Option<Transition> {
        let patience = self.timeout();
        let lost = if self.up { Fate::Lost } else { Fate::Outage };
        while let Some(probe) = self.probe_mut(self.settled) {
            if probe.fate == Fate::Pending {
                if now < probe.sent + patience {
                    break;
                }
                probe.fate = lost;
                // One that was overtaken is lost, but no sign of an end.
                if self.highest_answered.is_none_or(|highest| self.settled > highest) {
                    self.missed += 1;
                }
            }
            self.settled += 1;
        }
        if !self.up || self.missed < FEWEST_MISSES || self.missed < self.limit() {
            return None;
        }
        self.up = false;
        self.call_outage();
        Some(Transition::Down)
    }

    /// How long an answer may take: what is usual, and a margin for what is not.
    pub fn timeout(&self) -> Duration {
        match self.rtt() {
            None => MAX_TIMEOUT,
            Some(rtt) => (rtt + self.jitter() * 4 + Duration::from_millis(20))
                .clamp(MIN_TIMEOUT, MAX_TIMEOUT),
        }
    }

    /// When [`Self::expire`] has something to do next.
    pub fn deadline(&self) -> Option<Duration> {
        let at = usize::try_from(self.settled.saturating_sub(self.first)).ok()?;
        let pending = self.probes.iter().skip(at).find(|p| p.fate == Fate::Pending)?;
        Some(pending.sent + self.timeout())
    }

    /// Whether probes come back.
    pub fn up(&self) -> bool {
        self.up
    }

    /// The tunnel's state.
    pub fn health(&self) -> Health {
        Health {
            up: self.up,
            rtt: self.rtt(),
            jitter: self.jitter(),
            loss_permille: self.loss_permille(),
        }
    }

    /// Probes missed in a row that mean down: with independent losses at the usual rate, such a
    /// row would be an accident fewer than once in a million probes.
    fn limit(&self) -> u32 {
        match self.usual_loss() {
            0..=10 => FEWEST_MISSES,
            11..=30 => 4,
            31..=60 => 5,
            61..=100 => 6,
            101..=200 => 9,
            _ => 12,
        }
    }

    /// Thousandths lost of the probes up to the last answered one, outages left out: the newest
    /// misses may be the beginning of the next outage and say nothing about what is usual.
    fn usual_loss(&self) -> u64 {
        let known = self.highest_answered.map_or(0, |n| (n + 1).saturating_sub(self.first));
        let count = |fate: Fate| {
            let known = usize::try_from(known).unwrap_or(usize::MAX);
            self.probes.iter().take(known).filter(|p| p.fate == fate).count() as u64
        };
        let lost = count(Fate::Lost);
        lost * 1000 / (lost + count(Fate::Answered)).max(FEW)
    }

    fn loss_permille(&self) -> u16 {
        let count = |fate: Fate| self.probes.iter().filter(|p| p.fate == fate).count();
        let lost = count(Fate::Lost) + count(Fate::Outage);
        let all = (lost + count(Fate::Answered)).max(1);
        u16::try_from(lost * 1000 / all).unwrap_or(1000)
    }

    /// Losses at the end of what was sent were the outage's, not the path's.
    fn call_outage(&mut self) {
        let known = self.highest_answered.map_or(0, |n| (n + 1).saturating_sub(self.first));
        let known = usize::try_from(known).unwrap_or(usize::MAX);
        for probe in self.probes.iter_mut().skip(known) {
            if probe.fate == Fate::Lost {
                probe.fate = Fate::Outage;
            }
        }
    }

    fn rtt(&self) -> Option<Duration> {
        let mut sorted: Vec<_> = self.rtts.iter().copied().collect();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).copied()
    }

    fn jitter(&self) -> Duration {
        Duration::from_nanos(self.jitter_16 / 16)
    }

    fn round_trip(&mut self, rtt: Duration) {
        if self.rtts.len() == MEDIAN_OF {
            self.rtts.pop_front();
        }
        self.rtts.push_back(rtt);
        if let Some(last) = self.last_rtt.replace(rtt) {
            let difference = u64::try_from(rtt.abs_diff(last).as_nanos()).unwrap_or(u64::MAX / 32);
            self.jitter_16 = self.jitter_16 + difference - (self.jitter_16 + 8) / 16;
        }
    }

    fn probe_mut(&mut self, number: u64) -> Option<&mut Probe> {
        self.probes.get_mut(usize::try_from(number.checked_sub(self.first)?).ok()?)
    }

    fn prune(&mut self, now: Duration) {
        while self.probes.front().is_some_and(|p| now.saturating_sub(p.sent) > LOSS_WINDOW) {
            self.probes.pop_front();
            self.first += 1;
        }
        self.settled = self.settled.max(self.first);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STEP: Duration = Duration::from_millis(100);
    const RTT: Duration = Duration::from_millis(4);

    /// Runs `fates` through a meter, a probe every [`STEP`]: the delay of the answer, or none.
    /// Returns the meter and the transitions with their times.
    fn run(fates: &[Option<Duration>]) -> (Meter, Vec<(Duration, Transition)>) {
        let mut meter = Meter::default();
        let mut seen = Vec::new();
        let mut answers: Vec<(Duration, u64)> = Vec::new();
        let tick = Duration::from_millis(2);
        let mut now = Duration::ZERO;
        let end = STEP * fates.len() as u32 + MAX_TIMEOUT;
        let mut next = fates.iter();
        while now < end {
            if now.as_millis().is_multiple_of(STEP.as_millis())
                && let Some(fate) = next.next()
            {
                let number = meter.sent(now);
                answers.extend(fate.map(|delay| (now + delay, number)));
            }
            answers.retain(|(at, number)| {
                let due = *at <= now;
                if due {
                    seen.extend(meter.answered(*number, now).map(|t| (now, t)));
                }
                !due
            });
            seen.extend(meter.expire(now).map(|t| (now, t)));
            now += tick;
        }
        (meter, seen)
    }

    fn kinds(seen: &[(Duration, Transition)]) -> Vec<Transition> {
        seen.iter().map(|(_, t)| *t).collect()
    }

    #[test]
    fn up_after_the_first_answer() {
        let (meter, seen) = run(&[Some(RTT); 20]);
        assert_eq!(seen, [(RTT, Transition::Up)]);
        assert_eq!(meter.health().rtt, Some(RTT));
        assert_eq!(meter.health().loss_permille, 0);
    }

    #[test]
    fn never_up_without_an_answer() {
        let (meter, seen) = run(&[None; 50]);
        assert_eq!(seen, []);
        assert_eq!(meter.health().loss_permille, 1000);
    }

    #[test]
    fn what_was_sent_before_the_tunnel_stood_is_not_lost() {
        let mut fates = vec![None; 60];
        fates.extend([Some(RTT); 20]);
        let (meter, seen) = run(&fates);
        assert_eq!(seen.len(), 1);
        assert_eq!(meter.health().loss_permille, 0);
        fates.extend([None; 20]);
        let (meter, _) = run(&fates);
        assert_eq!(meter.health().loss_permille, 500, "an outage is a loss");
    }

    #[test]
    fn a_clean_path_that_breaks_is_down_within_half_a_second() {
        let mut fates = vec![Some(RTT); 50];
        fates.extend([None; 20]);
        let (_, seen) = run(&fates);
        let broke = STEP * 49 + RTT;
        let (at, last) = seen[1];
        assert_eq!(last, Transition::Down);
        assert!(at - broke <= Duration::from_millis(460), "{:?}", at - broke);
        assert!(at - broke >= Duration::from_millis(300), "{:?}", at - broke);
    }

    #[test]
    fn two_losses_in_a_row_are_not_an_end() {
        let mut fates = vec![Some(RTT); 50];
        fates.extend([None, None]);
        fates.extend([Some(RTT); 20]);
        assert_eq!(kinds(&run(&fates).1), [Transition::Up]);
    }

    #[test]
    fn a_lossy_path_gets_more_patience() {
        let mut fates: Vec<_> =
            (0..300).map(|i| if i % 10 == 3 { None } else { Some(RTT) }).collect();
        fates.extend([None; 4]);
        fates.extend([Some(RTT); 10]);
        let (meter, seen) = run(&fates);
        assert_eq!(kinds(&seen), [Transition::Up]);
        assert!((90..130).contains(&meter.health().loss_permille), "{:?}", meter.health());
    }

    #[test]
    fn an_outage_does_not_make_the_next_one_slower_to_notice() {
        let mut fates = vec![Some(RTT); 100];
        fates.extend([None; 50]);
        fates.extend([Some(RTT); 100]);
        fates.extend([None; 10]);
        let (_, seen) = run(&fates);
        use Transition::{Down, Up};
        assert_eq!(kinds(&seen), [Up, Down, Up, Down]);
        let broke = STEP * 249 + RTT;
        assert!(seen[3].0 - broke <= Duration::from_millis(460));
    }

    #[test]
    fn a_slower_path_is_late_not_lost() {
        let mut fates = vec![Some(RTT); 20];
        fates.extend([Some(Duration::from_millis(200)); 60]);
        let (meter, seen) = run(&fates);
        assert_eq!(kinds(&seen), [Transition::Up]);
        assert_eq!(meter.health().loss_permille, 0, "late answers are answers");
        assert!(meter.timeout() > Duration::from_millis(200));
    }

    #[test]
    fn a_pause_of_the_caller_is_not_one_of_the_tunnel() {
        let mut meter = Meter::default();
        let first = meter.sent(Duration::ZERO);
        meter.answered(first, RTT);
        let numbers: Vec<_> = (1..6).map(|i| meter.sent(STEP * i)).collect();
        let late = Duration::from_secs(5);
        for number in numbers {
            meter.answered(number, late);
        }
        assert_eq!(meter.expire(late), None);
    }

    #[test]
    fn jitter_follows_rfc_3550() {
        let mut meter = Meter::default();
        for (i, rtt) in [10u64, 26, 10, 26].into_iter().enumerate() {
            let at = STEP * u32::try_from(i).unwrap();
            let number = meter.sent(at);
            meter.answered(number, at + Duration::from_millis(rtt));
        }
        // J = 0, then three times J += (16 ms - J) / 16.
        let expected = 16.0 * (1.0 - (15.0f64 / 16.0).powi(3));
        let got = meter.health().jitter.as_secs_f64() * 1000.0;
        assert!((got - expected).abs() < 0.001, "{got} {expected}");
    }

    #[test]
    fn the_window_forgets_after_a_minute() {
        let mut fates = vec![None; 100];
        fates.extend(vec![Some(RTT); 610]);
        let (meter, _) = run(&fates);
        assert_eq!(meter.health().loss_permille, 0);
        assert!(meter.probes.len() <= 610);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Whatever is lost, late, reordered or repeated: transitions alternate, beginning with
        /// Up, and figures stay in their ranges.
        #[test]
        fn transitions_alternate(
            fates in prop::collection::vec(prop::option::weighted(0.7, 0u64..900), 1..200)
        ) {
            let fates: Vec<_> =
                fates.into_iter().map(|d| d.map(|ms| Duration::from_millis(ms / 2 * 2))).collect();
            let (meter, seen) = run(&fates);
            for (i, (_, transition)) in seen.iter().enumerate() {
                let expected = if i % 2 == 0 { Transition::Up } else { Transition::Down };
                prop_assert_eq!(*transition, expected);
            }
            let health = meter.health();
            prop_assert!(health.loss_permille <= 1000);
            let arrival = |i: usize| fates[i].map(|delay| (STEP * i as u32 + delay, i));
            let first = (0..fates.len()).filter_map(arrival).min().map_or(0, |(_, i)| i);
            let counted = &fates[first..];
            let answered = counted.iter().flatten().count();
            let lost = (counted.len() - answered) * 1000 / counted.len();
            prop_assert_eq!(usize::from(health.loss_permille), lost);
        }

        /// An answer heard twice counts once.
        #[test]
        fn duplicates_change_nothing(repeat in 1usize..5) {
            let mut meter = Meter::default();
            let number = meter.sent(Duration::ZERO);
            meter.answered(number, RTT);
            let once = meter.health();
            for i in 0..repeat {
                prop_assert_eq!(meter.answered(number, STEP * (i as u32 + 1)), None);
            }
            prop_assert_eq!(meter.health(), once);
            prop_assert_eq!(meter.answered(number + 7, STEP), None);
        }

        /// Independent loss of up to 5 % does not make a tunnel flap.
        #[test]
        fn random_loss_does_not_flap(seed in any::<u64>(), permille in 0u64..50) {
            let mut state = seed | 1;
            let fates: Vec<_> = (0..600)
                .map(|_| {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    (state % 1000 >= permille).then_some(RTT)
                })
                .collect();
            let downs = kinds(&run(&fates).1).iter().filter(|t| **t == Transition::Down).count();
            prop_assert!(downs <= 1, "{downs} outages in a minute at {permille} permille");
        }
    }
}
