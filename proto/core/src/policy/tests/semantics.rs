//! What the oracle itself must say, case by case.

use std::collections::{BTreeMap, BTreeSet};

use super::ip;
use crate::name::ClusterName;
use crate::policy::evaluate::{Because, Decision, Directory, Flow, RuleRef, Verdict, evaluate};
use crate::policy::model::{
    Action, Default, Direction, Endpoint, EndpointId, Identity, Mode, Peer, Policy, PolicySet,
    PortMatch, Ports, Protocol, Rule, Tier, Who,
};
use crate::selector::{Labels, Operator, Requirement, Selector};

const CLIENT: &str = "10.77.0.1";
const SERVER: &str = "10.77.0.2";
const STRANGER: &str = "203.0.113.7";

fn endpoint(app: &str, namespace: &str, address: &str) -> Endpoint {
    Endpoint {
        identity: Identity {
            cluster: ClusterName::parse(if app == "client" { "east" } else { "west" }).unwrap(),
            namespace: namespace.to_owned(),
            service_account: "default".to_owned(),
            labels: Labels::from([("app".to_owned(), app.to_owned())]),
            namespace_labels: Labels::new(),
        }
        .into(),
        addresses: vec![ip(address)],
        named_ports: BTreeMap::from([(
            (Protocol::Tcp, "web".to_owned()),
            BTreeSet::from([if app == "client" { 1000 } else { 80 }]),
        )]),
    }
}

fn app(name: &str) -> Who {
    let values = vec![name.to_owned()];
    let one = Requirement { key: "app".to_owned(), operator: Operator::In, values };
    Who { pods: Selector { requirements: vec![one] }, ..Who::default() }
}

fn rule(action: Action, peers: &[Peer], ports: &[PortMatch]) -> Rule {
    Rule { action, peers: peers.to_vec(), ports: ports.to_vec() }
}

fn tcp(ports: Ports) -> PortMatch {
    PortMatch { protocol: Protocol::Tcp, ports }
}

fn ingress(tier: Tier, rules: Vec<Rule>) -> Policy {
    let subject = app("server");
    Policy { tier, mode: Mode::Enforce, subject, ingress: Some(rules), egress: None }
}

/// What both ends say about TCP from the client or a stranger to the server.
fn ask(policies: &[(&str, Policy)], default: Default, source: &str, port: u16) -> Decision {
    let endpoints: BTreeMap<EndpointId, Endpoint> = BTreeMap::from([
        ("client".into(), endpoint("client", "shop", CLIENT)),
        ("server".into(), endpoint("server", "bank", SERVER)),
    ]);
    let policies = policies.iter().map(|(n, p)| ((*n).into(), p.clone().into())).collect();
    let set = PolicySet { default, default_mode: Mode::Enforce, policies };
    let flow = Flow { source: ip(source), destination: ip(SERVER), protocol: 6, port };
    let outcome = evaluate(&set, &Directory::new(&endpoints), &flow);
    assert_eq!(outcome.egress.is_some(), source == CLIENT);
    outcome.ingress.unwrap()
}

fn by_rule(policy: &str, index: usize) -> Because {
    let direction = Direction::Ingress;
    Because::Rule(RuleRef { policy: policy.into(), direction, index })
}

const ADMIN: Tier = Tier::Admin { priority: 10 };

#[test]
fn a_selected_pod_takes_only_what_is_listed_by_any_policy() {
    let none = ingress(Tier::Namespaced, vec![]);
    let peers = [Peer::Endpoints(app("client"))];
    let one =
        ingress(Tier::Namespaced, vec![rule(Action::Allow, &peers, &[tcp(Ports::Range(80, 90))])]);
    let both = [("a", none.clone()), ("b", one)];
    let answer = ask(&both, Default::Open, CLIENT, 90);
    assert_eq!((answer.verdict, answer.because), (Verdict::Allow, by_rule("b", 0)));
    for (source, port) in [(CLIENT, 91), (STRANGER, 90)] {
        let answer = ask(&both, Default::Open, source, port);
        assert_eq!(answer.verdict, Verdict::Deny);
        assert_eq!(answer.because, Because::Unlisted("a".into(), Direction::Ingress));
    }
    // A policy about the other direction isolates nothing here.
    let outward = Policy { ingress: None, egress: Some(vec![]), ..none };
    let answer = ask(&[("a", outward)], Default::Open, CLIENT, 1);
    assert_eq!(answer.because, Because::Default(Direction::Ingress));
    assert_eq!(answer.verdict, Verdict::Allow);
}

