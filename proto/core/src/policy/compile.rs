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
//! What a policy lists is known by its place in memory: where it is another one, its subjects find
//! out where classes lead that its changed rules name, and of the others nothing is asked.

mod aside;
mod atoms;
mod classes;
mod endpoints;
mod frame;
mod function;
mod functions;
mod intern;
mod judge;
mod lists;
mod nets;
mod selected;
mod subject;
mod subjects;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use self::aside::Aside;
use self::atoms::{Atoms, Parting};
use self::classes::Classes;
use self::endpoints::Endpoints;
use self::functions::Functions;
use self::lists::Lists;
use self::nets::Range;
use self::selected::Selected;
use self::subject::Turn;
use self::subjects::Subjects;
use super::evaluate::Because;
use super::model::{Endpoint, EndpointId, PolicySet};
use super::ruleset::{Change, Delta, Name, Ruleset};
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
    lists: Lists,
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
            lists: Lists::default(),
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
    pub fn set_situation(&mut self, mut situation: Situation) -> Delta {
        share(&mut situation.policies, &self.situation.policies);
        if situation == self.situation {
            return Delta::default();
        }
        self.situation = situation;
        self.rebuild(&BTreeSet::new())
    }

    /// Takes over other ports and prefixes, under the same policies; the difference they make.
    pub fn set_ports(&mut self, ports: BTreeMap<String, Port>, far: BTreeSet<IpNet>) -> Delta {
        if ports == self.situation.ports && far == self.situation.far {
            return Delta::default();
        }
        self.situation.ports = ports;
        self.situation.far = far;
        self.rebuild(&BTreeSet::new())
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
            return self.rebuild(&touched);
        }
        self.reclassify(&touched)
    }

    /// Makes everything anew that may be otherwise.
    fn rebuild(&mut self, touched: &BTreeSet<IpAddr>) -> Delta {
        let mut parting = self.select();
        let touched = self.affected(&mut parting, touched);
        let moves = self.classify(&touched);
        let ranges = parting.nets.then(|| self.reclass_ranges());
        self.classes.sweep();
        let turns = self.update_subjects();
        let mut next = self.assemble(ranges);
        // What may be very large is not compared: what changes in it is known.
        let mut inet = self.functions.write(&mut self.ruleset);
        let from_classes = self.subjects.maps_in(&self.ruleset);
        let aside = Aside::take(&mut self.ruleset, &from_classes);
        let between = Delta::between(&self.ruleset, &next);
        inet.extend(between.inet);
        aside.put_back(&mut next);
        inet.extend(frame::move_addresses(&mut next, &moves));
        self.ruleset = next;
        inet.extend(turns.iter().flat_map(|(map, t)| frame::turn(&mut self.ruleset, map, t)));
        inet.extend(self.functions.keep_only(self.subjects.places(), &mut self.ruleset));
        if !inet.is_empty() || !between.arp.is_empty() {
            inet.extend(self.next_generation());
        }
        Delta { inet, ..between }
    }

    /// Finds out which policies select which local pods; how what these name parts endpoints
    /// otherwise than before.
    fn select(&mut self) -> Parting {
        let selected = Selected::of(&self.situation, &self.endpoints);
        let parting = self.lists.take_over(selected.policies(), &mut self.atoms);
        let PolicySet { default, default_mode, .. } = self.situation.policies;
        self.subjects.take_over(&selected, &self.lists, (default, default_mode));
        parting
    }

    /// Has every subject find out where classes lead now; what changes in maps that are there.
    fn update_subjects(&mut self) -> Vec<(Name, Vec<Turn>)> {
        let changed = self.classes.take_changed();
        let mut all = Vec::new();
        for subject in self.subjects.all_mut() {
            let turns = subject.update(&changed, &self.classes, &self.atoms, &mut self.functions);
            if !turns.is_empty() {
                all.push((subject.classes_name(), turns));
            }
        }
        let there = &self.ruleset.inet.sets;
        all.retain(|(map, _)| there.contains_key(map));
        all
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
            let class = self.classes.enter(atoms)?;
            Some((*range, class))
        });
        classed.collect()
    }

    /// All rules but those of functions, from what is known, without endpoints' addresses and
    /// without maps from classes that are there.
    fn assemble(&self, ranges: Option<Vec<(Range, u32)>>) -> Ruleset {
        let mut ruleset = frame::ruleset(&self.situation, &self.endpoints, self.generation);
        match ranges {
            Some(ranges) => frame::set_ranges(&mut ruleset, &ranges),
            None => frame::copy_ranges(&mut ruleset, &self.ruleset),
        }
        for subject in self.subjects.all() {
            subject.write(&mut ruleset);
            let name = subject.classes_name();
            if subject.asks_who() && !self.ruleset.inet.sets.contains_key(&name) {
                ruleset.inet.sets.insert(name, subject.classes_set());
            }
        }
        self.subjects.write_entries(&mut ruleset);
        ruleset
    }

    /// Finds the classes that addresses belong to now; those that are in another one.
    fn classify(&mut self, addresses: &[IpAddr]) -> Vec<Move> {
        let mut moves = Vec::new();
        let mut matcher = self.atoms.matcher();
        for address in addresses {
            let was = frame::class_of(&self.ruleset, *address);
            let key = self.endpoints.find(*address).map(|e| matcher.key(*address, e));
            let now = self.classes.enter(&key.unwrap_or_default());
            // Entered before it is left: a class that it stays in is not forgotten.
            if let Some(was) = was {
                self.classes.leave(was);
            }
            if was != now {
                moves.push((*address, now));
            }
        }
        moves
    }

    /// Moves addresses to the classes they belong to now.
    fn reclassify(&mut self, touched: &BTreeSet<IpAddr>) -> Delta {
        let touched: Vec<IpAddr> = touched.iter().copied().collect();
        let moves = self.classify(&touched);
        if moves.is_empty() {
            return Delta::default();
        }
        // Classes that nobody was in before lead somewhere, too.
        let turns = self.update_subjects();
        let mut inet = self.functions.write(&mut self.ruleset);
        inet.extend(turns.iter().flat_map(|(map, t)| frame::turn(&mut self.ruleset, map, t)));
        inet.extend(frame::move_addresses(&mut self.ruleset, &moves));
        inet.extend(self.next_generation());
        Delta { anew: false, inet, arp: Vec::new() }
    }

    fn next_generation(&mut self) -> Vec<Change> {
        let before = self.generation;
        self.generation = before.checked_add(1).unwrap_or(1);
        frame::set_generation(&mut self.ruleset, self.generation);
        frame::generation_changes(before, self.generation)
    }
}

/// Has policies that are as they were be those that are known, so that they need not be compared
/// again.
fn share(policies: &mut PolicySet, known: &PolicySet) {
    for (name, policy) in &mut policies.policies {
        if let Some(same) = known.policies.get(name).filter(|known| *known == policy) {
            *policy = same.clone();
        }
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
