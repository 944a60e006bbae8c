//! How much one caller may ask for.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::state::keyed::DefaultKeyedStateStore;
use governor::{Quota, RateLimiter};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until};

use crate::fault::{Fault, Outcome};

/// How long one call too many waits for its refusal, at least: who calls again at once, and again, is
/// slowed down instead of keeping the hub from answering others.
const HOLD: Duration = Duration::from_millis(100);
/// How many times as long it may wait: many that are refused at once do not come again at once.
const SPREAD: f64 = 3.0;
/// Refusals that wait at a time: waiting takes memory.
const HELD: usize = 1024;

/// A caller, or a caller's use of one method.
type Key = (Arc<str>, &'static str);
type Keyed = RateLimiter<Key, DefaultKeyedStateStore<Key>, DefaultClock>;

/// Bounds for each caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Calls of one method a second; twice as many at once.
    pub calls_of_a_method: NonZeroU32,
    /// Calls of all methods a second; twice as many at once.
    pub calls: NonZeroU32,
    /// Streams at a time.
    pub streams: usize,
}

/// Counts what each caller asks for.
pub struct Limits {
    methods: Keyed,
    callers: Keyed,
    clock: DefaultClock,
    streams: Arc<Mutex<HashMap<Arc<str>, usize>>>,
    refusals: Semaphore,
    bounds: Bounds,
}

/// A stream that is counted while it lives.
pub struct Stream {
    streams: Arc<Mutex<HashMap<Arc<str>, usize>>>,
    caller: Arc<str>,
}

impl Limits {
    /// Nothing asked for yet.
    pub fn new(bounds: Bounds) -> Self {
        let quota =
            |rate: NonZeroU32| Quota::per_second(rate).allow_burst(rate.saturating_mul(TWO));
        Self {
            methods: RateLimiter::keyed(quota(bounds.calls_of_a_method)),
            callers: RateLimiter::keyed(quota(bounds.calls)),
            clock: DefaultClock::default(),
            streams: Arc::default(),
            refusals: Semaphore::new(HELD),
            bounds,
        }
    }

    /// Counts a call.
    ///
    /// # Errors
    /// It is one too many; says when the next may come.
    pub fn call(&self, caller: &Arc<str>, method: &'static str) -> Outcome<()> {
        self.check(&self.methods, (caller.clone(), method), "MethodRate", "this method")?;
        self.check(&self.callers, (caller.clone(), ""), "CallerRate", "the API")
    }

    fn check(&self, by: &Keyed, key: Key, reason: &str, what: &str) -> Outcome<()> {
        by.check_key(&key).map_err(|not| {
            let wait = not.wait_time_from(self.clock.now()).max(Duration::from_millis(1));
            let per = not.quota().burst_size().get() / 2;
            let message = format!(
                "{} calls {what} more than {per} times a second; try again in {} ms",
                key.0,
                wait.as_millis()
            );
            Fault::limited(reason, message, wait)
        })
    }

    /// Waits before a refusal is told, at most until `end`; not at all where too many wait already.
    pub async fn hold(&self, end: Instant) {
        if let Ok(_place) = self.refusals.try_acquire() {
            let hold = HOLD.mul_f64(rand::random_range(1.0..SPREAD));
            sleep_until(end.min(Instant::now() + hold)).await;
        }
    }

    /// Counts a stream until it is dropped.
    ///
    /// # Errors
    /// It is one too many.
    pub fn stream(&self, caller: &Arc<str>) -> Outcome<Stream> {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        let count = streams.entry(caller.clone()).or_insert(0);
        if *count >= self.bounds.streams {
            let most = self.bounds.streams;
            let message = format!("{caller} has {most} streams open, which is the most; end one");
            return Err(Fault::limited("Streams", message, Duration::from_secs(5)));
        }
        *count += 1;
        Ok(Stream { streams: self.streams.clone(), caller: caller.clone() })
    }

    /// Forgets callers that have not asked for anything lately.
    pub fn tidy(&self) {
        self.methods.retain_recent();
        self.callers.retain_recent();
    }
}

const TWO: NonZeroU32 = NonZeroU32::MIN.saturating_add(1);

impl Drop for Stream {
    fn drop(&mut self) {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = streams.get_mut(&self.caller) {
            *count -= 1;
            if *count == 0 {
                streams.remove(&self.caller);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        let n = |n| NonZeroU32::new(n).unwrap();
        Limits::new(Bounds { calls_of_a_method: n(5), calls: n(8), streams: 2 })
    }

    #[test]
    fn callers_and_methods_are_counted_apart() {
        let limits = limits();
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let passed = |caller: &Arc<str>, method| {
            (0..50).filter(|_| limits.call(caller, method).is_ok()).count()
        };
        assert_eq!(passed(&a, "Get"), 10);
        // What is left of the caller's whole.
        assert_eq!(passed(&a, "List"), 6);
        assert_eq!(passed(&b, "Get"), 10);
        let fault = limits.call(&a, "Get").unwrap_err();
        assert_eq!(fault.reason, "MethodRate");
        assert!(fault.retry.is_some_and(|r| r <= Duration::from_millis(200)), "{fault:?}");
    }

    #[tokio::test]
    async fn a_refusal_waits_for_a_while_but_not_beyond_the_deadline_and_not_among_many() {
        let limits = limits();
        let took = async |end: Duration| {
            let begun = Instant::now();
            limits.hold(begun + end).await;
            begun.elapsed()
        };
        let far = Duration::from_secs(30);
        assert!(took(far).await >= HOLD);
        assert!(took(Duration::ZERO).await < HOLD / 2);
        let _all = limits.refusals.try_acquire_many(u32::try_from(HELD).unwrap()).unwrap();
        assert!(took(far).await < HOLD / 2);
    }

    #[test]
    fn streams_are_counted_while_they_live() {
        let limits = limits();
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let one = limits.stream(&a).unwrap_or_else(|_| unreachable!());
        let _two = limits.stream(&a).unwrap_or_else(|_| unreachable!());
        assert!(limits.stream(&a).is_err());
        assert!(limits.stream(&b).is_ok());
        drop(one);
        assert!(limits.stream(&a).is_ok());
    }
}
