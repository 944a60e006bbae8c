//! Policies, endpoints and ports of a slice on one node → rules, and what changes in them.
//!
//! A packet costs the same whatever the number of policies and endpoints, because nothing is asked
//! one by one:
//!
//! * Every address that rules tell apart belongs to a **class**: the set of all selectors and
//!   prefixes that match it, as a number. Addresses of endpoints are looked up in a hash map, all
//!   others in a map of ranges.
//! * Every local pod leads, per direction, to the chain of its **subject**: the policies that
//!   select it. One map there leads from the other end's class to a **function**.
//! * A function leads from protocol and port to a **decision**, through one map of ranges.
//! * A decision is a chain that counts and passes or drops.
//!
//! The flow's first packet takes that way for either end that is local. A connection that passed
//! is marked with the **generation**, and what bears the present one passes at once. Every change
//! starts a generation, so the next packet of each connection is judged anew, by the addresses of
//! the connection's opening, whichever direction the packet goes. The generation's number is read
//! before anything is looked up and stamped after: what was looked up can only be newer than the
//! stamp says, so no verdict outlives what it was made of, whatever processors do at that time.
//!
//! Endpoints that come, go or change move addresses between classes, and nothing else is touched.

mod aside;
mod atoms;
mod classes;
mod endpoints;
mod frame;
mod function;
mod functions;
mod intern;
mod judge;
mod nets;
mod subjects;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use self::aside::Aside;
use self::atoms::{Atoms, Parting};
use self::classes::Classes;
use self::endpoints::Endpoints;
use self::functions::Functions;
use self::nets::Range;
use self::subjects::{Subject, Subjects};
use super::evaluate::Because;
use super::model::{Endpoint, EndpointId, Policy, PolicySet};
use super::ruleset::{Change, Delta, Elements, Field, Ruleset, Set};
use crate::prefix::Family;
pub use frame::{DISCOVERY, INVALID, NOT_READY, SPOOFED};

/// A port of the slice router, where a pod is plugged in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// The pod's MAC address.
    pub mac: [u8; 6],
    /// The pod's addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// What the pod is.
    pub role: Role,
}

/// What is plugged into a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// A pod, subject to policies. Nothing passes while its endpoint is not known.
    Pod(EndpointId),
    /// A gateway: packets of other clusters come from it, and policies do not apply to it.
    Gateway,
}

/// A slice on a node, without its endpoints.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Situation {
    /// The slice's policies.
    pub policies: PolicySet,
    /// Ports that have a pod, by device.
    pub ports: BTreeMap<String, Port>,
    /// Prefixes of other clusters: what may come from gateways.
    pub far: BTreeSet<IpNet>,
}

impl Situation {
    /// Ports that pods are plugged into, with their endpoints' names.
    fn pods(&self) -> impl Iterator<Item = (&Port, &EndpointId)> {
        self.ports.values().filter_map(|port| match &port.role {
            Role::Pod(id) => Some((port, id)),
            Role::Gateway => None,
        })
    }
}

/// Something that happened to an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndpointChange {
    /// It is there, like this.
    Put(EndpointId, Endpoint),
    /// It is gone.
    Gone(EndpointId),
}

/// What a counter counts: packets that were judged, which is the first one of each connection
/// after each change.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Counted {
    /// What this decided.
    Decided(Because),
    /// What passed and would have been dropped because of this, were nothing in audit mode.
    Audited(Because),
}

/// Keeps the rules of one slice on one node.
#[derive(Debug)]
pub struct Compiler {
    generation: u32,
    situation: Situation,
    endpoints: Endpoints,
    classes: Classes,
    atoms: Atoms,
    subjects: Subjects,
    functions: Functions,
    ruleset: Ruleset,
}

impl Compiler {
    /// Starts with rules that let nothing through: no port has a pod.
    ///
    /// `generation` is any number that an earlier compiler for the same router has probably not
    /// used lately: connections that bear it count as judged.
    pub fn new(generation: u32) -> Self {
        let mut compiler = Self {
            generation: generation.max(1),
            situation: Situation::default(),
            endpoints: Endpoints::default(),
            classes: Classes::default(),
            atoms: Atoms::default(),
            subjects: Subjects::default(),
            functions: Functions::default(),
            ruleset: Ruleset::default(),
        };
        compiler.ruleset = compiler.assemble(Some(Vec::new()));
        compiler
    }

