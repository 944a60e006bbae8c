//! The prefixes this cluster uses itself.

use ipnet::IpNet;

use super::observe::Observed;

/// Prefixes of pods and services, joined where they touch. What is no prefix is none.
pub(super) fn validate(observed: &Observed) -> Vec<IpNet> {
    let pods = observed.nodes.iter().filter_map(|n| n.spec.as_ref()).flat_map(|s| {
        let list = s.pod_cidrs.clone().unwrap_or_default();
        if list.is_empty() { s.pod_cidr.iter().cloned().collect() } else { list }
    });
    let services = observed
        .services
        .iter()
        .filter_map(|s| s.spec.as_ref())
        .flat_map(|s| s.cidrs.clone().unwrap_or_default());
    let nets: Vec<IpNet> = pods.chain(services).filter_map(|p| p.parse().ok()).collect();
    let mut joined = IpNet::aggregate(&nets);
    joined.sort_unstable();
    joined
}
