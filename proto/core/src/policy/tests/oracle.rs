//! Evaluator and compiled rules say the same, and give the same reasons.

use std::collections::BTreeSet;

use proptest::collection::vec;
use proptest::prelude::*;

use super::{compiler, first, local};
use crate::policy::compile::{Compiler, Counted};
use crate::policy::evaluate::{Because, Decision, Directory, Flow, Verdict, evaluate};
use crate::policy::interpret::send;
use crate::policy::model::Default;
use crate::policy::sample::{self, World};

/// What this node says about a flow: the ends that are here.
fn here(world: &World, flow: &Flow) -> Vec<Decision> {
    let outcome = evaluate(&world.policies, &Directory::new(&world.endpoints), flow);
    let egress = outcome.egress.filter(|_| local(flow.source).is_some());
    let ingress = outcome.ingress.filter(|_| local(flow.destination).is_some());
    let egress_denies = egress.as_ref().is_some_and(|d| d.verdict == Verdict::Deny);
    egress.into_iter().chain(ingress.filter(|_| !egress_denies)).collect()
}

fn expected_counts(world: &World, decisions: &[Decision]) -> BTreeSet<Counted> {
    let decided = decisions.iter().map(|d| Counted::Decided(d.because.clone()));
    let audited = decisions.iter().filter_map(|d| d.audit.clone().map(Counted::Audited));
    // Pods of an open slice that no policy selects have no chain, and so no counter.
    let open = world.policies.default == Default::Open;
    let silent = |c: &Counted| open && matches!(c, Counted::Decided(Because::Default(_)));
    decided.chain(audited).filter(|counted| !silent(counted)).collect()
}

pub(super) fn check(
    world: &World,
    compiler: &Compiler,
    flows: &[Flow],
) -> Result<(), TestCaseError> {
    let counters = compiler.counters();
    for flow in flows {
        let decisions = here(world, flow);
        let passes = decisions.iter().all(|d| d.verdict == Verdict::Allow);
        let fate = send(compiler.ruleset(), &first(flow));
        prop_assert_eq!(fate.passed, passes, "{:?}: {:?} but {:?}", flow, decisions, fate);
        let open = world.policies.default == Default::Open;
        let counted: BTreeSet<Counted> = fate
            .counted
            .keys()
            .map(|name| counters[name].clone())
            .filter(|c| !(open && matches!(c, Counted::Decided(Because::Default(_)))))
            .collect();
        prop_assert_eq!(counted, expected_counts(world, &decisions), "{:?}", flow);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn rules_say_what_the_oracle_says(world in sample::world(), flows in vec(sample::flow(), 24)) {
        check(&world, &compiler(&world), &flows)?;
    }

    #[test]
    fn the_same_input_gives_the_same_rules(world in sample::world()) {
        let (one, other) = (compiler(&world), compiler(&world));
        prop_assert_eq!(one.ruleset(), other.ruleset());
    }
}

#[test]
fn flows_of_the_sample_meet_every_kind_of_decision() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    let mut maps = 0;
    for _ in 0..200 {
        let world = sample::world().new_tree(&mut runner).unwrap().current();
        let rules = compiler(&world);
        maps += rules.ruleset().inet.sets.keys().filter(|name| name.ends_with("-ports")).count();
        for _ in 0..20 {
            let flow = sample::flow().new_tree(&mut runner).unwrap().current();
            for decision in here(&world, &flow) {
                seen.extend(decision.audit.is_some().then_some("audit"));
                seen.insert(match (&decision.because, decision.verdict) {
                    (Because::Rule(_), Verdict::Allow) => "rule allows",
                    (Because::Rule(_), Verdict::Deny) => "rule denies",
                    (Because::Unlisted(..), _) => "unlisted",
                    (Because::Default(_), Verdict::Allow) => "open",
                    (Because::Default(_), Verdict::Deny) => "closed",
                });
            }
        }
    }
    let all = ["audit", "closed", "open", "rule allows", "rule denies", "unlisted"];
    assert_eq!(seen, BTreeSet::from(all));
    // Functions of few ranges and of many are carried out in two ways.
    assert!(maps > 20, "{maps}");
}
