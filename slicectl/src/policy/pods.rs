//! A slice's pods and NetworkPolicies, read from the cluster they are in.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};
use slicewire_api::policy::{endpoint_of, own_policies};
use slicewire_api::{Nic, SliceNode};
use slicewire_core::name::ClusterName;
use slicewire_core::onboarding::SYSTEM_NAMESPACE;
use slicewire_core::policy::{Endpoint, EndpointId, Policy};

/// What a cluster says of its own pods on a slice.
pub(super) struct Told {
    pub(super) pods: BTreeMap<EndpointId, Endpoint>,
    /// Its NetworkPolicies in the slice's namespaces.
    pub(super) policies: BTreeMap<String, Policy>,
}

/// Asks a cluster for everything there is to know of its pods on a slice.
///
/// # Errors
/// It refuses, or does not answer.
pub(super) async fn ask(client: &Client, cluster: &ClusterName, slice: &str) -> Result<Told> {
    let nodes = Api::<SliceNode>::namespaced(client.clone(), SYSTEM_NAMESPACE);
    let nodes = nodes.list(&ListParams::default()).await;
    let nodes = nodes.with_context(|| format!("cluster {cluster} does not tell its SliceNodes"))?;
    let on_slice = nodes.items.iter().filter(|n| n.spec.slice == slice);
    let nics = on_slice.filter_map(|n| n.status.as_ref()).flat_map(|s| &s.nics);
    let nics: Vec<&Nic> = nics.filter(|nic| nic.namespace != SYSTEM_NAMESPACE).collect();
    let namespaces: BTreeSet<&str> = nics.iter().map(|nic| nic.namespace.as_str()).collect();
    let mut told = Told { pods: BTreeMap::new(), policies: BTreeMap::new() };
    for namespace in namespaces {
        let object = Api::<Namespace>::all(client.clone()).get(namespace).await?;
        let pods = Api::<Pod>::namespaced(client.clone(), namespace);
        let pods = pods.list(&ListParams::default()).await?;
        let pods: BTreeMap<String, Pod> =
            pods.items.into_iter().map(|pod| (pod.name_any(), pod)).collect();
        for nic in nics.iter().filter(|nic| nic.namespace == namespace) {
            // One that is gone meanwhile needs no preview.
            let Some(pod) = pods.get(&nic.pod) else { continue };
            let addresses: Vec<IpAddr> =
                nic.addresses.iter().filter_map(|a| a.parse().ok()).collect();
            told.pods.extend([endpoint_of(cluster, pod, object.labels(), &addresses)]);
        }
        let policies = Api::<NetworkPolicy>::namespaced(client.clone(), namespace);
        let policies = policies.list(&ListParams::default()).await?;
        told.policies.extend(own_policies(cluster, &policies.items));
    }
    Ok(told)
}
