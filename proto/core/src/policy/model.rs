//! Endpoints and policies, validated.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::name::ClusterName;
use crate::selector::{Labels, Selector};

/// What an endpoint is known by, unique in its slice: `<cluster>/<namespace>/<pod>`.
pub type EndpointId = Arc<str>;

/// What a policy is called, unique in its slice: `<name>` of an admin policy, `<namespace>/<name>`
/// of a namespaced one, `<cluster>/<namespace>/<name>` of a cluster's own NetworkPolicy.
pub type PolicyName = Arc<str>;

/// What policies select an endpoint by. Pods of one workload mostly share one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Identity {
    /// The cluster it runs in.
    pub cluster: ClusterName,
    /// Its namespace.
    pub namespace: String,
    /// Its service account.
    pub service_account: String,
    /// Its labels, at least those that policies of the slice select on.
    pub labels: Labels,
    /// Its namespace's labels, at least those that policies of the slice select on.
    pub namespace_labels: Labels,
}

/// A pod on the slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// What it is selected by.
    pub identity: Arc<Identity>,
    /// Its addresses on the slice, of either family.
    pub addresses: Vec<IpAddr>,
    /// Numbers behind the names of its containers' ports.
    pub named_ports: BTreeMap<(Protocol, String), BTreeSet<u16>>,
}

/// Protocols that rules can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
    /// ICMP, of IPv4.
    Icmp,
    /// `ICMPv6`, of IPv6.
    Icmpv6,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Tcp, Self::Udp, Self::Sctp, Self::Icmp, Self::Icmpv6];

    /// Its number in IP headers (IANA, Protocol Numbers).
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
            Self::Icmp => 1,
            Self::Icmpv6 => 58,
        }
    }

    /// The protocol of this number, if rules can name it.
    pub fn of_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|p| p.number() == number)
    }

    /// Whether it has ports.
    pub fn has_ports(self) -> bool {
        matches!(self, Self::Tcp | Self::Udp | Self::Sctp)
    }
}

/// Some endpoints: all conditions must hold, an empty one holds for every endpoint. The default is
/// the whole slice.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Who {
    /// Clusters by name.
    pub clusters: BTreeSet<ClusterName>,
    /// Namespaces by name, in any of the clusters.
    pub namespaces: BTreeSet<String>,
    /// Namespaces by label.
    pub namespace_selector: Selector,
    /// Service accounts by name, in any of the namespaces.
    pub service_accounts: BTreeSet<String>,
    /// Pods by label.
    pub pods: Selector,
}

impl Who {
    /// Whether an endpoint of this identity is meant.
    pub fn matches(&self, identity: &Identity) -> bool {
        (self.clusters.is_empty() || self.clusters.contains(&identity.cluster))
            && (self.namespaces.is_empty() || self.namespaces.contains(&identity.namespace))
            && (self.service_accounts.is_empty()
                || self.service_accounts.contains(&identity.service_account))
            && self.namespace_selector.matches(&identity.namespace_labels)
            && self.pods.matches(&identity.labels)
    }
}

/// The other end of a flow, as a rule names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Peer {
    /// Endpoints of the slice.
    Endpoints(Who),
    /// Addresses, endpoints' included.
    Addresses {
        /// In this prefix
        net: IpNet,
        /// and in none of these, which lie within it.
        except: BTreeSet<IpNet>,
    },
}

/// Ports of a protocol.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ports {
    /// All of them; the only choice for protocols without ports.
    All,
    /// From the first to the second, both included.
    Range(u16, u16),
    /// Those that the destination's containers call by this name.
    Named(String),
}

/// A protocol and ports of it, always the destination's.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortMatch {
    /// The protocol.
    pub protocol: Protocol,
    /// Which of its ports.
    pub ports: Ports,
}

/// What a rule does with what it matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// It passes.
    Allow,
    /// It does not. Admin policies only.
    Deny,
    /// The namespaced policies decide. Admin policies only.
    Pass,
}

/// One rule of a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// What it does; `Allow` in namespaced policies.
    pub action: Action,
    /// The other ends meant; empty: every address, on the slice or not.
    pub peers: Vec<Peer>,
    /// The ports meant; empty: every protocol and port.
    pub ports: Vec<PortMatch>,
}

/// Where a policy stands among others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// Before the namespaced ones, by priority: the lowest number is asked first.
    Admin {
        /// 0 to 1000, unique among the slice's admin policies.
        priority: u16,
    },
    /// As Kubernetes' NetworkPolicy.
    Namespaced,
}

/// Whether a policy is carried out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// It is.
    #[default]
    Enforce,
    /// What it would drop is counted, and passes.
    Audit,
}

/// Which end of a flow is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// The source: may it send there?
    Egress,
    /// The destination: may it be reached from there?
    Ingress,
}

impl Direction {
    /// Both of them.
    pub const BOTH: [Self; 2] = [Self::Egress, Self::Ingress];
}

/// A policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Its tier.
    pub tier: Tier,
    /// Whether it is carried out.
    pub mode: Mode,
    /// The endpoints it applies to.
    pub subject: Who,
    /// What may come in; `None`: the policy says nothing about that.
    pub ingress: Option<Vec<Rule>>,
    /// What may go out; `None`: the policy says nothing about that.
    pub egress: Option<Vec<Rule>>,
}

impl Policy {
    /// Its rules for one direction; `None`: it says nothing about that.
    pub fn rules(&self, direction: Direction) -> Option<&[Rule]> {
        match direction {
            Direction::Ingress => self.ingress.as_deref(),
            Direction::Egress => self.egress.as_deref(),
        }
    }
}

/// What happens to flows that no policy is about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Default {
    /// They pass.
    #[default]
    Open,
    /// They do not.
    Deny,
}

/// All policies of a slice.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PolicySet {
    /// What happens to flows that no policy is about.
    pub default: Default,
    /// Whether the default is carried out.
    pub default_mode: Mode,
    /// Policies by name. Whoever changes one leaves the others in their place in memory, by which
    /// they are known to be the same.
    pub policies: BTreeMap<PolicyName, Arc<Policy>>,
}

impl PolicySet {
    /// Admin policies in the order they are asked; equal priorities by name.
    pub fn admin(&self) -> Vec<(&PolicyName, &Arc<Policy>)> {
        let mut all: Vec<_> =
            self.policies.iter().filter(|(_, p)| p.tier != Tier::Namespaced).collect();
        all.sort_by_key(|(name, policy)| (policy.tier, *name));
        all
    }

    /// All policies in the order they are asked: admin policies, then namespaced ones by name,
    /// which have no order among them.
    pub fn in_order(&self) -> Vec<(&PolicyName, &Arc<Policy>)> {
        self.admin().into_iter().chain(self.namespaced()).collect()
    }

    /// Namespaced policies, by name.
    pub fn namespaced(&self) -> impl Iterator<Item = (&PolicyName, &Arc<Policy>)> {
        self.policies.iter().filter(|(_, p)| p.tier == Tier::Namespaced)
    }
}
