//! Classes of addresses: a number for each key that some address has.

use std::collections::{BTreeMap, BTreeSet};

use super::intern::Interner;

/// All classes.
#[derive(Debug, Default)]
pub(super) struct Classes {
    numbers: Interner<Vec<u32>>,
    all: BTreeMap<u32, Class>,
    by_atom: BTreeMap<u32, BTreeSet<u32>>,
    changed: Changed,
}

/// Classes that have come or gone, by the atoms in their keys.
pub(super) type Changed = BTreeMap<u32, BTreeSet<u32>>;

#[derive(Debug)]
struct Class {
    key: Vec<u32>,
    /// Addresses and ranges in it.
    members: usize,
}

impl Classes {
    /// Counts one more address with this key; its class. There is none for the key that is empty.
    pub(super) fn enter(&mut self, key: &[u32]) -> Option<u32> {
        if key.is_empty() {
            return None;
        }
        let (number, _) = self.numbers.number(&key.to_vec());
        let (by_atom, changed) = (&mut self.by_atom, &mut self.changed);
        let class = self.all.entry(number).or_insert_with(|| {
            for atom in key {
                changed.entry(*atom).or_default().insert(number);
                by_atom.entry(*atom).or_default().insert(number);
            }
            Class { key: key.to_vec(), members: 0 }
        });
        class.members += 1;
        Some(number)
    }

    /// Counts one address less.
    pub(super) fn leave(&mut self, number: u32) {
        if let Some(class) = self.all.get_mut(&number) {
            class.members = class.members.saturating_sub(1);
        }
    }

    /// Forgets classes that nobody is in.
    pub(super) fn sweep(&mut self) {
        let (numbers, by_atom) = (&mut self.numbers, &mut self.by_atom);
        let changed = &mut self.changed;
        self.all.retain(|number, class| {
            if class.members == 0 {
                numbers.forget(&class.key);
                for atom in &class.key {
                    changed.entry(*atom).or_default().insert(*number);
                    if let Some(of_atom) = by_atom.get_mut(atom) {
                        of_atom.remove(number);
                    }
                }
            }
            class.members > 0
        });
        by_atom.retain(|_, classes| !classes.is_empty());
    }

    /// Classes that have come or gone since this was asked.
    pub(super) fn take_changed(&mut self) -> Changed {
        std::mem::take(&mut self.changed)
    }

    /// Classes with an atom in their key.
    pub(super) fn with_atom(&self, atom: u32) -> impl Iterator<Item = u32> {
        self.by_atom.get(&atom).into_iter().flatten().copied()
    }

    /// The key of a class.
    pub(super) fn key(&self, number: u32) -> &[u32] {
        self.all.get(&number).map_or(&[], |class| &class.key)
    }
}
