//! Whether what the hub says can be carried out. A worker does not take a hub's word blindly: what
//! does not fit together is refused and told, and the slice runs on as it was.

use ipnet::IpNet;
use kube::ResourceExt;
use slicewire_api::{WorkerSlice, convert};
use slicewire_core::name::{MAX_SLICE_NAME, check};
use slicewire_core::prefix;
use slicewire_core::qos::QosFields;
use slicewire_core::slice_spec::{MAX_MTU, MIN_MTU};
use slicewire_core::violation::Violation;

use super::observe::{Observed, Word};

/// Proof that a WorkerSlice can be carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Valid(());

/// Every fault of what the hub says; `None` when it says nothing.
pub(super) fn validate(observed: &Observed) -> Option<Result<Valid, Vec<Violation>>> {
    let Word::Told(cluster, slice) = &observed.told else { return None };
    let faults = faults(cluster, slice);
    Some(if faults.is_empty() { Ok(Valid(())) } else { Err(faults) })
}

fn faults(cluster: &str, slice: &WorkerSlice) -> Vec<Violation> {
    let spec = &slice.spec;
    let mut faults = check("metadata.name", &slice.name_any(), MAX_SLICE_NAME);
    let same = [
        ("spec.slice", &spec.slice, slice.name_any(), "the object's name"),
        ("spec.cluster", &spec.cluster, cluster.to_owned(), "this cluster's name"),
    ];
    for (field, value, wanted, what) in same {
        if *value != wanted {
            let message = format!("is not {what}, {wanted}");
            faults.push(Violation::new(field, value, "WrongObject", message));
        }
    }
    let prefixes = nets("spec.prefixes", &spec.prefixes, &mut faults);
    let pools = nets("spec.pools", &spec.pools, &mut faults);
    let gateways = nets("spec.gatewayPrefixes", &spec.gateway_prefixes, &mut faults);
    for net in pools.iter().chain(&gateways) {
        if !prefixes.iter().any(|p| p.contains(net)) {
            let what = "is outside the slice's prefixes";
            faults.push(Violation::new("spec.pools", net.to_string(), "OutsideSlice", what));
        }
    }
    for (i, remote) in spec.remotes.iter().enumerate() {
        nets(&format!("spec.remotes[{i}].prefixes"), &remote.prefixes, &mut faults);
    }
    if !(MIN_MTU..=MAX_MTU).contains(&spec.mtu) {
        let what = format!("is outside {MIN_MTU} to {MAX_MTU}");
        faults.push(Violation::new("spec.mtu", spec.mtu.to_string(), "Mtu", what));
    }
    if let Some(qos) = &spec.qos {
        faults.extend(QosFields::from(qos).parse("spec.qos").err().into_iter().flatten());
    }
    faults.extend(
        convert::rules("spec.namespaces", &spec.namespaces, None).err().into_iter().flatten(),
    );
    faults
}

fn nets(field: &str, list: &[String], faults: &mut Vec<Violation>) -> Vec<IpNet> {
    list.iter()
        .enumerate()
        .filter_map(|(i, text)| {
            prefix::parse(&format!("{field}[{i}]"), text).map_err(|f| faults.push(f)).ok()
        })
        .collect()
}
