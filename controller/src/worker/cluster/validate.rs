//! The prefixes this cluster uses itself.

use ipnet::IpNet;
use slicewire_api::cluster_dns::own_prefixes;

use super::observe::Observed;

/// Prefixes of pods and services, joined where they touch.
pub(super) fn validate(observed: &Observed) -> Vec<IpNet> {
    own_prefixes(observed.nodes.iter().map(|n| &**n), observed.services.iter().map(|s| &**s))
}
