//! The pods behind a service, as a cluster tells of them → [`Endpoint`]s.
//!
//! A cluster is believed about its own pods and nobody else's: an endpoint outside the addresses the
//! cluster holds would draw other clusters' traffic for the service to whoever has that address.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::model::{Endpoint, Protocol};
use super::spec::{is_label, protocol};
use crate::prefix::Family;
use crate::selector::is_label_value;
use crate::violation::Violation;

/// Most endpoints of a service in one cluster.
pub const MAX_ENDPOINTS: usize = 1000;
/// Most faults that are told.
const MAX_TOLD: usize = 16;

/// An endpoint as it was written.
#[derive(Debug, Clone, Default)]
pub struct RawEndpoint {
    /// Slice addresses, at most one of each family.
    pub addresses: Vec<String>,
    /// Ports: name, protocol, number.
    pub ports: Vec<(String, String, i32)>,
    /// The pod's `hostname`; may be empty.
    pub hostname: String,
    /// Its node; may be empty.
    pub node: String,
    /// Its node's zone; may be empty.
    pub zone: String,
    /// As in an EndpointSlice.
    pub ready: bool,
    /// As in an EndpointSlice.
    pub serving: bool,
    /// As in an EndpointSlice.
    pub terminating: bool,
}

/// What can be taken of a cluster's endpoints, in the order of their addresses, and what cannot.
///
/// `pools` are the cluster's own. An endpoint with a fault is left out, and the others stand; an
/// address is one endpoint's.
pub fn parse(raw: &[RawEndpoint], pools: &[IpNet]) -> (Vec<Endpoint>, Vec<Violation>) {
    let mut faults = Vec::new();
    let mut taken: BTreeSet<IpAddr> = BTreeSet::new();
    let mut zones: BTreeSet<Arc<str>> = BTreeSet::new();
    let mut endpoints: Vec<Endpoint> = Vec::with_capacity(raw.len().min(MAX_ENDPOINTS));
    for (i, raw) in raw.iter().take(MAX_ENDPOINTS).enumerate() {
        match endpoint(&format!("endpoints[{i}]"), raw, pools, &mut taken) {
            Ok(mut endpoint) => {
                let before = endpoints.last().map(|last| &last.ports);
                if let Some(same) = before.filter(|ports| **ports == endpoint.ports) {
                    endpoint.ports = same.clone();
                }
                endpoint.zone = endpoint.zone.map(|zone| shared(&mut zones, zone));
                endpoints.push(endpoint);
            }
            Err(fault) => faults.push(fault),
        }
    }
    let untold = faults.len().saturating_sub(MAX_TOLD);
    faults.truncate(MAX_TOLD);
    if untold > 0 {
        let help = format!("{untold} more endpoints are left out for such reasons");
        faults.push(Violation::new("endpoints", "", "MoreFaults", help));
    }
    if raw.len() > MAX_ENDPOINTS {
        let help = format!(
            "has {} endpoints; the first {MAX_ENDPOINTS} are used; divide the Service, or scale it down",
            raw.len()
        );
        faults.push(Violation::new("endpoints", "", "TooManyEndpoints", help));
    }
    endpoints.sort();
    (endpoints, faults)
}

/// The one of equal texts that was there first.
fn shared(all: &mut BTreeSet<Arc<str>>, text: Arc<str>) -> Arc<str> {
    if let Some(same) = all.get(&text) {
        return same.clone();
    }
    all.insert(text.clone());
    text
}

fn endpoint(
    field: &str,
    raw: &RawEndpoint,
    pools: &[IpNet],
    taken: &mut BTreeSet<IpAddr>,
) -> Result<Endpoint, Violation> {
    let fault = |part: &str, value: &str, reason, help: &str| {
        Err(Violation::new(format!("{field}.{part}"), value, reason, help))
    };
    let mut addresses: Vec<IpAddr> = Vec::new();
    for text in &raw.addresses {
        let Ok(address) = text.parse::<IpAddr>() else {
            return fault("addresses", text, "MalformedAddress", "is not an address");
        };
        if !pools.iter().any(|pool| pool.contains(&address)) {
            let help = "is not of this cluster's part of the slice; only slice addresses of its own pods are accepted";
            return fault("addresses", text, "ForeignAddress", help);
        }
        if addresses.iter().any(|a| Family::of_addr(a) == Family::of_addr(&address)) {
            let help = "is a second address of its family; a pod has one of each";
            return fault("addresses", text, "SecondAddress", help);
        }
        addresses.push(address);
    }
    if addresses.is_empty() {
        return fault("addresses", "", "NoAddress", "is empty; an endpoint needs a slice address");
    }
    if let Some(twice) = addresses.iter().find(|a| taken.contains(*a)) {
        let help = "is another endpoint's, too";
        return fault("addresses", &twice.to_string(), "DuplicateAddress", help);
    }
    if !raw.hostname.is_empty() && !is_label(&raw.hostname) {
        return fault("hostname", &raw.hostname, "Hostname", "must be a DNS label");
    }
    if raw.node.len() > MAX_NODE {
        return fault("nodeName", "", "NodeName", "is longer than the 253 bytes of a node's name");
    }
    if !is_label_value(&raw.zone) {
        let help = "must be a label's value: at most 63 letters, digits, '-', '_' and '.'";
        return fault("zone", &raw.zone, "Zone", help);
    }
    let mut ports: BTreeMap<(Protocol, String), u16> = BTreeMap::new();
    for (name, protocol_text, number) in raw.ports.iter().take(super::spec::MAX_PORTS) {
        let (Some(protocol), Ok(number @ 1..)) = (protocol(protocol_text), u16::try_from(*number))
        else {
            let value = format!("{number}/{protocol_text}");
            let help = "must be 1 to 65535 of TCP, UDP or SCTP";
            return fault("ports", &value, "PortNumber", help);
        };
        if !name.is_empty() && !is_label(name) {
            return fault("ports", name, "PortName", "must be a DNS label, or empty");
        }
        ports.insert((protocol, name.clone()), number);
    }
    taken.extend(addresses.iter().copied());
    let some = |text: &str| Some(text.to_owned()).filter(|t| !t.is_empty());
    Ok(Endpoint {
        addresses,
        ports: ports.into(),
        hostname: some(&raw.hostname),
        node: some(&raw.node),
        zone: some(&raw.zone).map(Into::into),
        ready: raw.ready,
        serving: raw.serving,
        terminating: raw.terminating,
    })
}

