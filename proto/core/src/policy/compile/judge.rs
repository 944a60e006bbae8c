//! What a subject's rules decide, once it is known which of them list a flow.

use super::subjects::NamedPorts;
use crate::policy::evaluate::{self, Because, Decision, RuleRef};
use crate::policy::model::{Action, Default, Direction, Mode, Peer, PortMatch, Ports};

/// The rules of pods that are judged alike, in one direction.
#[derive(Debug)]
pub(super) struct Judge {
    pub(super) direction: Direction,
    /// Rules in the order they are asked.
    pub(super) entries: Vec<Entry>,
    /// Namespaced policies, in order, that let through only what they list.
    pub(super) isolating: Vec<(String, Mode)>,
    /// What happens to flows that no policy is about.
    pub(super) default: (Default, Mode),
    /// What these pods call their own ports; only those that the rules name.
    pub(super) ports: NamedPorts,
}

/// A rule that counts for a subject.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) rule: RuleRef,
    pub(super) mode: Mode,
    pub(super) admin: bool,
    pub(super) action: Action,
    pub(super) ports: Vec<PortMatch>,
    pub(super) peers: Vec<Peer>,
}

impl Entry {
    /// Whether it lists ports by their names.
    pub(super) fn names_ports(&self) -> bool {
        self.ports.iter().any(|wanted| matches!(wanted.ports, Ports::Named(_)))
    }
}

impl Judge {
    /// What is decided about a flow that these rules list; they are in the order they are asked.
    pub(super) fn decide(&self, listing: &[&Entry]) -> Decision {
        let (passes, because) = self.verdict(listing, false);
        let (strictly, why) = self.verdict(listing, true);
        let verdict = if passes { evaluate::Verdict::Allow } else { evaluate::Verdict::Deny };
        Decision { verdict, because, audit: (passes && !strictly).then_some(why) }
    }

    /// Whether it passes; `strict` counts what is in audit mode, too.
    fn verdict(&self, listing: &[&Entry], strict: bool) -> (bool, Because) {
        let counts = |mode: Mode| strict || mode == Mode::Enforce;
        let mut counting = listing.iter().filter(|entry| counts(entry.mode));
        let because = |entry: &Entry| Because::Rule(entry.rule.clone());
        if let Some(entry) = counting.clone().find(|entry| entry.admin) {
            match entry.action {
                Action::Allow => return (true, because(entry)),
                Action::Deny => return (false, because(entry)),
                Action::Pass => {}
            }
        }
        if let Some(entry) = counting.find(|entry| !entry.admin) {
            return (true, because(entry));
        }
        if let Some((policy, _)) = self.isolating.iter().find(|(_, mode)| counts(*mode)) {
            return (false, Because::Unlisted(policy.clone(), self.direction));
        }
        let (default, mode) = self.default;
        (default == Default::Open || !counts(mode), Because::Default(self.direction))
    }
}
