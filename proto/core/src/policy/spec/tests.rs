use std::collections::{BTreeMap, BTreeSet};

use super::*;

fn clusters() -> BTreeSet<ClusterName> {
    ["east", "west"].iter().map(|name| ClusterName::parse(name).unwrap()).collect()
}

fn tcp(port: i64) -> RawPort {
    RawPort { port: Some(RawPortValue::Number(port)), ..RawPort::default() }
}

fn found(raw: &RawPolicy) -> Vec<(String, &'static str)> {
    let faults = parse(raw, &clusters()).unwrap_err();
    faults.into_iter().map(|fault| (fault.field, fault.reason)).collect()
}

fn at(field: &str, reason: &'static str) -> (String, &'static str) {
    (field.to_owned(), reason)
}

fn expression(key: &str, operator: &str, values: &[&str]) -> RawSelector {
    let values = values.iter().map(|v| (*v).to_owned()).collect();
    let one = RawRequirement { key: key.to_owned(), operator: operator.to_owned(), values };
    RawSelector { match_expressions: vec![one], ..RawSelector::default() }
}

fn peer(selector: RawSelector) -> RawPeer {
    let who = RawWho { pod_selector: Some(selector), ..RawWho::default() };
    RawPeer { who, ..RawPeer::default() }
}

fn admin(ingress: Vec<RawRule>) -> RawPolicy {
    RawPolicy { priority: Some(10), ingress: Some(ingress), ..RawPolicy::default() }
}

#[test]
fn every_fault_is_told_at_once() {
    let long = "k".repeat(64);
    let subject = RawWho {
        clusters: vec!["north".to_owned()],
        namespaces: vec!["Shop".to_owned()],
        service_accounts: vec!["a_b".to_owned()],
        pod_selector: Some(expression(&long, "In", &[])),
        ..RawWho::default()
    };
    let range = RawPort { end_port: Some(79), ..tcp(80) };
    let ports =
        vec![tcp(0), tcp(65536), range, RawPort { end_port: Some(9), ..RawPort::default() }];
    let icmp = RawPort { protocol: "ICMP".to_owned(), ..tcp(8) };
    let odd = RawPort { protocol: "tcp".to_owned(), ..RawPort::default() };
    let named = RawPort { port: Some(RawPortValue::Name("-no-".to_owned())), ..odd.clone() };
    let named = RawPort { protocol: "UDP".to_owned(), ..named };
    let ports = ports.into_iter().chain([icmp, odd, named]).collect();
    let mixed = RawPeer {
        cidr: Some("10.0.0.0/8".to_owned()),
        except: ["fd00::/8", "11.0.0.0/8", "10.0.0.0/8", "10.1.1.1/16"].map(str::to_owned).into(),
        ..RawPeer::default()
    };
    let both = RawPeer { slice: true, cidr: Some("10.0.0.0/8".to_owned()), ..RawPeer::default() };
    let alone =
        RawPeer { slice: true, except: vec!["10.0.0.0/8".to_owned()], ..RawPeer::default() };
    let peers = vec![mixed, both, RawPeer::default(), alone];
    let raw = RawPolicy {
        priority: Some(1001),
        enforce: "later".to_owned(),
        subject,
        ingress: Some(vec![RawRule { action: "Reject".to_owned(), peers, ports }]),
        ..RawPolicy::default()
    };
    let rule = |rest: &str, reason| (format!("spec.ingress[0].{rest}"), reason);
    assert_eq!(
        found(&raw),
        [
            at("spec.priority", "Priority"),
            at("spec.enforce", "Enforce"),
            at("spec.subject.clusters[0]", "UnknownCluster"),
            at("spec.subject.namespaces", "NameCharacters"),
            at("spec.subject.serviceAccounts[0]", "ServiceAccount"),
            at("spec.subject.podSelector.matchExpressions[0].key", "LabelKey"),
            at("spec.subject.podSelector.matchExpressions[0].values", "Values"),
            rule("action", "Action"),
            rule("peers[0].except[0]", "Family"),
            rule("peers[0].except[1]", "Except"),
            rule("peers[0].except[2]", "Except"),
            rule("peers[0].except[3]", "HostBitsSet"),
            rule("peers[1]", "Peer"),
            rule("peers[2]", "Peer"),
            rule("peers[3].except", "Except"),
            rule("ports[0].port", "Port"),
            rule("ports[1].port", "Port"),
            rule("ports[2].endPort", "PortRange"),
            rule("ports[3].endPort", "PortRange"),
            rule("ports[4].port", "PortWithoutPorts"),
            rule("ports[5].protocol", "Protocol"),
            rule("ports[6].port", "PortName"),
        ]
    );
}

