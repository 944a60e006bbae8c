//! What has to be done for the services of a slice.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use kube::ResourceExt;
use slicewire_api::service::plan_into;
use slicewire_api::{
    ExportAnswer, PlannedService, ServiceConflict, WorkerServiceExport, WorkerServiceExportSpec,
    WorkerServiceImport, WorkerServiceImportSpec, WorkerSlice,
};
use slicewire_core::name::{ClusterName, export_object, import_object};
use slicewire_core::prefix::Family;
use slicewire_core::service::vip::{self, Plan as Addresses};
use slicewire_core::service::{Export, Kind, Merged, ServiceName, merge};

use super::observe::Observed;
use super::read::{Read, Said, read};
use crate::hub::policy::plan::meta;
use crate::hub::slice::observe::nets;
use crate::kubernetes::change::{Change, Steps};

/// Most places of a cluster on a slice.
const MAX_PLACES: usize = 4096;
/// Places that are free, at least: so many Services can be exported at once without waiting. Most
/// slices export nothing, and every place is an object in the API server and in the hub's memory.
const FREE_PLACES: usize = 2;
/// Places that are free, at least, where so many are in use.
const MORE_FREE_PLACES: usize = 8;
/// Most endpoints of a service in all clusters together: objects are at most 1.5 MB.
const MAX_ENDPOINTS: usize = 4000;
/// What is said to who exports a service that found no virtual address.
const NO_ADDRESS: &str = "the slice has no virtual address left for it; add a prefix to the slice, \
                          or export fewer services";

/// Decides.
pub(super) fn plan(observed: &Observed) -> Steps {
    let mut read = read(observed);
    let merged = merged(&read);
    let addresses = addresses(observed, &merged);
    for (name, one) in &merged {
        let conflicts: Vec<ServiceConflict> = one.conflicts.iter().map(Into::into).collect();
        let waits = addresses.without.iter().any(|(_, service)| service == name)
            && addresses.addresses.get(name).is_none_or(Vec::is_empty);
        read.tell(observed, name, &conflicts, waits.then_some(NO_ADDRESS));
    }
    let mut step = imports(observed, &read, &addresses);
    step.extend(places(observed, &read));
    vec![step]
}

/// What all clusters would import together: whose addresses are reserved, and who disagrees.
fn merged(read: &Read) -> BTreeMap<ServiceName, Merged> {
    let one = |(name, by): (&ServiceName, &BTreeMap<ClusterName, Said>)| {
        let exported = by.values().any(|said| said.exported);
        Some((name.clone(), merge(&exports(by, |_, said| said.exported || !exported))?))
    };
    read.taken.iter().filter_map(one).collect()
}

fn exports(
    by: &BTreeMap<ClusterName, Said>,
    counts: impl Fn(&ClusterName, &Said) -> bool,
) -> BTreeMap<ClusterName, Export> {
    let counting = by.iter().filter(|(cluster, said)| counts(cluster, said));
    counting.map(|(cluster, said)| (cluster.clone(), said.export.clone())).collect()
}

/// Virtual addresses on top of those that services have been told to have.
fn addresses(observed: &Observed, merged: &BTreeMap<ServiceName, Merged>) -> Addresses {
    let prefixes: BTreeSet<IpNet> =
        observed.slices.values().flat_map(|s| nets(&s.spec.service_prefixes)).collect();
    let prefixes: Vec<IpNet> = prefixes.into_iter().collect();
    let mut held: BTreeMap<ServiceName, Vec<IpAddr>> = BTreeMap::new();
    for told in observed.told.values() {
        let service = &told.spec.service;
        let name = ServiceName::new(&service.namespace, &service.name);
        let holds = held.entry(name).or_default();
        holds.extend(service.ips.iter().filter_map(|ip| ip.parse::<IpAddr>().ok()));
        holds.sort_unstable();
        holds.dedup();
    }
    let wanted = merged.iter().filter(|(_, m)| m.import.kind == Kind::ClusterSetIp);
    let slice: BTreeSet<Family> = observed
        .slices
        .values()
        .flat_map(|s| nets(&s.spec.prefixes))
        .map(|p| Family::of(&p))
        .collect();
    // A service keeps to its own families where the slice has one of them; a slice of the other
    // family alone serves it all the same.
    let families = |m: &Merged| {
        let own: BTreeSet<Family> = m.import.families.intersection(&slice).copied().collect();
        if own.is_empty() { slice.clone() } else { own }
    };
    let wanted = wanted.map(|(name, m)| (name.clone(), families(m))).collect();
    vip::allocate(&prefixes, &held, &wanted, &BTreeSet::new())
}

