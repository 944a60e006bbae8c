//! A service of a slice → the standard's objects: one ServiceImport, and an EndpointSlice for every
//! hundred endpoints of a cluster and family.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::discovery::v1::{
    Endpoint as ApiEndpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice,
    ForNode, ForZone,
};
use kube::api::ObjectMeta;
use slicewire_api::mcs::{
    ImportAffinity, ImportClientIp, ImportCluster, ImportPort, ImportType, SERVICE_NAME,
    SOURCE_CLUSTER, ServiceImport, ServiceImportSpec, ServiceImportStatus,
};
use slicewire_api::{PlannedService, ServiceShape, Slice};
use slicewire_core::name::{ClusterName, fnv1a};
use slicewire_core::prefix::Family;
use slicewire_core::service::near::{Ring, rings};
use slicewire_core::service::{Affinity, Endpoint, InternalTraffic, Kind, Protocol};

use crate::worker::policy::meta;

/// On what we make: the name of the hub's object it is made of.
pub(super) const MADE_OF: &str = "slicewire.dev/made-of";
/// Names who keeps an EndpointSlice.
const KEPT_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// Most endpoints of an EndpointSlice, as Kubernetes' own have.
const MAX_ENDPOINTS: usize = 100;

/// The ServiceImport.
pub(super) fn import(slice: &Slice, planned: &PlannedService, made_of: &str) -> ServiceImport {
    let import = &planned.import;
    let shape = ServiceShape::of_planned(planned);
    let port = |p: &slicewire_api::ServicePort| ImportPort {
        name: Some(p.name.clone()).filter(|n| !n.is_empty()),
        protocol: Some(p.protocol.clone()),
        app_protocol: p.app_protocol.clone(),
        port: p.port,
    };
    let sticky = matches!(import.affinity, Affinity::ClientIp { .. });
    let local = import.internal_traffic == InternalTraffic::Local;
    let headless = import.kind == Kind::Headless;
    let spec = ServiceImportSpec {
        ports: shape.ports.iter().map(port).collect(),
        ips: planned.addresses.iter().map(IpAddr::to_string).collect(),
        type_: if headless { ImportType::Headless } else { ImportType::ClusterSetIp },
        session_affinity: Some(if sticky { "ClientIP" } else { "None" }.to_owned()),
        session_affinity_config: shape.affinity_seconds.map(|seconds| ImportAffinity {
            client_ip: Some(ImportClientIp { timeout_seconds: Some(seconds) }),
        }),
        ip_families: shape.ip_families,
        internal_traffic_policy: Some(if local { "Local" } else { "Cluster" }.to_owned()),
        traffic_distribution: shape.traffic_distribution,
    };
    let mut object = ServiceImport::new(&planned.name.name, spec);
    object.metadata = marked(slice, planned, made_of, planned.name.name.clone());
    let labels = object.metadata.labels.get_or_insert_default();
    // What is exported never replaces the marks of ours.
    for (key, value) in &import.labels {
        labels.entry(key.clone()).or_insert_with(|| value.clone());
    }
    let annotations = object.metadata.annotations.get_or_insert_default();
    for (key, value) in &import.annotations {
        annotations.entry(key.clone()).or_insert_with(|| value.clone());
    }
    object
}

/// Its status: who exports it.
pub(super) fn status(there: &ServiceImport, planned: &PlannedService) -> ServiceImportStatus {
    let clusters = planned.import.clusters.iter();
    let clusters = clusters.map(|c| ImportCluster { cluster: c.to_string() }).collect();
    let conditions = there.status.clone().unwrap_or_default().conditions;
    ServiceImportStatus { clusters, conditions }
}

fn marked(slice: &Slice, planned: &PlannedService, made_of: &str, name: String) -> ObjectMeta {
    let mut meta = meta(&planned.name.namespace, slice, name);
    meta.annotations = Some([(MADE_OF.to_owned(), made_of.to_owned())].into());
    meta
}

