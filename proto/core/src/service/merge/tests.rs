use proptest::prelude::*;

use super::*;
use crate::service::model::{InternalTraffic, Kind, Protocol};

fn cluster(i: usize) -> ClusterName {
    ClusterName::parse(&format!("c{i}")).unwrap()
}

fn port(name: &str, number: u16) -> Port {
    Port { name: name.to_owned(), protocol: Protocol::Tcp, port: number, app_protocol: None }
}

fn export(created: i64, ports: &[Port]) -> Export {
    Export {
        created,
        kind: Kind::ClusterSetIp,
        ports: ports.to_vec(),
        affinity: Affinity::None,
        internal_traffic: InternalTraffic::Cluster,
        distribution: None,
        families: BTreeSet::from([Family::V4]),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        weight: None,
        no_weight: None,
    }
}

fn merged(exports: &[Export]) -> Merged {
    merge(&exports.iter().cloned().enumerate().map(|(i, e)| (cluster(i), e)).collect()).unwrap()
}

fn reasons(merged: &Merged) -> Vec<ConflictReason> {
    merged.conflicts.iter().map(|c| c.reason).collect()
}

#[test]
fn nobody_exports_nothing() {
    assert_eq!(merge(&BTreeMap::new()), None);
}

#[test]
fn clusters_that_agree_have_no_conflict() {
    let got = merged(&[export(2, &[port("http", 80)]), export(1, &[port("http", 80)])]);
    assert_eq!(got.conflicts, []);
    assert_eq!(got.import.ports, [port("http", 80)]);
    assert_eq!(got.import.clusters.len(), 2);
}

#[test]
fn every_cluster_speaks_for_the_weight_of_its_own_endpoints() {
    let weighing = |weight| Export { weight, ..export(1, &[port("http", 80)]) };
    let got = merged(&[weighing(Some(0)), weighing(None), weighing(Some(300))]);
    assert_eq!(got.import.weights, BTreeMap::from([(cluster(0), 0), (cluster(2), 300)]));
    assert_eq!(got.conflicts, [], "to differ is what weights are for");
}