#[test]
fn tiers_have_their_own_rules() {
    let raw = RawPolicy { namespace: Some("shop".to_owned()), ..admin(vec![]) };
    assert_eq!(found(&raw), [at("spec.priority", "Priority")]);
    assert_eq!(
        found(&RawPolicy::default()),
        [at("spec.priority", "Priority"), at("spec", "NoDirection")]
    );
    let deny = RawRule { action: "Deny".to_owned(), ..RawRule::default() };
    let subject = RawWho { namespaces: vec!["bank".to_owned()], ..RawWho::default() };
    let raw = RawPolicy {
        namespace: Some("shop".to_owned()),
        subject,
        egress: Some(vec![deny.clone()]),
        ..RawPolicy::default()
    };
    assert_eq!(
        found(&raw),
        [at("spec.subject", "ForeignSubject"), at("spec.egress[0].action", "Action")]
    );
    assert!(parse(&admin(vec![deny]), &clusters()).is_ok());
}

#[test]
fn labels_are_checked_as_kubernetes_does() {
    let good = ["app", "a.b/c_d", "example.com/App", &"k".repeat(63)];
    let bad = ["", "/app", "a/", "-app", "app-", "a b", "Upper.Case/x", "a/b/c", "é"];
    for (keys, fine) in [(&good[..], true), (&bad[..], false)] {
        for key in keys {
            let rule =
                RawRule { peers: vec![peer(expression(key, "Exists", &[]))], ..RawRule::default() };
            assert_eq!(parse(&admin(vec![rule]), &clusters()).is_ok(), fine, "{key:?}");
        }
    }
    let long = "v".repeat(64);
    for (value, fine) in [("", true), ("v1.2_x", true), ("-v", false), (long.as_str(), false)] {
        let labels = BTreeMap::from([("app".to_owned(), value.to_owned())]);
        let selector = RawSelector { match_labels: labels, ..RawSelector::default() };
        let rule = RawRule { peers: vec![peer(selector)], ..RawRule::default() };
        assert_eq!(parse(&admin(vec![rule]), &clusters()).is_ok(), fine, "{value:?}");
    }
    for (operator, values, fine) in [
        ("Exists", &["a"][..], false),
        ("NotIn", &["a"], true),
        ("NotIn", &[], false),
        ("Gt", &["1"], false),
    ] {
        let rule =
            RawRule { peers: vec![peer(expression("a", operator, values))], ..RawRule::default() };
        assert_eq!(parse(&admin(vec![rule]), &clusters()).is_ok(), fine, "{operator} {values:?}");
    }
}

#[test]
fn more_than_can_be_carried_out_is_refused() {
    let rules = vec![RawRule::default(); MAX_RULES + 1];
    assert_eq!(found(&admin(rules)), [at("spec.ingress", "TooMany")]);
    let rule = RawRule { ports: vec![tcp(80); MAX_LIST + 1], ..RawRule::default() };
    assert_eq!(found(&admin(vec![rule])), [at("spec.ingress[0].ports", "TooMany")]);
}

#[test]
fn pods_alone_are_those_of_the_policys_own_namespace() {
    let everybody = || RawSelector::default();
    let somewhere = RawWho {
        namespace_selector: Some(everybody()),
        pod_selector: Some(everybody()),
        ..RawWho::default()
    };
    let peers = vec![
        peer(everybody()),
        RawPeer { who: somewhere, ..RawPeer::default() },
        RawPeer { slice: true, ..RawPeer::default() },
    ];
    let rule = RawRule { peers, ..RawRule::default() };
    let raw = RawPolicy {
        namespace: Some("shop".to_owned()),
        ingress: Some(vec![rule]),
        ..RawPolicy::default()
    };
    let policy = parse(&raw, &clusters()).unwrap();
    let own = Who { namespaces: BTreeSet::from(["shop".to_owned()]), ..Who::default() };
    assert_eq!(policy.subject, own);
    let peers = &policy.ingress.unwrap()[0].peers;
    let all = Peer::Endpoints(Who::default());
    assert_eq!(*peers, [Peer::Endpoints(own), all.clone(), all]);
}

#[test]
fn two_admin_policies_cannot_share_a_priority() {
    let policy = parse(&admin(vec![]), &clusters()).unwrap();
    let other = Policy { tier: Tier::Admin { priority: 11 }, ..policy.clone() };
    let three = [("a", &policy), ("b", &other), ("c", &policy)];
    let three = three.map(|(name, policy)| (name.to_owned(), policy.clone()));
    let faults = conflicts(&BTreeMap::from(three));
    assert_eq!(faults.keys().collect::<Vec<_>>(), ["c"]);
    assert_eq!(faults["c"].reason, "ConflictingPriority");
    assert!(faults["c"].message.contains("a's"));
}
