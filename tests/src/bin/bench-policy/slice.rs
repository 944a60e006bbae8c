//! A large slice.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use anyhow::{Result, anyhow};
use slicewire_core::name::ClusterName;
use slicewire_core::policy::{
    Action, Default, Endpoint, EndpointChange, EndpointId, Identity, Mode, Peer, Policy, PolicySet,
    Port, PortMatch, Ports, Protocol, Role, Rule, Situation, Tier, Who,
};
use slicewire_core::selector::{Labels, Operator, Requirement, Selector};

/// How rules are spread over the pods of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Each pod has policies of its own: all rules are some pod's.
    Spread,
    /// Every pod has every rule.
    Shared,
}

/// Both.
pub(crate) const SHAPES: [Shape; 2] = [Shape::Spread, Shape::Shared];

impl Shape {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Spread => "rules spread over pods",
            Self::Shared => "all rules on every pod",
        }
    }
}

/// Pods that are alike: one application of many.
const PER_APP: usize = 10;
/// Rules of a policy.
const PER_POLICY: usize = 100;

/// An endpoint's addresses.
pub(crate) fn addresses(number: usize) -> [IpAddr; 2] {
    let number = u32::try_from(number).unwrap_or(u32::MAX).saturating_add(2);
    let v4 = u32::from(Ipv4Addr::new(10, 0, 0, 0)) + number;
    let v6 = u128::from(Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0)) + u128::from(number);
    [IpAddr::V4(v4.into()), IpAddr::V6(v6.into())]
}

pub(crate) fn id(number: usize) -> EndpointId {
    format!("endpoint-{number}").into()
}

pub(crate) fn device(number: usize) -> String {
    format!("swp{number:012x}")
}

pub(crate) fn mac(number: usize) -> [u8; 6] {
    let [_, _, a, b] = u32::try_from(number).unwrap_or_default().to_be_bytes();
    [2, 0, 0, 1, a, b]
}

fn cluster(number: usize) -> Result<ClusterName> {
    let name = if number.is_multiple_of(2) { "east" } else { "west" };
    ClusterName::parse(name).map_err(|_| anyhow!("no cluster's name"))
}

/// An endpoint of an application. The pods of the node, which come first, each have a label of
/// their own, too.
pub(crate) fn endpoint(number: usize, app: usize, pods: usize) -> Result<Endpoint> {
    let mut labels = Labels::from([("app".to_owned(), format!("app-{app}"))]);
    if number < pods {
        labels.insert("pod".to_owned(), format!("pod-{number}"));
    }
    let identity = Identity {
        cluster: cluster(app)?,
        namespace: format!("namespace-{}", app % 100),
        service_account: "default".to_owned(),
        labels,
        namespace_labels: Labels::new(),
    };
    Ok(Endpoint {
        identity: Arc::new(identity),
        addresses: addresses(number).to_vec(),
        named_ports: BTreeMap::new(),
    })
}

/// All endpoints.
pub(crate) fn endpoints(count: usize, pods: usize) -> Result<Vec<EndpointChange>> {
    let mut shared: Option<Endpoint> = None;
    let mut all = Vec::new();
    for number in 0..count {
        let one = match shared.as_ref().filter(|_| number % PER_APP != 0 && number > pods + PER_APP)
        {
            Some(like) => Endpoint { addresses: addresses(number).to_vec(), ..like.clone() },
            None => endpoint(number, number / PER_APP, pods)?,
        };
        shared = Some(one.clone());
        all.push(EndpointChange::Put(id(number), one));
    }
    Ok(all)
}

fn labelled(key: &str, value: String) -> Who {
    let key = key.to_owned();
    let one = Requirement { key, operator: Operator::In, values: vec![value] };
    Who { pods: Selector { requirements: vec![one] }, ..Who::default() }
}

/// Policies with so many rules in all, each naming another application and another port.
pub(crate) fn policies(shape: Shape, rules: usize, pods: usize, apps: usize) -> PolicySet {
    let mut policies = BTreeMap::new();
    for number in 0..rules / PER_POLICY {
        let list = (0..PER_POLICY).map(|place| rule(number * PER_POLICY + place, apps)).collect();
        let subject = match shape {
            Shape::Spread => labelled("pod", format!("pod-{}", number % pods)),
            Shape::Shared => Who::default(),
        };
        let policy = Policy {
            tier: Tier::Namespaced,
            mode: Mode::Enforce,
            subject,
            ingress: Some(list),
            egress: None,
        };
        policies.insert(format!("namespace/policy-{number}").into(), policy.into());
    }
    let open = everybody();
    policies.insert("everybody".into(), open.into());
    PolicySet { default: Default::Open, default_mode: Mode::Enforce, policies }
}

/// One port for everybody, for what is measured through these rules.
fn everybody() -> Policy {
    let ports = [Protocol::Tcp, Protocol::Udp]
        .map(|protocol| PortMatch { protocol, ports: Ports::Range(5000, 5400) });
    let icmp = [Protocol::Icmp, Protocol::Icmpv6]
        .map(|protocol| PortMatch { protocol, ports: Ports::All });
    let ports = ports.into_iter().chain(icmp).collect();
    let rule = Rule { action: Action::Allow, peers: Vec::new(), ports };
    Policy {
        tier: Tier::Namespaced,
        mode: Mode::Enforce,
        subject: Who::default(),
        ingress: Some(vec![rule]),
        egress: None,
    }
}

fn rule(number: usize, apps: usize) -> Rule {
    let first = u16::try_from(6000 + number % 50_000).unwrap_or(u16::MAX);
    let port = PortMatch { protocol: Protocol::Tcp, ports: Ports::Range(first, first) };
    Rule {
        action: Action::Allow,
        peers: vec![Peer::Endpoints(labelled("app", format!("app-{}", number % apps)))],
        ports: vec![port],
    }
}

/// Applications of so many endpoints.
pub(crate) fn apps(endpoints: usize) -> usize {
    (endpoints / PER_APP).max(1)
}

/// The node.
pub(crate) fn situation(policies: PolicySet, pods: usize) -> Situation {
    let port = |number| {
        let addresses = addresses(number).into_iter().collect();
        (device(number), Port { mac: mac(number), addresses, role: Role::Pod(id(number)) })
    };
    Situation { policies, ports: (0..pods).map(port).collect(), far: BTreeSet::new() }
}
