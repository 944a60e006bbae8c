//! What of a member's word about its pods is taken.

use std::collections::BTreeMap;

use slicewire_api::policy::{keys_from, port_text, ports_from};
use slicewire_api::{PodIdentity, PolicyEndpoint, WorkerEndpoints, WorkerSlice};
use slicewire_core::member::{self, Fault, is_name, sentence};
use slicewire_core::policy::Keys;
use slicewire_core::policy::parts::PART;
use slicewire_core::selector::is_label_value;

use crate::hub::slice::observe::nets;

/// Most addresses of a pod on a slice.
const MAX_ADDRESSES: usize = 4;
/// Longest name of a namespace, in bytes.
const MAX_NAMESPACE: usize = 63;
/// Longest name of a pod, and of a service account, in bytes.
const MAX_NAME: usize = 253;

/// The pods that others are told of.
pub(super) fn accepted(report: &WorkerEndpoints, slice: &WorkerSlice) -> Vec<PolicyEndpoint> {
    let keys = slice.spec.policy_keys.as_ref().map(keys_from).unwrap_or_default();
    let pools = nets(&slice.spec.pools);
    let said = report.status.iter().flat_map(|s| &s.endpoints).take(PART);
    said.filter_map(|endpoint| checked(endpoint, &pools, &keys).ok()).collect()
}

/// What is not taken, and why.
pub(in crate::hub) fn refused(
    report: &WorkerEndpoints,
    slice: &WorkerSlice,
) -> Vec<(String, Fault)> {
    let keys = slice.spec.policy_keys.as_ref().map(keys_from).unwrap_or_default();
    let pools = nets(&slice.spec.pools);
    let said = report.status.as_ref().map(|s| s.endpoints.as_slice()).unwrap_or_default();
    let mut refused: Vec<(String, Fault)> =
        said.iter().take(PART).filter_map(|e| checked(e, &pools, &keys).err()).collect();
    if said.len() > PART {
        refused.push((said.len().to_string(), Fault::TooMany));
    }
    refused
}

fn checked(
    said: &PolicyEndpoint,
    pools: &[ipnet::IpNet],
    keys: &Keys,
) -> Result<PolicyEndpoint, (String, Fault)> {
    if !is_name(&said.namespace, MAX_NAMESPACE) || !is_name(&said.pod, MAX_NAME) {
        return Err((sentence(&format!("{}/{}", said.namespace, said.pod)), Fault::Malformed));
    }
    if said.addresses.len() > MAX_ADDRESSES {
        return Err((said.addresses.len().to_string(), Fault::TooMany));
    }
    let mut addresses = Vec::new();
    for text in &said.addresses {
        match member::own_address(text, pools) {
            Ok(address) => addresses.push(address.to_string()),
            Err(fault) => return Err((sentence(text), fault)),
        }
    }
    let account = said.identity.service_account.clone();
    let account = account.filter(|account| keys.service_accounts && is_name(account, MAX_NAME));
    let ports = ports_from(&said.identity.ports);
    let ports = ports.iter().filter(|((_, name), _)| keys.has_port(name));
    let ports = ports.flat_map(|((protocol, name), numbers)| {
        numbers.iter().filter_map(|number| port_text(*protocol, name, *number))
    });
    Ok(PolicyEndpoint {
        namespace: said.namespace.clone(),
        pod: said.pod.clone(),
        addresses,
        identity: PodIdentity {
            service_account: account,
            labels: plain(keys.of_pod(&said.identity.labels)),
            namespace_labels: plain(keys.of_namespace(&said.identity.namespace_labels)),
            ports: ports.collect(),
        },
    })
}

/// Labels whose values can be labels' values.
fn plain(labels: BTreeMap<String, String>) -> BTreeMap<String, String> {
    labels.into_iter().filter(|(_, value)| is_label_value(value)).collect()
}
