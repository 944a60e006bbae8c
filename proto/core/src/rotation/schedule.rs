//! When the hub opens a new generation of keys, and when it closes the old one.

use std::time::Duration;

use super::Generation;
use crate::violation::Violation;

/// How long every end has to send by the new generation before the old one is closed: longer than
/// any packet is on its way, and than a report may be old.
pub const DRAIN: Duration = Duration::from_secs(10);
/// How long after a renewal another one may follow because a tunnel has no pre-shared key, as those
/// of a cluster that joined since.
const COMPLETE: Duration = Duration::from_secs(600);
/// Most often that keys are renewed by schedule.
pub const MIN_INTERVAL: Duration = Duration::from_secs(3600);
/// Most rarely: a year.
pub const MAX_INTERVAL: Duration = Duration::from_secs(8760 * 3600);

/// A slice's keys, as the hub has booked them. Moments are seconds since the Unix epoch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keys {
    /// The generation that all have.
    pub generation: Generation,
    /// The one they are changing to.
    pub next: Option<Generation>,
    /// When `generation` became the only one; `None`: the slice began with it.
    pub renewed_at: Option<i64>,
    /// When `next` was opened.
    pub started_at: Option<i64>,
    /// Since when every end sends by `next`.
    pub moved_at: Option<i64>,
    /// The last request by hand that was taken up.
    pub request: Option<String>,
}

/// What is asked for, and how things are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Demand<'a> {
    /// How often keys are to be renewed.
    pub interval: Option<Duration>,
    /// A request by hand: any text, new each time.
    pub request: Option<&'a str>,
    /// Every tunnel works.
    pub ready: bool,
    /// Some tunnel has no pre-shared key.
    pub bare: bool,
    /// Every end sends by the next generation.
    pub moved: bool,
}

impl Keys {
    /// The next state. A generation is opened on demand, and where every tunnel works also by schedule
    /// and for tunnels that have come without a pre-shared key since; it becomes the only one when
    /// every end has sent by it for [`DRAIN`].
    #[must_use]
    pub fn step(&self, demand: &Demand<'_>, now: i64) -> Self {
        let mut keys = self.clone();
        if let Some(next) = self.next {
            keys.moved_at = demand.moved.then(|| self.moved_at.unwrap_or(now));
            if keys.moved_at.is_some_and(|at| now - at >= seconds(DRAIN)) {
                keys = Self {
                    generation: next,
                    renewed_at: Some(now),
                    request: self.request.clone(),
                    ..Self::default()
                };
            }
            return keys;
        }
        let asked = demand.request.filter(|request| self.request.as_deref() != Some(request));
        if asked.is_some() || (demand.ready && self.due(demand).is_some_and(|at| at <= now)) {
            keys.next = Some(self.generation + 1);
            keys.started_at = Some(now);
            keys.request = asked.map(str::to_owned).or(keys.request);
        }
        keys
    }

    /// When new keys are due without being asked for. By schedule a slice's first are renewed at once,
    /// because they have no pre-shared key beside them; a slice without a schedule keeps them until
    /// somebody asks, and has pre-shared keys in all of its tunnels from then on.
    fn due(&self, demand: &Demand<'_>) -> Option<i64> {
        let after = |wait: Duration| self.renewed_at.map(|at| at.saturating_add(seconds(wait)));
        let scheduled = demand.interval.map(|interval| after(interval).unwrap_or(i64::MIN));
        let completed = after(COMPLETE).filter(|_| demand.bare);
        scheduled.into_iter().chain(completed).min()
    }

    /// When to look again although nothing has changed.
    pub fn wake(&self, demand: &Demand<'_>, now: i64) -> Option<Duration> {
        let at = match self.next {
            Some(_) => self.moved_at.map(|at| at + seconds(DRAIN)),
            None => self.due(demand).filter(|_| demand.ready),
        };
        let wait = at?.saturating_sub(now).max(1);
        u64::try_from(wait).ok().map(Duration::from_secs)
    }
}

fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

