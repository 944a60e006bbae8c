//! What rules tell addresses apart by: selectors, prefixes and named ports, each with a number.
//! The numbers that apply to an address are the key of its class.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::intern::Interner;
use super::nets::Nets;
use crate::policy::model::{Endpoint, Identity, Peer, Protocol, Who};
use crate::selector::{Labels, Operator, Selector};

/// A protocol and the name of a port.
pub(super) type PortName = (Protocol, String);

/// One thing to tell addresses apart by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Atom {
    /// The address is an endpoint's that is selected.
    Who(Who),
    /// The address lies in the prefix.
    Net(IpNet, BTreeSet<IpNet>),
    /// The address is an endpoint's that calls a port by this name.
    Port(PortName, u16),
}

impl From<&Peer> for Atom {
    fn from(peer: &Peer) -> Self {
        match peer {
            Peer::Endpoints(who) => Self::Who(who.clone()),
            Peer::Addresses { net, except } => Self::Net(*net, except.clone()),
        }
    }
}

/// The atoms that rules of local pods use.
#[derive(Debug, Default)]
pub(super) struct Atoms {
    numbers: Interner<Atom>,
    names: BTreeSet<PortName>,
    ports: BTreeMap<u32, (PortName, u16)>,
    index: Index,
    nets: Nets,
}

impl Atoms {
    /// Begins to number what rules name; these numbers stay in use.
    pub(super) fn numbering(&mut self, known: impl Iterator<Item = u32>) -> Numbering<'_> {
        self.numbers.begin();
        for number in known {
            self.numbers.keep(number);
        }
        Numbering { atoms: self, differing: Vec::new() }
    }

    /// Numbers of ports that endpoints call by one of these names.
    pub(super) fn ports_called(&self, names: &BTreeSet<PortName>) -> Vec<u32> {
        let called = self.ports.iter().filter(|(_, (name, _))| names.contains(name));
        called.map(|(number, _)| *number).collect()
    }

    /// The named port behind a number, if it is one's.
    pub(super) fn port(&self, number: u32) -> Option<&(PortName, u16)> {
        self.ports.get(&number)
    }

    /// Ranges of addresses with the numbers of the prefixes they lie in.
    pub(super) fn nets(&self) -> &Nets {
        &self.nets
    }

    fn find_nets(&mut self) {
        let nets = self.numbers.iter().filter_map(|(atom, number)| match atom {
            Atom::Net(net, except) => Some((number, net, except)),
            _ => None,
        });
        self.nets = Nets::of(&nets.collect::<Vec<_>>());
    }

    /// Something to find classes' keys with.
    pub(super) fn matcher(&mut self) -> Matcher<'_> {
        Matcher { atoms: self, seen: BTreeMap::new() }
    }
}

/// Gives numbers to what rules name.
pub(super) struct Numbering<'a> {
    atoms: &'a mut Atoms,
    /// What was not known before.
    differing: Vec<(u32, Atom)>,
}

impl Numbering<'_> {
    /// The number of what a rule names.
    pub(super) fn number(&mut self, peer: &Peer) -> u32 {
        let atom = Atom::from(peer);
        let (number, new) = self.atoms.numbers.number(&atom);
        if new {
            self.differing.push((number, atom));
        }
        number
    }

    /// Forgets what is not in use any more, and ports that are called by none of these names; how
    /// all that parts endpoints otherwise than before.
    pub(super) fn end(self, names: BTreeSet<PortName>) -> Parting {
        let Self { atoms, mut differing } = self;
        let renamed = atoms.names != names;
        atoms.names = names;
        atoms.ports.retain(|_, (name, _)| atoms.names.contains(name));
        for number in atoms.ports.keys() {
            atoms.numbers.keep(*number);
        }
        let gone = atoms.numbers.end();
        differing.extend(gone.into_iter().map(|(atom, number)| (number, atom)));
        let nets = differing.iter().any(|(_, atom)| matches!(atom, Atom::Net(..)));
        if nets {
            atoms.find_nets();
        }
        let selectors = differing.iter().any(|(_, atom)| matches!(atom, Atom::Who(_)));
        let regrouped = selectors.then(|| atoms.index.regroup(&differing));
        Parting { all: nets || renamed, nets, regrouped }
    }
}

/// How atoms part endpoints otherwise than before.
pub(super) struct Parting {
    /// Any endpoint may be of another class.
    pub(super) all: bool,
    /// Ranges of addresses may be of other classes.
    pub(super) nets: bool,
    /// Some endpoints may be of other classes.
    pub(super) regrouped: Option<Regrouped>,
}

/// Says of many endpoints whether selectors group them otherwise now.
pub(super) struct Regrouped {
    index: Index,
    seen: BTreeMap<*const Identity, bool>,
    /// The last answer: of endpoints in order many in a row share an identity.
    last: Option<(*const Identity, bool)>,
}

