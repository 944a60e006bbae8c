//! Whether a slice can be had as it is written; the reconciler and the webhook ask the same.

use std::sync::Arc;

use ipnet::IpNet;
use kube::ResourceExt;
use slicewire_api::isolation::places;
use slicewire_api::{SliceConfig, convert};
use slicewire_core::isolation;
use slicewire_core::slice_spec::{self, ClusterFacts, RawRule, RawSlice, ValidatedSlice, World};
use slicewire_core::violation::Violation;

use super::observe::{Observed, around};
use crate::hub::Caches;

/// The slice, or every fault.
pub(super) fn validate(observed: &Observed) -> Result<ValidatedSlice, Vec<Violation>> {
    let mut faults = Vec::new();
    if observed.project.is_none() {
        let namespace = observed.config.namespace().unwrap_or_default();
        let what = "is not the namespace of a Project; create the SliceConfig in the namespace that the Project's status names";
        faults.push(Violation::new("metadata.namespace", namespace, "NotAProject", what));
    }
    let spec = &observed.config.spec;
    let selectors = convert::rules("spec.namespaces", &spec.namespaces, None);
    let slice = slice_spec::validate(&raw(&observed.config), &world(observed));
    faults.extend(isolation_faults(&observed.config));
    let clusters: Vec<String> = spec.clusters.iter().map(|c| c.name.clone()).collect();
    let weights = spec.services.weights("spec.services", Some(&clusters));
    faults.extend(weights.err().into_iter().flatten());
    faults.extend(selectors.err().into_iter().flatten());
    faults.extend(super::keys::faults(observed));
    faults.extend(super::qos::faults(&observed.config, observed.profile.as_deref()));
    match slice {
        Ok(slice) if faults.is_empty() => Ok(slice),
        Ok(_) => Err(faults),
        Err(more) => Err(faults.into_iter().chain(more).collect()),
    }
}

/// The faults of a SliceConfig that somebody wants to store.
pub(in crate::hub) fn admit(caches: &Caches, config: SliceConfig) -> Vec<Violation> {
    validate(&around(caches, Arc::new(config))).err().unwrap_or_default()
}

/// Faults of the namespaces that the isolation profile lists.
fn isolation_faults(config: &SliceConfig) -> Vec<Violation> {
    let Some(profile) = &config.spec.namespace_isolation_profile else { return Vec::new() };
    let clusters: Vec<String> = config.spec.clusters.iter().map(|c| c.name.clone()).collect();
    let lists = [
        ("applicationNamespaces", &profile.application_namespaces),
        ("allowedNamespaces", &profile.allowed_namespaces),
    ];
    let faults = lists.into_iter().flat_map(|(list, entries)| {
        let field = format!("spec.namespaceIsolationProfile.{list}");
        isolation::validate(&field, &places(entries), &clusters)
    });
    faults.collect()
}

fn raw(config: &SliceConfig) -> RawSlice {
    let spec = &config.spec;
    RawSlice {
        name: config.name_any(),
        prefixes: spec.prefixes.clone(),
        clusters: spec.clusters.iter().map(|c| c.name.clone()).collect(),
        replicas: spec.gateways.replicas,
        mtu: spec.mtu,
        rules: spec
            .namespaces
            .iter()
            .map(|r| RawRule { clusters: r.clusters.clone(), names: r.names.clone() })
            .collect(),
    }
}

fn world(observed: &Observed) -> World {
    let reserved = |list: &[String]| -> Vec<IpNet> {
        list.iter().filter_map(|text| text.parse().ok()).collect()
    };
    let clusters = observed.clusters.iter().map(|(name, cluster)| {
        let facts = ClusterFacts {
            reserved: reserved(
                cluster.status.as_ref().map_or(&[], |s| s.reserved_prefixes.as_slice()),
            ),
            leaving: cluster.metadata.deletion_timestamp.is_some(),
        };
        (name.clone(), facts)
    });
    World {
        clusters: clusters.collect(),
        held: observed.held(),
        running: observed.running_prefixes(),
        services: observed.service_prefixes(),
    }
}
