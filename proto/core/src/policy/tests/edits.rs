//! One policy among several changes a little: what is not about that is kept, and nothing may be
//! kept that is.

use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use super::{compiler, incremental, meaning, oracle, situation};
use crate::policy::Endpoint;
use crate::policy::compile::{Compiler, EndpointChange};
use crate::policy::model::{
    Action, Default, Direction, Mode, Policy, PolicySet, PortMatch, Ports, Protocol, Rule, Tier,
    Who,
};
use crate::policy::ruleset::{Delta, Ruleset};
use crate::policy::sample::{self, World};

/// What happens to one policy, or to a pod in between.
#[derive(Debug, Clone)]
enum Edit {
    Rule(Index, Rule),
    Peers(Index, Rule),
    Ports(Index, Rule),
    /// It asks for a named port.
    Name(Index, &'static str),
    Everybody(Index),
    Insert(Index, Rule),
    Remove(Index),
    Rotate,
    Tier(Tier),
    Mode(Mode),
    Default(Default),
    /// Another policy comes into its place.
    Policy(Arc<Policy>),
    Delete,
    /// It is in another place in memory.
    Copy,
    Put(usize, Endpoint),
}

fn any_policy() -> impl Strategy<Value = Arc<Policy>> {
    let some = sample::policies().prop_filter("none", |set| !set.policies.is_empty());
    (some, any::<Index>())
        .prop_map(|(set, which)| which.get(&set.policies.into_values().collect::<Vec<_>>()).clone())
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let rules = |policy: Arc<Policy>| {
        let lists = Direction::BOTH.into_iter().filter_map(|d| Some(policy.rules(d)?.to_vec()));
        lists.flatten().collect::<Vec<_>>()
    };
    let some = any_policy().prop_map(rules).prop_filter("none", |rules| !rules.is_empty());
    (some, any::<Index>()).prop_map(|(rules, which)| which.get(&rules).clone())
}

fn edit() -> impl Strategy<Value = Edit> {
    let tier = prop_oneof![
        Just(Tier::Namespaced),
        (0..4u16).prop_map(|priority| Tier::Admin { priority })
    ];
    let at = any::<Index>;
    prop_oneof![
        4 => (at(), any_rule()).prop_map(|(at, rule)| Edit::Rule(at, rule)),
        3 => (at(), any_rule()).prop_map(|(at, rule)| Edit::Peers(at, rule)),
        3 => (at(), any_rule()).prop_map(|(at, rule)| Edit::Ports(at, rule)),
        2 => (at(), prop::sample::select(&["web", "dns"][..])).prop_map(|(at, n)| Edit::Name(at, n)),
        1 => at().prop_map(Edit::Everybody),
        3 => (at(), any_rule()).prop_map(|(at, rule)| Edit::Insert(at, rule)),
        3 => at().prop_map(Edit::Remove),
        2 => Just(Edit::Rotate),
        1 => tier.prop_map(Edit::Tier),
        1 => prop_oneof![Just(Mode::Enforce), Just(Mode::Audit)].prop_map(Edit::Mode),
        1 => prop_oneof![Just(Default::Open), Just(Default::Deny)].prop_map(Edit::Default),
        1 => any_policy().prop_map(Edit::Policy),
        1 => Just(Edit::Delete),
        1 => Just(Edit::Copy),
        3 => sample::some_endpoint().prop_map(|(number, endpoint)| Edit::Put(number, endpoint)),
    ]
}

impl Edit {
    fn make(self, set: &mut PolicySet, which: Index, direction: Direction) {
        let names: Vec<_> = set.policies.keys().cloned().collect();
        let name = which.get(&names);
        let policy = match self {
            Self::Default(default) => {
                set.default = default;
                return;
            }
            Self::Policy(other) => {
                set.policies.insert(name.clone(), other);
                return;
            }
            // One is left for later edits.
            Self::Delete if names.len() > 1 => return drop(set.policies.remove(name)),
            _ => Arc::make_mut(set.policies.get_mut(name).unwrap()),
        };
        match self {
            Self::Tier(tier) => policy.tier = tier,
            Self::Mode(mode) => policy.mode = mode,
            Self::Copy => {
                let copy = Arc::new(policy.clone());
                set.policies.insert(name.clone(), copy);
                return;
            }
            other => {
                let rules = match direction {
                    Direction::Egress => &mut policy.egress,
                    Direction::Ingress => &mut policy.ingress,
                };
                other.change(rules.get_or_insert_default());
            }
        }
        if policy.tier == Tier::Namespaced {
            let rules = policy.ingress.iter_mut().chain(&mut policy.egress).flatten();
            rules.for_each(|rule| rule.action = Action::Allow);
        }
    }

