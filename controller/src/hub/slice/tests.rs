//! The slice reconciler's laws, against an API server in memory.

mod isolation;
mod renewal;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use slicewire_api::condition::{ACCEPTED, CONNECTED, LEFT, READY, REMOVED, condition};
use slicewire_api::{
    Cluster, ClusterSpec, ClusterStatus, GatewayLaneStatus, NamespaceRule, SliceCluster,
    SliceConfig, SliceConfigSpec, WorkerGateway, WorkerGatewayStatus, WorkerSlice,
    WorkerSliceStatus,
};

use super::observe::{Observed, around};
use super::{plan, status, validate};
use crate::hub::Caches;
use crate::kubernetes::change::Change;
use crate::kubernetes::fake::Fake;
use crate::kubernetes::write::Outcome;

const PROJECT: &str = "slicewire-demo";

fn own(cluster: &str) -> String {
    format!("{PROJECT}--{cluster}")
}

/// A project with prepared clusters and a slice of the first two.
fn world() -> Fake {
    let mut fake = Fake::default();
    for name in ["east", "west", "north"] {
        let mut cluster = Cluster::new(name, ClusterSpec::default());
        cluster.metadata.namespace = Some(PROJECT.into());
        cluster.status =
            Some(ClusterStatus { namespace: Some(own(name)), ..ClusterStatus::default() });
        fake.put(&cluster);
    }
    fake.put(&config(&["10.77.0.0/16", "fd77::/48"], &["east", "west"]));
    fake
}

fn config(prefixes: &[&str], clusters: &[&str]) -> SliceConfig {
    let spec = SliceConfigSpec {
        prefixes: prefixes.iter().map(|p| (*p).to_owned()).collect(),
        clusters: clusters.iter().map(|c| SliceCluster { name: (*c).to_owned() }).collect(),
        ..SliceConfigSpec::default()
    };
    let mut config = SliceConfig::new("blue", spec);
    config.metadata.namespace = Some(PROJECT.into());
    config
}

fn observe(fake: &Fake) -> Option<Observed> {
    let caches = Caches::default();
    for object in fake.all() {
        caches.note(object);
    }
    Some(around(&caches, caches.configs.get(PROJECT, "blue")?))
}

/// The next changes, in order.
fn changes(fake: &Fake) -> Vec<Change> {
    let Some(observed) = observe(fake) else { return Vec::new() };
    let validated = validate::validate(&observed);
    match plan::hold(&observed, &validated) {
        Some(hold) => vec![hold],
        None => plan::plan(&observed, &validated, Timestamp::UNIX_EPOCH).steps.concat(),
    }
}

/// Plans and carries out until there is nothing to do.
fn settle(fake: &mut Fake) {
    for _ in 0..20 {
        let changes = changes(fake);
        if changes.is_empty() {
            return;
        }
        for change in changes {
            fake.carry_out(&change).unwrap();
        }
    }
    panic!("no end: {:?}", changes(fake));
}

fn slice(fake: &Fake, cluster: &str) -> WorkerSlice {
    (*fake.get::<WorkerSlice>(&own(cluster), "blue").unwrap()).clone()
}

fn gateway(fake: &Fake, cluster: &str) -> WorkerGateway {
    (*fake.get::<WorkerGateway>(&own(cluster), "blue").unwrap()).clone()
}

fn key(byte: u8) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode([byte; 32])
}

fn publish(fake: &mut Fake, cluster: &str, byte: u8) {
    let lane = GatewayLaneStatus {
        public_key: Some(key(byte)),
        endpoints: vec![format!("192.0.2.{byte}:30000"), "127.0.0.1:1".into()],
        ..GatewayLaneStatus::default()
    };
    let status = WorkerGatewayStatus { lanes: vec![lane], ..WorkerGatewayStatus::default() };
    fake.report::<WorkerGateway>(&own(cluster), "blue", &status);
}

fn answer(fake: &mut Fake, cluster: &str, type_: &str) {
    let mut status = slice(fake, cluster).status.unwrap_or_default();
    let now = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::UNIX_EPOCH);
    status.conditions.push(condition(type_, true, "Test", "", None, now));
    fake.report::<WorkerSlice>(&own(cluster), "blue", &status);
}

