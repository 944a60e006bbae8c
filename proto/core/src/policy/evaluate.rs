//! The verdict on one flow. Written to be read next to the semantics in [`super`], with nothing in
//! common with the compiler but the model: what both agree on is what was meant.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::model::{
    Action, Default, Direction, Endpoint, EndpointId, Mode, Peer, Policy, PolicyName, PolicySet,
    PortMatch, Ports, Protocol, Rule,
};

/// One flow, by its first packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flow {
    /// Who opens it.
    pub source: IpAddr,
    /// Who is reached.
    pub destination: IpAddr,
    /// Number of the protocol in the IP header.
    pub protocol: u8,
    /// The destination's port; meaningless for protocols without ports.
    pub port: u16,
}

/// Endpoints by address. Where two claim one address, the first by name has it.
#[derive(Debug, Clone, std::default::Default)]
pub struct Directory<'a> {
    by_address: BTreeMap<IpAddr, (&'a EndpointId, &'a Endpoint)>,
}

impl<'a> Directory<'a> {
    /// A directory of these endpoints.
    pub fn new(endpoints: &'a BTreeMap<EndpointId, Endpoint>) -> Self {
        let mut by_address = BTreeMap::new();
        for (id, endpoint) in endpoints {
            for address in &endpoint.addresses {
                by_address.entry(*address).or_insert((id, endpoint));
            }
        }
        Self { by_address }
    }

    /// The endpoint that has this address.
    pub fn find(&self, address: IpAddr) -> Option<&'a Endpoint> {
        self.by_address.get(&address).map(|(_, endpoint)| *endpoint)
    }
}

/// Passes or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// It passes.
    Allow,
    /// It is dropped.
    Deny,
}

/// A rule, by its place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RuleRef {
    /// Name of the policy.
    pub policy: PolicyName,
    /// In which of its lists.
    pub direction: Direction,
    /// The rule's place in it, from 0.
    pub index: usize,
}

/// What a verdict comes from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Because {
    /// A rule.
    Rule(RuleRef),
    /// Namespaced policies select the endpoint and none of them lists the flow; the first of
    /// them by name.
    Unlisted(PolicyName, Direction),
    /// No policy is about it.
    Default(Direction),
}

/// What one end says about a flow.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Decision {
    /// What happens.
    pub verdict: Verdict,
    /// Why.
    pub because: Because,
    /// Why it would be dropped if nothing was in audit mode; set only where it passes.
    pub audit: Option<Because>,
}

/// What both ends say about a flow; `None` where the end is no endpoint of the slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The source's end.
    pub egress: Option<Decision>,
    /// The destination's end.
    pub ingress: Option<Decision>,
}

impl Outcome {
    /// Whether the flow passes both ends.
    pub fn verdict(&self) -> Verdict {
        let denied = |end: &Option<Decision>| {
            end.as_ref().is_some_and(|decision| decision.verdict == Verdict::Deny)
        };
        if denied(&self.egress) || denied(&self.ingress) { Verdict::Deny } else { Verdict::Allow }
    }
}

/// Judges a flow at both ends.
pub fn evaluate(set: &PolicySet, directory: &Directory<'_>, flow: &Flow) -> Outcome {
    let at = |address| directory.find(address);
    let judged = |direction, subject: Option<&Endpoint>| {
        Some(judge(set, directory, flow, direction, subject?))
    };
    Outcome {
        egress: judged(Direction::Egress, at(flow.source)),
        ingress: judged(Direction::Ingress, at(flow.destination)),
    }
}

/// Judges a flow at one end, which is `subject`'s.
fn judge(
    set: &PolicySet,
    directory: &Directory<'_>,
    flow: &Flow,
    direction: Direction,
    subject: &Endpoint,
) -> Decision {
    let end = End { directory, flow, direction, subject };
    let (verdict, because) = end.verdict(set, |mode| mode == Mode::Enforce);
    let (strict, why) = end.verdict(set, |_| true);
    let audit = (verdict == Verdict::Allow && strict == Verdict::Deny).then_some(why);
    Decision { verdict, because, audit }
}

