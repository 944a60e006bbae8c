use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::name::ClusterName;
use crate::policy::model::{Action, Mode, PortMatch, Rule, Tier, Who};
use crate::policy::sample;
use crate::selector::{Labels, Operator, Requirement, Selector};

fn owner(world: &sample::World, address: IpAddr) -> Option<EndpointId> {
    let mut all = world.endpoints.iter();
    all.find(|(_, e)| e.addresses.contains(&address)).map(|(id, _)| id.clone())
}

/// Fewer pods than the sample has: every pair of them is asked about every port.
fn few(mut world: sample::World) -> sample::World {
    let last = sample::id(6);
    world.endpoints.retain(|id, _| *id < last);
    world
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// What is told of each connection is what the evaluator says of it, and nothing is left out.
    #[test]
    fn every_connection_is_told_of_as_it_is_judged(
        world in sample::world().prop_map(few),
        after in sample::policies(),
        flows in vec(sample::flow(), 1..40),
    ) {
        let changes = preview(&world.policies, &after, &world.endpoints);
        let directory = Directory::new(&world.endpoints);
        let both = Both { before: &world.policies, after: &after, directory: &directory };
        for flow in &flows {
            let ends = (owner(&world, flow.source), owner(&world, flow.destination));
            let (Some(from), Some(to)) = ends else { continue };
            let family = if flow.source.is_ipv6() { Family::V6 } else { Family::V4 };
            // ICMP of the other family is nothing anybody sends.
            let foreign = if family == Family::V6 { 1 } else { 58 };
            prop_assume!(flow.protocol != foreign);
            let told: Vec<Effect> = changes
                .iter()
                .filter(|c| c.pairs().any(|pair| pair == (&from, &to)))
                .filter(|c| c.traffic.has(family, flow.protocol, flow.port))
                .map(|c| c.effect)
                .collect();
            prop_assert_eq!(told, both.effect(flow).into_iter().collect::<Vec<_>>(), "{:?}", flow);
        }
    }

    /// The way back undoes the way there.
    #[test]
    fn what_opens_one_way_closes_the_other(world in sample::world().prop_map(few), after in sample::policies()) {
        let there = preview(&world.policies, &after, &world.endpoints);
        let back = preview(&after, &world.policies, &world.endpoints);
        let turned = |effect| match effect {
            Effect::Opens => Effect::Closes,
            Effect::Closes => Effect::Opens,
            Effect::Audits => Effect::AuditsNoMore,
            Effect::AuditsNoMore => Effect::Audits,
        };
        let of = |changes: &[Changed], turn: bool| {
            let mut all: Vec<_> = changes
                .iter()
                .map(|c| (if turn { turned(c.effect) } else { c.effect }, c.from.clone(), c.to.clone(), c.traffic.to_string()))
                .collect();
            all.sort();
            all
        };
        prop_assert_eq!(of(&there, false), of(&back, true));
    }
}

fn labelled(value: &str) -> Selector {
    let (key, values) = ("app".to_owned(), vec![value.to_owned()]);
    Selector { requirements: vec![Requirement { key, operator: Operator::In, values }] }
}

fn endpoints(names: &[(&str, &str)]) -> BTreeMap<EndpointId, Endpoint> {
    let one = |(number, (name, app)): (usize, &(&str, &str))| {
        let identity = Identity {
            cluster: ClusterName::parse(name.split('/').next().unwrap()).unwrap(),
            namespace: "shop".into(),
            service_account: "default".into(),
            labels: Labels::from([
                ("app".to_owned(), (*app).to_owned()),
                ("pod".to_owned(), (*name).to_owned()),
            ]),
            namespace_labels: Labels::new(),
        };
        let addresses = [format!("10.77.0.{number}"), format!("fd77::{number}")];
        let endpoint = Endpoint {
            identity: identity.into(),
            addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
            named_ports: BTreeMap::new(),
        };
        (EndpointId::from(*name), endpoint)
    };
    names.iter().enumerate().map(one).collect()
}

fn deny(mode: Mode, ports: Vec<PortMatch>) -> PolicySet {
    let who = |app| Who { pods: labelled(app), ..Who::default() };
    let rule = Rule { action: Action::Deny, peers: vec![Peer::Endpoints(who("ledger"))], ports };
    let policy = Policy {
        tier: Tier::Admin { priority: 10 },
        mode,
        subject: who("reports"),
        ingress: None,
        egress: Some(vec![rule]),
    };
    PolicySet { policies: [("no-reports".into(), policy.into())].into(), ..PolicySet::default() }
}

#[test]
fn a_pair_that_closes_is_told_once_for_all_alike() {
    let pods = endpoints(&[
        ("east/shop/reports-1", "reports"),
        ("east/shop/reports-2", "reports"),
        ("west/shop/ledger", "ledger"),
        ("west/shop/web", "web"),
    ]);
    let all = preview(&PolicySet::default(), &deny(Mode::Enforce, Vec::new()), &pods);
    assert_eq!(all.len(), 1, "{all:?}");
    assert_eq!(all[0].count(), 2);
    assert_eq!(all[0].effect, Effect::Closes);
    assert_eq!(all[0].traffic.to_string(), "every protocol and port");
    let tcp = |first, last| PortMatch { protocol: Protocol::Tcp, ports: Ports::Range(first, last) };
    let some = deny(Mode::Audit, vec![tcp(443, 443), tcp(80, 81), tcp(82, 90)]);
    let all = preview(&PolicySet::default(), &some, &pods);
    assert_eq!(all[0].effect, Effect::Audits);
    assert_eq!(all[0].traffic.to_string(), "TCP 80-90, TCP 443");
    assert!(preview(&some, &some, &pods).is_empty());
}

#[test]
fn a_default_that_changes_concerns_everybody() {
    let pods = endpoints(&[("east/a", "x"), ("east/b", "x"), ("west/c", "x")]);
    let closed = PolicySet { default: crate::policy::Default::Deny, ..PolicySet::default() };
    let all = preview(&PolicySet::default(), &closed, &pods);
    assert_eq!(all.iter().map(Changed::count).sum::<usize>(), 6);
    assert!(all.iter().all(|c| c.effect == Effect::Closes));
    assert_eq!(all.iter().flat_map(Changed::pairs).count(), 6);
}
