//! Pods that are judged alike: which rules count for them, and where classes of other ends lead.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::atoms::{Atoms, PortName};
use super::class_map;
use super::classes::{Changed, Classes};
use super::frame;
use super::function::Function;
use super::functions::{Functions, Place};
use super::judge::{At, Entry, Judge};
use super::lists::List;
use super::subjects::NamedPorts;
use crate::policy::model::{Default, Direction, Mode};
use crate::policy::ruleset::{Chain, Datum, Field, Kind, Name, Ruleset, Set, Step, Verdict};
use crate::prefix::Family;

/// Pods that are judged alike, in one direction.
#[derive(Debug)]
pub(super) struct Subject {
    number: u32,
    judge: Judge,
    /// Names of other endpoints' ports that its rules use.
    their_ports: BTreeSet<PortName>,
    /// Numbers of the atoms that rules name, with the rules.
    by_atom: BTreeSet<(u32, At)>,
    /// Rules that do not ask who the other end is.
    for_everybody: BTreeSet<At>,
    /// What it is judged by when the other end is of no class, and where.
    base: Function,
    place: Option<Place>,
    /// Where classes lead; others to the same as no class.
    leads: BTreeMap<u32, Place>,
    stale: Stale,
}

/// Of which classes it has to be found out anew where they lead.
#[derive(Debug)]
enum Stale {
    All,
    /// Of those with one of these atoms.
    With(BTreeSet<u32>),
}

/// A class that leads somewhere else now.
#[derive(Debug)]
pub(super) struct Turn {
    pub(super) class: u32,
    /// `None`: to the same as no class.
    pub(super) now: Option<Place>,
}

pub(super) fn chain_name(direction: Direction, number: u32) -> Name {
    match direction {
        Direction::Egress => format!("egress-{number}"),
        Direction::Ingress => format!("ingress-{number}"),
    }
}

impl Subject {
    pub(super) fn of(
        number: u32,
        direction: Direction,
        lists: Vec<Arc<List>>,
        default: (Default, Mode),
        ports: NamedPorts,
    ) -> Self {
        let (mut by_atom, mut for_everybody) = (Vec::new(), BTreeSet::new());
        for (number, list) in lists.iter().enumerate() {
            by_atom.extend(atoms_at(number, list));
            for_everybody.extend(list.for_everybody.iter().map(|index| (number, *index)));
        }
        let their_ports = lists.iter().flat_map(|list| list.their_ports()).cloned().collect();
        let judge = Judge::of(direction, lists, default, ports);
        let base = Function::of(&judge, &judge.entries(&for_everybody), &judge.ports);
        Self {
            number,
            judge,
            their_ports,
            by_atom: by_atom.into_iter().collect(),
            for_everybody,
            base,
            place: None,
            leads: BTreeMap::new(),
            stale: Stale::All,
        }
    }

    /// Takes over the same policies' lists as they are now, and the slice's default.
    pub(super) fn take_over(&mut self, lists: &[Arc<List>], default: (Default, Mode)) {
        if let Some(atoms) = self.differing(lists, default) {
            self.relist(lists);
            self.stale = Stale::With(atoms);
            return;
        }
        let (direction, ports) = (self.judge.direction, std::mem::take(&mut self.judge.ports));
        let leads = std::mem::take(&mut self.leads);
        *self = Self { leads, ..Self::of(self.number, direction, lists.to_vec(), default, ports) };
    }

    /// Atoms without which a class leads where it did; `None` if any may lead somewhere else.
    ///
    /// That holds because what is decided about a class depends on nothing but the rules that name
    /// one of its atoms, the rules for everybody, modes and tiers, the default, the own ports'
    /// names, which are the same for as long as it is the same subject, and the others' ports'
    /// names in use.
    fn differing(&self, lists: &[Arc<List>], default: (Default, Mode)) -> Option<BTreeSet<u32>> {
        if self.judge.default != default {
            return None;
        }
        let mut atoms = BTreeSet::new();
        for (was, now) in self.judge.lists.iter().zip(lists) {
            if !Arc::ptr_eq(was, now) {
                atoms.append(&mut now.since(was)?);
            }
        }
        Some(atoms)
    }

    /// Puts other versions of lists in the place of what there is.
    fn relist(&mut self, lists: &[Arc<List>]) {
        for (number, (list, now)) in self.judge.lists.iter_mut().zip(lists).enumerate() {
            if Arc::ptr_eq(list, now) {
                continue;
            }
            for at in atoms_at(number, list) {
                self.by_atom.remove(&at);
            }
            self.by_atom.extend(atoms_at(number, now));
            *list = now.clone();
        }
    }

    /// Finds out where classes lead that are not what they were, or of which that is not known
    /// any more; those that lead somewhere else now.
    pub(super) fn update(
        &mut self,
        changed: &Changed,
        classes: &Classes,
        atoms: &Atoms,
        functions: &mut Functions,
    ) -> Vec<Turn> {
        let stale = std::mem::replace(&mut self.stale, Stale::With(BTreeSet::new()));
        let suspects = match stale {
            Stale::All => {
                self.place = Some(functions.place(&self.base));
                self.all_classes(classes, atoms)
            }
            Stale::With(stale) => self.classes_with(&stale, changed, classes, atoms),
        };
        let mut turns = Vec::new();
        for class in suspects {
            let now = self.lead(classes.key(class), atoms, functions);
            let was = match now {
                Some(place) => self.leads.insert(class, place),
                None => self.leads.remove(&class),
            };
            if was != now {
                turns.push(Turn { class, now });
            }
        }
        turns
    }