    /// The rules as they should be now.
    pub fn ruleset(&self) -> &Ruleset {
        &self.ruleset
    }

    /// What each counter counts.
    pub fn counters(&self) -> BTreeMap<String, Counted> {
        self.functions.counters()
    }

    /// Takes over a new situation; the difference it makes.
    pub fn set_situation(&mut self, situation: Situation) -> Delta {
        if situation == self.situation {
            return Delta::default();
        }
        let before = std::mem::replace(&mut self.situation, situation);
        let stale = Stale::between(&before.policies, &self.situation.policies);
        self.rebuild(&BTreeSet::new(), &stale)
    }

    /// Takes over other ports and prefixes, under the same policies; the difference they make.
    pub fn set_ports(&mut self, ports: BTreeMap<String, Port>, far: BTreeSet<IpNet>) -> Delta {
        if ports == self.situation.ports && far == self.situation.far {
            return Delta::default();
        }
        self.situation.ports = ports;
        self.situation.far = far;
        self.rebuild(&BTreeSet::new(), &Stale::default())
    }

    /// Takes over changes of endpoints; the difference they make. Those of remote endpoints and
    /// of addresses in known classes touch elements of sets only.
    pub fn change_endpoints(&mut self, changes: Vec<EndpointChange>) -> Delta {
        let mut touched = BTreeSet::new();
        let mut local = false;
        for change in changes {
            let id = match &change {
                EndpointChange::Put(id, _) | EndpointChange::Gone(id) => id,
            };
            local |= self.situation.pods().any(|(_, pod)| pod == id);
            self.endpoints.change(change, &mut touched);
        }
        if local {
            return self.rebuild(&touched, &Stale::default());
        }
        self.reclassify(&touched)
    }

    /// Makes everything anew that may be otherwise.
    fn rebuild(&mut self, touched: &BTreeSet<IpAddr>, stale: &Stale) -> Delta {
        let before = std::mem::take(&mut self.subjects);
        self.subjects = Subjects::of(&self.situation, &self.endpoints, before, stale);
        let mut parting = self.atoms.take_over(&mut self.subjects);
        let touched = self.affected(&mut parting, touched);
        let (moves, _) = self.classify(&touched);
        let ranges = parting.nets.then(|| self.reclass_ranges());
        self.classes.sweep();
        self.functions.begin();
        let mut next = self.assemble(ranges);
        // What may be very large is not compared: what changes in it is known.
        let mut inet = self.functions.write(&mut self.ruleset);
        let aside = Aside::take(&mut self.ruleset);
        let between = Delta::between(&self.ruleset, &next);
        inet.extend(between.inet);
        aside.put_back(&mut next);
        inet.extend(frame::move_addresses(&mut next, &moves));
        self.ruleset = next;
        inet.extend(self.functions.end(&mut self.ruleset));
        if !inet.is_empty() || !between.arp.is_empty() {
            inet.extend(self.next_generation());
        }
        Delta { inet, ..between }
    }

    /// Addresses that may be of other classes now than before.
    fn affected(&self, parting: &mut Parting, touched: &BTreeSet<IpAddr>) -> Vec<IpAddr> {
        if !parting.all && parting.regrouped.is_none() {
            return touched.iter().copied().collect();
        }
        let all = parting.all;
        let mut regrouped =
            |endpoint| parting.regrouped.as_mut().is_some_and(|some| some.is(endpoint));
        let of_endpoints = self.endpoints.all().filter(|endpoint| all || regrouped(endpoint));
        let mut affected: Vec<IpAddr> =
            of_endpoints.flat_map(|endpoint| endpoint.addresses.iter().copied()).collect();
        affected.extend(touched);
        affected.sort_unstable();
        affected.dedup();
        affected
    }

    /// Puts the ranges of rules' prefixes into classes.
    fn reclass_ranges(&mut self) -> Vec<(Range, u32)> {
        for class in frame::range_classes(&self.ruleset) {
            self.classes.leave(class);
        }
        let ranges = self.atoms.nets().iter();
        let classed = ranges.filter_map(|(range, atoms)| {
            let (class, _) = self.classes.enter(atoms)?;
            Some((*range, class))
        });
        classed.collect()
    }

