//! The kernel and the oracle say the same about thousands of random flows under random policies.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use slicewire_core::policy::{
    Because, Compiler, Counted, Default, Directory, EndpointChange, Flow, PolicySet, Verdict,
};

use crate::policy_node::{Node, expected, place, situation};
use crate::sample::{self, World};

/// Random slices; each is loaded whole, then changed.
const WORLDS: u32 = 150;
/// Random changes of each.
const CHANGES: usize = 3;
/// Random flows under each, before and after every change.
const FLOWS: usize = 16;
/// How long a packet may take where it should pass. It is sent anew before that is called wrong.
const PATIENCE: Duration = Duration::from_millis(200);
const TRIES: u32 = 3;

#[derive(Debug, Clone)]
enum Change {
    Endpoint(usize, slicewire_core::policy::Endpoint),
    Gone(usize),
    Policies(PolicySet),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => sample::some_endpoint().prop_map(|(number, e)| Change::Endpoint(number, e)),
        1 => (sample::LOCAL..sample::ENDPOINTS).prop_map(Change::Gone),
        2 => sample::policies().prop_map(Change::Policies),
    ]
}

fn make(
    world: &mut World,
    compiler: &mut Compiler,
    change: Change,
) -> slicewire_core::policy::Delta {
    match change {
        Change::Endpoint(number, endpoint) => {
            world.endpoints.insert(sample::id(number), endpoint.clone());
            compiler.change_endpoints(vec![EndpointChange::Put(sample::id(number), endpoint)])
        }
        Change::Gone(number) => {
            world.endpoints.remove(&sample::id(number));
            compiler.change_endpoints(vec![EndpointChange::Gone(sample::id(number))])
        }
        Change::Policies(policies) => {
            world.policies = policies;
            compiler.set_situation(situation(world.policies.clone()))
        }
    }
}

/// How often each counter should have counted, by what it counts.
type Counts = BTreeMap<Counted, u64>;

#[derive(Debug, std::default::Default)]
struct Seen {
    passed: u32,
    dropped: u32,
    by_protocol: BTreeMap<u8, u32>,
}

/// Sends every flow's first packet and compares; what should have been counted.
fn compare(node: &mut Node, world: &World, flows: &[Flow], seen: &mut Seen) -> Counts {
    let directory = Directory::new(&world.endpoints);
    let mut counts = Counts::new();
    let mut forbidden = Vec::new();
    let mut wanted = Vec::new();
    for flow in flows {
        let decisions = expected(world, &directory, flow);
        let passes = decisions.iter().all(|d| d.verdict == Verdict::Allow);
        for decision in &decisions {
            *counts.entry(Counted::Decided(decision.because.clone())).or_default() += 1;
            if let Some(why) = &decision.audit {
                *counts.entry(Counted::Audited(why.clone())).or_default() += 1;
            }
        }
        let (tag, _) = node.open(flow);
        if passes {
            wanted.push((tag, flow))
        } else {
            forbidden.push((tag, flow, decisions))
        }
        *seen.by_protocol.entry(flow.protocol).or_default() += 1;
    }
    seen.passed += u32::try_from(wanted.len()).unwrap();
    seen.dropped += u32::try_from(forbidden.len()).unwrap();
    for (tag, flow) in wanted {
        let (device, _) = place(flow.destination);
        let mut came = node.came(tag, &device, PATIENCE);
        for _ in 1..TRIES {
            if !came {
                // Counted twice then, so what was counted is not compared.
                counts.clear();
                let (again, _) = node.open(flow);
                came = node.came(again, &device, PATIENCE);
            }
        }
        assert!(came, "{flow:?} should pass and does not\n{world:#?}");
    }
    for (tag, flow, why) in forbidden {
        assert!(!node.leaked(tag), "{flow:?} passes in spite of {why:?}\n{world:#?}");
    }
    counts
}

async fn check_counts(node: &Node, compiler: &Compiler, world: &World, expected: &Counts) {
    if expected.is_empty() {
        return;
    }
    let counters = node.filter.counters().await.unwrap();
    let names = compiler.counters();
    for (name, counted) in &names {
        let silent = world.policies.default == Default::Open
            && matches!(counted, Counted::Decided(Because::Default(_)));
        if !silent {
            let packets = expected.get(counted).copied().unwrap_or_default();
            let is = counters[name].packets;
            assert_eq!(is, packets, "{counted:?} {expected:#?} {counters:?}\n{world:#?}");
        }
    }
    for guard in ["spoofed", "invalid", "not-ready"] {
        assert_eq!(counters[guard].packets, 0, "{guard}");
    }
}

#[tokio::test]
async fn the_kernel_says_what_the_oracle_says() {
    let seed = std::env::var("POLICY_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1u8);
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32]);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let mut node = Node::new("oracle").await;
    let mut seen = Seen::default();
    let start = Instant::now();
    for _ in 0..WORLDS {
        let case = (sample::world(), vec(change(), CHANGES));
        let (mut world, changes) = case.new_tree(&mut runner).unwrap().current();
        let mut flows = || vec(sample::flow(), FLOWS).new_tree(&mut runner).unwrap().current();
        let mut compiler = node.load(&world).await;
        let counts = compare(&mut node, &world, &flows(), &mut seen);
        check_counts(&node, &compiler, &world, &counts).await;
        for change in changes {
            let delta = make(&mut world, &mut compiler, change);
            node.filter.apply(delta).await.unwrap();
            compare(&mut node, &world, &flows(), &mut seen);
        }
        node.forget();
    }
    println!("{seen:?} in {:?}", start.elapsed());
    // A test that saw one side only would not have tried much.
    assert!(seen.passed > 1000 && seen.dropped > 1000, "{seen:?}");
    for protocol in [1, 6, 17, 47, 58, 132] {
        assert!(seen.by_protocol[&protocol] > 100, "{seen:?}");
    }
}
