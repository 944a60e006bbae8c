//! Functions and decisions in use, as chains.

use std::collections::{BTreeMap, BTreeSet};

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
    /// What is decided where this leads.
    Verdict(Verdict),
    /// What the function of this number decides.
    Base(u32),
}

/// Functions and decisions in use. Their chains are made once, and stay as they are.
#[derive(Debug, Default)]
pub(super) struct Functions {
    forms: Interner<Form>,
    decisions: Interner<Decision>,
    counters: Interner<Counted>,
    made: Vec<Made>,
    used: Used,
}

/// Numbers of what somebody uses.
#[derive(Debug, Clone, Default)]
pub(super) struct Used {
    forms: BTreeSet<u32>,
    decisions: BTreeSet<u32>,
    counters: BTreeSet<u32>,
}

impl Used {
    /// All that both use.
    pub(super) fn add(&mut self, mut other: Self) {
        self.forms.append(&mut other.forms);
        self.decisions.append(&mut other.decisions);
        self.counters.append(&mut other.counters);
    }
}

/// Something that was not there before.
#[derive(Debug)]
enum Made {
    Counter(Name),
    Set(Name, Set),
    Chain(Name, Chain),
}

/// Where a function is carried out.
#[derive(Debug, Clone)]
pub(super) enum Place {
    /// It is one decision whatever the port.
    Decision(Verdict),
    /// The form of this number.
    Form(u32),
}

impl Place {
    /// What leads there.
    pub(super) fn verdict(&self) -> Verdict {
        match self {
            Self::Decision(verdict) => verdict.clone(),
            Self::Form(number) => Verdict::Goto(form_name(*number)),
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
    /// Begins to ask for everything that is in use.
    pub(super) fn begin(&mut self) {
        self.forms.begin();
        self.decisions.begin();
        self.counters.begin();
    }

    /// What has been asked for since this was asked.
    pub(super) fn take_used(&mut self) -> Used {
        std::mem::take(&mut self.used)
    }

    /// Asks for what somebody uses still.
    pub(super) fn keep(&mut self, used: &Used) {
        used.forms.iter().for_each(|number| self.forms.keep(*number));
        used.decisions.iter().for_each(|number| self.decisions.keep(*number));
        used.counters.iter().for_each(|number| self.counters.keep(*number));
    }

    /// Everything in use has been asked for: removes the rest; the changes that this is. What
    /// leads there has been removed before.
    pub(super) fn end(&mut self, ruleset: &mut Ruleset) -> Vec<Change> {
        let mut chains = Vec::new();
        let mut changes = Vec::new();
        let table = &mut ruleset.inet;
        for (form, number) in self.forms.end() {
            let name = form_name(number);
            if form.is_map() {
                table.sets.remove(&map_name(&name));
                changes.push(Change::DeleteSet(map_name(&name)));
            }
            chains.push(name);
        }
        chains.extend(self.decisions.end().into_iter().map(|(_, n)| decision_name(n)));
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
            return Place::Decision(self.decision(&function.otherwise));
        }
        let rest = Rest::Decision(function.otherwise.clone());
        self.form(Form { by_port: function.by_port.clone(), rest })
    }

    /// Where a function is carried out that decides as another one but for these ports. The other
    /// one has been asked for.
    pub(super) fn place_beyond(&mut self, by_port: ByPort, base: &Place) -> Place {
        if by_port.is_empty() {
            return base.clone();
        }
        let rest = match base {
            Place::Decision(verdict) => Rest::Verdict(verdict.clone()),
            Place::Form(number) => Rest::Base(*number),
        };
        self.form(Form { by_port, rest })
    }

    fn form(&mut self, form: Form) -> Place {
        let (number, new) = self.forms.number(form.clone());
        self.used.forms.insert(number);
        let name = form_name(number);
        // Asked for again, too: what they use is in use.
        let mut rules = if form.is_map() {
            vec![self.map(&name, &form, new)]
        } else {
            form.by_port.iter().map(|(key, decision)| self.one(*key, decision)).collect()
        };
        rules.push(match &form.rest {
            Rest::Decision(decision) => self.steps(decision),
            Rest::Verdict(verdict) => vec![Step::Do(verdict.clone())],
            Rest::Base(number) => vec![Step::Do(Verdict::Goto(form_name(*number)))],
        });
        if new {
            self.made.push(Made::Chain(name, Chain { hook: None, rules }));
        }
        Place::Form(number)
    }

    /// A rule for one range.
    fn one(&mut self, (protocol, first, last): (u8, u16, u16), decision: &Decision) -> Rule {
        let mut rule = vec![Step::FlowProtocol(protocol)];
        if (first, last) != (0, u16::MAX) {
            rule.push(Step::FlowPort(first, last));
        }
        rule.extend(self.steps(decision));
        rule
    }

    /// A map for many ranges, and the rule that asks it.
    fn map(&mut self, name: &str, form: &Form, new: bool) -> Rule {
        let elements: Vec<_> = form
            .by_port
            .iter()
            .map(|((protocol, first, last), decision)| {
                let key = vec![Field::Protocol(*protocol), Field::Ports(*first, *last)];
                (key, self.decision(decision))
            })
            .collect();
        let map = map_name(name);
        if new {
            let set = Set::verdicts(&[Kind::Protocol, Kind::Ports], elements);
            self.made.push(Made::Set(map.clone(), set));
        }
        vec![Step::Decide(vec![Datum::FlowProtocol, Datum::FlowPort], map)]
    }

    /// The chain that carries a decision out, for maps to lead to.
    fn decision(&mut self, decision: &Decision) -> Verdict {
        let (number, new) = self.decisions.number(decision.clone());
        self.used.decisions.insert(number);
        let name = decision_name(number);
        let rules = vec![self.steps(decision)];
        if new {
            self.made.push(Made::Chain(name.clone(), Chain { hook: None, rules }));
        }
        Verdict::Goto(name)
    }

    /// Counts and passes or drops.
    fn steps(&mut self, decision: &Decision) -> Rule {
        let decided = Counted::Decided(decision.because.clone());
        let audited = decision.audit.clone().map(Counted::Audited);
        let counted = [Some(decided), audited].into_iter().flatten();
        let mut rule: Rule = counted.map(|what| Step::Count(self.counter(what))).collect();
        rule.push(Step::Do(match decision.verdict {
            evaluate::Verdict::Allow => Verdict::Return,
            evaluate::Verdict::Deny => Verdict::Drop,
        }));
        rule
    }

    fn counter(&mut self, counted: Counted) -> Name {
        let (number, new) = self.counters.number(counted);
        self.used.counters.insert(number);
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
