//! Changes lead to the same rules as beginning anew, and say truly what changes.

use proptest::collection::vec;
use proptest::prelude::*;

use super::{compiler, oracle, situation};
use crate::policy::compile::EndpointChange;
use crate::policy::model::PolicySet;
use crate::policy::ruleset::{Change, Delta, Elements, Ruleset, Set, Table};
use crate::policy::sample::{self, LOCAL, World};
use crate::policy::{Endpoint, EndpointId};

#[derive(Debug, Clone)]
enum Event {
    Put(usize, Endpoint),
    Gone(usize),
    Policies(PolicySet),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => sample::some_endpoint().prop_map(|(number, endpoint)| Event::Put(number, endpoint)),
        2 => (LOCAL..sample::ENDPOINTS).prop_map(Event::Gone),
        1 => sample::policies().prop_map(Event::Policies),
    ]
}

/// Makes a delta's changes, as strictly as the kernel.
pub(super) fn apply(ruleset: &mut Ruleset, delta: &Delta) {
    if delta.anew {
        *ruleset = Ruleset::default();
    }
    delta.inet.iter().for_each(|change| one(&mut ruleset.inet, change));
    delta.arp.iter().for_each(|change| one(&mut ruleset.arp, change));
}

fn one(table: &mut Table, change: &Change) {
    match change {
        Change::AddCounter(name) => assert!(table.counters.insert(name.clone())),
        Change::AddSet(name, set) => {
            assert!(set.is_empty());
            assert!(table.sets.insert(name.clone(), set.clone()).is_none());
        }
        Change::AddChain(name, hook) => {
            let chain = crate::policy::ruleset::Chain { hook: *hook, rules: Vec::new() };
            assert!(table.chains.insert(name.clone(), chain).is_none());
        }
        Change::Clear(name) => {
            let set = table.sets.get_mut(name).unwrap();
            *set = set.emptied();
        }
        Change::Remove(name, gone) => change_set(table.sets.get_mut(name).unwrap(), gone, true),
        Change::Insert(name, new) => change_set(table.sets.get_mut(name).unwrap(), new, false),
        Change::SetRules(name, rules) => {
            table.chains.get_mut(name).unwrap().rules.clone_from(rules);
        }
        Change::DeleteSet(name) => assert!(table.sets.remove(name).is_some()),
        Change::DeleteChain(name) => {
            assert!(table.chains.remove(name).unwrap().rules.is_empty());
        }
        Change::DeleteCounter(name) => assert!(table.counters.remove(name)),
    }
}

fn change_set(set: &mut Set, part: &Set, remove: bool) {
    macro_rules! map {
        ($all:ident, $part:ident) => {
            for (key, value) in $part {
                if remove {
                    assert_eq!($all.remove(key).as_ref(), Some(value));
                } else {
                    assert!($all.insert(key.clone(), value.clone()).is_none());
                }
            }
        };
    }
    match (&mut set.elements, &part.elements) {
        (Elements::Plain(all), Elements::Plain(part)) => {
            for key in part {
                assert!(if remove { all.remove(key) } else { all.insert(key.clone()) });
            }
        }
        (Elements::Marks(all), Elements::Marks(part)) => map!(all, part),
        (Elements::Verdicts(all), Elements::Verdicts(part)) => map!(all, part),
        (Elements::Marks4(all), Elements::Marks4(part)) => map!(all, part),
        (Elements::Marks6(all), Elements::Marks6(part)) => map!(all, part),
        _ => panic!("not the same sort of set"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn every_change_leads_where_it_says_and_where_the_oracle_is(
        world in sample::world(),
        events in vec(event(), 1..6),
        flows in vec(sample::flow(), 12),
    ) {
        let mut world: World = world;
        let mut compiler = compiler(&world);
        let mut kernel = Ruleset::default();
        apply(&mut kernel, &Delta::whole(compiler.ruleset()));
        prop_assert_eq!(&kernel, compiler.ruleset());
        for event in events {
            let delta = match event {
                Event::Put(number, endpoint) => {
                    let id: EndpointId = sample::id(number);
                    world.endpoints.insert(id.clone(), endpoint.clone());
                    compiler.change_endpoints(vec![EndpointChange::Put(id, endpoint)])
                }
                Event::Gone(number) => {
                    let id = sample::id(number);
                    world.endpoints.remove(&id);
                    compiler.change_endpoints(vec![EndpointChange::Gone(id)])
                }
                Event::Policies(policies) => {
                    world.policies = policies;
                    compiler.set_situation(situation(world.policies.clone()))
                }
            };
            apply(&mut kernel, &delta);
            prop_assert_eq!(&kernel, compiler.ruleset());
            oracle::check(&world, &compiler, &flows)?;
        }
    }

    #[test]
    fn an_endpoint_that_returns_touches_elements_only(
        world in sample::world(),
        number in LOCAL..sample::ENDPOINTS,
    ) {
        let mut compiler = compiler(&world);
        let id = sample::id(number);
        let gone = compiler.change_endpoints(vec![EndpointChange::Gone(id.clone())]);
        prop_assert!(gone.is_elements_only());
        let back = EndpointChange::Put(id.clone(), world.endpoints[&id].clone());
        let back = compiler.change_endpoints(vec![back]);
        prop_assert!(back.is_elements_only());
        prop_assert_eq!(gone.is_empty(), back.is_empty());
    }
}

#[test]
fn two_that_claim_one_address_give_it_back_in_any_order() {
    use crate::policy::evaluate::Directory;
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    for _ in 0..50 {
        let mut world = sample::world().new_tree(&mut runner).unwrap().current();
        let flows: Vec<_> =
            (0..20).map(|_| sample::flow().new_tree(&mut runner).unwrap().current()).collect();
        let mut compiler = compiler(&world);
        let twin = Endpoint {
            addresses: sample::addresses(9),
            ..world.endpoints[&sample::id(11)].clone()
        };
        for (id, endpoint) in
            [("aaa", Some(&twin)), ("zzz", Some(&twin)), ("aaa", None), ("zzz", None)]
        {
            let id: EndpointId = id.into();
            let change = match endpoint {
                Some(endpoint) => {
                    world.endpoints.insert(id.clone(), endpoint.clone());
                    EndpointChange::Put(id, endpoint.clone())
                }
                None => {
                    world.endpoints.remove(&id);
                    EndpointChange::Gone(id)
                }
            };
            compiler.change_endpoints(vec![change]);
            oracle::check(&world, &compiler, &flows).unwrap();
        }
        let directory = Directory::new(&world.endpoints);
        assert!(directory.find(sample::addresses(9)[0]).is_some());
    }
}
