//! From the kinds of policies to the domain, at the border, and what is told of pods both ways.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::PodSpec;
use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;
use slicewire_core::name::ClusterName;
use slicewire_core::policy::model::{Default as SliceDefault, Endpoint, Identity, Mode, Protocol};
use slicewire_core::policy::{Keys, spec, standard};
use slicewire_core::violation::Violation;

use super::{
    Enforcement, PodIdentity, PolicyDefault, PolicyEndpoint, PolicyKeys, PolicyPeer, PolicyPort,
    PolicyProtocol, PolicyRule, PolicySubject, RuleAction, SlicePolicySpec,
};

impl Enforcement {
    /// As the domain has it.
    pub fn mode(self) -> Mode {
        match self {
            Self::Enforce => Mode::Enforce,
            Self::Audit => Mode::Audit,
        }
    }
}

impl PolicyDefault {
    /// As the domain has it.
    pub fn domain(self) -> SliceDefault {
        match self {
            Self::Open => SliceDefault::Open,
            Self::Deny => SliceDefault::Deny,
        }
    }
}

/// A policy for [`spec::parse`].
pub fn raw_policy(from: &SlicePolicySpec) -> spec::RawPolicy {
    let rules = |rules: &Option<Vec<PolicyRule>>| {
        rules.as_ref().map(|rules| rules.iter().map(rule).collect())
    };
    spec::RawPolicy {
        priority: from.priority.map(i64::from),
        namespace: from.namespace.clone(),
        enforce: match from.enforce {
            Enforcement::Enforce => "enforce",
            Enforcement::Audit => "audit",
        }
        .to_owned(),
        subject: who(&from.subject),
        ingress: rules(&from.ingress),
        egress: rules(&from.egress),
    }
}

/// Every cluster that a policy names and that can be one.
pub(crate) fn clusters_of(from: &SlicePolicySpec) -> BTreeSet<ClusterName> {
    let rules = from.ingress.iter().chain(&from.egress).flatten();
    let peers = rules.flat_map(|rule| &rule.peers).flat_map(|peer| &peer.clusters);
    let all = from.subject.clusters.iter().chain(peers);
    all.filter_map(|name| ClusterName::parse(name).ok()).collect()
}

impl SlicePolicySpec {
    /// The policy, where nobody knows any more which clusters the slice has: those it names count.
    ///
    /// # Errors
    /// Every fault.
    pub fn parse_alone(&self) -> Result<slicewire_core::policy::Policy, Vec<Violation>> {
        self.parse(&clusters_of(self))
    }

    /// The policy, in a slice of these clusters.
    ///
    /// # Errors
    /// Every fault, in the order of fields.
    pub fn parse(
        &self,
        clusters: &BTreeSet<ClusterName>,
    ) -> Result<slicewire_core::policy::Policy, Vec<Violation>> {
        spec::parse(&raw_policy(self), clusters).map_err(|mut faults| {
            for fault in &mut faults {
                // The policy's namespace is not the object's: that one is the project's.
                if fault.field == "metadata.namespace" {
                    fault.field = "spec.namespace".to_owned();
                }
            }
            faults
        })
    }

    /// What the policy is called among a slice's: see `PolicySet`.
    pub fn key(&self, name: &str) -> String {
        match &self.namespace {
            Some(namespace) => format!("{namespace}/{name}"),
            None => name.to_owned(),
        }
    }
}

fn rule(from: &PolicyRule) -> spec::RawRule {
    spec::RawRule {
        action: match from.action {
            RuleAction::Allow => "Allow",
            RuleAction::Deny => "Deny",
            RuleAction::Pass => "Pass",
        }
        .to_owned(),
        peers: from.peers.iter().map(peer).collect(),
        ports: from.ports.iter().map(port).collect(),
    }
}

fn peer(from: &PolicyPeer) -> spec::RawPeer {
    spec::RawPeer {
        slice: from.slice,
        who: spec::RawWho {
            clusters: from.clusters.clone(),
            namespaces: from.namespaces.clone(),
            namespace_selector: from.namespace_selector.as_ref().map(selector),
            service_accounts: from.service_accounts.clone(),
            pod_selector: from.pod_selector.as_ref().map(selector),
        },
        cidr: from.cidr.clone(),
        except: from.except.clone(),
    }
}