#[test]
fn the_admin_tier_goes_first_and_pass_leaves_it() {
    let everybody = |action| rule(action, &[], &[]);
    let open = ingress(Tier::Namespaced, vec![everybody(Action::Allow)]);
    let deny = ingress(ADMIN, vec![everybody(Action::Deny)]);
    let answer = ask(&[("x", deny.clone()), ("a", open.clone())], Default::Open, CLIENT, 1);
    assert_eq!((answer.verdict, answer.because), (Verdict::Deny, by_rule("x", 0)));
    // A lower number is asked first, and what it passes on no admin rule sees.
    let first = Tier::Admin { priority: 9 };
    let pass = ingress(first, vec![rule(Action::Pass, &[], &[tcp(Ports::All)])]);
    let three = [("x", deny.clone()), ("y", pass.clone()), ("a", open)];
    assert_eq!(ask(&three, Default::Deny, CLIENT, 1).because, by_rule("a", 0));
    let two = [("x", deny.clone()), ("y", pass)];
    assert_eq!(ask(&two, Default::Deny, CLIENT, 1).because, Because::Default(Direction::Ingress));
    let later = ingress(Tier::Admin { priority: 11 }, vec![everybody(Action::Pass)]);
    assert_eq!(
        ask(&[("x", deny), ("y", later)], Default::Open, CLIENT, 1).because,
        by_rule("x", 0)
    );
}

#[test]
fn named_ports_are_the_destinations() {
    let web = rule(Action::Allow, &[], &[tcp(Ports::Named("web".to_owned()))]);
    let policy = [("a", ingress(Tier::Namespaced, vec![web]))];
    assert_eq!(ask(&policy, Default::Open, CLIENT, 80).verdict, Verdict::Allow);
    assert_eq!(ask(&policy, Default::Open, CLIENT, 1000).verdict, Verdict::Deny);
}

#[test]
fn prefixes_mean_addresses_whoever_has_them() {
    let peer = Peer::Addresses {
        net: "0.0.0.0/0".parse().unwrap(),
        except: BTreeSet::from(["203.0.113.0/24".parse().unwrap()]),
    };
    let policy = [("a", ingress(Tier::Namespaced, vec![rule(Action::Allow, &[peer], &[])]))];
    assert_eq!(ask(&policy, Default::Open, CLIENT, 80).verdict, Verdict::Allow);
    assert_eq!(ask(&policy, Default::Open, STRANGER, 80).verdict, Verdict::Deny);
    // The whole slice is its endpoints and nobody else.
    let slice = rule(Action::Allow, &[Peer::Endpoints(Who::default())], &[]);
    let policy = [("a", ingress(Tier::Namespaced, vec![slice]))];
    assert_eq!(ask(&policy, Default::Open, CLIENT, 80).verdict, Verdict::Allow);
    assert_eq!(ask(&policy, Default::Open, "198.51.100.1", 80).verdict, Verdict::Deny);
}

#[test]
fn audit_says_what_would_be_dropped_and_lets_it_pass() {
    let deny = ingress(Tier::Namespaced, vec![]);
    let audited = Policy { mode: Mode::Audit, ..deny.clone() };
    let answer = ask(&[("a", audited.clone())], Default::Open, CLIENT, 80);
    assert_eq!(answer.verdict, Verdict::Allow);
    assert_eq!(answer.because, Because::Default(Direction::Ingress));
    assert_eq!(answer.audit, Some(Because::Unlisted("a".into(), Direction::Ingress)));
    // What is dropped anyway is not told of twice, and what would pass does not pass yet.
    let answer = ask(&[("a", audited), ("b", deny.clone())], Default::Open, CLIENT, 80);
    assert_eq!((answer.verdict, answer.audit), (Verdict::Deny, None));
    let allow = ingress(Tier::Namespaced, vec![rule(Action::Allow, &[], &[])]);
    let allow = Policy { mode: Mode::Audit, ..allow };
    assert_eq!(ask(&[("a", allow), ("b", deny)], Default::Open, CLIENT, 80).verdict, Verdict::Deny);
}

#[test]
fn where_conditions_of_a_peer_meet() {
    let matches = |who: Who| who.matches(&endpoint("client", "shop", CLIENT).identity);
    let namespaces = BTreeSet::from(["shop".to_owned()]);
    let clusters = BTreeSet::from([ClusterName::parse("west").unwrap()]);
    assert!(matches(Who { namespaces: namespaces.clone(), ..app("client") }));
    assert!(!matches(Who { namespaces: namespaces.clone(), ..app("server") }));
    assert!(!matches(Who { namespaces, clusters, ..Who::default() }));
    let service_accounts = BTreeSet::from(["robot".to_owned()]);
    assert!(!matches(Who { service_accounts, ..app("client") }));
}
