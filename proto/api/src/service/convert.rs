//! From the kinds of services to the domain and back, at the border.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use slicewire_core::name::ClusterName;
use slicewire_core::prefix::Family;
use slicewire_core::service::endpoints::{self, RawEndpoint};
use slicewire_core::service::merge::Conflict;
use slicewire_core::service::spec::{self, MAX_WEIGHT, RawExport, RawPort, RawService};
use slicewire_core::service::{
    Affinity, Endpoint, Export, Import, InternalTraffic, Kind, Port, ServiceName,
};
use slicewire_core::violation::Violation;

use super::{
    ReportedService, ServiceCluster, ServiceConflict, ServiceEndpoint, ServicePlan, ServicePort,
    ServiceShape,
};

/// A service as a node uses it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedService {
    /// Its name.
    pub name: ServiceName,
    /// Some cluster exports it.
    pub exported: bool,
    /// How it is reached.
    pub import: Import,
    /// Its virtual addresses.
    pub addresses: Vec<IpAddr>,
    /// What is behind it.
    pub endpoints: BTreeMap<ClusterName, Vec<Endpoint>>,
}

impl ServiceShape {
    /// As a cluster tells it.
    pub fn of_export(export: &Export) -> Self {
        let Export { kind, ports, affinity, internal_traffic, distribution, .. } = export;
        Self {
            headless: *kind == Kind::Headless,
            ports: ports.iter().map(port_into).collect(),
            affinity_seconds: seconds(*affinity),
            internal_traffic_local: *internal_traffic == InternalTraffic::Local,
            traffic_distribution: distribution.clone(),
            ip_families: families_into(&export.families),
            labels: export.labels.clone(),
            annotations: export.annotations.clone(),
        }
    }

    /// As a cluster uses it.
    pub fn of_planned(planned: &PlannedService) -> Self {
        Self::of_import(&planned.import)
    }

    fn of_import(import: &Import) -> Self {
        Self::of_export(&Export {
            created: 0,
            kind: import.kind,
            ports: import.ports.clone(),
            affinity: import.affinity,
            internal_traffic: import.internal_traffic,
            distribution: import.distribution.clone(),
            families: import.families.clone(),
            labels: import.labels.clone(),
            annotations: import.annotations.clone(),
            weight: None,
            no_weight: None,
        })
    }

    fn raw(&self, created: i64, weight: Option<i32>) -> RawExport {
        let port = |p: &ServicePort| RawPort {
            name: p.name.clone(),
            protocol: p.protocol.clone(),
            port: p.port,
            app_protocol: p.app_protocol.clone(),
        };
        let word = |is: bool, text: &str| if is { text.to_owned() } else { String::new() };
        let service = RawService {
            service_type: String::new(),
            cluster_ip: word(self.headless, "None"),
            ports: self.ports.iter().map(port).collect(),
            session_affinity: word(self.affinity_seconds.is_some(), "ClientIP"),
            affinity_timeout: self.affinity_seconds,
            internal_traffic: word(self.internal_traffic_local, "Local"),
            distribution: self.traffic_distribution.clone(),
            families: self.ip_families.clone(),
        };
        RawExport {
            created,
            service: Some(service),
            labels: self.labels.clone(),
            annotations: self.annotations.clone(),
            weight: weight.map(|weight| weight.to_string()),
        }
    }
}

impl ReportedService {
    /// The Service, checked.
    ///
    /// # Errors
    /// Every fault.
    pub fn export(&self) -> Result<Export, Vec<Violation>> {
        let export = spec::parse(&self.shape.raw(self.created, self.weight))?;
        // Clusters send numbers that they have checked themselves.
        match export.no_weight {
            Some(fault) => Err(vec![fault]),
            None => Ok(export),
        }
    }

    /// The pods behind it that can be believed, of a cluster that holds `pools`, and why others
    /// cannot.
    pub fn believed(&self, pools: &[IpNet]) -> (Vec<Endpoint>, Vec<Violation>) {
        let raw: Vec<RawEndpoint> = self.endpoints.iter().map(raw_endpoint).collect();
        endpoints::parse(&raw, pools)
    }
}

