//! What a cluster's own DNS has to know of slices, from what the cluster's API server has.

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::networking::v1::ServiceCIDR;
use slicewire_core::dns::corefile::Wanted;

use crate::Slice;

/// Where CoreDNS is in clusters that are made in the usual ways.
pub const PLACE: &str = "kube-system";
/// What its ConfigMap is called there, and its Deployment.
pub const NAME: &str = "coredns";
/// The ConfigMap's entry.
pub const ENTRY: &str = "Corefile";
/// The Service that leads to the nodes' DNS servers.
pub const SERVICE: &str = "slicewire-dns";

/// What CoreDNS is to ask for: names of these slices, at that Service. A slice that is being deleted
/// has no names any more.
pub fn wanted<'a>(
    service: &Service,
    slices: impl IntoIterator<Item = &'a Slice>,
    own: Vec<IpNet>,
) -> Wanted {
    let ips = service.spec.iter().flat_map(|s| s.cluster_ips.iter().flatten());
    let slices = slices.into_iter().filter(|s| s.metadata.deletion_timestamp.is_none());
    Wanted {
        servers: ips.filter_map(|ip| ip.parse().ok()).collect(),
        prefixes: slices
            .flat_map(|s| &s.spec.prefixes)
            .filter_map(|p| p.parse::<IpNet>().ok())
            .map(|net| net.trunc())
            .collect(),
        own,
    }
}

/// The prefixes that a cluster uses itself: of its pods and services, joined where they touch. What is
/// no prefix is none; clusters need not tell either.
pub fn own_prefixes<'a>(
    nodes: impl IntoIterator<Item = &'a Node>,
    services: impl IntoIterator<Item = &'a ServiceCIDR>,
) -> Vec<IpNet> {
    let pods = nodes.into_iter().filter_map(|n| n.spec.as_ref()).flat_map(|s| {
        let list = s.pod_cidrs.clone().unwrap_or_default();
        if list.is_empty() { s.pod_cidr.iter().cloned().collect() } else { list }
    });
    let services = services
        .into_iter()
        .filter_map(|s| s.spec.as_ref())
        .flat_map(|s| s.cidrs.clone().unwrap_or_default());
    let nets: Vec<IpNet> = pods.chain(services).filter_map(|p| p.parse().ok()).collect();
    let mut joined = IpNet::aggregate(&nets);
    joined.sort_unstable();
    joined
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_the_cluster_has_becomes_what_its_dns_is_to_know() {
        let service = json!({"spec": {"clusterIPs": ["10.96.0.9", "None"]}});
        let service: Service = serde_json::from_value(service).unwrap();
        let nodes = json!([
            {"spec": {"podCIDR": "10.200.0.0/24", "podCIDRs": ["10.200.0.0/24", "fd20::/64"]}},
            {"spec": {"podCIDR": "10.200.1.0/24"}},
            {},
        ]);
        let nodes: Vec<Node> = serde_json::from_value(nodes).unwrap();
        let cidrs = json!([{"spec": {"cidrs": ["10.96.0.0/12"]}}]);
        let cidrs: Vec<ServiceCIDR> = serde_json::from_value(cidrs).unwrap();
        let slice = |name: &str, prefixes: &[&str]| {
            let prefixes = prefixes.iter().map(|p| (*p).to_owned()).collect();
            Slice::new(name, crate::SliceSpec { prefixes, ..Default::default() })
        };
        let mut ending = slice("red", &["10.78.0.0/16"]);
        ending.metadata.deletion_timestamp =
            Some(serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap());
        let slices = [slice("blue", &["10.77.0.0/16", "rubbish"]), ending];
        let own = own_prefixes(&nodes, &cidrs);
        let texts: Vec<String> = own.iter().map(IpNet::to_string).collect();
        assert_eq!(texts, ["10.96.0.0/12", "10.200.0.0/23", "fd20::/64"]);
        let got = wanted(&service, &slices, own.clone());
        let prefixes = [("10.77.0.0/16").parse().unwrap()].into();
        assert_eq!(got, Wanted { servers: vec!["10.96.0.9".parse().unwrap()], prefixes, own });
    }
}
