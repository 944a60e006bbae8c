//! The local pods, by who is judged alike.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::atoms::PortName;
use super::frame;
use super::functions::Place;
use super::intern::Interner;
use super::lists::{List, Lists};
use super::selected::Selected;
use super::subject::{Subject, chain_name};
use crate::policy::model::{Default, Direction, Endpoint, Mode, PolicyName};
use crate::policy::ruleset::{Field, Name, Ruleset, Verdict};
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
    policies: Vec<PolicyName>,
    ports: NamedPorts,
}

/// Numbers behind names of ports.
pub(super) type NamedPorts = BTreeMap<PortName, BTreeSet<u16>>;

impl Subjects {
    /// Takes over who is selected by what; what was in use before keeps its number.
    pub(super) fn take_over(
        &mut self,
        selected: &Selected<'_>,
        lists: &Lists,
        default: (Default, Mode),
    ) {
        let mut before = std::mem::take(&mut self.all);
        self.by_address.clear();
        self.numbers.begin();
        for (policies, pods) in selected.groups() {
            for direction in Direction::BOTH {
                let mine = lists.of(direction, &policies);
                if mine.is_empty() && default.0 == Default::Open {
                    continue;
                }
                for (port, endpoint) in pods {
                    let number = self.add(&mut before, direction, endpoint, &mine, default);
                    let addresses = port.addresses.iter();
                    self.by_address.extend(addresses.map(|a| ((direction, *a), number)));
                }
            }
        }
        drop(self.numbers.end());
    }

    /// The number of the subject that these lists make of a pod.
    fn add(
        &mut self,
        before: &mut BTreeMap<u32, Subject>,
        direction: Direction,
        endpoint: &Endpoint,
        mine: &[Arc<List>],
        default: (Default, Mode),
    ) -> u32 {
        let ports = own_ports(direction, endpoint, mine);
        let policies = mine.iter().map(|list| list.name.clone()).collect();
        let key = SubjectKey { direction, policies, ports };
        let (number, _) = self.numbers.number(&key);
        self.all.entry(number).or_insert_with(|| match before.remove(&number) {
            Some(mut subject) => {
                subject.take_over(mine, default);
                subject
            }
            None => Subject::of(number, direction, mine.to_vec(), default, key.ports),
        });
        number
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Subject> {
        self.all.values()
    }

    pub(super) fn all_mut(&mut self) -> impl Iterator<Item = &mut Subject> {
        self.all.values_mut()
    }

    /// Everything that they lead to.
    pub(super) fn places(&self) -> Vec<Place> {
        self.all.values().flat_map(Subject::places).collect()
    }

    /// Names of their maps that a ruleset has.
    pub(super) fn maps_in(&self, ruleset: &Ruleset) -> Vec<Name> {
        let names = self.all.values().filter(|s| s.asks_who()).map(Subject::classes_name);
        names.filter(|name| ruleset.inet.sets.contains_key(name)).collect()
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

/// What the pod calls ports that these lists name.
fn own_ports(direction: Direction, endpoint: &Endpoint, lists: &[Arc<List>]) -> NamedPorts {
    let ingress = lists.iter().filter(|_| direction == Direction::Ingress);
    let names = ingress.flat_map(|list| &list.port_names);
    names
        .map(|name| {
            let numbers = endpoint.named_ports.get(name).cloned().unwrap_or_default();
            (name.clone(), numbers)
        })
        .collect()
}