impl ServiceEndpoint {
    /// As it is told.
    pub fn of(endpoint: &Endpoint) -> Self {
        let port = |((protocol, name), number): (&(_, String), &u16)| {
            let protocol: &slicewire_core::service::Protocol = protocol;
            format!("{}/{name}={number}", protocol.as_str())
        };
        Self {
            addresses: endpoint.addresses.iter().map(IpAddr::to_string).collect(),
            ports: endpoint.ports.iter().map(port).collect(),
            hostname: endpoint.hostname.clone().unwrap_or_default(),
            node: endpoint.node.clone().unwrap_or_default(),
            zone: endpoint.zone.as_deref().unwrap_or_default().to_owned(),
            ready: endpoint.ready,
            serving: endpoint.serving,
            terminating: endpoint.terminating,
        }
    }
}

impl From<&Conflict> for ServiceConflict {
    fn from(conflict: &Conflict) -> Self {
        Self {
            reason: conflict.reason.as_str().to_owned(),
            clusters: conflict.clusters.iter().map(ToString::to_string).collect(),
            message: conflict.message.clone(),
        }
    }
}

/// A service as clusters are told it.
pub fn plan_into(planned: &PlannedService) -> ServicePlan {
    let cluster = |(name, endpoints): (&ClusterName, &Vec<Endpoint>)| ServiceCluster {
        cluster: name.to_string(),
        endpoints: endpoints.iter().map(ServiceEndpoint::of).collect(),
        weight: planned.import.weights.get(name).copied().map(i32::from),
    };
    ServicePlan {
        namespace: planned.name.namespace.clone(),
        name: planned.name.name.clone(),
        exported: planned.exported,
        ips: planned.addresses.iter().map(IpAddr::to_string).collect(),
        shape: ServiceShape::of_import(&planned.import),
        clusters: planned.endpoints.iter().map(cluster).collect(),
    }
}

/// A service out of what a cluster is told, on a slice of these prefixes.
///
/// # Errors
/// Every fault of the service itself. Endpoints that cannot be are left out.
pub fn plan_from(plan: &ServicePlan, prefixes: &[IpNet]) -> Result<PlannedService, Vec<Violation>> {
    let export = spec::parse(&plan.shape.raw(0, None))?;
    let (mut endpoints, mut weights) = (BTreeMap::new(), BTreeMap::new());
    for part in &plan.clusters {
        let Ok(cluster) = ClusterName::parse(&part.cluster) else { continue };
        let raw: Vec<RawEndpoint> = part.endpoints.iter().map(raw_endpoint).collect();
        if let Some(weight) = part.weight {
            // No API server takes another one.
            let weight = u16::try_from(weight.max(0)).unwrap_or(MAX_WEIGHT).min(MAX_WEIGHT);
            weights.insert(cluster.clone(), weight);
        }
        endpoints.insert(cluster, endpoints::parse(&raw, prefixes).0);
    }
    let inside = |a: &IpAddr| prefixes.iter().any(|p| p.contains(a));
    let addresses = plan.ips.iter().filter_map(|ip| ip.parse().ok()).filter(inside);
    Ok(PlannedService {
        name: ServiceName::new(&plan.namespace, &plan.name),
        exported: plan.exported,
        addresses: addresses.collect(),
        import: Import {
            kind: export.kind,
            ports: export.ports,
            affinity: export.affinity,
            internal_traffic: export.internal_traffic,
            distribution: export.distribution,
            families: export.families,
            labels: export.labels,
            annotations: export.annotations,
            clusters: endpoints.keys().cloned().collect(),
            weights,
        },
        endpoints,
    })
}

fn raw_endpoint(from: &ServiceEndpoint) -> RawEndpoint {
    RawEndpoint {
        addresses: from.addresses.clone(),
        ports: from.ports.iter().map(|text| raw_port(text)).collect(),
        hostname: from.hostname.clone(),
        node: from.node.clone(),
        zone: from.zone.clone(),
        ready: from.ready,
        serving: from.serving,
        terminating: from.terminating,
    }
}

