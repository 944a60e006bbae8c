//! The local pods, by the policies that select them: which rules count for whom, in which order.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::atoms::{Atoms, PortName};
use super::classes::Classes;
use super::endpoints::Endpoints;
use super::function::Function;
use super::functions::{Functions, Place, Used};
use super::intern::Interner;
use super::judge::{Entry, Judge};
use super::{Situation, Stale, class_map, frame};
use crate::policy::evaluate::RuleRef;
use crate::policy::model::{
    Default, Direction, Endpoint, Peer, Policy, PolicySet, PortMatch, Ports, Tier,
};
use crate::policy::ruleset::{Chain, Datum, Field, Kind, Name, Ruleset, Set, Step, Verdict};
use crate::prefix::Family;

/// All subjects of a node.
#[derive(Debug, std::default::Default)]
pub(super) struct Subjects {
    numbers: Interner<SubjectKey>,
    all: BTreeMap<u32, Subject>,
    by_address: BTreeMap<(Direction, IpAddr), u32>,
}

/// Pods with the same key are judged alike.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct SubjectKey {
    direction: Direction,
    policies: Vec<String>,
    ports: NamedPorts,
}

/// Numbers behind names of ports.
pub(super) type NamedPorts = BTreeMap<PortName, BTreeSet<u16>>;

/// Pods that are judged alike, in one direction.
#[derive(Debug)]
pub(super) struct Subject {
    number: u32,
    judge: Judge,
    /// Names of other endpoints' ports that its rules use.
    pub(super) their_ports: BTreeSet<PortName>,
    /// Rules, by place, that name an atom.
    by_atom: BTreeMap<u32, Vec<usize>>,
    /// Rules, by place, that do not ask who the other end is.
    for_everybody: BTreeSet<usize>,
    /// What it is judged by when the other end is of no class, and where.
    base: Function,
    place: Option<Place>,
    /// What its chain and its map lead to.
    used: Used,
}

impl Subjects {
    /// The subjects of the ports whose endpoints are known; what was in use before keeps its
    /// number.
    pub(super) fn of(
        situation: &Situation,
        endpoints: &Endpoints,
        mut before: Self,
        stale: &Stale,
    ) -> Self {
        let numbers = std::mem::take(&mut before.numbers);
        let mut subjects = Self { numbers, ..Self::default() };
        subjects.numbers.begin();
        let set = &situation.policies;
        let admin = set.admin();
        let ordered: Vec<(&String, &Policy)> = admin.into_iter().chain(set.namespaced()).collect();
        for (port, id) in situation.pods() {
            let Some(endpoint) = endpoints.get(id) else { continue };
            let mine: Vec<(&String, &Policy)> = ordered
                .iter()
                .filter(|(_, policy)| policy.subject.matches(&endpoint.identity))
                .copied()
                .collect();
            for direction in Direction::BOTH {
                let Some(number) =
                    subjects.add(&mut before, stale, set, direction, endpoint, &mine)
                else {
                    continue;
                };
                for address in &port.addresses {
                    subjects.by_address.insert((direction, *address), number);
                }
            }
        }
        drop(subjects.numbers.end());
        subjects
    }

    fn add(
        &mut self,
        before: &mut Self,
        stale: &Stale,
        set: &PolicySet,
        direction: Direction,
        endpoint: &Endpoint,
        mine: &[(&String, &Policy)],
    ) -> Option<u32> {
        let about = |(_, policy): &&(&String, &Policy)| policy.rules(direction).is_some();
        let mine: Vec<_> = mine.iter().filter(about).copied().collect();
        if mine.is_empty() && set.default == Default::Open {
            return None;
        }
        let ports = own_ports(direction, endpoint, &mine);
        let policies = mine.iter().map(|(name, _)| (*name).clone()).collect();
        let key = SubjectKey { direction, policies, ports: ports.clone() };
        let (number, _) = self.numbers.number(key);
        self.all.entry(number).or_insert_with(|| {
            let same = before.all.remove(&number);
            same.filter(|_| !stale.concerns(&mine))
                .unwrap_or_else(|| Subject::of(number, set, direction, &mine, ports))
        });
        Some(number)
    }

    /// Numbers of atoms that subjects know from before.
    pub(super) fn known_atoms(&self) -> impl Iterator<Item = u32> {
        self.all.values().flat_map(|subject| subject.by_atom.keys().copied())
    }

