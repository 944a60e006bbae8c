//! What rules mean, whatever numbers things in them have.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use crate::policy::compile::{Compiler, Counted};
use crate::policy::ruleset::{Elements, Field, Key, Name, Set, Step, Table, Verdict};

/// What the rules of local pods mean: where each address leads, with all names written out.
pub(super) fn of(compiler: &Compiler) -> BTreeMap<(Name, Key), String> {
    Reader::new(compiler).entries()
}

/// Functions, decisions and counters that nothing leads to.
pub(super) fn left_over(compiler: &Compiler) -> BTreeSet<Name> {
    let reader = Reader::new(compiler);
    reader.entries();
    let reached = reader.reached.take();
    let Table { counters, sets, chains } = &compiler.ruleset().inet;
    let made = |name: &&Name| {
        ["function-", "decision-", "counter-", "egress-", "ingress-"]
            .iter()
            .any(|kind| name.starts_with(kind))
    };
    let all = counters.iter().chain(sets.keys()).chain(chains.keys()).filter(made);
    all.filter(|name| !reached.contains(*name)).cloned().collect()
}

struct Reader<'a> {
    table: &'a Table,
    counters: BTreeMap<Name, Counted>,
    /// Who is in each class.
    members: BTreeMap<u32, BTreeSet<String>>,
    reached: RefCell<BTreeSet<Name>>,
}

impl<'a> Reader<'a> {
    fn new(compiler: &'a Compiler) -> Self {
        let table = &compiler.ruleset().inet;
        let mut members: BTreeMap<u32, BTreeSet<String>> = BTreeMap::new();
        let mut add = |class: &u32, who: String| {
            members.entry(*class).or_default().insert(who);
        };
        for map in ["class4", "class6", "net4", "net6"] {
            match &table.sets[map].elements {
                Elements::Marks4(all) => all.iter().for_each(|(a, c)| add(c, a.to_string())),
                Elements::Marks6(all) => all.iter().for_each(|(a, c)| add(c, a.to_string())),
                Elements::Marks(all) => all.iter().for_each(|(a, c)| add(c, format!("{a:?}"))),
                other => panic!("{other:?}"),
            }
        }
        Self { table, counters: compiler.counters(), members, reached: RefCell::default() }
    }

    fn entries(&self) -> BTreeMap<(Name, Key), String> {
        let mut all = BTreeMap::new();
        for map in ["egress4", "egress6", "ingress4", "ingress6"] {
            let Elements::Verdicts(elements) = &self.table.sets[map].elements else { panic!() };
            for (key, verdict) in elements {
                all.insert((map.to_owned(), key.clone()), self.verdict(verdict));
            }
        }
        all
    }

    fn reach(&self, name: &Name) {
        self.reached.borrow_mut().insert(name.clone());
    }

    fn verdict(&self, verdict: &Verdict) -> String {
        let (Verdict::Goto(name) | Verdict::Jump(name)) = verdict else {
            return format!("{verdict:?}");
        };
        self.reach(name);
        let rules = &self.table.chains[name].rules;
        let rules: Vec<Vec<String>> =
            rules.iter().map(|rule| rule.iter().map(|step| self.step(step)).collect()).collect();
        format!("{rules:?}")
    }

    fn step(&self, step: &Step) -> String {
        match step {
            Step::Count(name) => {
                self.reach(name);
                format!("{:?}", self.counters[name])
            }
            Step::Do(verdict) => self.verdict(verdict),
            Step::Decide(data, map) => format!("{data:?} {:?}", self.map(map)),
            Step::DecideBy(datum, first, map) => format!("{datum:?} {first} {:?}", self.map(map)),
            other => format!("{other:?}"),
        }
    }

    /// A map to verdicts. Classes that nobody is in say nothing.
    fn map(&self, name: &Name) -> BTreeMap<String, String> {
        self.reach(name);
        let Set { elements: Elements::Verdicts(all), .. } = &self.table.sets[name] else {
            panic!("{name} leads nowhere")
        };
        let one = |(key, verdict): (&Key, &Verdict)| {
            let key = match &key[..] {
                [Field::Mark(class)] => format!("{:?}", self.members.get(class)?),
                other => format!("{other:?}"),
            };
            Some((key, self.verdict(verdict)))
        };
        all.iter().filter_map(one).collect()
    }
}
