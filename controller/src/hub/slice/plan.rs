//! What has to be done for a slice.

use std::collections::BTreeMap;

use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use slicewire_api::condition::{CONNECTED, LEFT, REMOVED, is_true};
use slicewire_api::labels::HUB_FINALIZER;
use slicewire_api::{SliceClusterStatus, WorkerSlice};
use slicewire_core::ipam::Holdings;
use slicewire_core::name::ClusterName;
use slicewire_core::rotation::Keys;
use slicewire_core::slice_spec::ValidatedSlice;
use slicewire_core::topology::DuplicateKey;
use slicewire_core::violation::Violation;

use super::desired::{holdings, strings, worker_slice};
use super::gateways::worker_gateways;
use super::keys;
use super::observe::Observed;
use crate::hub::cluster::plan::given_up;
use crate::kubernetes::change::{Change, Steps};

/// A slice's next steps.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Plan {
    pub(super) steps: Steps,
    /// Clusters that are on their way out of the slice, or all of them when it is deleted.
    pub(super) leaving: Vec<ClusterName>,
    /// Public keys that two clusters claim.
    pub(super) duplicates: Vec<DuplicateKey>,
    /// The gateways' keys, as they are from now on.
    pub(super) keys: Keys,
}

/// What has to be done before anything else: to be told when the slice is to go. A slice that never
/// was accepted can go without us.
pub(super) fn hold(
    observed: &Observed,
    validated: &Result<ValidatedSlice, Vec<Violation>>,
) -> Option<Change> {
    let wanted = validated.is_ok() || observed.running();
    wanted.then(|| Change::hold(&*observed.config, HUB_FINALIZER)).flatten()
}

/// Decides. A slice with faults runs on as it was: its tunnels still follow keys and endpoints.
pub(super) fn plan(
    observed: &Observed,
    validated: &Result<ValidatedSlice, Vec<Violation>>,
    now: Timestamp,
) -> Plan {
    let mut plan = Plan { keys: keys::next(observed, now), ..Plan::default() };
    if observed.deleting() {
        leave(observed, observed.slices.keys().cloned().collect(), &mut plan);
        if observed.slices.is_empty() && observed.gateways.is_empty() {
            let release = Change::release(&*observed.config, HUB_FINALIZER);
            plan.steps.push(release.into_iter().collect());
        }
        return plan;
    }
    let slices = match validated {
        Ok(slice) => {
            let holdings = holdings(observed, slice);
            plan.steps.push(book(observed, &holdings, &plan.keys).into_iter().collect());
            let wanted: BTreeMap<ClusterName, WorkerSlice> = slice
                .clusters
                .iter()
                .filter_map(|c| Some((c.clone(), worker_slice(observed, slice, &holdings, c)?)))
                .collect();
            let out = observed.slices.keys().filter(|c| !slice.clusters.contains(c));
            let out = out.cloned().collect();
            leave(observed, out, &mut plan);
            wanted
        }
        Err(_) => {
            let booked = book(observed, &Holdings::new(), &plan.keys);
            plan.steps.push(booked.into_iter().collect());
            let wanted = as_it_was(observed);
            let out = observed.slices.keys().filter(|c| !wanted.contains_key(c)).cloned().collect();
            leave(observed, out, &mut plan);
            wanted
        }
    };
    converge(observed, &slices, &mut plan);
    plan.steps.retain(|step| !step.is_empty());
    plan
}

/// Enters in the SliceConfig's status who holds what, and which keys there are, before anybody is
/// told.
fn book(observed: &Observed, holdings: &Holdings, keys: &Keys) -> Option<Change> {
    let status = observed.config.status.clone().unwrap_or_default();
    let mut new = status.clone();
    for (name, holding) in holdings {
        let (pools, gateways) = (strings(&holding.pools), strings(&holding.gateways));
        match new.clusters.iter_mut().find(|c| c.name == name.as_str()) {
            Some(entry) => (entry.pools, entry.gateway_prefixes) = (pools, gateways),
            None => new.clusters.push(SliceClusterStatus {
                name: name.to_string(),
                pools,
                gateway_prefixes: gateways,
                ..SliceClusterStatus::default()
            }),
        }
    }
    keys::book(&mut new, keys);
    new.clusters.sort_by(|a, b| a.name.cmp(&b.name));
    (new != status).then(|| Change::status(&*observed.config, &new))
}