    /// Has every subject that is new find its rules by the numbers of the atoms they name.
    pub(super) fn index(&mut self, mut number: impl FnMut(&Peer) -> u32) {
        for subject in self.all.values_mut().filter(|subject| subject.place.is_none()) {
            for (place, entry) in subject.judge.entries.iter().enumerate() {
                let numbers = entry.peers.iter().map(&mut number);
                for number in numbers.collect::<BTreeSet<_>>() {
                    subject.by_atom.entry(number).or_default().push(place);
                }
            }
        }
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Subject> {
        self.all.values()
    }

    pub(super) fn all_mut(&mut self) -> impl Iterator<Item = &mut Subject> {
        self.all.values_mut()
    }

    /// Leads the pods' addresses to their subjects' chains.
    pub(super) fn write_entries(&self, ruleset: &mut Ruleset) {
        for ((direction, address), number) in &self.by_address {
            let target = Verdict::Jump(chain_name(*direction, *number));
            let set = frame::entry_map(*direction, Family::of_addr(address));
            frame::insert_verdict(ruleset, set, vec![Field::Address(*address)], target);
        }
    }
}

/// What the pod calls ports that these policies' rules name.
fn own_ports(
    direction: Direction,
    endpoint: &Endpoint,
    policies: &[(&String, &Policy)],
) -> NamedPorts {
    let mut ports = NamedPorts::new();
    if direction == Direction::Egress {
        return ports;
    }
    let rules = policies.iter().flat_map(|(_, p)| p.rules(direction).unwrap_or_default());
    for name in rules.flat_map(|rule| &rule.ports).filter_map(port_name) {
        let numbers = endpoint.named_ports.get(&name).cloned().unwrap_or_default();
        ports.insert(name, numbers);
    }
    ports
}

fn port_name(ports: &PortMatch) -> Option<PortName> {
    match &ports.ports {
        Ports::Named(name) => Some((ports.protocol, name.clone())),
        _ => None,
    }
}

fn chain_name(direction: Direction, number: u32) -> Name {
    match direction {
        Direction::Egress => format!("egress-{number}"),
        Direction::Ingress => format!("ingress-{number}"),
    }
}

impl Subject {
    fn of(
        number: u32,
        set: &PolicySet,
        direction: Direction,
        mine: &[(&String, &Policy)],
        ports: NamedPorts,
    ) -> Self {
        let mut entries = Vec::new();
        let mut isolating = Vec::new();
        for (name, policy) in mine {
            let admin = policy.tier != Tier::Namespaced;
            if !admin {
                isolating.push(((*name).clone(), policy.mode));
            }
            for (index, rule) in policy.rules(direction).unwrap_or_default().iter().enumerate() {
                entries.push(Entry {
                    rule: RuleRef { policy: (*name).clone(), direction, index },
                    mode: policy.mode,
                    admin,
                    action: rule.action,
                    ports: rule.ports.clone(),
                    peers: rule.peers.clone(),
                });
            }
        }
        let named = entries.iter().filter(|_| direction == Direction::Egress);
        let their_ports =
            named.flat_map(|entry: &Entry| &entry.ports).filter_map(port_name).collect();
        let all = entries.iter().enumerate();
        let for_everybody: BTreeSet<usize> =
            all.filter(|(_, entry)| entry.peers.is_empty()).map(|(place, _)| place).collect();
        let default = (set.default, set.default_mode);
        let judge = Judge { direction, entries, isolating, default, ports };
        let mut base = Vec::new();
        base.extend(for_everybody.iter().filter_map(|place| judge.entries.get(*place)));
        let base = Function::of(&judge, &base, &judge.ports);
        let by_atom = BTreeMap::new();
        Self {
            number,
            judge,
            their_ports,
            by_atom,
            for_everybody,
            base,
            place: None,
            used: Used::default(),
        }
    }

    /// Peers that its rules name.
    pub(super) fn peers(&self) -> impl Iterator<Item = &Peer> {
        self.judge.entries.iter().flat_map(|entry| &entry.peers)
    }