    /// All rules but those of functions, from what is known, without endpoints' addresses.
    fn assemble(&mut self, ranges: Option<Vec<(Range, u32)>>) -> Ruleset {
        let mut ruleset = frame::ruleset(&self.situation, &self.endpoints, self.generation);
        match ranges {
            Some(ranges) => frame::set_ranges(&mut ruleset, &ranges),
            None => frame::copy_ranges(&mut ruleset, &self.ruleset),
        }
        let changed = self.classes.take_changed();
        for subject in self.subjects.all_mut() {
            let functions = &mut self.functions;
            if subject.is_about(&changed, &self.atoms)
                || !subject.copy(functions, &self.ruleset, &mut ruleset)
            {
                subject.write(&self.classes, &self.atoms, functions, &mut ruleset);
            }
        }
        self.subjects.write_entries(&mut ruleset);
        ruleset
    }

    /// Finds the classes that addresses belong to now: those that are in another one, and the
    /// classes that nobody was in before.
    fn classify(&mut self, addresses: &[IpAddr]) -> (Vec<Move>, Vec<u32>) {
        let (mut moves, mut fresh) = (Vec::new(), Vec::new());
        let mut matcher = self.atoms.matcher();
        for address in addresses {
            let was = frame::class_of(&self.ruleset, *address);
            let key = self.endpoints.find(*address).map(|e| matcher.key(*address, e));
            let now = self.classes.enter(&key.unwrap_or_default()).map(|(class, new)| {
                fresh.extend(new.then_some(class));
                class
            });
            // Entered before it is left: a class that it stays in is not forgotten.
            if let Some(was) = was {
                self.classes.leave(was);
            }
            if was != now {
                moves.push((*address, now));
            }
        }
        (moves, fresh)
    }

    /// Moves addresses to the classes they belong to now.
    fn reclassify(&mut self, touched: &BTreeSet<IpAddr>) -> Delta {
        let touched: Vec<IpAddr> = touched.iter().copied().collect();
        let (moves, fresh) = self.classify(&touched);
        if moves.is_empty() {
            return Delta::default();
        }
        let mut inet = self.classes_appear(&fresh);
        inet.extend(frame::move_addresses(&mut self.ruleset, &moves));
        inet.extend(self.next_generation());
        Delta { anew: false, inet, arp: Vec::new() }
    }

    /// Tells every subject about classes that nobody was in before.
    fn classes_appear(&mut self, fresh: &[u32]) -> Vec<Change> {
        let mut additions: BTreeMap<String, Set> = BTreeMap::new();
        for subject in self.subjects.all_mut() {
            drop(self.functions.take_used());
            for class in fresh {
                let key = self.classes.key(*class);
                let Some(verdict) = subject.verdict(key, &self.atoms, &mut self.functions) else {
                    continue;
                };
                let set =
                    additions.entry(subject.classes_name()).or_insert_with(Subject::classes_set);
                if let Elements::Verdicts(all) = &mut set.elements {
                    all.insert(vec![Field::Mark(*class)], verdict);
                }
            }
            subject.uses(self.functions.take_used());
        }
        let mut changes = self.functions.write(&mut self.ruleset);
        for (name, set) in additions {
            frame::extend(&mut self.ruleset, &name, &set);
            changes.push(Change::Insert(name, set));
        }
        changes
    }

    fn next_generation(&mut self) -> Vec<Change> {
        let before = self.generation;
        self.generation = before.checked_add(1).unwrap_or(1);
        frame::set_generation(&mut self.ruleset, self.generation);
        frame::generation_changes(before, self.generation)
    }
}

/// Policies that are not as they were.
#[derive(Debug, Default)]
struct Stale {
    default: bool,
    names: BTreeSet<String>,
}

impl Stale {
    fn between(before: &PolicySet, now: &PolicySet) -> Self {
        let differs = |name: &&String| before.policies.get(*name) != now.policies.get(*name);
        Self {
            default: (before.default, before.default_mode) != (now.default, now.default_mode),
            names: now.policies.keys().filter(differs).cloned().collect(),
        }
    }

    /// Whether what these policies make of a pod may be otherwise.
    fn concerns(&self, policies: &[(&String, &Policy)]) -> bool {
        self.default || policies.iter().any(|(name, _)| self.names.contains(*name))
    }
}

/// An address, and the class it is in now.
type Move = (IpAddr, Option<u32>);

/// Names of the two maps from endpoints' addresses to classes.
pub(crate) fn class_map(family: Family) -> &'static str {
    match family {
        Family::V4 => "class4",
        Family::V6 => "class6",
    }
}