#[test]
fn ports_are_united_by_name_then_by_number_and_the_oldest_wins() {
    let old = export(1, &[port("http", 80), port("admin", 8080)]);
    let new = export(2, &[port("http", 8000), port("web", 80), port("metrics", 9090)]);
    let got = merged(&[new, old]);
    assert_eq!(got.import.ports, [port("http", 80), port("admin", 8080), port("metrics", 9090)]);
    assert_eq!(reasons(&got), [ConflictReason::Port]);
    let message = &got.conflicts[0].message;
    for part in ["c1", "c0 has", "http 8000/TCP", "make the Services equal"] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn the_order_of_ports_is_no_conflict() {
    let ports = [port("a", 1), port("b", 2)];
    let turned = [port("b", 2), port("a", 1)];
    assert_eq!(merged(&[export(1, &ports), export(2, &turned)]).conflicts, []);
}

#[test]
fn everything_else_is_the_oldest_ones_and_every_difference_is_told() {
    let old = export(1, &[port("http", 80)]);
    let new = Export {
        kind: Kind::Headless,
        affinity: Affinity::ClientIp { timeout: 5 },
        internal_traffic: InternalTraffic::Local,
        distribution: Some("PreferClose".into()),
        families: BTreeSet::from([Family::V4, Family::V6]),
        labels: BTreeMap::from([("team".into(), "red".into())]),
        annotations: BTreeMap::from([("note".into(), "x".into())]),
        ..export(2, &[port("http", 80)])
    };
    use ConflictReason as R;
    let got = merged(&[old.clone(), new.clone()]);
    assert_eq!(got.import.kind, Kind::ClusterSetIp);
    assert_eq!(got.import.families, old.families);
    assert_eq!(got.import.labels, BTreeMap::new());
    assert_eq!(
        reasons(&got),
        [
            R::Type,
            R::SessionAffinity,
            R::Labels,
            R::Annotations,
            R::InternalTrafficPolicy,
            R::TrafficDistribution,
            R::IpFamily
        ]
    );
    let longer = Export { affinity: Affinity::ClientIp { timeout: 9 }, ..new.clone() };
    let got = merged(&[new, longer]);
    assert_eq!(reasons(&got), [R::SessionAffinityConfig]);
    assert_eq!(got.import.affinity, Affinity::ClientIp { timeout: 5 });
}

#[test]
fn who_goes_away_is_forgotten() {
    let old = export(1, &[port("http", 80)]);
    let new = export(2, &[port("web", 8080)]);
    let both = BTreeMap::from([(cluster(0), old), (cluster(1), new)]);
    let mut one = both.clone();
    one.remove(&cluster(0));
    let (before, after) = (merge(&both).unwrap(), merge(&one).unwrap());
    assert_eq!(before.conflicts.len(), 1);
    assert_eq!(after.conflicts, []);
    assert_eq!(after.import.ports, [port("web", 8080)]);
    assert_eq!(after.import.clusters, BTreeSet::from([cluster(1)]));
}

#[test]
fn of_many_clusters_that_differ_some_are_named_and_the_others_counted() {
    let mut exports = vec![export(0, &[port("http", 80)])];
    exports.extend((1..=20).map(|i| export(1, &[port("http", 80 + i)])));
    let conflict = &merged(&exports).conflicts[0];
    assert_eq!(conflict.clusters.len(), 20);
    assert!(conflict.message.contains("and 12 more clusters differ"), "{}", conflict.message);
}

fn ports() -> impl Strategy<Value = Vec<Port>> {
    let one = ("[a-c]", 1u16..5).prop_map(|(name, number)| port(&name, number));
    prop::collection::vec(one, 0..4).prop_map(|ports| united(ports.iter()))
}

fn any_export() -> impl Strategy<Value = Export> {
    let affinity = prop_oneof![
        Just(Affinity::None),
        (1u32..3).prop_map(|timeout| Affinity::ClientIp { timeout }),
    ];
    (0i64..4, ports(), affinity, any::<bool>(), any::<bool>()).prop_map(
        |(created, ports, affinity, headless, dual)| {
            let mut export = export(created, &ports);
            export.affinity = affinity;
            export.kind = if headless { Kind::Headless } else { Kind::ClusterSetIp };
            if dual {
                export.families.insert(Family::V6);
            }
            export
        },
    )
}

proptest! {
    /// The result depends on what is exported and not on the way it came about: whatever was
    /// exported and withdrawn in between has left nothing.
    #[test]
    fn it_depends_on_the_exports_alone(
        exports in prop::collection::btree_map(0usize..6, any_export(), 1..6),
        noise in prop::collection::vec((0usize..9, any_export()), 0..6),
    ) {
        let plain: BTreeMap<_, _> = exports.iter().map(|(i, e)| (cluster(*i), e.clone())).collect();
        let mut wound = BTreeMap::new();
        for (i, other) in &noise {
            wound.insert(cluster(*i), other.clone());
            merge(&wound);
        }
        for (i, export) in exports.iter().rev() {
            wound.insert(cluster(*i), export.clone());
        }
        wound.retain(|c, _| plain.contains_key(c));
        prop_assert_eq!(merge(&wound), merge(&plain));
    }

    /// Ports of the result could be a Service's; each is some export's; every name and every
    /// number that somebody exports is there; the oldest export's are all there.
    #[test]
    fn ports_are_a_sound_union(exports in prop::collection::vec(any_export(), 1..6)) {
        let got = merged(&exports);
        let union = &got.import.ports;
        for (i, a) in union.iter().enumerate() {
            prop_assert!(exports.iter().any(|e| e.ports.contains(a)));
            for b in union.iter().skip(i + 1) {
                prop_assert!(a.name != b.name && (a.protocol, a.port) != (b.protocol, b.port));
            }
        }
        for a in exports.iter().flat_map(|e| &e.ports) {
            let same = |b: &Port| a.name == b.name || (a.protocol, a.port) == (b.protocol, b.port);
            prop_assert!(union.iter().any(same));
        }
        let oldest = exports.iter().min_by_key(|e| e.created).unwrap();
        prop_assert!(union.starts_with(&oldest.ports));
        prop_assert_eq!(got.import.kind, oldest.kind);
        prop_assert_eq!(got.import.affinity, oldest.affinity);
    }

    /// There is a conflict exactly where somebody differs from the oldest, and the oldest never does.
    #[test]
    fn conflicts_name_who_differs(exports in prop::collection::vec(any_export(), 1..6)) {
        let got = merged(&exports);
        let (first, oldest) = exports.iter().enumerate().min_by_key(|(_, e)| e.created).unwrap();
        for (i, export) in exports.iter().enumerate() {
            let told: BTreeSet<_> = got.conflicts.iter()
                .filter(|c| c.clusters.contains(&cluster(i))).map(|c| c.reason).collect();
            prop_assert!(i != first || told.is_empty());
            prop_assert_eq!(told.contains(&ConflictReason::Type), export.kind != oldest.kind);
            prop_assert_eq!(told.contains(&ConflictReason::IpFamily), export.families != oldest.families);
        }
    }
}