#[test]
fn a_slice_settles_and_then_nothing_is_left_to_do() {
    let mut fake = world();
    settle(&mut fake);
    let (east, west) = (slice(&fake, "east"), slice(&fake, "west"));
    assert_eq!(east.spec.pools, ["10.77.0.0/20", "fd77::/64"]);
    assert_eq!(west.spec.remotes[0].cluster, "east");
    for pool in &east.spec.pools {
        assert!(west.spec.remotes[0].prefixes.contains(pool));
    }
    assert_eq!(gateway(&fake, "east").spec.lanes[0].addresses.len(), 2);
    assert_eq!(changes(&fake), []);
}

#[test]
fn whatever_is_cut_short_ends_the_same() {
    let mut whole = world();
    settle(&mut whole);
    for cut in 0..8 {
        let mut fake = world();
        let mut left = cut;
        'rounds: loop {
            let round = changes(&fake);
            if round.is_empty() {
                break;
            }
            for change in round {
                if left == 0 {
                    break 'rounds;
                }
                left -= 1;
                fake.carry_out(&change).unwrap();
            }
        }
        settle(&mut fake);
        assert_eq!(fake.state(), whole.state(), "cut after {cut} changes");
    }
}

#[test]
fn addresses_are_booked_before_anybody_is_told() {
    let mut fake = world();
    let hold = changes(&fake);
    fake.carry_out(&hold[0]).unwrap();
    let kinds: Vec<_> = changes(&fake).iter().map(|c| c.resource.kind.clone()).collect();
    assert_eq!(kinds[0], "SliceConfig");
    assert!(kinds[1..].iter().all(|k| k.starts_with("Worker")));
}

#[test]
fn a_round_that_read_something_old_changes_nobodys_addresses() {
    let mut fake = world();
    let hold = changes(&fake);
    fake.carry_out(&hold[0]).unwrap();
    let stale = changes(&fake);
    let mut other = (*fake.get::<SliceConfig>(PROJECT, "blue").unwrap()).clone();
    other.spec.clusters.insert(0, SliceCluster { name: "north".into() });
    fake.put(&other);
    assert!(fake.carry_out(&stale[0]).is_err());
}

#[test]
fn keys_and_endpoints_reach_the_other_side() {
    let mut fake = world();
    settle(&mut fake);
    publish(&mut fake, "east", 1);
    settle(&mut fake);
    let tunnels = &gateway(&fake, "west").spec.lanes[0].tunnels;
    assert_eq!((tunnels[0].cluster.as_str(), &tunnels[0].public_key), ("east", &key(1)));
    assert_eq!(tunnels[0].endpoints, ["192.0.2.1:30000"]);
    assert!(gateway(&fake, "east").spec.lanes[0].tunnels.is_empty());
    publish(&mut fake, "west", 2);
    settle(&mut fake);
    assert_eq!(gateway(&fake, "east").spec.lanes[0].tunnels[0].cluster, "west");
}

#[test]
fn a_faulty_change_leaves_the_running_slice_alone_but_tunnels_follow_keys() {
    let mut fake = world();
    settle(&mut fake);
    publish(&mut fake, "east", 1);
    settle(&mut fake);
    let before = slice(&fake, "west").spec;
    fake.put(&config(&["192.168.0.0/16"], &["east", "west", "nowhere"]));
    settle(&mut fake);
    assert_eq!(slice(&fake, "west").spec, before);
    publish(&mut fake, "east", 3);
    settle(&mut fake);
    assert_eq!(gateway(&fake, "west").spec.lanes[0].tunnels[0].public_key, key(3));
    let observed = observe(&fake).unwrap();
    let faults = validate::validate(&observed).unwrap_err();
    let reasons: Vec<_> = faults.iter().map(|f| f.reason).collect();
    assert_eq!(reasons, ["UnknownCluster", "PrefixInUse", "PrefixInUse"]);
}

