use super::*;

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn raw(prefixes: &[&str], clusters: &[&str]) -> RawSlice {
    RawSlice {
        name: "blue".into(),
        prefixes: prefixes.iter().map(|s| (*s).to_owned()).collect(),
        clusters: clusters.iter().map(|s| (*s).to_owned()).collect(),
        replicas: 1,
        ..RawSlice::default()
    }
}

fn world(clusters: &[&str]) -> World {
    let clusters = clusters.iter().map(|c| ((*c).to_owned(), ClusterFacts::default())).collect();
    World { clusters, ..World::default() }
}

fn reasons(raw: &RawSlice, world: &World) -> Vec<&'static str> {
    validate(raw, world).err().into_iter().flatten().map(|f| f.reason).collect()
}

#[test]
fn a_sound_slice_of_every_family_passes() {
    for prefixes in [&["10.77.0.0/16"][..], &["fd77::/48"], &["10.77.0.0/16", "fd77::/48"]] {
        let slice = validate(&raw(prefixes, &["east", "west"]), &world(&["east", "west"])).unwrap();
        assert_eq!(slice.prefixes.len(), prefixes.len());
        assert_eq!(slice.mtu, 1420);
    }
}

#[test]
fn every_fault_is_told_at_once() {
    let mut bad = raw(
        &["10.0.0.0/8", "10.1.0.0/16", "10.0.0.0/8", "nonsense", "fd00::1/64", "127.0.0.0/8"],
        &["east", "east", "nowhere", "UPPER"],
    );
    bad.name = "x".repeat(41);
    bad.replicas = 9;
    bad.mtu = Some(100);
    bad.rules = vec![RawRule { clusters: vec!["mars".into()], names: vec!["Shop".into()] }];
    assert_eq!(
        reasons(&bad, &world(&["east"])),
        [
            "NameLength",
            "OverlappingPrefixes",
            "DuplicatePrefix",
            "MalformedPrefix",
            "HostBitsSet",
            "SpecialPrefix",
            "DuplicateCluster",
            "UnknownCluster",
            "NameCharacters",
            "Replicas",
            "Mtu",
            "UnknownCluster",
            "NameCharacters",
        ]
    );
}

#[test]
fn nothing_at_all_is_told_as_two_faults() {
    assert_eq!(reasons(&raw(&[], &[]), &World::default()), ["NoPrefix", "NoCluster"]);
}

#[test]
fn a_clusters_own_prefix_is_refused_and_named() {
    let mut world = world(&["east", "west"]);
    world.clusters.get_mut("west").unwrap().reserved = vec![net("10.96.0.0/12")];
    let faults = validate(&raw(&["10.0.0.0/8"], &["east", "west"]), &world).unwrap_err();
    assert_eq!(faults.len(), 1);
    assert_eq!(faults[0].reason, "ReservedPrefix");
    assert!(faults[0].message.contains("10.96.0.0/12") && faults[0].message.contains("west"));
}

#[test]
fn a_prefix_too_small_says_what_would_do() {
    let world = world(&["east", "west"]);
    let faults = validate(&raw(&["10.0.0.0/30"], &["east", "west"]), &world).unwrap_err();
    assert_eq!(faults[0].reason, "PrefixTooSmall");
    assert!(faults[0].message.contains("/28 or shorter"), "{}", faults[0].message);
    assert!(validate(&raw(&["10.0.0.0/28"], &["east", "west"]), &world).is_ok());
}

#[test]
fn a_prefix_in_use_cannot_be_removed_but_may_be_widened() {
    let mut world = world(&["east"]);
    world.running = vec![net("10.77.0.0/16"), net("fd77::/48")];
    world.held = BTreeMap::from([(
        ClusterName::parse("east").unwrap(),
        Holding { pools: vec![net("10.77.0.0/20")], gateways: vec![net("10.77.255.248/29")] },
    )]);
    assert_eq!(reasons(&raw(&["10.78.0.0/16"], &["east"]), &world), ["PrefixInUse"]);
    assert_eq!(reasons(&raw(&["10.76.0.0/15"], &["east"]), &world), [""; 0]);
    assert_eq!(reasons(&raw(&["10.77.0.0/16"], &["east"]), &world), [""; 0]);
}

#[test]
fn a_leaving_cluster_is_refused_to_newcomers_only() {
    let mut world = world(&["east"]);
    world.clusters.get_mut("east").unwrap().leaving = true;
    assert_eq!(reasons(&raw(&["10.77.0.0/16"], &["east"]), &world), ["ClusterLeaving"]);
    world.held.insert(ClusterName::parse("east").unwrap(), Holding::default());
    assert_eq!(reasons(&raw(&["10.77.0.0/16"], &["east"]), &world), [""; 0]);
}

#[test]
fn what_a_member_newly_says_it_uses_does_not_hold_up_the_others() {
    let mut world = world(&["east", "west"]);
    world.clusters.get_mut("west").unwrap().reserved = vec![net("10.0.0.0/8")];
    let slice = raw(&["10.77.0.0/16"], &["east", "west"]);
    assert_eq!(reasons(&slice, &world), ["ReservedPrefix"]);
    world.running = vec![net("10.77.0.0/16")];
    world.held.insert(ClusterName::parse("west").unwrap(), Holding::default());
    assert_eq!(reasons(&slice, &world), [""; 0]);
    let more = raw(&["10.77.0.0/16", "10.78.0.0/16"], &["east", "west"]);
    assert_eq!(reasons(&more, &world), ["ReservedPrefix"]);
}
