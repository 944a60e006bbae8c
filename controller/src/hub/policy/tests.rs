//! The laws of the policies' reconciler, against an API server in memory.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, Time};
use k8s_openapi::jiff::Timestamp;
use slicewire_api::condition::{ACCEPTED, PROGRAMMED, condition, is_true};
use slicewire_api::{
    PolicyKeys, PolicyPeer, PolicyRule, PolicySubject, RuleAction, RuleHits, SliceCluster,
    SliceConfig, SliceConfigSpec, SlicePolicy, SlicePolicySpec, SlicePolicyStatus, WorkerEndpoints,
    WorkerPolicy, WorkerPolicyStatus, WorkerSlice, WorkerSliceSpec, WorkerSliceStatus,
};

use super::observe::{Observed, observe};
use super::validate::{admit, keys, validate};
use super::{plan, status};
use crate::hub::Caches;
use crate::kubernetes::change::Change;
use crate::kubernetes::fake::Fake;
use crate::kubernetes::write::Outcome;

const PROJECT: &str = "slicewire-demo";
const EAST: &str = "slicewire-demo--east";

fn policy(name: &str, priority: i32, app: &str) -> SlicePolicy {
    let labels = [("app".to_owned(), app.to_owned())];
    let pods = LabelSelector { match_labels: Some(labels.into()), ..LabelSelector::default() };
    let peer = PolicyPeer { pod_selector: Some(pods.clone()), ..PolicyPeer::default() };
    let rule = PolicyRule { action: RuleAction::Deny, peers: vec![peer], ..PolicyRule::default() };
    let spec = SlicePolicySpec {
        slice: "blue".into(),
        priority: Some(priority),
        subject: PolicySubject { pod_selector: Some(pods), ..PolicySubject::default() },
        egress: Some(vec![rule.clone(), rule]),
        ..SlicePolicySpec::default()
    };
    let mut policy = SlicePolicy::new(name, spec);
    policy.metadata.namespace = Some(PROJECT.into());
    policy
}

fn world() -> Fake {
    let mut fake = Fake::default();
    let cluster = |name: &str| SliceCluster { name: name.into() };
    let spec = SliceConfigSpec {
        prefixes: vec!["10.77.0.0/16".into()],
        clusters: vec![cluster("east"), cluster("west")],
        ..SliceConfigSpec::default()
    };
    let mut config = SliceConfig::new("blue", spec);
    config.metadata.namespace = Some(PROJECT.into());
    fake.put(&config);
    for own in [EAST, "slicewire-demo--west"] {
        let spec = WorkerSliceSpec {
            policy_keys: Some(PolicyKeys::default()),
            ..WorkerSliceSpec::default()
        };
        let mut slice = WorkerSlice::new("blue", spec);
        slice.metadata.namespace = Some(own.into());
        fake.put(&slice);
    }
    fake.put(&policy("cut", 10, "web"));
    fake
}

fn caches(fake: &Fake) -> Caches {
    let caches = Caches::default();
    for object in fake.all() {
        caches.note(object);
    }
    caches
}

fn look(fake: &Fake) -> Observed {
    observe(&caches(fake), &(PROJECT.into(), "blue".into()))
}

fn changes(fake: &Fake) -> Vec<Change> {
    let observed = look(fake);
    plan::plan(&observed, &validate(&observed)).concat()
}

fn settle(fake: &mut Fake) {
    for change in changes(fake) {
        fake.carry_out(&change).unwrap();
    }
    assert_eq!(changes(fake), [], "a second round does nothing");
}

fn told(fake: &Fake, policy: &str) -> Option<WorkerPolicy> {
    fake.get::<WorkerPolicy>(EAST, &format!("blue.{policy}")).map(|p| (*p).clone())
}

fn tell(fake: &Fake, name: &str) -> SlicePolicyStatus {
    let observed = look(fake);
    let validated = validate(&observed);
    let outcome: Outcome = Err(Vec::new());
    let policy = &observed.policies[name];
    status::status(&observed, name, policy, &validated[name], &outcome, Timestamp::UNIX_EPOCH)
}

