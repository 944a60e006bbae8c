//! The names of addresses.

use std::net::IpAddr;

use super::{Answer, Asker, Code, Data, Kind, TTL, nothing, record};
use crate::dns::place::Zone;
use crate::dns::view::View;
use crate::dns::{MAX_NAME, reverse};

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
    let found = match kind {
        Kind::Soa if apex => Some(soa.clone()),
        Kind::Ns if apex => Some(Data::Ns("ns.dns.slice.local".to_owned())),
        Kind::Ptr | Kind::Any => owner(view, address, asker).map(Data::Ptr),
        _ => None,
    };
    let complete = name.net.prefix_len() == if address.is_ipv4() { 32 } else { 128 };
    match found.filter(|data| complete || !matches!(data, Data::Ptr(_))) {
        Some(data) => Answer {
            code: Code::NoError,
            records: vec![record(TTL, data)],
            authority: None,
            additional: vec![],
        },
        None => {
            let there = !complete || apex || owner(view, address, asker).is_some();
            nothing(if there { Code::NoError } else { Code::NxDomain }, soa, &zone)
        }
    }
}

/// The one name of an address: the standard's where it has one.
fn owner(view: &View, address: IpAddr, asker: Asker<'_>) -> Option<String> {
    let (slice, name, service) = view.owner(&address, asker.slices)?;
    let zone = if service.exported { Zone::ClusterSet } else { Zone::Slice(Some(slice.as_str())) };
    let of = format!("{}.{}.svc.{}", name.name, name.namespace, zone.suffix());
    let host = service.hosts.iter().find(|h| h.addresses.contains(&address));
    let full = host.map_or(of.clone(), |h| format!("{}.{}.{of}", h.name, h.cluster));
    Some(full).filter(|name| name.len() <= MAX_NAME)
}