#[test]
fn a_slice_that_was_never_accepted_leaves_no_trace() {
    let mut fake = world();
    fake.put(&config(&["nonsense"], &["east"]));
    settle(&mut fake);
    assert!(fake.get::<WorkerSlice>(&own("east"), "blue").is_none());
    fake.delete::<SliceConfig>(PROJECT, "blue");
    assert!(fake.get::<SliceConfig>(PROJECT, "blue").is_none());
}

#[test]
fn a_cluster_leaves_when_it_has_cleaned_up_and_keeps_its_addresses_until_then() {
    let mut fake = world();
    settle(&mut fake);
    answer(&mut fake, "west", READY);
    let held = slice(&fake, "west").spec.pools;
    fake.put(&config(&["10.77.0.0/16", "fd77::/48"], &["east", "north"]));
    settle(&mut fake);
    assert!(slice(&fake, "west").metadata.deletion_timestamp.is_some());
    assert!(slice(&fake, "north").spec.pools.iter().all(|p| !held.contains(p)));
    assert!(slice(&fake, "east").spec.remotes.iter().all(|r| r.cluster != "west"));
    answer(&mut fake, "west", REMOVED);
    settle(&mut fake);
    assert!(fake.get::<WorkerSlice>(&own("west"), "blue").is_none());
    assert!(fake.get::<WorkerGateway>(&own("west"), "blue").is_none());
    assert_eq!(changes(&fake), []);
}

#[test]
fn a_deleted_slice_waits_for_clusters_that_answered_and_for_nobody_else() {
    let mut fake = world();
    settle(&mut fake);
    answer(&mut fake, "east", READY);
    fake.delete::<SliceConfig>(PROJECT, "blue");
    settle(&mut fake);
    assert!(fake.get::<WorkerSlice>(&own("west"), "blue").is_none());
    assert!(fake.get::<SliceConfig>(PROJECT, "blue").is_some());
    answer(&mut fake, "east", REMOVED);
    settle(&mut fake);
    assert!(fake.get::<SliceConfig>(PROJECT, "blue").is_none());
}

#[test]
fn a_deleted_slice_does_not_wait_for_a_cluster_that_has_left() {
    let mut fake = world();
    settle(&mut fake);
    answer(&mut fake, "east", READY);
    fake.delete::<SliceConfig>(PROJECT, "blue");
    settle(&mut fake);
    assert!(fake.get::<SliceConfig>(PROJECT, "blue").is_some());
    let mut east: Cluster = (*fake.get::<Cluster>(PROJECT, "east").unwrap()).clone();
    let left = condition(CONNECTED, false, LEFT, "", None, Time(Timestamp::UNIX_EPOCH));
    east.status.get_or_insert_default().conditions = vec![left];
    fake.put(&east);
    settle(&mut fake);
    assert!(fake.get::<SliceConfig>(PROJECT, "blue").is_none());
}

#[test]
fn a_cluster_that_runs_out_gets_one_more_pool_and_not_two() {
    let mut fake = world();
    settle(&mut fake);
    let status = WorkerSliceStatus {
        observed_generation: slice(&fake, "east").metadata.generation,
        exhausted_families: vec!["IPv4".into()],
        ..WorkerSliceStatus::default()
    };
    fake.report::<WorkerSlice>(&own("east"), "blue", &status);
    settle(&mut fake);
    assert_eq!(slice(&fake, "east").spec.pools.len(), 3);
    assert!(
        slice(&fake, "west").spec.remotes[0].prefixes.contains(&slice(&fake, "east").spec.pools[2])
    );
}

#[test]
fn rules_reach_the_clusters_they_name() {
    let mut fake = world();
    let mut config = config(&["10.77.0.0/16"], &["east", "west"]);
    let rule = |clusters: &[&str], name: &str| NamespaceRule {
        clusters: clusters.iter().map(|c| (*c).to_owned()).collect(),
        names: vec![name.to_owned()],
        ..NamespaceRule::default()
    };
    config.spec.namespaces = vec![rule(&[], "both"), rule(&["west"], "west-only")];
    fake.put(&config);
    settle(&mut fake);
    assert_eq!(slice(&fake, "east").spec.namespaces.len(), 1);
    assert_eq!(slice(&fake, "west").spec.namespaces.len(), 2);
}

