//! The names of addresses.

use std::net::IpAddr;

use super::{Answer, Asker, Code, Data, Kind, TTL, nothing, record};
use crate::dns::place::Zone;
use crate::dns::view::{Service, View};
use crate::dns::{MAX_NAME, MAX_POINTERS, reverse};
use crate::name::SliceName;
use crate::service::model::ServiceName;

/// Answers a question for the name of an address.
pub(super) fn answer(view: &View, name: reverse::Reverse, kind: Kind, asker: Asker<'_>) -> Answer {
    let Some(prefix) = view.prefix_of(&name.net) else { return Answer::refused() };
    let address = name.net.addr();
    let zone = reverse::zone(&prefix, address);
    let soa = Data::Soa { zone: zone.clone(), serial: view.serial() };
    if name.more {
        return nothing(Code::NxDomain, soa, &zone);
    }
    let labels = name.net.prefix_len() / if address.is_ipv4() { 8 } else { 4 };
    let apex = usize::from(labels) + 2 == zone.split('.').count();
    let complete = name.net.prefix_len() == if address.is_ipv4() { 32 } else { 128 };
    let names = if complete { names(view, address, asker) } else { Vec::new() };
    let there = !complete || apex || !names.is_empty();
    let found: Vec<Data> = match kind {
        Kind::Soa if apex => vec![soa.clone()],
        Kind::Ns if apex => vec![Data::Ns("ns.dns.slice.local".to_owned())],
        Kind::Ptr | Kind::Any => names.into_iter().map(Data::Ptr).collect(),
        _ => vec![],
    };
    if found.is_empty() {
        return nothing(if there { Code::NoError } else { Code::NxDomain }, soa, &zone);
    }
    let records = found.into_iter().map(|data| record(TTL, data)).collect();
    Answer { code: Code::NoError, records, authority: None, additional: vec![] }
}

/// The names of an address, one in each slice: slices that share a prefix share addresses, and nobody
/// can tell which one is meant.
fn names(view: &View, address: IpAddr, asker: Asker<'_>) -> Vec<String> {
    let mut names = Vec::new();
    for (slice, name, service) in view.owners(&address, asker.slices) {
        let name = own_name(address, slice, name, service);
        if name.len() <= MAX_NAME && !names.contains(&name) && names.len() < MAX_POINTERS {
            names.push(name);
        }
    }
    names
}

/// The one name of an address in a slice: the standard's where it has one.
fn own_name(address: IpAddr, slice: &SliceName, name: &ServiceName, service: &Service) -> String {
    let zone = if service.exported { Zone::ClusterSet } else { Zone::Slice(Some(slice.as_str())) };
    let of = format!("{}.{}.svc.{}", name.name, name.namespace, zone.suffix());
    let host = service.hosts.iter().find(|h| h.addresses.contains(&address));
    host.map_or(of.clone(), |h| format!("{}.{}.{of}", h.name, h.cluster))
}