/// The slice as its clusters have been told last, without clusters that are none any more.
fn as_it_was(observed: &Observed) -> BTreeMap<ClusterName, WorkerSlice> {
    let registered = |name: &str| observed.clusters.contains_key(name);
    let told = observed.slices.iter().filter(|(name, slice)| {
        slice.metadata.deletion_timestamp.is_none() && registered(name.as_str())
    });
    told.map(|(name, slice)| {
        let mut same = WorkerSlice::new(&slice.name_any(), slice.spec.clone());
        same.spec.remotes.retain(|remote| registered(&remote.cluster));
        same.metadata.namespace = slice.namespace();
        same.metadata.labels.clone_from(&slice.metadata.labels);
        same.metadata.finalizers.clone_from(&slice.metadata.finalizers);
        (name.clone(), same)
    })
    .collect()
}

/// Brings WorkerSlices and WorkerGateways to what they should be, all at once.
fn converge(observed: &Observed, slices: &BTreeMap<ClusterName, WorkerSlice>, plan: &mut Plan) {
    let (gateways, duplicates) = worker_gateways(observed, slices, &plan.keys);
    plan.duplicates = duplicates;
    let mut step: Vec<Change> = Vec::new();
    for (cluster, wanted) in slices {
        let there = observed.slices.get(cluster);
        // One that is on its way out has to be gone before it can come back.
        if there.is_none_or(|s| s.metadata.deletion_timestamp.is_none()) {
            step.extend(Change::converge(wanted, there.map(|s| &**s)));
        }
    }
    for wanted in &gateways {
        let there = ClusterName::parse(&wanted.spec.cluster)
            .ok()
            .and_then(|cluster| observed.gateways.get(&cluster));
        step.extend(Change::converge(wanted, there.map(|g| &**g)));
    }
    plan.steps.push(step);
}

/// Takes the slice away from clusters: the WorkerSlice goes when the cluster has cleaned up, and
/// its gateways' plan with it.
fn leave(observed: &Observed, clusters: Vec<ClusterName>, plan: &mut Plan) {
    let mut step = Vec::new();
    for cluster in &clusters {
        let Some(slice) = observed.slices.get(cluster) else { continue };
        step.extend(Change::delete(&**slice));
        if slice.metadata.deletion_timestamp.is_some() && removed(observed, cluster, slice) {
            step.extend(Change::release(&**slice, HUB_FINALIZER));
        }
    }
    // Plans of gateways whose cluster is not told of the slice any more.
    for (cluster, gateway) in &observed.gateways {
        let told = observed.slices.contains_key(cluster);
        if !told && (observed.deleting() || !spans(observed, cluster)) {
            step.extend(Change::delete(&**gateway));
        }
    }
    plan.leaving = clusters;
    plan.steps.push(step);
}

fn spans(observed: &Observed, cluster: &ClusterName) -> bool {
    observed.config.spec.clusters.iter().any(|c| c.name == cluster.as_str())
}

/// Whether the slice may be taken from a cluster for good: nothing of it is left there, it has never
/// answered, it has left altogether, or it has been given up.
fn removed(observed: &Observed, cluster: &ClusterName, slice: &WorkerSlice) -> bool {
    let gone = observed.clusters.get(cluster.as_str()).is_none_or(|c| {
        let told = c.status.iter().flat_map(|s| &s.conditions);
        given_up(c) || told.into_iter().any(|c| c.type_ == CONNECTED && c.reason == LEFT)
    });
    let conditions = slice.status.as_ref().map(|s| s.conditions.as_slice()).unwrap_or_default();
    gone || conditions.is_empty() || is_true(conditions, REMOVED)
}