/// The EndpointSlices. Endpoints of one cluster may have different numbers of a named port, and those
/// of one EndpointSlice have the same.
pub(super) fn slices(slice: &Slice, planned: &PlannedService, made_of: &str) -> Vec<EndpointSlice> {
    let mut all = Vec::new();
    let near = rings(planned.import.distribution.as_deref());
    for (cluster, endpoints) in &planned.endpoints {
        let near = if cluster.as_str() == slice.spec.cluster { near } else { &[] };
        for family in [Family::V4, Family::V6] {
            let mut alike: BTreeMap<&BTreeMap<(Protocol, String), u16>, Vec<ApiEndpoint>> =
                BTreeMap::new();
            for endpoint in endpoints {
                let of = |a: &&IpAddr| Family::of_addr(a) == family;
                if let Some(address) = endpoint.addresses.iter().find(of) {
                    alike.entry(&endpoint.ports).or_default().push(api(endpoint, address, near));
                }
            }
            let parts = alike
                .iter()
                .flat_map(|(ports, all)| all.chunks(MAX_ENDPOINTS).map(move |part| (*ports, part)));
            for (number, (ports, part)) in parts.enumerate() {
                let place = (cluster, family, number);
                all.push(one(slice, planned, made_of, place, ports, part));
            }
        }
    }
    all
}

fn one(
    slice: &Slice,
    planned: &PlannedService,
    made_of: &str,
    (cluster, family, number): (&ClusterName, Family, usize),
    ports: &BTreeMap<(Protocol, String), u16>,
    endpoints: &[ApiEndpoint],
) -> EndpointSlice {
    let kind = if family == Family::V4 { "IPv4" } else { "IPv6" };
    let hash = fnv1a(&[made_of, cluster.as_str(), kind, &number.to_string()]);
    let mut metadata =
        marked(slice, planned, made_of, format!("{}-{hash:016x}", planned.name.name));
    let labels = metadata.labels.get_or_insert_default();
    labels.insert(SERVICE_NAME.to_owned(), planned.name.name.clone());
    labels.insert(SOURCE_CLUSTER.to_owned(), cluster.to_string());
    labels.insert(KEPT_BY.to_owned(), "slicewire.dev".to_owned());
    if planned.import.kind == Kind::Headless {
        labels.insert("service.kubernetes.io/headless".to_owned(), String::new());
    }
    let port = |((protocol, name), number): (&(Protocol, String), &u16)| EndpointPort {
        app_protocol: None,
        name: Some(name.clone()),
        port: Some(i32::from(*number)),
        protocol: Some(protocol.as_str().to_owned()),
    };
    EndpointSlice {
        address_type: kind.to_owned(),
        endpoints: endpoints.to_vec(),
        metadata,
        ports: Some(ports.iter().map(port).collect()),
    }
}

fn api(endpoint: &Endpoint, address: &IpAddr, near: &[Ring]) -> ApiEndpoint {
    ApiEndpoint {
        addresses: vec![address.to_string()],
        conditions: Some(EndpointConditions {
            ready: Some(endpoint.ready),
            serving: Some(endpoint.serving),
            terminating: Some(endpoint.terminating),
        }),
        hostname: endpoint.hostname.clone(),
        zone: endpoint.zone.as_deref().map(str::to_owned),
        hints: hints(endpoint, near),
        ..ApiEndpoint::default()
    }
}

/// Who is to prefer an endpoint of this cluster, as Kubernetes' own EndpointSlices say it; nobody is to
/// prefer others, whose nodes and zones may have the names of our own.
fn hints(endpoint: &Endpoint, near: &[Ring]) -> Option<EndpointHints> {
    let name = |ring, name: Option<&str>| {
        name.filter(|_| endpoint.ready && near.contains(&ring)).map(str::to_owned)
    };
    let zone = name(Ring::Zone, endpoint.zone.as_deref()).map(|name| vec![ForZone { name }]);
    let node = name(Ring::Node, endpoint.node.as_deref()).map(|name| vec![ForNode { name }]);
    (zone.is_some() || node.is_some()).then_some(EndpointHints { for_nodes: node, for_zones: zone })
}