    fn change(self, rules: &mut Vec<Rule>) {
        if let Self::Insert(at, rule) = self {
            return rules.insert(at.index(rules.len() + 1), rule);
        }
        if rules.is_empty() {
            return;
        }
        let last = rules.len();
        let web = |name: &str| PortMatch {
            protocol: Protocol::Tcp,
            ports: Ports::Named(name.to_owned()),
        };
        match self {
            Self::Rule(at, rule) => rules[at.index(last)] = rule,
            Self::Peers(at, rule) => rules[at.index(last)].peers = rule.peers,
            Self::Ports(at, rule) => rules[at.index(last)].ports = rule.ports,
            Self::Name(at, name) => rules[at.index(last)].ports.push(web(name)),
            Self::Everybody(at) => rules[at.index(last)].peers.clear(),
            Self::Remove(at) => drop(rules.remove(at.index(last))),
            Self::Rotate => rules.rotate_left(1),
            _ => {}
        }
    }
}

/// Policies of which most select every pod, so that subjects have several.
fn several() -> impl Strategy<Value = World> {
    (sample::world(), any_policy(), any_policy(), vec(0..4u8, 8)).prop_map(
        |(mut world, one, other, selective)| {
            world.policies.policies.insert("m".into(), one);
            world.policies.policies.insert("n".into(), other);
            for (policy, selective) in world.policies.policies.values_mut().zip(selective) {
                if selective > 0 {
                    Arc::make_mut(policy).subject = Who::default();
                }
            }
            world
        },
    )
}

/// That a compiler with a past has come to the same rules as one without.
fn as_anew(world: &World, changed: &Compiler, swept: bool) -> Result<(), TestCaseError> {
    prop_assert_eq!(meaning::of(changed), meaning::of(&compiler(world)));
    if swept {
        prop_assert_eq!(meaning::left_over(changed), [].into());
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn edits_lead_to_the_same_as_beginning_anew(
        world in several(),
        edits in vec((edit(), any::<Index>(), any::<bool>()), 1..8),
        flows in vec(sample::flow(), 12),
    ) {
        let mut world = world;
        let mut compiler = compiler(&world);
        let mut kernel = Ruleset::default();
        incremental::apply(&mut kernel, &Delta::whole(compiler.ruleset()));
        for (edit, which, egress) in edits {
            let (delta, swept) = if let Edit::Put(number, endpoint) = edit {
                let id = sample::id(number);
                world.endpoints.insert(id.clone(), endpoint.clone());
                (compiler.change_endpoints(vec![EndpointChange::Put(id, endpoint)]), false)
            } else {
                let direction = if egress { Direction::Egress } else { Direction::Ingress };
                edit.make(&mut world.policies, which, direction);
                let delta = compiler.set_situation(situation(world.policies.clone()));
                let swept = !delta.is_empty();
                (delta, swept)
            };
            incremental::apply(&mut kernel, &delta);
            prop_assert_eq!(&kernel, compiler.ruleset());
            as_anew(&world, &compiler, swept)?;
            oracle::check(&world, &compiler, &flows)?;
        }
    }
}
