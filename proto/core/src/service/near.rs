//! Which endpoints a Service wants to be preferred because they are near: `trafficDistribution`, as
//! Kubernetes has it (KEP-3015).

use super::balance::Here;
use super::model::Endpoint;

/// How near an endpoint is to a client of its own cluster. Zones of clusters need not be the same places
/// where they have the same name, and other clusters' nodes are never near.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ring {
    /// On the client's node.
    Node,
    /// In the client's zone: its node's `topology.kubernetes.io/zone`.
    Zone,
}

/// The rings that a `trafficDistribution` prefers, the nearest first; none of those that it does not
/// name. Values that are not Kubernetes' are other implementations' and prefer nothing.
pub fn rings(distribution: Option<&str>) -> &'static [Ring] {
    match distribution {
        Some("PreferSameNode") => &[Ring::Node, Ring::Zone],
        Some("PreferSameZone" | "PreferClose") => &[Ring::Zone],
        _ => &[],
    }
}

impl Ring {
    /// Whether an endpoint of the client's own cluster is in it. Who has no zone shares none.
    pub fn has(self, endpoint: &Endpoint, here: &Here<'_>) -> bool {
        match self {
            Self::Node => endpoint.node.as_deref() == Some(here.node),
            Self::Zone => here.zone.is_some() && endpoint.zone.as_deref() == here.zone,
        }
    }
}
