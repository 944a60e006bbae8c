//! What makes one ruleset of another.

use std::collections::{BTreeMap, BTreeSet};

use super::{Chain, Elements, Hook, Name, Rule, Ruleset, Set, Table};

/// Changes to both tables, to be made together or not at all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Delta {
    /// What there was before goes first, whatever it was.
    pub anew: bool,
    /// Changes to [`Ruleset::inet`], in order.
    pub inet: Vec<Change>,
    /// Changes to [`Ruleset::arp`], in order.
    pub arp: Vec<Change>,
}

/// One change to a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Makes a counter.
    AddCounter(Name),
    /// Makes a set like this one, with nothing in it yet.
    AddSet(Name, Set),
    /// Makes a chain without rules.
    AddChain(Name, Option<Hook>),
    /// Takes everything out of a set.
    Clear(Name),
    /// Takes these out of a set.
    Remove(Name, Set),
    /// Puts these into a set.
    Insert(Name, Set),
    /// Gives a chain these rules instead of those it had.
    SetRules(Name, Vec<Rule>),
    /// Removes a set with all in it. No rule uses it any more.
    DeleteSet(Name),
    /// Removes a chain. It is empty, and nothing leads to it any more.
    DeleteChain(Name),
    /// Removes a counter. No rule uses it any more.
    DeleteCounter(Name),
}

impl Delta {
    /// All of a ruleset, in place of whatever there is.
    pub fn whole(ruleset: &Ruleset) -> Self {
        Self { anew: true, ..Self::between(&Ruleset::default(), ruleset) }
    }

    /// What makes `new` of `old`.
    pub fn between(old: &Ruleset, new: &Ruleset) -> Self {
        Self { anew: false, inet: changes(&old.inet, &new.inet), arp: changes(&old.arp, &new.arp) }
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        !self.anew && self.inet.is_empty() && self.arp.is_empty()
    }

    /// Whether sets' elements are all that changes.
    pub fn is_elements_only(&self) -> bool {
        let only = |change: &Change| {
            matches!(change, Change::Clear(_) | Change::Remove(..) | Change::Insert(..))
        };
        !self.anew && self.inet.iter().chain(&self.arp).all(only)
    }
}

/// What is made comes first, so that it can be referred to; what is removed comes last, when
/// nothing refers to it any more.
fn changes(old: &Table, new: &Table) -> Vec<Change> {
    let mut all = Vec::new();
    all.extend(new.counters.difference(&old.counters).cloned().map(Change::AddCounter));
    let same_sort = |name: &Name, set: &Set| {
        old.sets.get(name).is_some_and(|had| had.emptied() == set.emptied())
    };
    for (name, set) in new.sets.iter().filter(|(name, set)| !same_sort(name, set)) {
        all.push(Change::AddSet(name.clone(), set.emptied()));
    }
    let added = |name: &Name| !old.chains.contains_key(name);
    for (name, chain) in new.chains.iter().filter(|(name, _)| added(name)) {
        all.push(Change::AddChain(name.clone(), chain.hook));
    }
    let mut inserted = Vec::new();
    for (name, set) in &new.sets {
        match old.sets.get(name).filter(|_| same_sort(name, set)) {
            Some(had) => elements(name, had, set, &mut all, &mut inserted),
            None => insert(name, set.clone(), &mut inserted),
        }
    }
    // Before elements are put in: to use a map in one more rule the kernel looks at all of them.
    rules(&old.chains, &new.chains, &mut all);
    all.append(&mut inserted);
    let gone = |name: &&Name| !new.sets.contains_key(*name);
    all.extend(old.sets.keys().filter(gone).cloned().map(Change::DeleteSet));
    let gone = |name: &&Name| !new.chains.contains_key(*name);
    all.extend(old.chains.keys().filter(gone).cloned().map(Change::DeleteChain));
    all.extend(old.counters.difference(&new.counters).cloned().map(Change::DeleteCounter));
    all
}

fn rules(old: &BTreeMap<Name, Chain>, new: &BTreeMap<Name, Chain>, all: &mut Vec<Change>) {
    for (name, chain) in new {
        let had = old.get(name).map_or(&[][..], |c| &c.rules);
        if had != chain.rules {
            all.push(Change::SetRules(name.clone(), chain.rules.clone()));
        }
    }
    for (name, chain) in old {
        if !new.contains_key(name) && !chain.rules.is_empty() {
            all.push(Change::SetRules(name.clone(), Vec::new()));
        }
    }
}

fn insert(name: &Name, set: Set, all: &mut Vec<Change>) {
    if !set.is_empty() {
        all.push(Change::Insert(name.clone(), set));
    }
}

fn elements(
    name: &Name,
    old: &Set,
    new: &Set,
    removed: &mut Vec<Change>,
    inserted: &mut Vec<Change>,
) {
    if old.elements == new.elements {
        return;
    }
    // Intervals are put in anew: what was one may be parts of two now.
    if new.has_intervals() {
        removed.push(Change::Clear(name.clone()));
        insert(name, new.clone(), inserted);
        return;
    }
    let (stale, fresh) = match (&old.elements, &new.elements) {
        (Elements::Plain(old), Elements::Plain(new)) => {
            let minus = |a: &BTreeSet<_>, b| a.difference(b).cloned().collect();
            (Elements::Plain(minus(old, new)), Elements::Plain(minus(new, old)))
        }
        (Elements::Marks(old), Elements::Marks(new)) => {
            (Elements::Marks(minus(old, new)), Elements::Marks(minus(new, old)))
        }
        (Elements::Verdicts(old), Elements::Verdicts(new)) => {
            (Elements::Verdicts(minus(old, new)), Elements::Verdicts(minus(new, old)))
        }
        (Elements::Marks4(old), Elements::Marks4(new)) => {
            (Elements::Marks4(minus(old, new)), Elements::Marks4(minus(new, old)))
        }
        (Elements::Marks6(old), Elements::Marks6(new)) => {
            (Elements::Marks6(minus(old, new)), Elements::Marks6(minus(new, old)))
        }
        (_, fresh) => (old.elements.clone(), fresh.clone()),
    };
    let of = |elements| Set { key: new.key.clone(), elements };
    let stale = of(stale);
    if !stale.is_empty() {
        removed.push(Change::Remove(name.clone(), stale));
    }
    insert(name, of(fresh), inserted);
}

/// Entries of `a` that `b` does not have alike.
fn minus<K: Ord + Clone, V: PartialEq + Clone>(
    a: &BTreeMap<K, V>,
    b: &BTreeMap<K, V>,
) -> BTreeMap<K, V> {
    let other = |(key, value): &(&K, &V)| b.get(*key) != Some(*value);
    a.iter().filter(other).map(|(key, value)| (key.clone(), value.clone())).collect()
}