/// Imports of every cluster: what is exported, and what the cluster itself keeps for itself.
fn imports(observed: &Observed, read: &Read, addresses: &Addresses) -> Vec<Change> {
    let mut step = Vec::new();
    let mut wanted = BTreeSet::new();
    for (cluster, slice) in &observed.slices {
        for (name, by) in &read.taken {
            let object = import_object(&slice.name_any(), &name.namespace, &name.name);
            let Some(service) = import(name, by, cluster, addresses) else { continue };
            let key = (cluster.clone(), object.clone());
            let spec = WorkerServiceImportSpec {
                slice: slice.name_any(),
                cluster: cluster.to_string(),
                service: plan_into(&service),
            };
            let mut told = WorkerServiceImport::new(&object, spec);
            told.metadata = meta(slice, cluster, object);
            step.extend(Change::converge(&told, observed.told.get(&key).map(|i| &**i)));
            wanted.insert(key);
        }
    }
    let gone = observed.told.iter().filter(|(key, _)| !wanted.contains(key));
    step.extend(gone.filter_map(|(_, told)| Change::delete(&**told)));
    step
}

fn import(
    name: &ServiceName,
    by: &BTreeMap<ClusterName, Said>,
    cluster: &ClusterName,
    addresses: &Addresses,
) -> Option<PlannedService> {
    let import = merge(&exports(by, |of, said| said.exported || of == cluster))?.import;
    let addresses = addresses.addresses.get(name).cloned().unwrap_or_default();
    if import.kind == Kind::ClusterSetIp && addresses.is_empty() {
        return None;
    }
    let mut room = MAX_ENDPOINTS;
    let endpoints = by.iter().filter(|(of, _)| import.clusters.contains(*of));
    let endpoints = endpoints.map(|(of, said)| {
        let some: Vec<_> = said.endpoints.iter().take(room).cloned().collect();
        room -= some.len();
        (of.clone(), some)
    });
    Some(PlannedService {
        name: name.clone(),
        exported: by.values().any(|said| said.exported),
        addresses,
        endpoints: endpoints.collect(),
        import,
    })
}

/// Places to report in: those in use, and some that are free.
fn places(observed: &Observed, read: &Read) -> Vec<Change> {
    let mut step = Vec::new();
    for (cluster, slice) in &observed.slices {
        let used = read.answers.keys().filter(|(of, _)| of == cluster).count();
        let count = (used + free_places(used)).min(MAX_PLACES);
        for number in 0..count {
            let key = (cluster.clone(), number);
            let there = observed.places.get(&key).map(|p| &**p);
            let wanted = place(slice, cluster, number, read.answers.get(&key));
            step.extend(Change::converge(&wanted, there));
        }
        let beyond = observed.places.range((cluster.clone(), count)..);
        for (key, there) in beyond.take_while(|((of, _), _)| of == cluster) {
            step.extend(match read.answers.get(key) {
                Some(answer) if key.1 < MAX_PLACES => {
                    Change::converge(&place(slice, cluster, key.1, Some(answer)), Some(&**there))
                }
                _ => Change::delete(&**there),
            });
        }
    }
    step
}

/// How many places are to be free where `used` are not.
fn free_places(used: usize) -> usize {
    used.clamp(FREE_PLACES, MORE_FREE_PLACES).max(used / 4)
}

fn place(
    slice: &WorkerSlice,
    cluster: &ClusterName,
    number: usize,
    answer: Option<&ExportAnswer>,
) -> WorkerServiceExport {
    let object = export_object(&slice.name_any(), number);
    let spec = WorkerServiceExportSpec {
        slice: slice.name_any(),
        cluster: cluster.to_string(),
        number: i32::try_from(number).unwrap_or(i32::MAX),
        answer: answer.cloned(),
    };
    let mut place = WorkerServiceExport::new(&object, spec);
    place.metadata = meta(slice, cluster, object);
    place
}
