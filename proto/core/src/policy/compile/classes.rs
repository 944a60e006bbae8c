//! Classes of addresses: a number for each key that some address has.

use std::collections::{BTreeMap, BTreeSet};

use super::intern::Interner;

/// All classes.
#[derive(Debug, Default)]
pub(super) struct Classes {
    numbers: Interner<Vec<u32>>,
    all: BTreeMap<u32, Class>,
    by_atom: BTreeMap<u32, BTreeSet<u32>>,
    /// Atoms of classes that have come or gone.
    changed: BTreeSet<u32>,
}

#[derive(Debug)]
struct Class {
    key: Vec<u32>,
    /// Addresses and ranges in it.
    members: usize,
}

impl Classes {
    /// Counts one more address with this key; its class, and whether nobody was in it before.
    /// There is no class for the key that is empty.
    pub(super) fn enter(&mut self, key: &[u32]) -> Option<(u32, bool)> {
        if key.is_empty() {
            return None;
        }
        let (number, _) = self.numbers.number(key.to_vec());
        let (by_atom, changed) = (&mut self.by_atom, &mut self.changed);
        let mut new = false;
        let class = self.all.entry(number).or_insert_with(|| {
            new = true;
            changed.extend(key);
            for atom in key {
                by_atom.entry(*atom).or_default().insert(number);
            }
            Class { key: key.to_vec(), members: 0 }
        });
        class.members += 1;
        Some((number, new))
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
                changed.extend(&class.key);
                for atom in &class.key {
                    if let Some(of_atom) = by_atom.get_mut(atom) {
                        of_atom.remove(number);
                    }
                }
            }
            class.members > 0
        });
        by_atom.retain(|_, classes| !classes.is_empty());
    }

    /// Atoms of classes that have come or gone since this was asked.
    pub(super) fn take_changed(&mut self) -> BTreeSet<u32> {
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