#[test]
fn a_report_says_why_and_says_it_once() {
    let mut fake = world();
    settle(&mut fake);
    let observed = observe(&fake).unwrap();
    let validated = validate::validate(&observed);
    let plan = plan::plan(&observed, &validated, Timestamp::UNIX_EPOCH);
    let failed: Outcome = Err(Vec::new());
    let told = |o: &Observed| status::status(o, &validated, &plan, &failed, Timestamp::UNIX_EPOCH);
    let first = told(&observed);
    assert!(first.conditions.iter().any(|c| c.type_ == ACCEPTED && c.status == "True"));
    // Without proof that the plan was carried out nothing is ready.
    assert!(first.conditions.iter().any(|c| c.type_ == READY && c.status == "False"));
    assert_eq!(first.clusters[0].reason.as_deref(), Some("WaitingForWorker"));
    fake.report::<SliceConfig>(PROJECT, "blue", &first);
    let again = observe(&fake).unwrap();
    let later = status::status(&again, &validated, &plan, &failed, Timestamp::MAX);
    assert_eq!(later, first);
}

#[test]
fn the_others_drop_a_cluster_that_is_cut_off_and_keep_each_other() {
    use slicewire_api::labels::ABANDON;
    let mut fake = world();
    fake.put(&config(&["10.77.0.0/16"], &["east", "west", "north"]));
    settle(&mut fake);
    for (cluster, byte) in [("east", 1), ("west", 2), ("north", 3)] {
        publish(&mut fake, cluster, byte);
    }
    settle(&mut fake);
    let peers = |fake: &Fake, cluster: &str| -> Vec<String> {
        let lanes = gateway(fake, cluster).spec.lanes;
        lanes[0].tunnels.iter().map(|t| t.cluster.clone()).collect()
    };
    assert_eq!(peers(&fake, "east"), ["north", "west"]);
    let pools = slice(&fake, "east").spec.pools;

    let mut west = (*fake.get::<Cluster>(PROJECT, "west").unwrap()).clone();
    west.metadata.annotations = Some([(ABANDON.to_owned(), "true".to_owned())].into());
    west.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
    fake.put(&west);
    // The very next round already takes it from the others.
    for change in changes(&fake) {
        fake.carry_out(&change).unwrap();
    }
    assert_eq!(peers(&fake, "east"), ["north"]);
    assert_eq!(peers(&fake, "north"), ["east"]);
    settle(&mut fake);
    assert!(fake.get::<WorkerSlice>(&own("west"), "blue").is_none(), "its slice waits for it");
    let east = slice(&fake, "east");
    assert_eq!(east.spec.pools, pools);
    let remotes: Vec<_> = east.spec.remotes.iter().map(|r| r.cluster.as_str()).collect();
    assert_eq!(remotes, ["north"]);
}

#[test]
fn a_cluster_that_always_wants_more_leaves_the_others_theirs() {
    let mut fake = world();
    settle(&mut fake);
    let size = |fake: &Fake, cluster: &str| -> u64 {
        let pools = slice(fake, cluster).spec.pools;
        let v4 = pools.iter().filter_map(|p| p.parse::<ipnet::Ipv4Net>().ok());
        v4.map(|p| 1u64 << (32 - p.prefix_len())).sum()
    };
    let want = |fake: &mut Fake, cluster: &str| {
        let mut status = slice(fake, cluster).status.unwrap_or_default();
        status.exhausted_families = vec!["IPv4".into(), "IPv6".into()];
        status.observed_generation = slice(fake, cluster).metadata.generation;
        fake.report::<WorkerSlice>(&own(cluster), "blue", &status);
        settle(fake);
    };
    for _ in 0..64 {
        want(&mut fake, "west");
    }
    assert!(size(&fake, "west") > 1 << 14, "it could not grow at all");
    let before = size(&fake, "east");
    want(&mut fake, "east");
    assert!(size(&fake, "east") > before, "nothing was left for the other");
}
