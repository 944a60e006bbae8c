//! Who may send as whom, what is on its way through, what is not ready, and generations.

use std::collections::{BTreeMap, BTreeSet};

use super::{GATEWAY, GATEWAY_MAC, VXLAN, compiler, device, first, ip, mac, situation};
use crate::policy::compile::{Compiler, EndpointChange};
use crate::policy::evaluate::Flow;
use crate::policy::interpret::{Fate, Packet, send};
use crate::policy::model::{Action, Default, Mode, Peer, Policy, PolicySet, Rule, Tier, Who};
use crate::policy::sample::{self, World};
use crate::policy::{Endpoint, Identity};

fn open_world() -> World {
    let identity = Identity {
        cluster: crate::name::ClusterName::parse("east").unwrap(),
        namespace: "shop".to_owned(),
        service_account: "default".to_owned(),
        labels: BTreeMap::new(),
        namespace_labels: BTreeMap::new(),
    };
    let endpoint = |number| Endpoint {
        identity: identity.clone().into(),
        addresses: sample::addresses(number),
        named_ports: BTreeMap::new(),
    };
    let endpoints = (0..sample::ENDPOINTS).map(|n| (sample::id(n), endpoint(n))).collect();
    World { policies: PolicySet::default(), endpoints }
}

fn flow(source: &str, destination: &str) -> Flow {
    Flow { source: ip(source), destination: ip(destination), protocol: 6, port: 80 }
}

fn counted(fate: &Fate) -> Vec<&str> {
    fate.counted.keys().map(String::as_str).collect()
}

#[test]
fn pods_send_as_themselves_only() {
    let compiler = compiler(&open_world());
    let own = sample::addresses(0);
    let other = sample::addresses(1);
    for (family, to) in [(0, "10.77.1.10"), (1, "fd77::1:10")] {
        let send = |from: &str, mac, source| {
            let flow = Flow { source, destination: ip(to), protocol: 6, port: 80 };
            send(compiler.ruleset(), &Packet::first(&flow, from, VXLAN, mac))
        };
        assert!(send(&device(0), mac(0), own[family]).passed);
        for fate in [
            send(&device(0), mac(0), other[family]),
            send(&device(0), mac(1), own[family]),
            send(&device(1), mac(0), own[family]),
            send(VXLAN, mac(0), own[family]),
            send(GATEWAY, GATEWAY_MAC, own[family]),
            send("swpstranger", mac(0), own[family]),
        ] {
            assert!(!fate.passed);
            assert_eq!(counted(&fate), ["spoofed"]);
        }
    }
}

#[test]
fn gateways_speak_for_other_clusters_only() {
    let compiler = compiler(&open_world());
    let send = |source, mac| {
        let flow = flow(source, "10.77.0.1");
        send(compiler.ruleset(), &Packet::first(&flow, GATEWAY, &device(0), mac))
    };
    assert!(send("10.77.100.1", GATEWAY_MAC).passed);
    assert!(send("10.77.101.255", GATEWAY_MAC).passed);
    assert!(send("10.77.255.1", GATEWAY_MAC).passed);
    assert!(!send("10.77.102.0", GATEWAY_MAC).passed);
    assert!(!send("10.77.100.1", mac(0)).passed);
}

#[test]
fn what_is_on_its_way_through_is_not_judged() {
    let policies = PolicySet { default: Default::Deny, ..PolicySet::default() };
    let compiler = compiler(&World { policies, ..open_world() });
    let through = flow("10.77.1.10", "10.77.100.3");
    let fate = send(compiler.ruleset(), &Packet::first(&through, VXLAN, GATEWAY, [2; 6]));
    assert!(fate.passed);
    assert_eq!(fate.flow_mark, 0);
    let back = flow("10.77.100.3", "10.77.1.10");
    assert!(send(compiler.ruleset(), &Packet::first(&back, GATEWAY, VXLAN, GATEWAY_MAC)).passed);
}