/// Most bytes of a node's name: an RFC 1123 subdomain.
const MAX_NODE: usize = 253;

#[cfg(test)]
mod tests {
    use super::*;

    fn pools() -> Vec<IpNet> {
        vec!["10.77.0.0/20".parse().unwrap(), "fd77::/64".parse().unwrap()]
    }

    fn raw(addresses: &[&str]) -> RawEndpoint {
        RawEndpoint {
            addresses: addresses.iter().map(|a| (*a).to_owned()).collect(),
            ports: vec![("http".into(), "TCP".into(), 8080)],
            ready: true,
            ..RawEndpoint::default()
        }
    }

    fn reasons(raw: &[RawEndpoint]) -> Vec<&'static str> {
        parse(raw, &pools()).1.iter().map(|f| f.reason).collect()
    }

    #[test]
    fn a_pod_of_both_families_is_one_endpoint() {
        let named = RawEndpoint { hostname: "db-0".into(), ..raw(&["10.77.0.5", "fd77::5"]) };
        let (got, faults) = parse(&[raw(&["10.77.0.6"]), named], &pools());
        assert_eq!(faults, []);
        assert_eq!(got[0].addresses.len(), 2);
        assert_eq!(got[0].host().as_deref(), Some("db-0"));
        assert_eq!(got[1].host().as_deref(), Some("10-77-0-6"));
        assert_eq!(got[1].ports[&(Protocol::Tcp, "http".into())], 8080);
    }

    #[test]
    fn nobody_speaks_for_anothers_pods() {
        for foreign in ["10.77.16.1", "192.0.2.1", "fd77:0:0:1::1", "127.0.0.1"] {
            let (got, faults) = parse(&[raw(&["10.77.0.5"]), raw(&[foreign])], &pools());
            assert_eq!(got.len(), 1, "the others stand");
            assert_eq!(faults[0].reason, "ForeignAddress");
            assert!(faults[0].to_string().contains(foreign));
        }
    }

    #[test]
    fn every_fault_has_its_reason() {
        let with = |change: fn(&mut RawEndpoint)| {
            let mut endpoint = raw(&["10.77.0.5"]);
            change(&mut endpoint);
            endpoint
        };
        let cases: [(RawEndpoint, &str); 10] = [
            (raw(&[]), "NoAddress"),
            (raw(&["10.77"]), "MalformedAddress"),
            (raw(&["10.77.0.5", "10.77.0.6"]), "SecondAddress"),
            (with(|e| e.hostname = "db_0".into()), "Hostname"),
            (with(|e| e.node = "n".repeat(254)), "NodeName"),
            (with(|e| e.zone = "a b".into()), "Zone"),
            (with(|e| e.zone = "z".repeat(64)), "Zone"),
            (with(|e| e.ports[0].2 = 0), "PortNumber"),
            (with(|e| e.ports[0].1 = "ICMP".into()), "PortNumber"),
            (with(|e| e.ports[0].0 = "a.b".into()), "PortName"),
        ];
        for (endpoint, reason) in cases {
            assert_eq!(reasons(&[endpoint]), [reason]);
        }
        assert_eq!(reasons(&[raw(&["10.77.0.5"]), raw(&["10.77.0.5"])]), ["DuplicateAddress"]);
    }

    #[test]
    fn endpoints_share_the_name_of_their_zone() {
        let at = |address: &str, zone: &str| RawEndpoint { zone: zone.into(), ..raw(&[address]) };
        let (got, faults) = parse(
            &[at("10.77.0.5", "eu-1a"), at("10.77.0.6", ""), at("10.77.0.7", "eu-1a")],
            &pools(),
        );
        assert_eq!(faults, []);
        let zones: Vec<_> = got.iter().map(|e| e.zone.as_ref()).collect();
        assert_eq!(zones[0].map(|z| &**z), Some("eu-1a"));
        assert!(zones[1].is_none() && Arc::ptr_eq(zones[0].unwrap(), zones[2].unwrap()));
    }

    #[test]
    fn very_many_are_cut_and_very_many_faults_counted() {
        let many: Vec<_> = (0..MAX_ENDPOINTS + 1)
            .map(|i| raw(&[&format!("10.77.{}.{}", i / 250, i % 250)]))
            .collect();
        let (got, faults) = parse(&many, &pools());
        assert_eq!(got.len(), MAX_ENDPOINTS);
        assert_eq!(faults.iter().map(|f| f.reason).collect::<Vec<_>>(), ["TooManyEndpoints"]);
        let bad = vec![raw(&[]); 100];
        let told = reasons(&bad);
        assert_eq!((told.len(), told.last()), (MAX_TOLD + 1, Some(&"MoreFaults")));
    }
}