#[test]
fn every_cluster_is_told_every_policy_and_where_to_report() {
    let mut fake = world();
    settle(&mut fake);
    assert_eq!(told(&fake, "cut").unwrap().spec.revision, 1);
    assert!(fake.get::<WorkerEndpoints>(EAST, "blue.east.0").is_some());
    let status = WorkerSliceStatus { attached_pods: 1_000, ..WorkerSliceStatus::default() };
    fake.report::<WorkerSlice>(EAST, "blue", &status);
    settle(&mut fake);
    assert!(fake.get::<WorkerEndpoints>(EAST, "blue.east.12").is_some());
    assert!(fake.get::<WorkerEndpoints>(EAST, "blue.east.13").is_none());
    fake.delete::<SlicePolicy>(PROJECT, "cut");
    settle(&mut fake);
    assert!(told(&fake, "cut").is_none());
}

#[test]
fn a_policy_with_faults_is_carried_out_as_it_was() {
    let mut fake = world();
    settle(&mut fake);
    let before = told(&fake, "cut").unwrap().spec;
    let mut broken = policy("cut", 10, "web");
    broken.spec.subject.clusters = vec!["north".into()];
    fake.put(&broken);
    settle(&mut fake);
    assert_eq!(told(&fake, "cut").unwrap().spec, before);
    let status = tell(&fake, "cut");
    assert!(!is_true(&status.conditions, ACCEPTED) && !is_true(&status.conditions, PROGRAMMED));
    assert_eq!(status.violations[0].reason, "UnknownCluster");
}

#[test]
fn a_priority_has_one_policy_whoever_comes_first() {
    let mut fake = world();
    fake.put(&policy("other", 10, "bank"));
    settle(&mut fake);
    assert!(told(&fake, "cut").is_some() && told(&fake, "other").is_none());
    let faults = admit(&caches(&fake), policy("third", 10, "shop"));
    assert_eq!(faults[0].reason, "ConflictingPriority");
    let mut bad = policy("third", 10, "shop");
    bad.spec.subject.clusters = vec!["north".into(), "south".into()];
    assert_eq!(admit(&caches(&fake), bad).len(), 3, "all faults at once");
}

#[test]
fn too_many_keys_are_refused_and_a_members_wishes_are_bounded() {
    let fake = world();
    let mut greedy = policy("greedy", 11, "web");
    let labels = (0..200).map(|i| (format!("key-{i}"), "x".to_owned())).collect();
    let all = LabelSelector { match_labels: Some(labels), ..LabelSelector::default() };
    greedy.spec.subject.pod_selector = Some(all);
    assert_eq!(admit(&caches(&fake), greedy).last().unwrap().reason, "TooManyKeys");
    let wishes = slicewire_core::policy::Keys {
        pods: (0..500).map(|i| format!("key-{i}")).collect(),
        ..Default::default()
    };
    let observed = look(&fake);
    let written = observed.policies.values().map(|p| &**p);
    let asked = keys(written, [], [wishes]).unwrap();
    assert_eq!(asked.pods, ["app".to_owned()].into());
    assert_eq!(keys([], [], []), None, "where nothing is asked nothing is told");
}

#[test]
fn programmed_is_told_when_every_cluster_says_so_and_counts_are_bounded() {
    let mut fake = world();
    settle(&mut fake);
    let hits = |rule, hits| RuleHits { direction: "egress".into(), rule, hits, would_drop: 0 };
    let now = Time(Timestamp::UNIX_EPOCH);
    let status = WorkerPolicyStatus {
        revision: Some(1),
        hits: vec![hits(Some(0), 3), hits(Some(7), 99), hits(None, i64::MAX), hits(None, -5)],
        conditions: vec![condition(PROGRAMMED, true, "Programmed", "", None, now)],
    };
    fake.report::<WorkerPolicy>(EAST, "blue.cut", &status);
    let told = tell(&fake, "cut");
    assert_eq!(told.programmed_clusters.as_deref(), Some("1/2"));
    assert_eq!(told.clusters[0].rules.len(), 2, "a rule that is none is not believed");
    assert_eq!(told.hits, 3 + (1 << 53));
    assert_eq!(told.unused_rules, ["egress[1]"]);
}
