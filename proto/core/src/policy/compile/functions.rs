//! Functions and decisions in use, as chains.

use std::collections::BTreeMap;

use super::Counted;
use super::function::{ByPort, Function};
use super::intern::Interner;
use crate::policy::evaluate::{self, Decision};
use crate::policy::ruleset::{
    Chain, Change, Datum, Field, Kind, Name, Rule, Ruleset, Set, Step, Verdict,
};

/// Up to so many ranges of ports are asked one by one, which is no slower than a map and takes
/// less to make.
const ONE_BY_ONE: usize = 8;

/// A function as it is carried out: these decisions, and else the rest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Form {
    by_port: ByPort,
    rest: Rest,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Rest {
    Decision(Decision),
    /// What is decided there.
    Base(Place),
}

/// Functions and decisions in use. Their chains are made once, and stay as they are.
#[derive(Debug, Default)]
pub(super) struct Functions {
    forms: Interner<Form>,
    decisions: Interner<Decision>,
    counters: Interner<Counted>,
    needs: BTreeMap<Place, Needs>,
    made: Vec<Made>,
}

/// What a chain leads to, and numbers of what it counts with.
#[derive(Debug, Default)]
struct Needs {
    places: Vec<Place>,
    counters: Vec<u32>,
}

/// Something that was not there before.
#[derive(Debug)]
enum Made {
    Counter(Name),
    Set(Name, Set),
    Chain(Name, Chain),
}

/// Where a function is carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// In the chain of the decision of this number: it is one whatever the port.
    Decision(u32),
    /// In the chain of the form of this number.
    Form(u32),
}

impl Place {
    /// What leads there.
    pub(super) fn verdict(self) -> Verdict {
        Verdict::Goto(self.name())
    }

    fn name(self) -> Name {
        match self {
            Self::Decision(number) => decision_name(number),
            Self::Form(number) => form_name(number),
        }
    }
}

impl Form {
    /// Whether it is carried out by a map.
    fn is_map(&self) -> bool {
        self.by_port.len() > ONE_BY_ONE
    }
}

fn form_name(number: u32) -> Name {
    format!("function-{number}")
}

fn map_name(form: &str) -> Name {
    format!("{form}-ports")
}

fn decision_name(number: u32) -> Name {
    format!("decision-{number}")
}

fn counter_name(number: u32) -> Name {
    format!("counter-{number}")
}

impl Functions {
    /// Removes all but these places and what they need; the changes that this is. What leads to
    /// the others has been removed before.
    pub(super) fn keep_only(&mut self, places: Vec<Place>, ruleset: &mut Ruleset) -> Vec<Change> {
        self.forms.begin();
        self.decisions.begin();
        self.counters.begin();
        let mut left = places;
        while let Some(place) = left.pop() {
            let first = match place {
                Place::Decision(number) => self.decisions.keep(number),
                Place::Form(number) => self.forms.keep(number),
            };
            if let Some(needs) = self.needs.get(&place).filter(|_| first) {
                for number in &needs.counters {
                    self.counters.keep(*number);
                }
                left.extend(&needs.places);
            }
        }
        self.remove_rest(ruleset)
    }

    /// Removes what has not been asked for.
    fn remove_rest(&mut self, ruleset: &mut Ruleset) -> Vec<Change> {
        let mut chains = Vec::new();
        let mut changes = Vec::new();
        let table = &mut ruleset.inet;
        for (form, number) in self.forms.end() {
            let name = form_name(number);
            if form.is_map() {
                table.sets.remove(&map_name(&name));
                changes.push(Change::DeleteSet(map_name(&name)));
            }
            self.needs.remove(&Place::Form(number));
            chains.push(name);
        }
        for (_, number) in self.decisions.end() {
            self.needs.remove(&Place::Decision(number));
            chains.push(decision_name(number));
        }
        let emptied = chains.iter().map(|name| Change::SetRules(name.clone(), Vec::new()));
        changes.splice(0..0, emptied);
        for name in chains {
            table.chains.remove(&name);
            changes.push(Change::DeleteChain(name));
        }
        for (_, number) in self.counters.end() {
            let name = counter_name(number);
            table.counters.remove(&name);
            changes.push(Change::DeleteCounter(name));
        }
        changes
    }

    /// Where a function is carried out. What it takes and is not there yet is to be written.
    pub(super) fn place(&mut self, function: &Function) -> Place {
        if function.by_port.is_empty() {
            return self.decision(&function.otherwise);
        }
        let rest = Rest::Decision(function.otherwise.clone());
        self.form(Form { by_port: function.by_port.clone(), rest })
    }