impl Regrouped {
    /// Whether this endpoint is. Endpoints asked about live longer than this.
    pub(super) fn is(&mut self, endpoint: &Endpoint) -> bool {
        let identity = Arc::as_ptr(&endpoint.identity);
        if let Some((_, answer)) = self.last.filter(|(last, _)| *last == identity) {
            return answer;
        }
        let index = &self.index;
        let find = || !index.find(&endpoint.identity).is_empty();
        let answer = *self.seen.entry(identity).or_insert_with(find);
        self.last = Some((identity, answer));
        answer
    }
}

/// Finds the keys of many addresses, each identity's selectors once.
pub(super) struct Matcher<'a> {
    atoms: &'a mut Atoms,
    seen: BTreeMap<*const Identity, Vec<u32>>,
}

impl Matcher<'_> {
    /// The numbers of all atoms that apply to an endpoint's address, in order. The endpoints
    /// asked about live longer than the matcher, so that a place in memory is one identity's.
    pub(super) fn key(&mut self, address: IpAddr, endpoint: &Endpoint) -> Vec<u32> {
        let place = Arc::as_ptr(&endpoint.identity);
        let index = &self.atoms.index;
        let selected = self.seen.entry(place).or_insert_with(|| index.find(&endpoint.identity));
        let mut key = selected.clone();
        key.extend(self.atoms.nets.find(address));
        for (name, numbers) in &endpoint.named_ports {
            if !self.atoms.names.contains(name) {
                continue;
            }
            for port in numbers {
                let (number, _) = self.atoms.numbers.number(&Atom::Port(name.clone(), *port));
                self.atoms.ports.insert(number, (name.clone(), *port));
                key.push(number);
            }
        }
        key.sort_unstable();
        key
    }
}

/// Selectors, found by something that what they select must have.
#[derive(Debug, Default)]
struct Index {
    by_label: ByLabel,
    by_namespace_label: ByLabel,
    by_namespace: BTreeMap<String, BTreeSet<u32>>,
    others: BTreeSet<u32>,
    all: BTreeMap<u32, Who>,
}

/// By key and value.
type ByLabel = BTreeMap<String, BTreeMap<String, BTreeSet<u32>>>;

impl Index {
    fn of<'a>(all: impl Iterator<Item = (u32, &'a Who)>) -> Self {
        let mut index = Self::default();
        all.for_each(|(number, who)| index.insert(number, who));
        index
    }

    /// Does something in all places where a selector is to be found.
    fn places(&mut self, who: &Who, mut act: impl FnMut(&mut BTreeSet<u32>)) {
        let required = |selector: &Selector| {
            selector.requirements.iter().find(|r| r.operator == Operator::In).cloned()
        };
        let (one, by) = match required(&who.pods) {
            Some(one) => (Some(one), &mut self.by_label),
            None => (required(&who.namespace_selector), &mut self.by_namespace_label),
        };
        if let Some(one) = one {
            let by_value = by.entry(one.key).or_default();
            for value in one.values {
                let numbers = by_value.entry(value.clone()).or_default();
                act(numbers);
                if numbers.is_empty() {
                    by_value.remove(&value);
                }
            }
        } else if who.namespaces.is_empty() {
            act(&mut self.others);
        } else {
            for name in &who.namespaces {
                act(self.by_namespace.entry(name.clone()).or_default());
            }
        }
    }

    /// Takes selectors out that are known, and in that are not: what differs is gone or new.
    fn regroup(&mut self, differing: &[(u32, Atom)]) -> Regrouped {
        let selectors = differing.iter().filter_map(|(number, atom)| match atom {
            Atom::Who(who) => Some((*number, who)),
            _ => None,
        });
        for (number, who) in selectors.clone() {
            if !self.remove(number, who) {
                self.insert(number, who);
            }
        }
        Regrouped { index: Self::of(selectors), seen: BTreeMap::new(), last: None }
    }

    fn insert(&mut self, number: u32, who: &Who) {
        self.places(who, |place| {
            place.insert(number);
        });
        self.all.insert(number, who.clone());
    }

    /// Takes a selector out; false if it is not there.
    fn remove(&mut self, number: u32, who: &Who) -> bool {
        if self.all.remove(&number).is_none() {
            return false;
        }
        self.places(who, |place| {
            place.remove(&number);
        });
        true
    }

    fn find(&self, identity: &Identity) -> Vec<u32> {
        let labelled = |by: &ByLabel, labels: &Labels| -> Vec<u32> {
            let found = labels.iter().filter_map(|(key, value)| by.get(key)?.get(value));
            found.flatten().copied().collect()
        };
        let mut numbers = self.others.clone();
        numbers.extend(labelled(&self.by_label, &identity.labels));
        numbers.extend(labelled(&self.by_namespace_label, &identity.namespace_labels));
        numbers.extend(self.by_namespace.get(&identity.namespace).into_iter().flatten());
        let selects = |number: &u32| self.all.get(number).is_some_and(|who| who.matches(identity));
        numbers.into_iter().filter(selects).collect()
    }
}