    /// What a class leads to; `None` if to the same as no class. That is said only where no atom of
    /// the key matters to any rule, so that it holds for every part of the key, too.
    pub(super) fn verdict(
        &self,
        key: &[u32],
        atoms: &Atoms,
        functions: &mut Functions,
    ) -> Option<Verdict> {
        let mut more: BTreeSet<usize> =
            key.iter().filter_map(|atom| self.by_atom.get(atom)).flatten().copied().collect();
        let mut theirs = NamedPorts::new();
        let ports = key.iter().filter_map(|atom| atoms.port(*atom));
        for (name, port) in ports.filter(|(name, _)| self.their_ports.contains(name)) {
            theirs.entry(name.clone()).or_default().insert(*port);
        }
        if more.is_empty() && theirs.is_empty() {
            return None;
        }
        let judge = &self.judge;
        let entries_at = |places: &BTreeSet<usize>| -> Vec<&Entry> {
            places.iter().filter_map(|place| judge.entries.get(*place)).collect()
        };
        let all = entries_at(&more.union(&self.for_everybody).copied().collect());
        if !theirs.is_empty() {
            // Those that name a port list something only now that it is known what that is.
            more.extend(&self.for_everybody);
            more.retain(|place| {
                !self.for_everybody.contains(place)
                    || judge.entries.get(*place).is_some_and(Entry::names_ports)
            });
        }
        let named = match judge.direction {
            Direction::Egress => &theirs,
            Direction::Ingress => &judge.ports,
        };
        let place = match self.base.beyond(judge, &all, &entries_at(&more), named) {
            Some(by_port) => functions.place_beyond(by_port, self.place.as_ref()?),
            None => functions.place(&Function::of(judge, &all, named)),
        };
        Some(place.verdict())
    }

    /// What its map from classes to functions is called.
    pub(super) fn classes_name(&self) -> Name {
        format!("{}-classes", self.chain_name())
    }

    /// An empty map from classes to functions.
    pub(super) fn classes_set() -> Set {
        Set::verdicts(&[Kind::Mark], [])
    }

    fn chain_name(&self) -> Name {
        chain_name(self.judge.direction, self.number)
    }

    /// Whether a class with one of these atoms matters to it.
    pub(super) fn is_about(&self, changed: &BTreeSet<u32>, atoms: &Atoms) -> bool {
        let mut ports = atoms.ports_called(&self.their_ports).into_iter();
        changed.iter().any(|atom| self.by_atom.contains_key(atom))
            || ports.any(|atom| changed.contains(&atom))
    }

    /// Copies its chains and its map, which are as they were; `false` if there are none yet.
    pub(super) fn copy(
        &self,
        functions: &mut Functions,
        from: &Ruleset,
        ruleset: &mut Ruleset,
    ) -> bool {
        if self.place.is_none() {
            return false;
        }
        functions.keep(&self.used);
        for name in [self.chain_name(), self.else_name()] {
            let chain = from.inet.chains.get(&name);
            ruleset.inet.chains.extend(chain.map(|chain| (name, chain.clone())));
        }
        let name = self.classes_name();
        let set = from.inet.sets.get(&name);
        ruleset.inet.sets.extend(set.map(|set| (name, set.clone())));
        true
    }

    /// Uses more than it did.
    pub(super) fn uses(&mut self, more: Used) {
        self.used.add(more);
    }

    fn else_name(&self) -> Name {
        format!("{}-else", self.chain_name())
    }

    /// Writes its chains and its map.
    pub(super) fn write(
        &mut self,
        classes: &Classes,
        atoms: &Atoms,
        functions: &mut Functions,
        ruleset: &mut Ruleset,
    ) {
        drop(functions.take_used());
        let rest = functions.place(&self.base);
        let last = vec![Step::Do(rest.verdict())];
        self.place = Some(rest);
        let name = self.chain_name();
        if self.asks_who() {
            let ports = atoms.ports_called(&self.their_ports);
            let relevant = self.by_atom.keys().copied().chain(ports);
            let classed: BTreeSet<u32> =
                relevant.flat_map(|atom| classes.with_atom(atom)).collect();
            let elements = classed.into_iter().filter_map(|class| {
                let verdict = self.verdict(classes.key(class), atoms, functions)?;
                Some((vec![Field::Mark(class)], verdict))
            });
            let map = Set::verdicts(&[Kind::Mark], elements);
            ruleset.inet.sets.insert(self.classes_name(), map);
            // In a chain of its own: to use a map anew the kernel looks at everything in it.
            let mut rules = self.lookups();
            rules.push(vec![Step::Do(Verdict::Goto(self.else_name()))]);
            ruleset.inet.chains.insert(name, Chain { hook: None, rules });
            ruleset.inet.chains.insert(self.else_name(), Chain { hook: None, rules: vec![last] });
        } else {
            ruleset.inet.chains.insert(name, Chain { hook: None, rules: vec![last] });
        }
        self.used = functions.take_used();
    }

    /// Whether any rule depends on who the other end is.
    fn asks_who(&self) -> bool {
        !self.by_atom.is_empty() || !self.their_ports.is_empty()
    }

    fn lookups(&self) -> Vec<Vec<Step>> {
        let nets = self.peers().any(|peer| matches!(peer, Peer::Addresses { .. }));
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
        if nets {
            by(frame::net_map);
        }
        rules
    }
}
