//! A Service that is to be exported, as a cluster tells it → [`Export`], or every fault.

use std::collections::{BTreeMap, BTreeSet};

use super::model::{Affinity, Export, InternalTraffic, Kind, Port, Protocol};
use crate::prefix::Family;
use crate::violation::Violation;

/// Most ports of an exported Service.
pub const MAX_PORTS: usize = 100;
/// Where an export says how much each of its cluster's endpoints counts.
const WEIGHT_FIELD: &str = "metadata.annotations[slicewire.dev/weight]";
/// Most exported labels, and most exported annotations.
pub const MAX_METADATA: usize = 64;
/// Most bytes of a label's or annotation's key and value together.
pub const MAX_METADATA_BYTES: usize = 4096;
/// Most that an endpoint may count.
pub const MAX_WEIGHT: u16 = 1000;
/// Session affinity ends after so many seconds unless the Service says otherwise, as in Kubernetes.
pub const DEFAULT_AFFINITY_TIMEOUT: u32 = 10_800;
/// Most seconds of session affinity, as in Kubernetes.
pub const MAX_AFFINITY_TIMEOUT: u32 = 86_400;

/// A ServiceExport and its Service as they were written.
#[derive(Debug, Clone, Default)]
pub struct RawExport {
    /// `metadata.creationTimestamp` of the ServiceExport, seconds since 1970.
    pub created: i64,
    /// The Service of the same namespace and name, if there is one.
    pub service: Option<RawService>,
    /// `spec.exportedLabels`.
    pub labels: BTreeMap<String, String>,
    /// `spec.exportedAnnotations`.
    pub annotations: BTreeMap<String, String>,
    /// The annotation `slicewire.dev/weight` of the ServiceExport.
    pub weight: Option<String>,
}

/// A Service's spec as it was written. Empty strings are Kubernetes' defaults.
#[derive(Debug, Clone, Default)]
pub struct RawService {
    /// `type`.
    pub service_type: String,
    /// `clusterIP`; `None` makes it headless.
    pub cluster_ip: String,
    /// `ports`.
    pub ports: Vec<RawPort>,
    /// `sessionAffinity`.
    pub session_affinity: String,
    /// `sessionAffinityConfig.clientIP.timeoutSeconds`.
    pub affinity_timeout: Option<i32>,
    /// `internalTrafficPolicy`.
    pub internal_traffic: String,
    /// `trafficDistribution`.
    pub distribution: Option<String>,
    /// `ipFamilies`.
    pub families: Vec<String>,
}

/// An element of `ports`.
#[derive(Debug, Clone, Default)]
pub struct RawPort {
    /// `name`.
    pub name: String,
    /// `protocol`.
    pub protocol: String,
    /// `port`.
    pub port: i32,
    /// `appProtocol`.
    pub app_protocol: Option<String>,
}

/// Checks an export. Fields are those of the Service, save for the exported labels and annotations and
/// the weight.
///
/// # Errors
/// Every fault; `NoService` and `InvalidServiceType` are the standard's words.
pub fn parse(raw: &RawExport) -> Result<Export, Vec<Violation>> {
    let mut faults = Vec::new();
    metadata("spec.exportedLabels", &raw.labels, &mut faults);
    metadata("spec.exportedAnnotations", &raw.annotations, &mut faults);
    let weight = raw.weight.as_deref().map(weight).transpose();
    let Some(service) = &raw.service else {
        let help = "there is no Service of this name in this namespace; create it, or delete the ServiceExport";
        faults.insert(0, Violation::new("metadata.name", "", "NoService", help));
        return Err(faults);
    };
    let kind = kind(service, &mut faults);
    let export = Export {
        created: raw.created,
        kind,
        ports: ports(service, kind, &mut faults),
        affinity: affinity(service, &mut faults),
        internal_traffic: internal_traffic(service, &mut faults),
        distribution: service.distribution.clone().filter(|d| !d.is_empty()),
        families: families(service, &mut faults),
        labels: raw.labels.clone(),
        annotations: raw.annotations.clone(),
        no_weight: weight.as_ref().err().cloned(),
        weight: weight.unwrap_or_default(),
    };
    if export.distribution.as_ref().is_some_and(|d| d.len() > 63) {
        let value = export.distribution.clone().unwrap_or_default();
        let help = "is longer than the 63 bytes that are accepted";
        faults.push(Violation::new("spec.trafficDistribution", value, "TrafficDistribution", help));
    }
    if faults.is_empty() { Ok(export) } else { Err(faults) }
}

/// Digits and nothing else: no sign, no spaces, no per cent.
fn weight(text: &str) -> Result<u16, Violation> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    let number = text.parse().ok().filter(|number| digits && *number <= MAX_WEIGHT);
    number.ok_or_else(|| {
        // Annotations may be as long as an object.
        let told: String = text.chars().take(64).collect();
        let help = format!(
            "must be a whole number from 0 to {MAX_WEIGHT}; mend the annotation of the ServiceExport, or take it away"
        );
        Violation::new(WEIGHT_FIELD, told, "WeightRange", help)
    })
}

fn kind(service: &RawService, faults: &mut Vec<Violation>) -> Kind {
    match service.service_type.as_str() {
        "" | "ClusterIP" | "NodePort" | "LoadBalancer" => {}
        other => faults.push(Violation::new(
            "spec.type",
            other,
            "InvalidServiceType",
            "cannot be exported: it has no endpoints of its own; export a Service of type ClusterIP, \
             NodePort or LoadBalancer, or make this one in every cluster",
        )),
    }
    if service.cluster_ip == "None" { Kind::Headless } else { Kind::ClusterSetIp }
}

