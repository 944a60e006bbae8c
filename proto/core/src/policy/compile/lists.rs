//! The rules of the policies that select local pods, policy by policy. What is as it was stays in
//! its place in memory, whoever shares it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::atoms::{Atoms, Parting, PortName};
use super::selected::Named;
use crate::policy::model::{
    Direction, Mode, Peer, Policy, PolicyName, PortMatch, Ports, Rule, Tier,
};

/// The lists of all policies that select a local pod.
#[derive(Debug, Default)]
pub(super) struct Lists {
    all: BTreeMap<(Direction, PolicyName), Arc<List>>,
}

/// What a policy lists in one direction.
#[derive(Debug)]
pub(super) struct List {
    pub(super) name: PolicyName,
    pub(super) direction: Direction,
    policy: Arc<Policy>,
    /// Numbers of the atoms that rules name, with the rules' places.
    pub(super) by_atom: BTreeSet<(u32, usize)>,
    /// Places of the rules that do not ask who the other end is.
    pub(super) for_everybody: Vec<usize>,
    /// Names of ports that its rules use.
    pub(super) port_names: BTreeSet<PortName>,
    /// Whether a rule names a prefix.
    pub(super) names_nets: bool,
}

impl Lists {
    /// Takes over the lists of these policies; how that parts endpoints otherwise than before.
    pub(super) fn take_over<'a>(
        &mut self,
        policies: impl Iterator<Item = Named<'a>>,
        atoms: &mut Atoms,
    ) -> Parting {
        let before = std::mem::take(&mut self.all);
        let mut fresh = Vec::new();
        for (name, policy) in policies {
            for direction in Direction::BOTH.into_iter().filter(|d| policy.rules(*d).is_some()) {
                let key = (direction, name.clone());
                match before.get(&key).filter(|list| Arc::ptr_eq(&list.policy, policy)) {
                    Some(same) => drop(self.all.insert(key, same.clone())),
                    None => fresh.push((key, policy)),
                }
            }
        }
        let known = self.all.values().flat_map(|list| &list.by_atom);
        let mut numbering = atoms.numbering(known.map(|(atom, _)| *atom));
        for ((direction, name), policy) in fresh {
            let list = List::of(direction, name, policy.clone(), |peer| numbering.number(peer));
            self.all.insert((direction, list.name.clone()), Arc::new(list));
        }
        numbering.end(self.all.values().flat_map(|list| list.their_ports()).cloned().collect())
    }

    /// The lists of these policies for one direction, in their order.
    pub(super) fn of(&self, direction: Direction, policies: &[Named<'_>]) -> Vec<Arc<List>> {
        let list = |(name, _): &Named<'_>| self.all.get(&(direction, (*name).clone())).cloned();
        policies.iter().filter_map(list).collect()
    }
}

impl List {
    fn of(
        direction: Direction,
        name: PolicyName,
        policy: Arc<Policy>,
        mut number: impl FnMut(&Peer) -> u32,
    ) -> Self {
        let rules = policy.rules(direction).unwrap_or_default();
        let mut by_atom = BTreeSet::new();
        for (place, rule) in rules.iter().enumerate() {
            by_atom.extend(rule.peers.iter().map(|peer| (number(peer), place)));
        }
        let all = rules.iter().enumerate();
        let for_everybody =
            all.filter(|(_, rule)| rule.peers.is_empty()).map(|(place, _)| place).collect();
        let port_names = rules.iter().flat_map(|rule| &rule.ports).filter_map(port_name).collect();
        let mut peers = rules.iter().flat_map(|rule| &rule.peers);
        let names_nets = peers.any(|peer| matches!(peer, Peer::Addresses { .. }));
        Self { name, direction, policy, by_atom, for_everybody, port_names, names_nets }
    }

    /// Its rules, in order.
    pub(super) fn rules(&self) -> &[Rule] {
        self.policy.rules(self.direction).unwrap_or_default()
    }

    pub(super) fn is_admin(&self) -> bool {
        self.policy.tier != Tier::Namespaced
    }

    pub(super) fn mode(&self) -> Mode {
        self.policy.mode
    }

    /// Names of other endpoints' ports that its rules use.
    pub(super) fn their_ports(&self) -> impl Iterator<Item = &PortName> {
        self.port_names.iter().filter(|_| self.direction == Direction::Egress)
    }

    /// Which other ends it says something else about than the same policy's list did before: those
    /// of a class with one of these atoms at most. `None` if it may be any.
    pub(super) fn since(&self, before: &Self) -> Option<BTreeSet<u32>> {
        let alike = self.is_admin() == before.is_admin()
            && self.mode() == before.mode()
            && self.port_names == before.port_names;
        let all = 0..self.rules().len().max(before.rules().len());
        let differs = |place: &usize| self.rules().get(*place) != before.rules().get(*place);
        let differing: BTreeSet<usize> = all.filter(differs).collect();
        let mut for_everybody = self.for_everybody.iter().chain(&before.for_everybody);
        if !alike || for_everybody.any(|place| differing.contains(place)) {
            return None;
        }
        let atoms = self.by_atom.iter().chain(&before.by_atom);
        Some(atoms.filter(|(_, place)| differing.contains(place)).map(|(atom, _)| *atom).collect())
    }
}

fn port_name(ports: &PortMatch) -> Option<PortName> {
    match &ports.ports {
        Ports::Named(name) => Some((ports.protocol, name.clone())),
        _ => None,
    }
}
