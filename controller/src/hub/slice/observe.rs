//! What there is of a slice on the hub.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::IpNet;
use kube::ResourceExt;
use slicewire_api::{
    Cluster, SliceConfig, SlicePolicy, SliceQosProfile, WorkerGateway, WorkerPolicy, WorkerSlice,
};
use slicewire_core::ipam::{Holding, Holdings};
use slicewire_core::name::{ClusterName, HubNamespace, ProjectName, hub_namespace};

use crate::hub::cluster::plan::given_up;
use crate::hub::{Caches, Hub};
use crate::kubernetes::cache::Key;

/// A slice, its project's clusters, and what they have been told of it.
#[derive(Debug, Clone)]
pub(super) struct Observed {
    pub(super) config: Arc<SliceConfig>,
    /// The project, by the namespace the SliceConfig is in.
    pub(super) project: Option<ProjectName>,
    /// The project's clusters by name, without those that are cut off: nobody is told of them any
    /// more.
    pub(super) clusters: BTreeMap<String, Arc<Cluster>>,
    /// The SliceQosProfile that the slice names.
    pub(super) profile: Option<Arc<SliceQosProfile>>,
    /// WorkerSlices by cluster.
    pub(super) slices: BTreeMap<ClusterName, Arc<WorkerSlice>>,
    /// WorkerGateways by cluster.
    pub(super) gateways: BTreeMap<ClusterName, Arc<WorkerGateway>>,
    /// Its policies.
    pub(super) policies: Vec<Arc<SlicePolicy>>,
    /// Its policies as clusters have been told them.
    pub(super) told_policies: Vec<Arc<WorkerPolicy>>,
}

/// Reads the caches.
pub(super) fn observe(hub: &Hub, (namespace, name): &Key) -> Option<Observed> {
    let config = hub.caches.configs.get(namespace, name)?;
    Some(around(&hub.caches, config))
}

/// What there is around a SliceConfig, which need not be stored yet.
pub(super) fn around(caches: &Caches, config: Arc<SliceConfig>) -> Observed {
    let namespace = config.namespace().unwrap_or_default();
    let name = config.name_any();
    let project = match hub_namespace(&namespace) {
        Some(HubNamespace::Project(project)) => Some(project),
        _ => None,
    };
    let cut_off = |c: &Cluster| c.metadata.deletion_timestamp.is_some() && given_up(c);
    let clusters = caches.clusters.list_in(&namespace).into_iter();
    let clusters = clusters.filter(|c| !cut_off(c)).map(|c| (c.name_any(), c)).collect();
    let slices = caches.slices.list_named(&name).into_iter();
    let gateways = caches.gateways.list_named(&name).into_iter();
    let ours = |namespace: Option<String>| match hub_namespace(&namespace.unwrap_or_default()) {
        Some(HubNamespace::Cluster(p, cluster)) if Some(&p) == project.as_ref() => Some(cluster),
        _ => None,
    };
    let policies = caches.policies.list_in(&namespace).into_iter();
    let told = caches.told_policies.list().into_iter().filter(|p| p.spec.slice == name);
    Observed {
        policies: policies.filter(|p| p.spec.slice == name).collect(),
        told_policies: told.filter(|p| ours(p.namespace()).is_some()).collect(),
        slices: slices.filter_map(|s| Some((ours(s.namespace())?, s))).collect(),
        gateways: gateways.filter_map(|g| Some((ours(g.namespace())?, g))).collect(),
        profile: profile_of(&config).and_then(|p| caches.profiles.get(&namespace, p)),
        config,
        project,
        clusters,
    }
}

impl Observed {
    pub(super) fn deleting(&self) -> bool {
        self.config.metadata.deletion_timestamp.is_some()
    }

    /// Whether any cluster has been told of the slice.
    pub(super) fn running(&self) -> bool {
        !self.slices.is_empty()
    }

    /// Who holds which addresses: as the status of the SliceConfig books it, and where that has
    /// been lost, as the clusters were told.
    pub(super) fn held(&self) -> Holdings {
        let mut held = Holdings::new();
        let booked = self.config.status.iter().flat_map(|s| &s.clusters);
        for entry in booked {
            let holding =
                Holding { pools: nets(&entry.pools), gateways: nets(&entry.gateway_prefixes) };
            if let (Ok(name), true) = (ClusterName::parse(&entry.name), holding.all().count() > 0) {
                held.insert(name, holding);
            }
        }
        for (name, slice) in &self.slices {
            held.entry(name.clone()).or_insert_with(|| Holding {
                pools: nets(&slice.spec.pools),
                gateways: nets(&slice.spec.gateway_prefixes),
            });
        }
        held
    }

    /// The prefixes of services' virtual addresses, as the clusters have been told.
    pub(super) fn service_prefixes(&self) -> Vec<IpNet> {
        let told = self.slices.values().flat_map(|s| nets(&s.spec.service_prefixes));
        told.collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// The prefixes the slice runs with.
    pub(super) fn running_prefixes(&self) -> Vec<IpNet> {
        let mut all: Vec<IpNet> =
            self.slices.values().flat_map(|s| nets(&s.spec.prefixes)).collect();
        all.sort_unstable();
        all.dedup();
        all
    }
}

/// Name of the profile that a slice names.
pub(in crate::hub) fn profile_of(config: &SliceConfig) -> Option<&str> {
    config.spec.qos.as_ref()?.profile.as_deref()
}

/// What of a list of ours parses, which is all of it.
pub(in crate::hub) fn nets(list: &[String]) -> Vec<IpNet> {
    list.iter().filter_map(|text| text.parse().ok()).collect()
}
