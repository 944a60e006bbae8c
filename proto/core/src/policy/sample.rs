//! Random slices for tests: few names, so that rules hit often, and every kind of rule.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use proptest::collection::{btree_set, vec};
use proptest::prelude::*;
use slicewire_core::name::ClusterName;
use slicewire_core::policy::{
    Action, Default, Endpoint, EndpointId, Flow, Identity, Mode, Peer, Policy, PolicyName,
    PolicySet, PortMatch, Ports, Protocol, Rule, Tier, Who,
};
use slicewire_core::selector::{Labels, Operator, Requirement, Selector};

/// Endpoints that are on the node under test; the others are elsewhere.
pub(crate) const LOCAL: usize = 4;
/// All endpoints.
pub(crate) const ENDPOINTS: usize = 12;
/// Addresses that are nobody's.
pub(crate) const STRANGERS: [&str; 5] =
    ["10.77.9.9", "10.77.1.200", "203.0.113.7", "fd77::9:9", "2001:db8::7"];

/// A slice.
#[derive(Debug, Clone)]
pub(crate) struct World {
    /// Its policies.
    pub(crate) policies: PolicySet,
    /// Its endpoints.
    pub(crate) endpoints: BTreeMap<EndpointId, Endpoint>,
}

/// The name of an endpoint, by its number.
pub(crate) fn id(number: usize) -> EndpointId {
    format!("endpoint-{number:02}").into()
}

/// The addresses of an endpoint, by its number.
pub(crate) fn addresses(number: usize) -> Vec<IpAddr> {
    // Two cuts through the numbers, so that prefixes in rules part them.
    let (half, number) = (number % 2, number + 1);
    let v4 = format!("10.77.{half}.{number}");
    let v6 = format!("fd77::{half}:{number}");
    [v4, v6].iter().filter_map(|text| text.parse().ok()).collect()
}

fn pick(all: &'static [&'static str]) -> impl Strategy<Value = String> {
    prop::sample::select(all).prop_map(str::to_owned)
}

fn some(all: &'static [&'static str]) -> impl Strategy<Value = BTreeSet<String>> {
    prop_oneof![2 => Just(BTreeSet::new()), 1 => btree_set(pick(all), 1..=2)]
}

const CLUSTERS: &[&str] = &["east", "west"];
const NAMESPACES: &[&str] = &["shop", "bank", "lab"];
const ACCOUNTS: &[&str] = &["default", "robot"];
const KEYS: &[&str] = &["app", "role"];
const VALUES: &[&str] = &["a", "b", "c"];
const PORT_NAMES: &[&str] = &["web", "dns"];

fn cluster(name: &str) -> Option<ClusterName> {
    ClusterName::parse(name).ok()
}

fn labels() -> impl Strategy<Value = Labels> {
    prop::collection::btree_map(pick(KEYS), pick(VALUES), 0..=2)
}

fn protocol() -> impl Strategy<Value = Protocol> {
    prop::sample::select(&Protocol::ALL[..])
}

fn endpoint(number: usize) -> impl Strategy<Value = Endpoint> {
    let named = (protocol(), pick(PORT_NAMES), btree_set(prop::sample::select(PORTS), 1..=2));
    let named = named.prop_filter("has ports", |(protocol, ..)| protocol.has_ports());
    let identity = (pick(CLUSTERS), pick(NAMESPACES), pick(ACCOUNTS), labels());
    (identity, vec(named, 0..3)).prop_filter_map("a cluster's name", move |(identity, named)| {
        let (at, namespace, service_account, labels) = identity;
        let stage = if namespace == "lab" { "test" } else { "live" };
        let namespace_labels = Labels::from([("stage".to_owned(), stage.to_owned())]);
        let cluster = cluster(&at)?;
        let identity = Identity { cluster, namespace, service_account, labels, namespace_labels };
        Some(Endpoint {
            identity: Arc::new(identity),
            addresses: addresses(number),
            named_ports: named.into_iter().map(|(p, name, ports)| ((p, name), ports)).collect(),
        })
    })
}

fn selector(
    keys: &'static [&'static str],
    values: &'static [&'static str],
) -> BoxedStrategy<Selector> {
    let operators = [Operator::In, Operator::NotIn, Operator::Exists, Operator::DoesNotExist];
    let one =
        (pick(keys), prop::sample::select(operators.to_vec()), btree_set(pick(values), 1..=2));
    let one = one.prop_map(|(key, operator, values)| {
        let listed = matches!(operator, Operator::In | Operator::NotIn);
        let values = if listed { values.into_iter().collect() } else { Vec::new() };
        Requirement { key, operator, values }
    });
    let some = vec(one, 1..=2).prop_map(|requirements| Selector { requirements });
    prop_oneof![1 => Just(Selector::default()), 1 => some].boxed()
}

fn who() -> impl Strategy<Value = Who> {
    let names = (some(CLUSTERS), some(NAMESPACES), some(ACCOUNTS));
    let selectors = (selector(&["stage"], &["test", "live"]), selector(KEYS, VALUES));
    (names, selectors).prop_map(|((clusters, namespaces, service_accounts), selectors)| Who {
        clusters: clusters.iter().filter_map(|name| cluster(name)).collect(),
        namespaces,
        namespace_selector: selectors.0,
        service_accounts,
        pods: selectors.1,
    })
}

