//! What the hub knows of slices' policies and pods.

use std::collections::BTreeMap;

use anyhow::Result;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};
use slicewire_api::policy::{ClusterPods, SlicePolicies, reported};
use slicewire_api::{SliceConfig, SlicePolicy, WorkerEndpoints, WorkerPolicy, WorkerSlice};
use slicewire_core::name::{ClusterName, HubNamespace, hub_namespace};

/// Slices, by project and name.
#[derive(Debug, Clone, Default)]
pub(super) struct Known {
    pub(super) slices: BTreeMap<(String, String), Slice>,
}

/// A slice with its policies and pods.
#[derive(Debug, Clone)]
pub(super) struct Slice {
    pub(super) config: SliceConfig,
    /// By name.
    pub(super) policies: BTreeMap<String, SlicePolicy>,
    /// As clusters have been told last, by name.
    pub(super) told: BTreeMap<String, WorkerPolicy>,
    pub(super) workers: BTreeMap<ClusterName, WorkerSlice>,
    pub(super) pods: BTreeMap<ClusterName, ClusterPods>,
}

impl Slice {
    pub(super) fn new(config: SliceConfig) -> Self {
        Self {
            config,
            policies: BTreeMap::new(),
            told: BTreeMap::new(),
            workers: BTreeMap::new(),
            pods: BTreeMap::new(),
        }
    }

    /// What its policies are made of.
    pub(super) fn sources(&self) -> SlicePolicies<'_> {
        let mut policies = SlicePolicies::of(&self.config.spec);
        policies.written = self.policies.iter().map(|(n, p)| (n.clone(), &p.spec)).collect();
        policies.told = self.told.iter().map(|(n, p)| (n.clone(), &p.spec.rules)).collect();
        policies
    }
}

/// The project whose namespace it is.
pub(super) fn project(namespace: Option<String>) -> Option<String> {
    match hub_namespace(&namespace?)? {
        HubNamespace::Project(project) => Some(project.to_string()),
        _ => None,
    }
}

impl Known {
    /// Reads the hub.
    ///
    /// # Errors
    /// It refuses, or does not answer.
    pub(super) async fn read(client: &Client) -> Result<Self> {
        let all = ListParams::default();
        let configs = Api::<SliceConfig>::all(client.clone());
        let policies = Api::<SlicePolicy>::all(client.clone());
        let slices = Api::<WorkerSlice>::all(client.clone());
        let told = Api::<WorkerPolicy>::all(client.clone());
        let reports = Api::<WorkerEndpoints>::all(client.clone());
        let (configs, policies, slices, told, reports) = tokio::try_join!(
            configs.list(&all),
            policies.list(&all),
            slices.list(&all),
            told.list(&all),
            reports.list(&all),
        )?;
        Ok(Self::of(configs.items, policies.items, slices.items, told.items, reports.items))
    }

    fn of(
        configs: Vec<SliceConfig>,
        policies: Vec<SlicePolicy>,
        slices: Vec<WorkerSlice>,
        told: Vec<WorkerPolicy>,
        reports: Vec<WorkerEndpoints>,
    ) -> Self {
        let mut known = Self::default();
        for config in configs {
            if let Some(project) = project(config.namespace()) {
                known.slices.insert((project, config.name_any()), Slice::new(config));
            }
        }
        for policy in policies {
            let Some(project) = project(policy.namespace()) else { continue };
            if let Some(slice) = known.slices.get_mut(&(project, policy.spec.slice.clone())) {
                slice.policies.insert(policy.name_any(), policy);
            }
        }
        for worker in slices {
            let Some((project, cluster)) = member(worker.namespace()) else { continue };
            if let Some(slice) = known.slices.get_mut(&(project, worker.spec.slice.clone())) {
                let own = reports.iter().filter(|r| {
                    r.namespace() == worker.namespace()
                        && r.spec.slice == worker.spec.slice
                        && r.spec.cluster == cluster.as_str()
                });
                slice.pods.insert(cluster.clone(), reported(&cluster, &worker, own));
                slice.workers.insert(cluster, worker);
            }
        }
        for policy in told {
            let Some((project, _)) = member(policy.namespace()) else { continue };
            if let Some(slice) = known.slices.get_mut(&(project, policy.spec.slice.clone())) {
                slice.told.insert(policy.spec.policy.clone(), policy);
            }
        }
        known
    }

    /// Forgets what is not asked for.
    pub(super) fn retain(&mut self, project: Option<&str>, slice: Option<&str>) {
        self.slices.retain(|(of, name), _| {
            project.is_none_or(|p| p == of) && slice.is_none_or(|s| s == name)
        });
    }
}

/// The project and cluster whose namespace it is.
fn member(namespace: Option<String>) -> Option<(String, ClusterName)> {
    match hub_namespace(&namespace?)? {
        HubNamespace::Cluster(project, cluster) => Some((project.to_string(), cluster)),
        _ => None,
    }
}
