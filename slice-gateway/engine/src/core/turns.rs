//! A lock for what two threads use all the time.
//!
//! A mutex that is taken anew as soon as it is free hardly ever goes to anybody else, and a thread
//! that sleeps until it does waits for the processor on top. Here, whoever holds the lock for one
//! packet after the other lets others in between two packets.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::{hint, thread};

/// How often one looks whether others have had their turn: as long as a thread that runs needs to
/// notice that the value is free. It may be one that does not run.
const COURTESY: usize = 10;
/// Attempts before the processor is left to others: more than the work on one packet takes.
const ATTEMPTS: usize = 200;
/// Rounds of attempts before sleeping.
const ROUNDS: usize = 8;

/// A value that threads use in turns.
#[derive(Debug, Default)]
pub(super) struct Turns<T> {
    value: Mutex<T>,
    /// Threads that try to get it right now.
    trying: AtomicUsize,
}

impl<T> Turns<T> {
    pub(super) fn new(value: T) -> Self {
        Self { value: Mutex::new(value), trying: AtomicUsize::new(0) }
    }

    /// Takes the value when those who already try have had it.
    pub(super) fn take(&self) -> MutexGuard<'_, T> {
        for _ in 0..COURTESY {
            if self.trying.load(Ordering::Relaxed) == 0 {
                break;
            }
            hint::spin_loop();
        }
        self.attempt().unwrap_or_else(|| self.wait())
    }

    fn wait(&self) -> MutexGuard<'_, T> {
        for _ in 0..ROUNDS {
            self.trying.fetch_add(1, Ordering::Relaxed);
            let taken = (0..ATTEMPTS).find_map(|_| {
                hint::spin_loop();
                self.attempt()
            });
            self.trying.fetch_sub(1, Ordering::Relaxed);
            match taken {
                Some(guard) => return guard,
                // Who has it may be waiting for this processor.
                None => thread::yield_now(),
            }
        }
        self.value.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn attempt(&self) -> Option<MutexGuard<'_, T>> {
        match self.value.try_lock() {
            Ok(guard) => Some(guard),
            Err(TryLockError::Poisoned(error)) => Some(error.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;
    use std::time::{Duration, Instant};

    #[test]
    fn nothing_is_lost_between_threads() {
        let turns = Turns::new(0_u64);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| (0..20_000).for_each(|_| *turns.take() += 1));
            }
        });
        assert_eq!(*turns.take(), 160_000);
    }

    #[test]
    fn one_who_takes_many_turns_lets_others_in() {
        let (turns, stop) = (Turns::new(0_u64), AtomicBool::new(false));
        thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let mut value = turns.take();
                    *value += 1;
                    let until = Instant::now() + Duration::from_micros(1);
                    while Instant::now() < until {}
                }
            });
            while *turns.take() == 0 {}
            let started = Instant::now();
            for _ in 0..1_000 {
                drop(turns.take());
            }
            let spent = started.elapsed();
            stop.store(true, Ordering::Relaxed);
            // Far more than it takes on a busy machine, far less than being starved.
            assert!(spent < Duration::from_secs(20), "{spent:?} for a thousand turns");
        });
    }
}