/// One end of a flow.
struct End<'a> {
    directory: &'a Directory<'a>,
    flow: &'a Flow,
    direction: Direction,
    subject: &'a Endpoint,
}

impl End<'_> {
    fn verdict(&self, set: &PolicySet, counts: impl Fn(Mode) -> bool) -> (Verdict, Because) {
        let applies =
            |policy: &Policy| counts(policy.mode) && policy.subject.matches(&self.subject.identity);
        if let Some(decided) = self.admin(set, &applies) {
            return decided;
        }
        if let Some(decided) = self.namespaced(set, &applies) {
            return decided;
        }
        let verdict = match set.default {
            Default::Deny if counts(set.default_mode) => Verdict::Deny,
            _ => Verdict::Allow,
        };
        (verdict, Because::Default(self.direction))
    }

    fn admin(
        &self,
        set: &PolicySet,
        applies: &impl Fn(&Policy) -> bool,
    ) -> Option<(Verdict, Because)> {
        for (name, policy) in set.admin().into_iter().filter(|(_, p)| applies(p)) {
            for (index, rule) in policy.rules(self.direction).unwrap_or_default().iter().enumerate()
            {
                if !self.lists(rule) {
                    continue;
                }
                return match rule.action {
                    Action::Allow => Some((Verdict::Allow, self.rule(name, index))),
                    Action::Deny => Some((Verdict::Deny, self.rule(name, index))),
                    Action::Pass => None,
                };
            }
        }
        None
    }

    fn namespaced(
        &self,
        set: &PolicySet,
        applies: &impl Fn(&Policy) -> bool,
    ) -> Option<(Verdict, Because)> {
        let mut isolated_by = None;
        for (name, policy) in set.namespaced().filter(|(_, p)| applies(p)) {
            let Some(rules) = policy.rules(self.direction) else { continue };
            isolated_by = isolated_by.or(Some(name));
            if let Some(index) = rules.iter().position(|rule| self.lists(rule)) {
                return Some((Verdict::Allow, self.rule(name, index)));
            }
        }
        isolated_by.map(|name| (Verdict::Deny, Because::Unlisted(name.clone(), self.direction)))
    }

    fn rule(&self, policy: &PolicyName, index: usize) -> Because {
        let policy = policy.clone();
        Because::Rule(RuleRef { policy, direction: self.direction, index })
    }

    fn lists(&self, rule: &Rule) -> bool {
        (rule.peers.is_empty() || rule.peers.iter().any(|peer| self.is_peer(peer)))
            && (rule.ports.is_empty() || rule.ports.iter().any(|ports| self.is_port(ports)))
    }

    fn is_peer(&self, peer: &Peer) -> bool {
        let other = match self.direction {
            Direction::Egress => self.flow.destination,
            Direction::Ingress => self.flow.source,
        };
        match peer {
            Peer::Endpoints(who) => {
                self.directory.find(other).is_some_and(|e| who.matches(&e.identity))
            }
            Peer::Addresses { net, except } => {
                net.contains(&other) && !except.iter().any(|out| out.contains(&other))
            }
        }
    }

    fn is_port(&self, wanted: &PortMatch) -> bool {
        if Protocol::of_number(self.flow.protocol) != Some(wanted.protocol) {
            return false;
        }
        match &wanted.ports {
            Ports::All => true,
            Ports::Range(first, last) => (*first..=*last).contains(&self.flow.port),
            Ports::Named(name) => {
                let destination = match self.direction {
                    Direction::Ingress => Some(self.subject),
                    Direction::Egress => self.directory.find(self.flow.destination),
                };
                let key = (wanted.protocol, name.clone());
                destination
                    .and_then(|endpoint| endpoint.named_ports.get(&key))
                    .is_some_and(|numbers| numbers.contains(&self.flow.port))
            }
        }
    }
}
