//! What is kept up by itself when the rest of the rules is made anew, because there may be very
//! much of it: maps from endpoints' addresses and from classes, and what functions are made of.

use std::collections::{BTreeMap, BTreeSet};

use super::class_map;
use crate::policy::ruleset::{Chain, Name, Ruleset, Set};
use crate::prefix::Family;

/// Parts of a ruleset.
#[derive(Debug)]
pub(super) struct Aside {
    addresses: [(&'static str, Option<Set>); 2],
    counters: BTreeSet<Name>,
    sets: BTreeMap<Name, Set>,
    chains: BTreeMap<Name, Chain>,
}

impl Aside {
    /// Takes them out, leaving empty maps, and these maps from classes with them.
    pub(super) fn take(ruleset: &mut Ruleset, from_classes: &[Name]) -> Self {
        let table = &mut ruleset.inet;
        let addresses = [Family::V4, Family::V6].map(class_map).map(|name| {
            let taken = table.sets.get_mut(name).map(|set| {
                let empty = set.emptied();
                std::mem::replace(set, empty)
            });
            (name, taken)
        });
        let mut counters = table.counters.split_off("counter-");
        table.counters.append(&mut counters.split_off("counter."));
        let mut sets = part(&mut table.sets, "function-", "function.");
        sets.extend(from_classes.iter().filter_map(|name| table.sets.remove_entry(name)));
        let mut chains = part(&mut table.chains, "function-", "function.");
        chains.extend(part(&mut table.chains, "decision-", "decision."));
        Self { addresses, counters, sets, chains }
    }

    /// Puts them into a ruleset. What that has is put to them, not they to it: it is less.
    pub(super) fn put_back(self, ruleset: &mut Ruleset) {
        let table = &mut ruleset.inet;
        for (name, set) in self.addresses {
            table.sets.extend(set.map(|set| (name.to_owned(), set)));
        }
        let counters = std::mem::replace(&mut table.counters, self.counters);
        table.counters.extend(counters);
        let sets = std::mem::replace(&mut table.sets, self.sets);
        table.sets.extend(sets);
        let chains = std::mem::replace(&mut table.chains, self.chains);
        table.chains.extend(chains);
    }
}

/// Takes out what is called from `first` to just before `end`.
fn part<T>(all: &mut BTreeMap<Name, T>, first: &str, end: &str) -> BTreeMap<Name, T> {
    let mut taken = all.split_off(first);
    all.append(&mut taken.split_off(end));
    taken
}