/// What is no port is one with number 0, which is refused later on.
fn raw_port(text: &str) -> (String, String, i32) {
    let parts = text.split_once('/').and_then(|(p, rest)| Some((p, rest.split_once('=')?)));
    let (protocol, (name, number)) = parts.unwrap_or((text, ("", "0")));
    (name.to_owned(), protocol.to_owned(), number.parse().unwrap_or_default())
}

fn port_into(port: &Port) -> ServicePort {
    ServicePort {
        name: port.name.clone(),
        protocol: port.protocol.as_str().to_owned(),
        port: i32::from(port.port),
        app_protocol: port.app_protocol.clone(),
    }
}

fn seconds(affinity: Affinity) -> Option<i32> {
    match affinity {
        Affinity::None => None,
        Affinity::ClientIp { timeout } => i32::try_from(timeout).ok(),
    }
}

/// Families as Kubernetes spells them.
fn families_into(families: &BTreeSet<Family>) -> Vec<String> {
    let word = |family: &Family| match family {
        Family::V4 => "IPv4".to_owned(),
        Family::V6 => "IPv6".to_owned(),
    };
    families.iter().map(word).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reported() -> ReportedService {
        ReportedService {
            namespace: "shop".into(),
            name: "web".into(),
            exported: true,
            created: 7,
            shape: ServiceShape {
                ports: vec![ServicePort {
                    name: "http".into(),
                    protocol: "TCP".into(),
                    port: 80,
                    app_protocol: Some("kubernetes.io/h2c".into()),
                }],
                affinity_seconds: Some(60),
                internal_traffic_local: true,
                traffic_distribution: Some("PreferSameZone".into()),
                ip_families: vec!["IPv4".into()],
                labels: [("team".to_owned(), "a".to_owned())].into(),
                ..ServiceShape::default()
            },
            endpoints: vec![ServiceEndpoint {
                addresses: vec!["10.77.0.5".into()],
                ports: vec!["TCP/http=8080".into()],
                hostname: "web-0".into(),
                node: "n1".into(),
                zone: "eu-1a".into(),
                ready: true,
                serving: true,
                terminating: false,
            }],
            weight: Some(40),
        }
    }

    #[test]
    fn what_is_told_comes_back_as_it_was() {
        let (said, pools) = (reported(), ["10.77.0.0/16".parse().unwrap()]);
        let export = said.export().unwrap();
        assert_eq!((export.created, export.affinity), (7, Affinity::ClientIp { timeout: 60 }));
        assert_eq!(export.weight, Some(40));
        assert_eq!(ServiceShape::of_export(&export), said.shape);
        let (endpoints, faults) = said.believed(&pools);
        assert_eq!(faults, []);
        assert_eq!(endpoints.iter().map(ServiceEndpoint::of).collect::<Vec<_>>(), said.endpoints);
        let plan = ServicePlan {
            namespace: said.namespace,
            name: said.name,
            exported: true,
            ips: vec!["10.77.240.9".into()],
            shape: said.shape,
            clusters: vec![ServiceCluster {
                cluster: "west".into(),
                endpoints: said.endpoints,
                weight: said.weight,
            }],
        };
        assert_eq!(plan_into(&plan_from(&plan, &pools).unwrap()), plan);
    }

    #[test]
    fn ports_that_are_none_and_foreign_addresses_are_left_out_with_their_endpoint() {
        let pools = ["10.77.0.0/16".parse().unwrap()];
        for port in ["", "TCP", "TCP/http", "TCP/http=x", "GRE/=1", "TCP/=70000"] {
            let mut said = reported();
            said.endpoints[0].ports = vec![port.into()];
            assert_eq!(said.believed(&pools).1[0].reason, "PortNumber", "{port}");
        }
        let mut said = reported();
        said.endpoints[0].addresses = vec!["10.78.0.5".into()];
        assert_eq!(said.believed(&pools).1[0].reason, "ForeignAddress");
    }
}
