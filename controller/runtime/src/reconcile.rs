//! The reconcile driver: keys in, one run at a time per key, retries with backoff.
//!
//! A key that is asked for while it runs is run once more afterwards, so that no change is missed
//! and none is handled twice at the same time.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// First wait after a failure; doubles up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// Longest wait between two tries.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// What a run wants next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Nothing until something changes.
    Wait,
    /// Another run after this time, unless something changes before.
    After(Duration),
    /// It failed: try again, each time later.
    Retry,
}

/// Keys that wait for their run. Clones share the same queue.
pub struct Queue<K> {
    state: Arc<Mutex<State<K>>>,
    wake: Arc<Notify>,
}

struct State<K> {
    due: BTreeMap<K, Instant>,
    running: BTreeSet<K>,
    failures: BTreeMap<K, u32>,
}

impl<K> Clone for Queue<K> {
    fn clone(&self) -> Self {
        Self { state: self.state.clone(), wake: self.wake.clone() }
    }
}

impl<K: Ord + Clone> Default for Queue<K> {
    fn default() -> Self {
        let state =
            State { due: BTreeMap::new(), running: BTreeSet::new(), failures: BTreeMap::new() };
        Self { state: Arc::new(Mutex::new(state)), wake: Arc::new(Notify::new()) }
    }
}

impl<K: Ord + Clone> Queue<K> {
    /// Asks for a run of `key` now.
    pub fn add(&self, key: K) {
        self.add_at(key, Instant::now());
    }

    fn add_at(&self, key: K, when: Instant) {
        let mut state = self.lock();
        let due = state.due.entry(key).or_insert(when);
        *due = (*due).min(when);
        drop(state);
        self.wake.notify_one();
    }

    /// Takes a key that is due and does not run, or tells when the next one is.
    fn take(&self, now: Instant) -> Result<K, Option<Instant>> {
        let mut state = self.lock();
        let idle = |key: &K| !state.running.contains(key);
        let first = state.due.iter().filter(|(k, _)| idle(k)).min_by_key(|(_, at)| **at);
        match first.map(|(k, at)| (k.clone(), *at)) {
            Some((key, at)) if at <= now => {
                state.due.remove(&key);
                state.running.insert(key.clone());
                Ok(key)
            }
            other => Err(other.map(|(_, at)| at)),
        }
    }

    fn done(&self, key: K, next: Next, now: Instant) {
        let mut state = self.lock();
        state.running.remove(&key);
        let wait = match next {
            Next::Retry => {
                let count = state.failures.entry(key.clone()).or_insert(0);
                *count += 1;
                Some(backoff(*count))
            }
            Next::After(wait) => Some(wait),
            Next::Wait => None,
        };
        if next != Next::Retry {
            state.failures.remove(&key);
        }
        drop(state);
        match wait {
            Some(wait) => self.add_at(key, now + wait),
            None => self.wake.notify_one(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<K>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The wait after the `failures`-th failure in a row.
pub fn backoff(failures: u32) -> Duration {
    FIRST_WAIT.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(LONGEST_WAIT)
}

/// Runs `reconcile` for every key of the queue until `stop`, at most `parallel` at a time.
///
/// On `stop` runs that are under way are finished first.
pub async fn drive<K, F, Fut>(
    queue: Queue<K>,
    parallel: usize,
    stop: CancellationToken,
    reconcile: F,
) where
    K: Ord + Clone + Debug + Send + 'static,
    F: Fn(K) -> Fut,
    Fut: Future<Output = Next> + Send + 'static,
{
    let mut running: JoinSet<()> = JoinSet::new();
    loop {
        while running.try_join_next().is_some() {}
        let mut wake_at = None;
        while running.len() < parallel && !stop.is_cancelled() {
            match queue.take(Instant::now()) {
                Ok(key) => {
                    let run = reconcile(key.clone());
                    let finish = Finish { queue: queue.clone(), key: Some(key) };
                    running.spawn(async move { finish.with(run.await) });
                }
                Err(next) => {
                    wake_at = next;
                    break;
                }
            }
        }
        let due = async {
            match wake_at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.cancelled() => break,
            () = queue.wake.notified() => {}
            () = due => {}
            Some(_) = running.join_next() => {}
        }
    }
    while running.join_next().await.is_some() {}
}

/// Gives a key back even when its run panics.
struct Finish<K: Ord + Clone> {
    queue: Queue<K>,
    key: Option<K>,
}

impl<K: Ord + Clone> Finish<K> {
    fn with(mut self, next: Next) {
        if let Some(key) = self.key.take() {
            self.queue.done(key, next, Instant::now());
        }
    }
}

impl<K: Ord + Clone> Drop for Finish<K> {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            self.queue.done(key, Next::Retry, Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn waits_double_up_to_half_a_minute() {
        assert_eq!(backoff(1), Duration::from_millis(100));
        assert_eq!(backoff(2), Duration::from_millis(200));
        assert_eq!(backoff(40), LONGEST_WAIT);
    }

    #[test]
    fn a_key_does_not_run_twice_at_once_but_once_more_afterwards() {
        let queue = Queue::default();
        let now = Instant::now();
        queue.add("a");
        assert_eq!(queue.take(now + FIRST_WAIT), Ok("a"));
        queue.add("a");
        assert_eq!(queue.take(now + FIRST_WAIT), Err(None));
        queue.done("a", Next::Wait, now);
        assert_eq!(queue.take(now + FIRST_WAIT), Ok("a"));
        queue.done("a", Next::Wait, now);
        assert_eq!(queue.take(now + FIRST_WAIT), Err(None));
    }

    #[test]
    fn a_change_is_not_held_up_by_a_wait() {
        let queue = Queue::default();
        let now = Instant::now();
        queue.add("a");
        assert_eq!(queue.take(now + FIRST_WAIT), Ok("a"));
        queue.done("a", Next::After(Duration::from_secs(60)), now);
        assert!(matches!(queue.take(now + FIRST_WAIT), Err(Some(_))));
        queue.add("a");
        assert_eq!(queue.take(Instant::now()), Ok("a"));
    }

    #[tokio::test]
    async fn a_run_that_panics_is_tried_again() {
        let queue: Queue<u8> = Queue::default();
        queue.add(1);
        let stop = CancellationToken::new();
        let runs = Arc::new(AtomicU32::new(0));
        let (seen, ended) = (runs.clone(), stop.clone());
        drive(queue, 2, stop, move |_| {
            let (seen, ended) = (seen.clone(), ended.clone());
            async move {
                assert!(seen.fetch_add(1, Ordering::SeqCst) > 0, "the first run fails");
                ended.cancel();
                Next::Wait
            }
        })
        .await;
        assert_eq!(runs.load(Ordering::SeqCst), 2);
    }
}
