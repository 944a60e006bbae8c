//! Services and EndpointSlices as Kubernetes has them → the domain.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint as ApiEndpoint, EndpointSlice};
use kube::ResourceExt;
use slicewire_api::SliceNode;
use slicewire_core::selector::is_label_value;
use slicewire_core::service::endpoints::MAX_ENDPOINTS;
use slicewire_core::service::spec::{RawExport, RawPort, RawService, protocol};
use slicewire_core::service::{Endpoint, Protocol};

use super::standard::ServiceExport;

/// On a Service, as a label or an annotation: `"true"` gives it a slice address and name.
pub(super) const EXPOSE: &str = "slicewire.dev/expose";

/// On a ServiceExport, as an annotation: how much each endpoint of this cluster counts.
const WEIGHT: &str = "slicewire.dev/weight";

/// Whether a Service is to be reached on its slices in this cluster.
pub(super) fn exposed(service: &Service) -> bool {
    let says = |map: &BTreeMap<String, String>| map.get(EXPOSE).is_some_and(|v| v == "true");
    says(service.labels()) || says(service.annotations())
}

/// An export as it was written; with no ServiceExport, of a Service that is exposed.
pub(super) fn raw(export: Option<&ServiceExport>, service: Option<&Service>) -> RawExport {
    let meta = export.map(|e| &e.metadata).or(service.map(|s| &s.metadata));
    let created = meta.and_then(|m| m.creation_timestamp.as_ref());
    RawExport {
        created: created.map_or(0, |time| time.0.as_second()),
        service: service.map(raw_service),
        labels: export.map(|e| e.spec.exported_labels.clone()).unwrap_or_default(),
        annotations: export.map(|e| e.spec.exported_annotations.clone()).unwrap_or_default(),
        weight: export.and_then(|e| e.annotations().get(WEIGHT).cloned()),
    }
}

fn raw_service(service: &Service) -> RawService {
    let Some(spec) = service.spec.clone() else { return RawService::default() };
    let affinity = spec.session_affinity_config.and_then(|c| c.client_ip);
    let port = |p: &k8s_openapi::api::core::v1::ServicePort| RawPort {
        name: p.name.clone().unwrap_or_default(),
        protocol: p.protocol.clone().unwrap_or_default(),
        port: p.port,
        app_protocol: p.app_protocol.clone(),
    };
    RawService {
        service_type: spec.type_.unwrap_or_default(),
        cluster_ip: spec.cluster_ip.unwrap_or_default(),
        ports: spec.ports.iter().flatten().map(port).collect(),
        session_affinity: spec.session_affinity.unwrap_or_default(),
        affinity_timeout: affinity.and_then(|c| c.timeout_seconds),
        internal_traffic: spec.internal_traffic_policy.unwrap_or_default(),
        distribution: spec.traffic_distribution,
        families: spec.ip_families.unwrap_or_default(),
    }
}

/// The pods behind a Service that are on a slice, with their addresses there; in the order of their
/// names. Pods that have no NIC on the slice are none of them.
pub(super) fn endpoints(
    slices: &[Arc<EndpointSlice>],
    nodes: &[Arc<SliceNode>],
    namespace: &str,
) -> Vec<Endpoint> {
    let mut pods: BTreeMap<(String, String), Endpoint> = BTreeMap::new();
    for slice in slices.iter().filter(|s| s.metadata.deletion_timestamp.is_none()) {
        let numbers = numbers(slice);
        for endpoint in &slice.endpoints {
            let Some((pod, node)) = pod_of(endpoint) else { continue };
            let Some(addresses) = addresses(nodes, namespace, &pod, &node) else { continue };
            let conditions = endpoint.conditions.clone().unwrap_or_default();
            let ready = conditions.ready.unwrap_or(true);
            // A pod of two families is in a slice of each.
            let known = pods.entry((pod, node.clone())).or_insert_with(|| Endpoint {
                addresses,
                hostname: endpoint.hostname.clone(),
                node: Some(node),
                zone: endpoint
                    .zone
                    .as_deref()
                    .filter(|z| !z.is_empty() && is_label_value(z))
                    .map(Into::into),
                ready,
                serving: conditions.serving.unwrap_or(ready),
                terminating: conditions.terminating.unwrap_or(false),
                ..Endpoint::default()
            });
            Arc::make_mut(&mut known.ports).extend(numbers.clone());
        }
    }
    pods.into_values().take(MAX_ENDPOINTS).collect()
}

