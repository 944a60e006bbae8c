//! The slice reconciler's laws.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use slicewire_api::condition::{READY, REMOVED, is_true};
use slicewire_api::{
    NamespaceRule, Slice, SliceGateway, SliceGatewaySpec, SliceNode, SliceNodeSpec, WorkerSlice,
    WorkerSliceSpec,
};

use super::observe::{Observed, Word};
use super::plan::{self, Plan};
use super::{status, validate::validate};
use crate::kubernetes::change::{Change, Verb};
use crate::kubernetes::fake::Fake;
use crate::kubernetes::write::Outcome;

fn told() -> WorkerSlice {
    let spec = WorkerSliceSpec {
        project: "demo".into(),
        slice: "blue".into(),
        cluster: "east".into(),
        prefixes: vec!["10.77.0.0/16".into()],
        pools: vec!["10.77.0.0/20".into()],
        gateway_prefixes: vec!["10.77.255.248/29".into()],
        namespaces: vec![NamespaceRule { names: vec!["shop".into()], ..NamespaceRule::default() }],
        mtu: 1420,
        ..WorkerSliceSpec::default()
    };
    let mut slice = WorkerSlice::new("blue", spec);
    slice.metadata.generation = Some(1);
    slice
}

fn observed() -> Observed {
    Observed { told: Word::Told("east".into(), Arc::new(told())), ..Observed::default() }
}

fn next(observed: &Observed) -> Plan {
    plan::plan(observed, &validate(observed))
}

fn changes(observed: &Observed) -> Vec<Change> {
    next(observed).steps.concat()
}

/// Carries out the plan; the mirror as it is then.
fn carry_out(observed: &mut Observed) {
    let mut fake = Fake::default();
    for change in changes(observed) {
        fake.carry_out(&change).unwrap();
        observed.slice = fake.get::<Slice>("", "blue");
    }
}

fn mirrored() -> Observed {
    let mut observed = observed();
    carry_out(&mut observed);
    observed
}

fn deleted(observed: &mut Observed) {
    let slice = Arc::make_mut(observed.slice.as_mut().unwrap());
    slice.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
}

fn unwanted(observed: &mut Observed) {
    let mut slice = told();
    slice.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
    observed.told = Word::Told("east".into(), Arc::new(slice));
}

#[test]
fn what_the_hub_says_is_mirrored_once() {
    let mut observed = mirrored();
    let slice = observed.slice.clone().unwrap();
    assert_eq!(slice.spec.pools, ["10.77.0.0/20"]);
    assert!(slice.spec.vni > 0);
    observed.vnis.insert("blue".into(), u32::try_from(slice.spec.vni).unwrap());
    assert_eq!(changes(&observed), []);
}

#[test]
fn a_silent_hub_changes_nothing_and_one_that_knows_nothing_of_it_ends_it() {
    let mut observed = mirrored();
    observed.told = Word::Unknown;
    assert_eq!(changes(&observed), []);
    observed.told = Word::Absent;
    assert_eq!(changes(&observed)[0].verb, Verb::Delete);
}

#[test]
fn a_word_meant_for_somebody_else_is_refused() {
    let mut observed = mirrored();
    let mut wrong = told();
    wrong.spec.cluster = "west".into();
    wrong.spec.pools = vec!["192.168.0.0/24".into(), "nonsense".into()];
    observed.told = Word::Told("east".into(), Arc::new(wrong));
    let faults = validate(&observed).unwrap().unwrap_err();
    let reasons: Vec<_> = faults.iter().map(|f| f.reason).collect();
    assert_eq!(reasons, ["WrongObject", "MalformedPrefix", "OutsideSlice"]);
    assert_eq!(changes(&observed), []);
}

#[test]
fn removal_waits_for_nodes_then_gateways_and_then_says_so() {
    let mut observed = mirrored();
    unwanted(&mut observed);
    assert_eq!(changes(&observed)[0].verb, Verb::Delete);
    deleted(&mut observed);
    let node = SliceNodeSpec { slice: "blue".into(), node: "n1".into(), blocks: vec![] };
    observed.nodes.push(Arc::new(SliceNode::new("blue.n1", node)));
    observed.gateway = Some(Arc::new(SliceGateway::new("blue", SliceGatewaySpec::default())));
    assert_eq!(changes(&observed), []);
    assert!(next(&observed).waiting.unwrap().1.contains("n1"));
    observed.nodes.clear();
    assert_eq!(changes(&observed)[0].resource.kind, "SliceGateway");
    observed.gateway = None;
    assert!(matches!(changes(&observed)[0].verb, Verb::Merge(_)));
    assert!(!next(&observed).removed);
    observed.slice = None;
    assert!(next(&observed).removed);
}

#[test]
fn a_removed_slice_is_told_as_removed_and_a_removing_one_is_not() {
    let failed: Outcome = Err(Vec::new());
    let mut observed = mirrored();
    unwanted(&mut observed);
    for (gone, wanted) in [(false, false), (true, true)] {
        if gone {
            observed.slice = None;
        }
        let plan = next(&observed);
        let verdict = status::verdict(&observed, &plan, &failed);
        let validated = validate(&observed);
        let told =
            status::for_hub(&observed, &validated, &verdict, &plan, Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(is_true(&told.conditions, REMOVED), wanted);
        assert!(!is_true(&told.conditions, READY));
    }
}

#[test]
fn onboarded_namespaces_are_listed() {
    let mut observed = mirrored();
    for name in ["shop", "other", "kube-system"] {
        observed.namespaces.insert(name.into(), Default::default());
    }
    let failed: Outcome = Err(Vec::new());
    let plan = next(&observed);
    let verdict = status::verdict(&observed, &plan, &failed);
    let status = status::local(&observed, &verdict, Timestamp::UNIX_EPOCH);
    assert_eq!(status.namespaces, ["shop"]);
}