    /// Where a function is carried out that decides as another one but for these ports.
    pub(super) fn place_beyond(&mut self, by_port: ByPort, base: Place) -> Place {
        if by_port.is_empty() {
            return base;
        }
        self.form(Form { by_port, rest: Rest::Base(base) })
    }

    fn form(&mut self, form: Form) -> Place {
        let (number, new) = self.forms.number(&form);
        let place = Place::Form(number);
        if !new {
            return place;
        }
        let mut needs = Needs::default();
        let mut rules = if form.is_map() {
            vec![self.map(&place.name(), &form, &mut needs)]
        } else {
            let all = form.by_port.iter();
            all.map(|(key, decision)| self.one(*key, decision, &mut needs)).collect()
        };
        rules.push(match &form.rest {
            Rest::Decision(decision) => self.steps(decision, &mut needs),
            Rest::Base(base) => {
                needs.places.push(*base);
                vec![Step::Do(base.verdict())]
            }
        });
        self.make(place, rules, needs)
    }

    fn make(&mut self, place: Place, rules: Vec<Rule>, needs: Needs) -> Place {
        self.made.push(Made::Chain(place.name(), Chain { hook: None, rules }));
        self.needs.insert(place, needs);
        place
    }

    /// A rule for one range.
    fn one(
        &mut self,
        (protocol, first, last): (u8, u16, u16),
        decision: &Decision,
        needs: &mut Needs,
    ) -> Rule {
        let mut rule = vec![Step::FlowProtocol(protocol)];
        if (first, last) != (0, u16::MAX) {
            rule.push(Step::FlowPort(first, last));
        }
        rule.extend(self.steps(decision, needs));
        rule
    }

    /// A map for many ranges, and the rule that asks it.
    fn map(&mut self, name: &str, form: &Form, needs: &mut Needs) -> Rule {
        let all = form.by_port.iter();
        let elements = all.map(|((protocol, first, last), decision)| {
            let place = self.decision(decision);
            needs.places.push(place);
            (vec![Field::Protocol(*protocol), Field::Ports(*first, *last)], place.verdict())
        });
        let set = Set::verdicts(&[Kind::Protocol, Kind::Ports], elements);
        let map = map_name(name);
        self.made.push(Made::Set(map.clone(), set));
        vec![Step::Decide(vec![Datum::FlowProtocol, Datum::FlowPort], map)]
    }

    /// The chain that carries a decision out, for maps to lead to.
    fn decision(&mut self, decision: &Decision) -> Place {
        let (number, new) = self.decisions.number(decision);
        let place = Place::Decision(number);
        if !new {
            return place;
        }
        let mut needs = Needs::default();
        let rules = vec![self.steps(decision, &mut needs)];
        self.make(place, rules, needs)
    }

    /// Counts and passes or drops.
    fn steps(&mut self, decision: &Decision, needs: &mut Needs) -> Rule {
        let decided = Counted::Decided(decision.because.clone());
        let audited = decision.audit.clone().map(Counted::Audited);
        let counted = [Some(decided), audited].into_iter().flatten();
        let mut rule: Rule = counted.map(|what| Step::Count(self.counter(&what, needs))).collect();
        rule.push(Step::Do(match decision.verdict {
            evaluate::Verdict::Allow => Verdict::Return,
            evaluate::Verdict::Deny => Verdict::Drop,
        }));
        rule
    }

    fn counter(&mut self, counted: &Counted, needs: &mut Needs) -> Name {
        let (number, new) = self.counters.number(counted);
        needs.counters.push(number);
        if new {
            self.made.push(Made::Counter(counter_name(number)));
        }
        counter_name(number)
    }

    /// What each counter counts.
    pub(super) fn counters(&self) -> BTreeMap<Name, Counted> {
        let all = self.counters.iter();
        all.map(|(counted, number)| (counter_name(number), counted.clone())).collect()
    }

    /// Writes what was made since; the changes that this is.
    pub(super) fn write(&mut self, ruleset: &mut Ruleset) -> Vec<Change> {
        let (mut first, mut then) = (Vec::new(), Vec::new());
        let table = &mut ruleset.inet;
        for one in std::mem::take(&mut self.made) {
            match one {
                Made::Counter(name) => {
                    table.counters.insert(name.clone());
                    first.push(Change::AddCounter(name));
                }
                Made::Set(name, set) => {
                    first.push(Change::AddSet(name.clone(), set.emptied()));
                    then.push(Change::Insert(name.clone(), set.clone()));
                    table.sets.insert(name, set);
                }
                Made::Chain(name, chain) => {
                    first.push(Change::AddChain(name.clone(), chain.hook));
                    then.push(Change::SetRules(name.clone(), chain.rules.clone()));
                    table.chains.insert(name, chain);
                }
            }
        }
        first.append(&mut then);
        first
    }
}