fn who(from: &PolicySubject) -> spec::RawWho {
    spec::RawWho {
        clusters: from.clusters.clone(),
        namespaces: from.namespaces.clone(),
        namespace_selector: from.namespace_selector.as_ref().map(selector),
        service_accounts: from.service_accounts.clone(),
        pod_selector: from.pod_selector.as_ref().map(selector),
    }
}

fn selector(from: &LabelSelector) -> spec::RawSelector {
    let expressions = from.match_expressions.iter().flatten();
    spec::RawSelector {
        match_labels: from.match_labels.clone().unwrap_or_default(),
        match_expressions: expressions
            .map(|e| spec::RawRequirement {
                key: e.key.clone(),
                operator: e.operator.clone(),
                values: e.values.clone().unwrap_or_default(),
            })
            .collect(),
    }
}

fn port(from: &PolicyPort) -> spec::RawPort {
    let protocol = match from.protocol {
        PolicyProtocol::Tcp => "TCP",
        PolicyProtocol::Udp => "UDP",
        PolicyProtocol::Sctp => "SCTP",
        PolicyProtocol::Icmp => "ICMP",
        PolicyProtocol::Icmpv6 => "ICMPv6",
    };
    spec::RawPort {
        protocol: protocol.to_owned(),
        port: from.port.as_ref().map(port_value),
        end_port: from.end_port.map(i64::from),
    }
}

fn port_value(from: &IntOrString) -> spec::RawPortValue {
    match from {
        IntOrString::Int(number) => spec::RawPortValue::Number(i64::from(*number)),
        IntOrString::String(name) => spec::RawPortValue::Name(name.clone()),
    }
}

/// A NetworkPolicy for [`standard::parse`].
pub fn network_policy(from: &NetworkPolicy) -> standard::NetworkPolicy {
    let spec = from.spec.clone().unwrap_or_default();
    let rule = |peers: &Option<Vec<NetworkPolicyPeer>>, ports: &Option<Vec<NetworkPolicyPort>>| {
        standard::NetworkRule {
            peers: peers.iter().flatten().map(network_peer).collect(),
            ports: ports.iter().flatten().map(network_port).collect(),
        }
    };
    standard::NetworkPolicy {
        namespace: from.namespace().unwrap_or_default(),
        pod_selector: spec.pod_selector.as_ref().map(selector).unwrap_or_default(),
        policy_types: spec.policy_types.clone().unwrap_or_default(),
        ingress: spec.ingress.iter().flatten().map(|r| rule(&r.from, &r.ports)).collect(),
        egress: spec.egress.iter().flatten().map(|r| rule(&r.to, &r.ports)).collect(),
    }
}

fn network_peer(from: &NetworkPolicyPeer) -> standard::NetworkPeer {
    standard::NetworkPeer {
        pod_selector: from.pod_selector.as_ref().map(selector),
        namespace_selector: from.namespace_selector.as_ref().map(selector),
        cidr: from.ip_block.as_ref().map(|block| block.cidr.clone()),
        except: from.ip_block.as_ref().and_then(|b| b.except.clone()).unwrap_or_default(),
    }
}

fn network_port(from: &NetworkPolicyPort) -> spec::RawPort {
    spec::RawPort {
        protocol: from.protocol.clone().unwrap_or_default(),
        port: from.port.as_ref().map(port_value),
        end_port: from.end_port.map(i64::from),
    }
}

/// What is told of pods, as objects have it.
pub fn keys_into(keys: Keys) -> PolicyKeys {
    PolicyKeys {
        pods: keys.pods.into_iter().collect(),
        namespaces: keys.namespaces.into_iter().collect(),
        ports: keys.ports.into_iter().collect(),
        service_accounts: keys.service_accounts,
    }
}

/// What is told of pods, as the domain has it.
pub fn keys_from(keys: &PolicyKeys) -> Keys {
    Keys {
        pods: keys.pods.iter().cloned().collect(),
        namespaces: keys.namespaces.iter().cloned().collect(),
        ports: keys.ports.iter().cloned().collect(),
        service_accounts: keys.service_accounts,
    }
}

const PROTOCOLS: [(&str, Protocol); 3] =
    [("TCP", Protocol::Tcp), ("UDP", Protocol::Udp), ("SCTP", Protocol::Sctp)];

