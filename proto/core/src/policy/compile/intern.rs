//! Numbers for values: equal values have one number for as long as they are in use, and no number
//! is ever given to another value.

use std::collections::BTreeMap;

/// Gives out numbers, from 1. Values that are not asked for in a round are forgotten at its end.
#[derive(Debug)]
pub(super) struct Interner<T> {
    numbers: BTreeMap<T, u32>,
    /// The round in which each number was last asked for.
    rounds: BTreeMap<u32, u32>,
    last: u32,
    round: u32,
}

impl<T> Default for Interner<T> {
    fn default() -> Self {
        Self { numbers: BTreeMap::new(), rounds: BTreeMap::new(), last: 0, round: 0 }
    }
}

impl<T: Ord + Clone> Interner<T> {
    /// Begins a round.
    pub(super) fn begin(&mut self) {
        self.round = self.round.wrapping_add(1);
    }

    /// Ends it: forgets the values that were not asked for, with their numbers.
    pub(super) fn end(&mut self) -> Vec<(T, u32)> {
        let (rounds, round) = (&mut self.rounds, self.round);
        if rounds.values().all(|last| *last == round) {
            return Vec::new();
        }
        let stale = |_: &T, number: &mut u32| rounds.get(number) != Some(&round);
        let stale: Vec<(T, u32)> = self.numbers.extract_if(.., stale).collect();
        rounds.retain(|_, last| *last == round);
        stale
    }

    /// The value's number, and whether it is new.
    pub(super) fn number(&mut self, value: &T) -> (u32, bool) {
        let known = self.numbers.get(value).copied();
        let number = known.unwrap_or_else(|| {
            self.last += 1;
            self.numbers.insert(value.clone(), self.last);
            self.last
        });
        self.keep(number);
        (number, known.is_none())
    }

    /// Asks for the value of a number that is given out; whether nobody had in this round.
    pub(super) fn keep(&mut self, number: u32) -> bool {
        self.rounds.insert(number, self.round) != Some(self.round)
    }

    /// Takes a value's number away.
    pub(super) fn forget(&mut self, value: &T) {
        if let Some(number) = self.numbers.remove(value) {
            self.rounds.remove(&number);
        }
    }

    /// All values with their numbers.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&T, u32)> {
        self.numbers.iter().map(|(value, number)| (value, *number))
    }
}