fn numbers(slice: &EndpointSlice) -> BTreeMap<(Protocol, String), u16> {
    let ports = slice.ports.iter().flatten().filter_map(|port| {
        let protocol = protocol(port.protocol.as_deref().unwrap_or_default())?;
        let number = u16::try_from(port.port?).ok()?;
        Some(((protocol, port.name.clone().unwrap_or_default()), number))
    });
    ports.collect()
}

fn pod_of(endpoint: &ApiEndpoint) -> Option<(String, String)> {
    let target = endpoint.target_ref.as_ref().filter(|t| t.kind.as_deref() == Some("Pod"))?;
    Some((target.name.clone()?, endpoint.node_name.clone()?))
}

fn addresses(
    nodes: &[Arc<SliceNode>],
    namespace: &str,
    pod: &str,
    node: &str,
) -> Option<Vec<IpAddr>> {
    let here = nodes.iter().filter(|n| n.spec.node == node);
    let mut nics = here.filter_map(|n| n.status.as_ref()).flat_map(|s| &s.nics);
    let nic = nics.find(|nic| nic.namespace == namespace && nic.pod == pod)?;
    let addresses: Vec<IpAddr> = nic.addresses.iter().filter_map(|a| a.parse().ok()).collect();
    (!addresses.is_empty()).then_some(addresses)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ObjectReference;
    use k8s_openapi::api::discovery::v1::{EndpointConditions, EndpointPort};
    use slicewire_api::{Nic, SliceNodeSpec, SliceNodeStatus};

    use super::*;

    fn node(name: &str, pods: &[(&str, &str)]) -> Arc<SliceNode> {
        let spec = SliceNodeSpec { slice: "blue".into(), node: name.into(), blocks: vec![] };
        let mut node = SliceNode::new(name, spec);
        let nic = |(pod, address): &(&str, &str)| Nic {
            namespace: "shop".into(),
            pod: (*pod).into(),
            addresses: vec![(*address).into(), "fd77::5".into()],
            ..Nic::default()
        };
        let nics = pods.iter().map(nic).collect();
        node.status = Some(SliceNodeStatus { nics, ..SliceNodeStatus::default() });
        Arc::new(node)
    }

    fn slice(kind: &str, pods: &[(&str, &str)]) -> Arc<EndpointSlice> {
        let endpoint = |(pod, node): &(&str, &str)| ApiEndpoint {
            addresses: vec!["192.0.2.9".into()],
            conditions: Some(EndpointConditions { ready: Some(true), ..Default::default() }),
            node_name: Some((*node).into()),
            zone: Some("eu-1a".into()),
            target_ref: Some(ObjectReference {
                kind: Some("Pod".into()),
                name: Some((*pod).into()),
                ..ObjectReference::default()
            }),
            ..ApiEndpoint::default()
        };
        Arc::new(EndpointSlice {
            address_type: kind.into(),
            endpoints: pods.iter().map(endpoint).collect(),
            ports: Some(vec![EndpointPort {
                name: Some("http".into()),
                port: Some(8080),
                ..EndpointPort::default()
            }]),
            ..EndpointSlice::default()
        })
    }

    #[test]
    fn endpoints_carry_slice_addresses_once_a_pod() {
        let nodes = [node("n1", &[("a", "10.77.0.5")]), node("n2", &[("b", "10.77.0.9")])];
        let pods = [("a", "n1"), ("b", "n2"), ("not-on-the-slice", "n2")];
        let slices = [slice("IPv4", &pods), slice("IPv6", &pods)];
        let got = endpoints(&slices, &nodes, "shop");
        assert_eq!(got.len(), 2);
        assert_eq!(got[0].addresses[0].to_string(), "10.77.0.5");
        assert_eq!(got[0].ports[&(Protocol::Tcp, "http".into())], 8080);
        assert_eq!(got[0].zone.as_deref(), Some("eu-1a"));
        assert!(got[0].ready && got[0].serving && !got[0].terminating);
        assert_eq!(endpoints(&slices, &nodes, "other"), []);
    }

    #[test]
    fn a_pod_that_moved_has_the_address_of_the_node_it_is_on() {
        let nodes = [node("n1", &[("db-0", "10.77.0.5")]), node("n2", &[("db-0", "10.77.0.9")])];
        let got = endpoints(&[slice("IPv4", &[("db-0", "n2")])], &nodes, "shop");
        assert_eq!(got[0].addresses[0].to_string(), "10.77.0.9");
    }
}