/// Named ports by protocol and name.
pub type NamedPorts = BTreeMap<(Protocol, String), BTreeSet<u16>>;

/// A named port as objects have it: `TCP/web=8080`.
pub fn port_text(protocol: Protocol, name: &str, number: u16) -> Option<String> {
    let (text, _) = PROTOCOLS.iter().find(|(_, p)| *p == protocol)?;
    Some(format!("{text}/{name}={number}"))
}

/// Named ports out of their texts; what is none is left out.
pub fn ports_from(texts: &[String]) -> NamedPorts {
    let mut ports = NamedPorts::new();
    for text in texts {
        let parts = text.split_once('/').and_then(|(p, rest)| Some((p, rest.split_once('=')?)));
        let Some((protocol, (name, number))) = parts else { continue };
        let protocol = PROTOCOLS.iter().find(|(text, _)| *text == protocol);
        if let (Some((_, protocol)), Ok(number)) = (protocol, number.parse()) {
            ports.entry((*protocol, name.to_owned())).or_default().insert(number);
        }
    }
    ports
}

/// Ports that containers give names to, also those that begin before the others and go on.
pub fn named_ports(spec: &PodSpec) -> NamedPorts {
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars = sidecars.filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten());
    let texts = ports.filter_map(|port| {
        let name = port.name.as_deref()?;
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        Some(format!("{protocol}/{name}={}", port.container_port))
    });
    ports_from(&texts.collect::<Vec<_>>())
}

impl PodIdentity {
    /// What may be told of an endpoint, out of all that is known of it.
    pub fn told(of: &Endpoint, keys: &Keys) -> Self {
        let ports = of.named_ports.iter().filter(|((_, name), _)| keys.has_port(name));
        let ports = ports.flat_map(|((protocol, name), numbers)| {
            numbers.iter().filter_map(|number| port_text(*protocol, name, *number))
        });
        Self {
            service_account: keys.service_accounts.then(|| of.identity.service_account.clone()),
            labels: keys.of_pod(&of.identity.labels),
            namespace_labels: keys.of_namespace(&of.identity.namespace_labels),
            ports: ports.collect(),
        }
    }
}

impl PolicyEndpoint {
    /// The endpoint, in the cluster it is in. Addresses that are none are left out.
    pub fn endpoint(&self, cluster: &ClusterName) -> Endpoint {
        let identity = Identity {
            cluster: cluster.clone(),
            namespace: self.namespace.clone(),
            service_account: self.identity.service_account.clone().unwrap_or_default(),
            labels: self.identity.labels.clone(),
            namespace_labels: self.identity.namespace_labels.clone(),
        };
        let addresses = self.addresses.iter().filter_map(|text| text.parse::<IpAddr>().ok());
        Endpoint {
            identity: Arc::new(identity),
            addresses: addresses.collect(),
            named_ports: ports_from(&self.identity.ports),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_ports_survive_the_way() {
        let texts = ["TCP/web=80", "TCP/web=8080", "UDP/dns=53"].map(str::to_owned).to_vec();
        let ports = ports_from(&texts);
        let back = ports.iter().flat_map(|((protocol, name), numbers)| {
            numbers.iter().filter_map(|n| port_text(*protocol, name, *n))
        });
        assert_eq!(back.collect::<Vec<_>>(), texts);
        let broken = ["web=80", "TCP/web", "TCP/web=x", "ICMP/web=1"].map(str::to_owned);
        assert!(ports_from(&broken).is_empty());
    }

    #[test]
    fn faults_name_the_fields_of_the_kind() {
        let policy = SlicePolicySpec {
            slice: "blue".into(),
            namespace: Some("Shop".into()),
            ingress: Some(vec![PolicyRule {
                action: RuleAction::Deny,
                ports: vec![PolicyPort {
                    port: Some(IntOrString::Int(70_000)),
                    ..Default::default()
                }],
                ..PolicyRule::default()
            }]),
            ..SlicePolicySpec::default()
        };
        let faults = policy.parse_alone().unwrap_err();
        let told: Vec<_> = faults.iter().map(|f| (f.field.as_str(), f.reason)).collect();
        assert_eq!(
            told,
            [
                ("spec.namespace", "NameCharacters"),
                ("spec.ingress[0].action", "Action"),
                ("spec.ingress[0].ports[0].port", "Port"),
            ]
        );
    }
}