fn ports(service: &RawService, kind: Kind, faults: &mut Vec<Violation>) -> Vec<Port> {
    let mut ports: Vec<Port> = Vec::new();
    if service.ports.is_empty() && kind == Kind::ClusterSetIp {
        let help = "is empty; a Service that is not headless needs a port";
        faults.push(Violation::new("spec.ports", "", "NoPort", help));
    }
    if service.ports.len() > MAX_PORTS {
        let help = format!("has {} ports; {MAX_PORTS} are accepted", service.ports.len());
        faults.push(Violation::new("spec.ports", "", "TooManyPorts", help));
    }
    for (i, raw) in service.ports.iter().take(MAX_PORTS).enumerate() {
        let field = format!("spec.ports[{i}]");
        let mut fault = |part: &str, value: &str, reason, help: String| {
            faults.push(Violation::new(format!("{field}.{part}"), value, reason, help));
        };
        let protocol = protocol(&raw.protocol);
        let number = u16::try_from(raw.port).ok().filter(|n| *n > 0);
        if protocol.is_none() {
            fault("protocol", &raw.protocol, "Protocol", "must be TCP, UDP or SCTP".to_owned());
        }
        if number.is_none() {
            fault("port", &raw.port.to_string(), "PortNumber", "is outside 1 to 65535".to_owned());
        }
        let well_named = raw.name.is_empty() && service.ports.len() == 1 || is_label(&raw.name);
        if !well_named {
            let help = "must be a DNS label of at most 63 bytes; it may be left out only where there is one port";
            fault("name", &raw.name, "PortName", help.to_owned());
        }
        if raw.app_protocol.as_ref().is_some_and(|a| a.len() > 317) {
            let help = "is longer than the 317 bytes of a qualified name";
            fault("appProtocol", "", "AppProtocol", help.to_owned());
        }
        if ports.iter().any(|p| p.name == raw.name) {
            fault("name", &raw.name, "DuplicatePort", "is another port's, too".to_owned());
        }
        let (Some(protocol), Some(port)) = (protocol, number) else { continue };
        if ports.iter().any(|p| (p.protocol, p.port) == (protocol, port)) {
            let help = "is another port's of this protocol, too";
            fault("port", &raw.port.to_string(), "DuplicatePort", help.to_owned());
        }
        let app_protocol = raw.app_protocol.clone();
        ports.push(Port { name: raw.name.clone(), protocol, port, app_protocol });
    }
    ports
}

/// A protocol as Kubernetes spells it; TCP when left out.
pub fn protocol(text: &str) -> Option<Protocol> {
    match text {
        "" | "TCP" => Some(Protocol::Tcp),
        "UDP" => Some(Protocol::Udp),
        "SCTP" => Some(Protocol::Sctp),
        _ => None,
    }
}

/// Whether a name can stand in DNS names: a label of lower-case letters, digits and dashes.
pub fn is_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=63).contains(&text.len())
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn affinity(service: &RawService, faults: &mut Vec<Violation>) -> Affinity {
    match service.session_affinity.as_str() {
        "" | "None" => Affinity::None,
        "ClientIP" => {
            let asked = service.affinity_timeout;
            let timeout = asked.map_or(Ok(DEFAULT_AFFINITY_TIMEOUT), u32::try_from);
            match timeout {
                Ok(timeout) if (1..=MAX_AFFINITY_TIMEOUT).contains(&timeout) => {
                    Affinity::ClientIp { timeout }
                }
                _ => {
                    faults.push(Violation::new(
                        "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
                        asked.unwrap_or_default().to_string(),
                        "AffinityTimeout",
                        format!("is outside 1 to {MAX_AFFINITY_TIMEOUT} seconds"),
                    ));
                    Affinity::None
                }
            }
        }
        other => {
            let help = "must be ClientIP or None";
            faults.push(Violation::new("spec.sessionAffinity", other, "SessionAffinity", help));
            Affinity::None
        }
    }
}

fn internal_traffic(service: &RawService, faults: &mut Vec<Violation>) -> InternalTraffic {
    match service.internal_traffic.as_str() {
        "" | "Cluster" => InternalTraffic::Cluster,
        "Local" => InternalTraffic::Local,
        other => {
            let help = "must be Cluster or Local";
            let field = "spec.internalTrafficPolicy";
            faults.push(Violation::new(field, other, "InternalTrafficPolicy", help));
            InternalTraffic::Cluster
        }
    }
}

fn families(service: &RawService, faults: &mut Vec<Violation>) -> BTreeSet<Family> {
    let mut families = BTreeSet::new();
    for (i, text) in service.families.iter().take(8).enumerate() {
        match text.as_str() {
            "IPv4" => drop(families.insert(Family::V4)),
            "IPv6" => drop(families.insert(Family::V6)),
            other => {
                let field = format!("spec.ipFamilies[{i}]");
                faults.push(Violation::new(field, other, "IPFamily", "must be IPv4 or IPv6"));
            }
        }
    }
    // A headless Service without selector may leave them out: it is open to both.
    if families.is_empty() { BTreeSet::from([Family::V4, Family::V6]) } else { families }
}

fn metadata(field: &str, map: &BTreeMap<String, String>, faults: &mut Vec<Violation>) {
    if map.len() > MAX_METADATA {
        let help = format!("has {} entries; {MAX_METADATA} are accepted", map.len());
        faults.push(Violation::new(field, "", "TooMuchMetadata", help));
    }
    for (key, value) in map.iter().take(MAX_METADATA) {
        if key.len() + value.len() > MAX_METADATA_BYTES {
            let help = format!(
                "has {} bytes; {MAX_METADATA_BYTES} of key and value together are accepted",
                key.len() + value.len()
            );
            faults.push(Violation::new(format!("{field}[{key}]"), "", "TooMuchMetadata", help));
        }
    }
}

#[cfg(test)]
mod tests;