    /// Every class that matters or did.
    fn all_classes(&self, classes: &Classes, atoms: &Atoms) -> BTreeSet<u32> {
        let named = self.by_atom.iter().map(|(atom, _)| *atom);
        let relevant = named.chain(atoms.ports_called(&self.their_ports));
        relevant.flat_map(|a| classes.with_atom(a)).chain(self.leads.keys().copied()).collect()
    }

    /// Classes with a stale atom, and those that have come or gone, as far as they matter or did.
    fn classes_with(
        &self,
        stale: &BTreeSet<u32>,
        changed: &Changed,
        classes: &Classes,
        atoms: &Atoms,
    ) -> BTreeSet<u32> {
        let mut found: BTreeSet<u32> = stale.iter().flat_map(|a| classes.with_atom(*a)).collect();
        for (atom, of_atom) in changed {
            if stale.contains(atom) || self.is_about(*atom, atoms) {
                found.extend(of_atom);
            }
        }
        found
    }

    /// Whether classes with this atom matter.
    fn is_about(&self, atom: u32, atoms: &Atoms) -> bool {
        self.naming(atom).next().is_some()
            || atoms.port(atom).is_some_and(|(name, _)| self.their_ports.contains(name))
    }

    /// Rules that name an atom.
    fn naming(&self, atom: u32) -> impl Iterator<Item = At> {
        let all = self.by_atom.range((atom, (0, 0))..=(atom, (usize::MAX, usize::MAX)));
        all.map(|(_, at)| *at)
    }

    /// Where a class leads; `None` if to the same as no class. That is said only where no atom of
    /// the key matters to any rule, so that it holds for every part of the key, too.
    fn lead(&self, key: &[u32], atoms: &Atoms, functions: &mut Functions) -> Option<Place> {
        let mut more: BTreeSet<At> = key.iter().flat_map(|atom| self.naming(*atom)).collect();
        let mut theirs = NamedPorts::new();
        let ports = key.iter().filter_map(|atom| atoms.port(*atom));
        for (name, port) in ports.filter(|(name, _)| self.their_ports.contains(name)) {
            theirs.entry(name.clone()).or_default().insert(*port);
        }
        if more.is_empty() && theirs.is_empty() {
            return None;
        }
        let judge = &self.judge;
        let all = judge.entries(more.union(&self.for_everybody));
        if !theirs.is_empty() {
            // Those that name a port list something only now that it is known what that is.
            more.extend(&self.for_everybody);
            more.retain(|at| {
                !self.for_everybody.contains(at) || judge.entry(*at).is_some_and(Entry::names_ports)
            });
        }
        let named = match judge.direction {
            Direction::Egress => &theirs,
            Direction::Ingress => &judge.ports,
        };
        Some(match self.base.beyond(judge, &all, &judge.entries(&more), named) {
            Some(by_port) => functions.place_beyond(by_port, self.place?),
            None => functions.place(&Function::of(judge, &all, named)),
        })
    }

    /// Everything that it leads to.
    pub(super) fn places(&self) -> impl Iterator<Item = Place> {
        self.leads.values().copied().chain(self.place)
    }

    /// What its map from classes to functions is called.
    pub(super) fn classes_name(&self) -> Name {
        format!("{}-classes", self.chain_name())
    }

    fn chain_name(&self) -> Name {
        chain_name(self.judge.direction, self.number)
    }

    /// Whether any rule depends on who the other end is: if so, it has a map.
    pub(super) fn asks_who(&self) -> bool {
        !self.by_atom.is_empty() || !self.their_ports.is_empty()
    }

    /// Its map from classes to functions.
    pub(super) fn classes_set(&self) -> Set {
        let leads = self.leads.iter();
        let elements = leads.map(|(class, place)| (vec![Field::Mark(*class)], place.verdict()));
        Set::verdicts(&[Kind::Mark], elements)
    }

    /// Writes its chains.
    pub(super) fn write(&self, ruleset: &mut Ruleset) {
        let Some(place) = self.place else { return };
        let last = vec![Step::Do(place.verdict())];
        let name = self.chain_name();
        let chains = &mut ruleset.inet.chains;
        if !self.asks_who() {
            chains.insert(name, Chain { hook: None, rules: vec![last] });
            return;
        }
        // In a chain of its own: to use a map anew the kernel looks at everything in it.
        let other = format!("{name}-else");
        let mut rules = self.lookups();
        rules.push(vec![Step::Do(Verdict::Goto(other.clone()))]);
        chains.insert(name, Chain { hook: None, rules });
        chains.insert(other, Chain { hook: None, rules: vec![last] });
    }

    fn lookups(&self) -> Vec<Vec<Step>> {
        let mut rules = Vec::new();
        let mut by = |of: fn(Family) -> &'static str| {
            for family in [Family::V4, Family::V6] {
                let other = match self.judge.direction {
                    Direction::Egress => Datum::FlowDestination(family),
                    Direction::Ingress => Datum::FlowSource(family),
                };
                let map = of(family).to_owned();
                rules.push(vec![Step::DecideBy(other, map, self.classes_name())]);
            }
        };
        by(class_map);
        if self.judge.lists.iter().any(|list| list.names_nets) {
            by(frame::net_map);
        }
        rules
    }
}

/// The atoms that rules of a list name, with the rules.
fn atoms_at(number: usize, list: &List) -> impl Iterator<Item = (u32, At)> {
    list.by_atom.iter().map(move |(atom, index)| (*atom, (number, *index)))
}