#[test]
fn nothing_reaches_a_pod_whose_rules_are_not_there() {
    let compiler = compiler(&open_world());
    for source in ["10.77.0.1", "10.77.1.10"] {
        let mut packet = first(&flow(source, "10.77.9.9"));
        packet.to = "swpstranger".to_owned();
        let fate = send(compiler.ruleset(), &packet);
        assert!(!fate.passed);
        assert_eq!(counted(&fate), ["not-ready"]);
    }
    let nothing = Compiler::new(1);
    assert!(!send(nothing.ruleset(), &first(&flow("10.77.0.1", "10.77.1.2"))).passed);
    // A port is not enough: the pod's labels must be known, too.
    let mut unknown = Compiler::new(1);
    unknown.set_situation(situation(PolicySet::default()));
    assert!(!send(unknown.ruleset(), &first(&flow("10.77.1.10", "10.77.0.1"))).passed);
}

#[test]
fn a_change_has_every_connection_judged_anew() {
    let mut compiler = compiler(&open_world());
    // From a remote endpoint to a local pod.
    let mut packet = first(&flow("10.77.1.10", "10.77.0.1"));
    let fate = send(compiler.ruleset(), &packet);
    assert!(fate.passed && fate.flow_mark != 0);
    packet.flow_mark = fate.flow_mark;
    // A reply, and what is judged by the connection's opening.
    let mut reply = first(&flow("10.77.0.1", "10.77.1.10"));
    (reply.flow, reply.flow_mark) = (packet.flow.clone(), packet.flow_mark);
    assert!(send(compiler.ruleset(), &reply).passed);

    let deny = Rule { action: Action::Deny, peers: Vec::new(), ports: Vec::new() };
    let policy = Policy {
        tier: Tier::Admin { priority: 1 },
        mode: Mode::Enforce,
        subject: Who::default(),
        ingress: Some(vec![deny]),
        egress: None,
    };
    let policies = BTreeMap::from([("closed".into(), policy.into())]);
    let policies = PolicySet { policies, ..PolicySet::default() };
    let delta = compiler.set_situation(situation(policies));
    assert!(!delta.is_empty());
    assert!(!send(compiler.ruleset(), &packet).passed);
    assert!(!send(compiler.ruleset(), &reply).passed, "judged by its own direction");
    assert!(compiler.set_situation(situation(PolicySet::default())).inet.len() > 1);
    assert!(send(compiler.ruleset(), &reply).passed);
}

#[test]
fn a_remote_pod_that_becomes_another_is_cut_off() {
    let world = open_world();
    let service_accounts = BTreeSet::from(["default".to_owned()]);
    let friends = Who { service_accounts, ..Who::default() };
    let rule =
        Rule { action: Action::Allow, peers: vec![Peer::Endpoints(friends)], ports: Vec::new() };
    let policy = Policy {
        tier: Tier::Namespaced,
        mode: Mode::Enforce,
        subject: Who::default(),
        ingress: Some(vec![rule]),
        egress: None,
    };
    let policies = BTreeMap::from([("friends".into(), policy.into())]);
    let policies = PolicySet { policies, ..PolicySet::default() };
    let mut compiler = compiler(&World { policies, ..world.clone() });
    let mut packet = first(&flow("10.77.1.10", "10.77.0.1"));
    packet.flow_mark = send(compiler.ruleset(), &packet).flow_mark;
    assert!(send(compiler.ruleset(), &packet).passed);
    let known = &world.endpoints[&sample::id(9)];
    let identity = Identity { service_account: "stranger".to_owned(), ..(*known.identity).clone() };
    let other = Endpoint { identity: identity.into(), ..known.clone() };
    let delta = compiler.change_endpoints(vec![EndpointChange::Put(sample::id(9), other)]);
    assert!(delta.is_elements_only() && !delta.is_empty());
    assert!(!send(compiler.ruleset(), &packet).passed);
}

#[test]
fn what_changes_nothing_starts_no_generation() {
    let world = open_world();
    let mut compiler = compiler(&world);
    let same = world.endpoints.iter();
    let same = same.map(|(id, e)| EndpointChange::Put(id.clone(), e.clone())).collect();
    assert!(compiler.change_endpoints(same).is_empty());
    assert!(compiler.set_situation(situation(PolicySet::default())).is_empty());
}
