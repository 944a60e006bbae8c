use super::super::model::{Peer, PortMatch, Ports, Protocol};
use super::super::spec::RawPortValue;
use super::*;

fn east() -> ClusterName {
    ClusterName::parse("east").unwrap()
}

fn policy(types: &[&str], ingress: usize, egress: usize) -> Policy {
    let raw = NetworkPolicy {
        namespace: "shop".to_owned(),
        policy_types: types.iter().map(|t| (*t).to_owned()).collect(),
        ingress: vec![NetworkRule::default(); ingress],
        egress: vec![NetworkRule::default(); egress],
        ..NetworkPolicy::default()
    };
    parse(&raw, &east()).unwrap()
}

#[test]
fn directions_are_those_that_kubernetes_means() {
    let says = |types, ingress, egress| {
        let policy = policy(types, ingress, egress);
        (policy.ingress.map(|r| r.len()), policy.egress.map(|r| r.len()))
    };
    assert_eq!(says(&[], 0, 0), (Some(0), None));
    assert_eq!(says(&[], 0, 1), (Some(0), Some(1)));
    assert_eq!(says(&["Egress"], 2, 0), (None, Some(0)));
    assert_eq!(says(&["Egress", "Ingress"], 2, 1), (Some(2), Some(1)));
}

#[test]
fn it_applies_in_its_cluster_and_names_peers_in_all() {
    let peer = NetworkPeer { pod_selector: Some(RawSelector::default()), ..NetworkPeer::default() };
    let anywhere =
        NetworkPeer { namespace_selector: Some(RawSelector::default()), ..NetworkPeer::default() };
    let block = NetworkPeer {
        cidr: Some("10.0.0.0/8".to_owned()),
        except: vec!["10.1.0.0/16".to_owned()],
        ..NetworkPeer::default()
    };
    let port =
        RawPort { port: Some(RawPortValue::Number(80)), end_port: Some(90), ..RawPort::default() };
    let rule = NetworkRule { peers: vec![peer, anywhere, block], ports: vec![port] };
    let raw = NetworkPolicy {
        namespace: "shop".to_owned(),
        ingress: vec![rule],
        ..NetworkPolicy::default()
    };
    let policy = parse(&raw, &east()).unwrap();
    let own = Who { namespaces: BTreeSet::from(["shop".to_owned()]), ..Who::default() };
    assert_eq!(policy.subject, Who { clusters: BTreeSet::from([east()]), ..own.clone() });
    let rule = &policy.ingress.unwrap()[0];
    let block = Peer::Addresses {
        net: "10.0.0.0/8".parse().unwrap(),
        except: BTreeSet::from(["10.1.0.0/16".parse().unwrap()]),
    };
    assert_eq!(rule.peers, [Peer::Endpoints(own), Peer::Endpoints(Who::default()), block]);
    assert_eq!(rule.ports, [PortMatch { protocol: Protocol::Tcp, ports: Ports::Range(80, 90) }]);
}

#[test]
fn faults_are_told_where_the_user_wrote_them() {
    let raw = NetworkPolicy {
        namespace: "shop".to_owned(),
        policy_types: vec!["ingress".to_owned()],
        egress: vec![NetworkRule { peers: vec![NetworkPeer::default()], ..NetworkRule::default() }],
        ..NetworkPolicy::default()
    };
    let faults = parse(&raw, &east()).unwrap_err();
    let found: Vec<_> = faults.iter().map(|f| (f.field.as_str(), f.reason)).collect();
    assert_eq!(found, [("spec.policyTypes[0]", "PolicyType"), ("spec.egress[0].peers[0]", "Peer")]);
}