/// Reads an interval such as `720h`, `90m` or `36h30m`.
///
/// # Errors
/// It is none, or not within [`MIN_INTERVAL`] and [`MAX_INTERVAL`].
pub fn interval(field: &str, text: &str) -> Result<Duration, Violation> {
    let what = "must be hours and minutes from 1h to 8760h, as 720h or 36h30m";
    let fault = || Violation::new(field, text, "RotationInterval", what);
    let (mut total, mut digits) = (0_u64, String::new());
    for c in text.chars() {
        let unit = match c {
            '0'..='9' => {
                digits.push(c);
                continue;
            }
            'h' => 3600,
            'm' => 60,
            _ => return Err(fault()),
        };
        let number: u64 = digits.parse().map_err(|_| fault())?;
        digits.clear();
        total = number.checked_mul(unit).and_then(|n| total.checked_add(n)).ok_or_else(fault)?;
    }
    let read = Duration::from_secs(total);
    let good = digits.is_empty() && (MIN_INTERVAL..=MAX_INTERVAL).contains(&read);
    if good { Ok(read) } else { Err(fault()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn intervals_are_read_and_bounded() {
        for (text, hours) in [("1h", 1), ("720h", 720), ("60m", 1), ("8760h", 8760)] {
            assert_eq!(interval("f", text).unwrap(), HOUR * hours, "{text}");
        }
        assert_eq!(interval("f", "36h30m").unwrap(), Duration::from_secs(131_400));
        for text in ["", "1", "59m", "8761h", "h", "1d", "-2h", "99999999999999999999h", "720 h"] {
            assert_eq!(interval("f", text).unwrap_err().reason, "RotationInterval", "{text}");
        }
    }

    #[test]
    fn a_request_is_taken_up_once() {
        let asked = Demand { request: Some("a"), ..Demand::default() };
        let keys = Keys::default().step(&asked, 100);
        assert_eq!((keys.generation, keys.next, keys.started_at), (0, Some(1), Some(100)));
        assert_eq!(keys.step(&asked, 200), keys, "nobody has moved");
        let moved = Demand { moved: true, ..asked };
        let draining = keys.step(&moved, 300);
        assert_eq!((draining.moved_at, draining.next), (Some(300), Some(1)));
        assert_eq!(draining.wake(&moved, 304), Some(Duration::from_secs(6)));
        assert_eq!(draining.step(&asked, 305).moved_at, None, "somebody went back");
        assert_eq!(draining.step(&moved, 309), draining);
        let done = draining.step(&moved, 310);
        assert_eq!((done.generation, done.next, done.renewed_at), (1, None, Some(310)));
        assert_eq!(done.step(&asked, 400), done);
        let again = Demand { request: Some("b"), ..Demand::default() };
        assert_eq!(done.step(&again, 400).next, Some(2));
    }

    #[test]
    fn the_schedule_waits_for_working_tunnels_and_for_its_time() {
        let every = Demand { interval: Some(HOUR), ..Demand::default() };
        let first = Keys::default();
        assert_eq!(first.step(&every, 100), first);
        let ready = Demand { ready: true, ..every };
        assert_eq!(first.step(&ready, 100).next, Some(1));
        let done = Keys { generation: 1, renewed_at: Some(1_000), ..Keys::default() };
        assert_eq!(done.step(&ready, 4_599), done);
        assert_eq!(done.wake(&ready, 4_599), Some(Duration::from_secs(1)));
        assert_eq!(done.step(&ready, 4_600).next, Some(2));
        let off = Demand { ready: true, ..Demand::default() };
        assert_eq!((done.step(&off, i64::MAX), done.wake(&off, 5_000)), (done.clone(), None));
    }

    #[test]
    fn a_cluster_that_joins_later_gets_pre_shared_keys_too() {
        let bare = Demand { bare: true, ready: true, ..Demand::default() };
        let first = Keys::default();
        assert_eq!(first.step(&bare, 10_000), first, "nobody has asked for any yet");
        let done = Keys { generation: 1, renewed_at: Some(1_000), ..Keys::default() };
        let waits = Demand { ready: false, ..bare };
        assert_eq!(done.step(&waits, 10_000), done, "a tunnel does not work");
        assert_eq!((done.step(&bare, 1_599), done.wake(&waits, 1_599)), (done.clone(), None));
        assert_eq!(done.wake(&bare, 1_599), Some(Duration::from_secs(1)));
        assert_eq!(done.step(&bare, 1_600).next, Some(2));
        let daily = Demand { interval: Some(HOUR * 24), ..bare };
        assert_eq!(done.step(&daily, 1_600).next, Some(2), "a schedule does not make it later");
    }
}
