//! What is exported and imported, as plain values.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use crate::name::ClusterName;
use crate::prefix::Family;
use crate::violation::Violation;

/// A Service's namespace and name: the same ones mean the same service in every cluster of a slice.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceName {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
}

impl ServiceName {
    /// A service's name, of parts that are known to be DNS labels.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Transport protocols a Service's port can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// As Kubernetes spells it: `TCP`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        }
    }

    /// As DNS spells it in names of SRV records, without the underscore: `tcp`.
    pub fn label(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// A port of a service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    /// Its name, unique in the service; may be empty when there is only one.
    pub name: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// The port clients use.
    pub port: u16,
    /// What is spoken there, a hint: `kubernetes.io/h2c`.
    pub app_protocol: Option<String>,
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.name.is_empty() {
            write!(f, "{} ", self.name)?;
        }
        write!(f, "{}/{}", self.port, self.protocol.as_str())?;
        self.app_protocol.as_ref().map_or(Ok(()), |spoken| write!(f, " ({spoken})"))
    }
}

/// How a service is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// By a virtual address.
    ClusterSetIp,
    /// By the addresses of its endpoints.
    Headless,
}

impl Kind {
    /// As `ServiceImport.spec.type` spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ClusterSetIp => "ClusterSetIP",
            Self::Headless => "Headless",
        }
    }
}

/// Whether a client stays with its endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Affinity {
    /// Every connection chooses anew.
    None,
    /// A client address stays with its endpoint until it was silent for so many seconds.
    ClientIp {
        /// Seconds, 1 to 86,400.
        timeout: u32,
    },
}

/// Which endpoints may be used by the pods of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum InternalTraffic {
    /// All of them.
    Cluster,
    /// Those on the same node, and nothing else.
    Local,
}

/// What one cluster exports of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Export {
    /// When the ServiceExport was made, seconds since 1970: the oldest wins conflicts.
    pub created: i64,
    /// How it is reached.
    pub kind: Kind,
    /// Its ports: unique in their names, and in protocol and number.
    pub ports: Vec<Port>,
    /// Whether clients stay with their endpoint.
    pub affinity: Affinity,
    /// Which endpoints a node's pods may use.
    pub internal_traffic: InternalTraffic,
    /// `trafficDistribution`, where the Service has one.
    pub distribution: Option<String>,
    /// Families the Service has, never empty.
    pub families: BTreeSet<Family>,
    /// `exportedLabels`.
    pub labels: BTreeMap<String, String>,
    /// `exportedAnnotations`.
    pub annotations: BTreeMap<String, String>,
    /// How much each of the cluster's endpoints counts, where the export says it, instead of what the
    /// slice says of the cluster; 0 sends nobody there.
    pub weight: Option<u16>,
    /// Why what the export says of the weight cannot be: then the slice's word counts, and the service
    /// stays where it is.
    pub no_weight: Option<Violation>,
}

/// A service as every cluster of the slice imports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Import {
    /// How it is reached.
    pub kind: Kind,
    /// The union of the exports' ports, in the order of the exports' age.
    pub ports: Vec<Port>,
    /// Whether clients stay with their endpoint.
    pub affinity: Affinity,
    /// Which endpoints a node's pods may use.
    pub internal_traffic: InternalTraffic,
    /// `trafficDistribution`.
    pub distribution: Option<String>,
    /// Families it gets a virtual address of.
    pub families: BTreeSet<Family>,
    /// Labels of the ServiceImport.
    pub labels: BTreeMap<String, String>,
    /// Annotations of the ServiceImport.
    pub annotations: BTreeMap<String, String>,
    /// Who exports it.
    pub clusters: BTreeSet<ClusterName>,
    /// How much an endpoint counts, of clusters whose export says it.
    pub weights: BTreeMap<ClusterName, u16>,
}

/// The numbers of a service's ports on a pod, by protocol and the port's name. Nearly all pods of a
/// service have the same, and they share them.
pub type Numbers = Arc<BTreeMap<(Protocol, String), u16>>;

/// A pod behind a service.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// Its slice addresses: at most one of each family.
    pub addresses: Vec<IpAddr>,
    /// The numbers of the service's ports on this pod.
    pub ports: Numbers,
    /// Its `hostname`: a pod's of a StatefulSet.
    pub hostname: Option<String>,
    /// The node it runs on.
    pub node: Option<String>,
    /// The zone of that node. Very many have the same, and those of a service share it.
    pub zone: Option<Arc<str>>,
    /// It can be sent new connections.
    pub ready: bool,
    /// It still serves, be it that it is terminating.
    pub serving: bool,
    /// It is being deleted.
    pub terminating: bool,
}

impl Endpoint {
    /// The name it has below its service: its `hostname`, else its first address with dashes.
    pub fn host(&self) -> Option<String> {
        let dashed = |address: &IpAddr| {
            let text = address.to_string().replace(['.', ':'], "-");
            // Labels neither begin nor end with a dash (RFC 1123, section 2.1), as `::` would.
            let before = if text.starts_with('-') { "0" } else { "" };
            let after = if text.ends_with('-') { "0" } else { "" };
            format!("{before}{text}{after}")
        };
        self.hostname.clone().or_else(|| self.addresses.first().map(dashed))
    }
}