fn peer() -> impl Strategy<Value = Peer> {
    let nets = [
        ("0.0.0.0/0", "10.77.0.0/16"),
        ("10.77.0.0/16", "10.77.1.0/24"),
        ("10.77.1.0/24", "10.77.1.4/30"),
        ("203.0.113.0/24", "203.0.113.7/32"),
        ("::/0", "fd77::/48"),
        ("fd77::/48", "fd77::1:0/112"),
        ("2001:db8::/32", "2001:db8::7/128"),
    ];
    let addresses = (prop::sample::select(nets.to_vec()), any::<bool>()).prop_filter_map(
        "prefixes",
        |((net, except), with)| {
            let except = with.then(|| except.parse().ok()).flatten();
            Some(Peer::Addresses { net: net.parse().ok()?, except: except.into_iter().collect() })
        },
    );
    prop_oneof![3 => who().prop_map(Peer::Endpoints), 1 => addresses]
}

/// Ports in rules and flows.
pub(crate) const PORTS: &[u16] = &[1, 53, 80, 81, 443, 8080, 65534, 65535];

fn ports() -> impl Strategy<Value = PortMatch> {
    let number = || prop::sample::select(PORTS);
    let of = prop_oneof![
        1 => Just(Ports::All),
        3 => (number(), number()).prop_map(|(a, b)| Ports::Range(a.min(b), a.max(b))),
        2 => number().prop_map(|a| Ports::Range(a, a)),
        2 => pick(PORT_NAMES).prop_map(Ports::Named),
    ];
    (protocol(), of).prop_map(|(protocol, ports)| {
        let ports = if protocol.has_ports() { ports } else { Ports::All };
        PortMatch { protocol, ports }
    })
}

fn rules(actions: &'static [Action]) -> impl Strategy<Value = Option<Vec<Rule>>> {
    let rule = (prop::sample::select(actions), vec(peer(), 0..3), vec(ports(), 0..3));
    let rule = rule.prop_map(|(action, peers, ports)| Rule { action, peers, ports });
    prop::option::weighted(0.7, vec(rule, 0..4))
}

fn mode() -> impl Strategy<Value = Mode> {
    prop_oneof![4 => Just(Mode::Enforce), 1 => Just(Mode::Audit)]
}

fn policy() -> impl Strategy<Value = Policy> {
    let admin = (0..4u16).prop_map(|priority| Tier::Admin { priority });
    let admin = (admin, rules(ADMIN), rules(ADMIN));
    let namespaced = (Just(Tier::Namespaced), rules(NAMESPACED), rules(NAMESPACED));
    (mode(), who(), prop_oneof![admin.boxed(), namespaced.boxed()]).prop_map(
        |(mode, subject, (tier, ingress, egress))| Policy { tier, mode, subject, ingress, egress },
    )
}

const ADMIN: &[Action] = &[Action::Allow, Action::Deny, Action::Pass];
const NAMESPACED: &[Action] = &[Action::Allow];

fn name() -> impl Strategy<Value = PolicyName> {
    "[a-f]".prop_map(PolicyName::from)
}

/// Policies of a slice.
pub(crate) fn policies() -> impl Strategy<Value = PolicySet> {
    let default = prop_oneof![2 => Just(Default::Open), 1 => Just(Default::Deny)];
    (default, mode(), prop::collection::btree_map(name(), policy().prop_map(Arc::new), 0..6))
        .prop_map(|(default, default_mode, policies)| PolicySet { default, default_mode, policies })
}

/// One endpoint as it may be.
pub(crate) fn some_endpoint() -> impl Strategy<Value = (usize, Endpoint)> {
    (0..ENDPOINTS).prop_flat_map(|number| (Just(number), endpoint(number)))
}

/// A slice.
pub(crate) fn world() -> impl Strategy<Value = World> {
    let endpoints: Vec<_> = (0..ENDPOINTS).map(|n| endpoint(n).boxed()).collect();
    (policies(), endpoints).prop_map(|(policies, endpoints)| World {
        policies,
        endpoints: endpoints.into_iter().enumerate().map(|(n, e)| (id(n), e)).collect(),
    })
}

/// A flow that has at least one end on the node under test.
pub(crate) fn flow() -> impl Strategy<Value = Flow> {
    let port = prop_oneof![3 => prop::sample::select(PORTS), 1 => 1..=u16::MAX];
    let protocol = prop_oneof![9 => protocol().prop_map(Protocol::number), 1 => Just(47u8)];
    let other = prop_oneof![
        4 => (0..ENDPOINTS).prop_map(addresses),
        1 => Just(STRANGERS.iter().filter_map(|text| text.parse().ok()).collect()),
    ];
    let ends = (0..LOCAL, other, any::<bool>(), any::<prop::sample::Selector>());
    (ends, protocol, port).prop_filter_map("ends of one family", |(ends, protocol, port)| {
        let (local, other, outward, choice) = ends;
        let v6 = match protocol {
            1 => false,
            58 => true,
            _ => port % 2 == 0,
        };
        let here = addresses(local).into_iter().find(|a| a.is_ipv6() == v6)?;
        let others: Vec<IpAddr> = other.into_iter().filter(|a| a.is_ipv6() == v6).collect();
        let there = *choice.try_select(&others)?;
        let (source, destination) = if outward { (here, there) } else { (there, here) };
        (source != destination).then_some(Flow { source, destination, protocol, port })
    })
}
