//! What has to be done for a slice's gateways.

use std::collections::BTreeMap;
use std::net::IpAddr;

use kube::ResourceExt;
use slicewire_api::labels::{MANAGED_BY, OF_SLICE, WORKER_FINALIZER, WORKER_MANAGER};
use slicewire_api::{SliceGateway, SliceGatewaySpec};
use slicewire_core::name::{Lane, SliceName};
use slicewire_core::violation::Violation;

use super::observe::Observed;
use super::validate::ValidLanes;
use super::workload;
use crate::kubernetes::change::{Change, Steps};
use crate::options::Images;

/// First stage: the mirror. Where the hub says nothing, or something that cannot be, it stays as it
/// is; it goes with its Slice, whose reconciler deletes it when the nodes are clean.
pub(super) fn mirror(
    observed: &Observed,
    validated: &Option<Result<ValidLanes, Vec<Violation>>>,
) -> Steps {
    let going = observed.gateway.as_ref().filter(|g| g.metadata.deletion_timestamp.is_some());
    let slice = observed.slice.as_ref().filter(|s| s.metadata.deletion_timestamp.is_none());
    let (None, Some(slice), Some(Ok(lanes)), Some(told), Some(told_slice)) =
        (going, slice, validated, &observed.told, &observed.told_slice)
    else {
        return Vec::new();
    };
    if told_slice.metadata.deletion_timestamp.is_some() {
        return Vec::new();
    }
    let spec = SliceGatewaySpec {
        slice: observed.name.clone(),
        cluster: told.spec.cluster.clone(),
        prefixes: slice.spec.prefixes.clone(),
        mtu: slice.spec.mtu,
        lanes: lanes.0.clone(),
        generation: told.spec.generation,
        next_generation: told.spec.next_generation,
        exposure: told_slice.spec.exposure.clone(),
        qos: slice.spec.qos.clone(),
    };
    let mut wanted = SliceGateway::new(&observed.name, spec);
    wanted.metadata.namespace = Some(observed.namespace.clone());
    wanted.metadata.labels = Some(BTreeMap::from([
        (MANAGED_BY.to_owned(), WORKER_MANAGER.to_owned()),
        (OF_SLICE.to_owned(), observed.name.clone()),
    ]));
    wanted.metadata.finalizers = Some(vec![WORKER_FINALIZER.to_owned()]);
    vec![Change::converge(&wanted, observed.gateway.as_deref()).into_iter().collect()]
}

/// Last stage: pods and services, or their end.
pub(super) fn run(observed: &Observed, images: &Images) -> Steps {
    let Ok(slice) = SliceName::parse(&observed.name) else { return Vec::new() };
    let Some(gateway) = observed.gateway.as_deref() else {
        return vec![clear(observed)];
    };
    if gateway.metadata.deletion_timestamp.is_some() {
        let clear = clear(observed);
        let clean = clear.is_empty() && observed.pods.is_empty() && nothing(observed);
        let release = clean.then(|| Change::release(gateway, WORKER_FINALIZER)).flatten();
        return vec![clear, release.into_iter().collect()];
    }
    let lanes: Vec<Lane> = gateway.spec.lanes.iter().map(|l| l.lane).collect();
    if lanes.is_empty() {
        return vec![clear(observed)];
    }
    let keys = observed.keys.as_ref().map(|k| &k.current);
    let has_keys = keys.is_some_and(|keys| lanes.iter().all(|l| keys.contains_key(l)));
    if !has_keys {
        return Vec::new();
    }
    let workload = workload::stateful_set(gateway, &slice, &observed.namespace, images);
    let mut step: Vec<Change> = Vec::new();
    step.extend(Change::converge(&workload, observed.workload.as_deref()));
    for lane in &lanes {
        let wanted = workload::service(gateway, &slice, &observed.namespace, *lane);
        let there = observed.services.iter().find(|s| s.name_any() == wanted.name_any());
        step.extend(Change::converge(&wanted, there.map(|s| &**s)));
    }
    // Services of lanes there are no more.
    let wanted: Vec<String> =
        lanes.iter().map(|l| slicewire_core::name::gateway_service(&slice, *l)).collect();
    let extra = observed.services.iter().filter(|s| !wanted.contains(&s.name_any()));
    step.extend(extra.filter_map(|s| Change::delete(&**s)));
    vec![step]
}

/// Deletes pods and services. The Secret goes with its owner, the SliceGateway.
fn clear(observed: &Observed) -> Vec<Change> {
    let workload = observed.workload.as_deref().and_then(Change::delete);
    let services = observed.services.iter().filter_map(|s| Change::delete(&**s));
    workload.into_iter().chain(services).collect()
}

fn nothing(observed: &Observed) -> bool {
    observed.workload.is_none() && observed.services.is_empty()
}

/// The gateway pods to listen to: each lane's address.
pub(super) fn streams(observed: &Observed) -> BTreeMap<Lane, IpAddr> {
    let Some(gateway) = observed.plan() else { return BTreeMap::new() };
    let lanes = gateway.spec.lanes.iter().map(|l| l.lane);
    lanes
        .filter_map(|lane| {
            let pod = observed.pod(lane)?;
            let status = pod.status.as_ref()?;
            let runs = status.phase.as_deref() == Some("Running")
                && pod.metadata.deletion_timestamp.is_none();
            runs.then_some(())?;
            Some((lane, status.pod_ip.as_ref()?.parse().ok()?))
        })
        .collect()
}
