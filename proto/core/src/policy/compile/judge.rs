//! What a subject's rules decide, once it is known which of them list a flow.

use std::sync::Arc;

use super::lists::List;
use super::subjects::NamedPorts;
use crate::policy::evaluate::{self, Because, Decision, RuleRef};
use crate::policy::model::{Action, Default, Direction, Mode, PolicyName, PortMatch, Ports, Rule};

/// The rules of pods that are judged alike, in one direction.
#[derive(Debug)]
pub(super) struct Judge {
    pub(super) direction: Direction,
    /// Policies' lists in the order they are asked.
    pub(super) lists: Vec<Arc<List>>,
    /// Namespaced policies, in order, that let through only what they list.
    isolating: Vec<(PolicyName, Mode)>,
    /// What happens to flows that no policy is about.
    pub(super) default: (Default, Mode),
    /// What these pods call their own ports; only those that the rules name.
    pub(super) ports: NamedPorts,
}

/// Where one of the rules is: which list, and the rule's place in it. In the order they are asked.
pub(super) type At = (usize, usize);

/// A rule that counts for a subject.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry<'a> {
    list: &'a List,
    index: usize,
    rule: &'a Rule,
}

impl<'a> Entry<'a> {
    /// The ports it lists; empty: all.
    pub(super) fn ports(self) -> &'a [PortMatch] {
        &self.rule.ports
    }

    /// Whether it lists ports by their names.
    pub(super) fn names_ports(self) -> bool {
        self.ports().iter().any(|wanted| matches!(wanted.ports, Ports::Named(_)))
    }

    fn because(self) -> Because {
        let List { name, direction, .. } = self.list;
        let (policy, direction, index) = (name.clone(), *direction, self.index);
        Because::Rule(RuleRef { policy, direction, index })
    }
}

impl Judge {
    pub(super) fn of(
        direction: Direction,
        lists: Vec<Arc<List>>,
        default: (Default, Mode),
        ports: NamedPorts,
    ) -> Self {
        let namespaced = lists.iter().filter(|list| !list.is_admin());
        let isolating = namespaced.map(|list| (list.name.clone(), list.mode())).collect();
        Self { direction, lists, isolating, default, ports }
    }

    /// The rules at these places.
    pub(super) fn entries<'a>(&self, places: impl IntoIterator<Item = &'a At>) -> Vec<Entry<'_>> {
        places.into_iter().filter_map(|at| self.entry(*at)).collect()
    }

    pub(super) fn entry(&self, (list, index): At) -> Option<Entry<'_>> {
        let list = self.lists.get(list)?;
        Some(Entry { list, index, rule: list.rules().get(index)? })
    }

    /// What is decided about a flow that these rules list; they are in the order they are asked.
    pub(super) fn decide(&self, listing: &[Entry<'_>]) -> Decision {
        let (passes, because) = self.verdict(listing, false);
        let (strictly, why) = self.verdict(listing, true);
        let verdict = if passes { evaluate::Verdict::Allow } else { evaluate::Verdict::Deny };
        Decision { verdict, because, audit: (passes && !strictly).then_some(why) }
    }

    /// Whether it passes; `strict` counts what is in audit mode, too.
    fn verdict(&self, listing: &[Entry<'_>], strict: bool) -> (bool, Because) {
        let counts = |mode: Mode| strict || mode == Mode::Enforce;
        let mut counting = listing.iter().filter(|entry| counts(entry.list.mode()));
        if let Some(entry) = counting.clone().find(|entry| entry.list.is_admin()) {
            match entry.rule.action {
                Action::Allow => return (true, entry.because()),
                Action::Deny => return (false, entry.because()),
                Action::Pass => {}
            }
        }
        if let Some(entry) = counting.find(|entry| !entry.list.is_admin()) {
            return (true, entry.because());
        }
        if let Some((policy, _)) = self.isolating.iter().find(|(_, mode)| counts(*mode)) {
            return (false, Because::Unlisted(policy.clone(), self.direction));
        }
        let (default, mode) = self.default;
        (default == Default::Open || !counts(mode), Because::Default(self.direction))
    }
}
