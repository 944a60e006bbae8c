//! A slice's policies and pods, out of the objects that tell of them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::ResourceExt;
use slicewire_core::member::{own_address, sentence};
use slicewire_core::name::ClusterName;
use slicewire_core::policy::{
    Endpoint, EndpointId, Identity, Keys, Policy, PolicySet, spec, standard,
};
use slicewire_core::selector::Labels;

use super::convert::{keys_from, named_ports, network_policy};
use super::{SlicePolicySettings, SlicePolicySpec};
use crate::{SliceConfigSpec, WorkerEndpoints, WorkerSlice};

/// What a slice's policies are made of.
#[derive(Debug, Clone, Default)]
pub struct SlicePolicies<'a> {
    /// The slice's own say.
    pub settings: SlicePolicySettings,
    /// The slice's clusters.
    pub clusters: BTreeSet<ClusterName>,
    /// Policies as they are written, by name.
    pub written: BTreeMap<String, &'a SlicePolicySpec>,
    /// Policies as clusters have been told them last, by name.
    pub told: BTreeMap<String, &'a SlicePolicySpec>,
}

impl<'a> SlicePolicies<'a> {
    /// Those of a slice without policies.
    pub fn of(config: &SliceConfigSpec) -> Self {
        let clusters = config.clusters.iter();
        Self {
            settings: config.policy.clone(),
            clusters: clusters.filter_map(|c| ClusterName::parse(&c.name).ok()).collect(),
            ..Self::default()
        }
    }

    /// What clusters carry out. A policy with faults is as it was when it had none.
    pub fn set(&self) -> PolicySet {
        let parsed = self
            .written
            .iter()
            .filter_map(|(name, spec)| Some((name.clone(), spec.parse(&self.clusters).ok()?)));
        let mut good: BTreeMap<String, Policy> = parsed.collect();
        for name in spec::conflicts(&good).into_keys() {
            good.remove(&name);
        }
        let mut policies = BTreeMap::new();
        for (name, spec) in &self.written {
            if let Some(policy) = good.remove(name) {
                policies.insert(spec.key(name).into(), policy.into());
            } else if let Some(told) = self.told.get(name)
                && let Ok(policy) = told.parse_alone()
            {
                policies.insert(told.key(name).into(), policy.into());
            }
        }
        PolicySet {
            default: self.settings.default.domain(),
            default_mode: self.settings.enforce.mode(),
            policies,
        }
    }
}

/// What is known of a cluster's pods on a slice.
#[derive(Debug, Clone, Default)]
pub struct Cluster {
    /// What is known of each of them.
    pub keys: Keys,
    /// The pods, by `<cluster>/<namespace>/<pod>`.
    pub pods: BTreeMap<EndpointId, Endpoint>,
}

/// What a cluster reports of its pods on the hub: a member's word, of which names are made plain
/// and addresses have to be its own.
pub fn reported<'a>(
    cluster: &ClusterName,
    slice: &WorkerSlice,
    reports: impl IntoIterator<Item = &'a WorkerEndpoints>,
) -> Cluster {
    let pools: Vec<IpNet> = slice.spec.pools.iter().filter_map(|p| p.parse().ok()).collect();
    let keys = slice.spec.policy_keys.as_ref().map(keys_from).unwrap_or_default();
    let mut pods: BTreeMap<EndpointId, Endpoint> = BTreeMap::new();
    let said = reports.into_iter().filter_map(|r| r.status.as_ref()).flat_map(|s| &s.endpoints);
    for one in said {
        let mut endpoint = one.endpoint(cluster);
        endpoint.addresses.retain(|a| own_address(&a.to_string(), &pools).is_ok());
        if endpoint.addresses.is_empty() {
            continue;
        }
        let id = id(cluster, &sentence(&one.namespace), &sentence(&one.pod));
        match pods.get_mut(&id) {
            // A pod of a StatefulSet that moves is in two places for a moment.
            Some(there) => there.addresses.append(&mut endpoint.addresses),
            None => drop(pods.insert(id, endpoint)),
        }
    }
    Cluster { keys, pods }
}

/// A pod, as its cluster's API server knows it.
pub fn endpoint_of(
    cluster: &ClusterName,
    pod: &Pod,
    namespace_labels: &Labels,
    addresses: &[IpAddr],
) -> (EndpointId, Endpoint) {
    let namespace = pod.namespace().unwrap_or_default();
    let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.clone());
    let id = id(cluster, &namespace, &pod.name_any());
    let identity = Identity {
        cluster: cluster.clone(),
        namespace,
        service_account: account.unwrap_or_else(|| "default".to_owned()),
        labels: pod.labels().clone(),
        namespace_labels: namespace_labels.clone(),
    };
    let endpoint = Endpoint {
        identity: Arc::new(identity),
        addresses: addresses.to_vec(),
        named_ports: pod.spec.as_ref().map(named_ports).unwrap_or_default(),
    };
    (id, endpoint)
}

fn id(cluster: &ClusterName, namespace: &str, pod: &str) -> EndpointId {
    format!("{cluster}/{namespace}/{pod}").into()
}

/// A cluster's own NetworkPolicies as they hold on a slice. What is none is left out, as nodes do.
pub fn own_policies<'a>(
    cluster: &ClusterName,
    objects: impl IntoIterator<Item = &'a NetworkPolicy>,
) -> BTreeMap<String, Policy> {
    let one = |object: &NetworkPolicy| {
        let policy = standard::parse(&network_policy(object), cluster).ok()?;
        let namespace = object.namespace().unwrap_or_default();
        Some((format!("{cluster}/{namespace}/{}", object.name_any()), policy))
    };
    objects.into_iter().filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use slicewire_core::policy::Tier;

    use super::*;
    use crate::{PolicyEndpoint, WorkerEndpointsSpec, WorkerEndpointsStatus, WorkerSliceSpec};

    fn admin(priority: i32) -> SlicePolicySpec {
        SlicePolicySpec {
            slice: "blue".into(),
            priority: Some(priority),
            egress: Some(Vec::new()),
            ..SlicePolicySpec::default()
        }
    }

    #[test]
    fn a_policy_with_faults_is_as_it_was() {
        let (good, same, broken, was) = (admin(1), admin(1), admin(2000), admin(7));
        let mut policies = SlicePolicies {
            written: [("a", &good), ("b", &same), ("c", &broken)]
                .map(|(name, spec)| (name.to_owned(), spec))
                .into(),
            ..SlicePolicies::default()
        };
        assert_eq!(policies.set().policies.keys().map(|name| &**name).collect::<Vec<_>>(), ["a"]);
        policies.told.insert("c".to_owned(), &was);
        let set = policies.set();
        assert_eq!(set.policies.keys().map(|name| &**name).collect::<Vec<_>>(), ["a", "c"]);
        assert_eq!(set.policies["c"].tier, Tier::Admin { priority: 7 });
    }

    #[test]
    fn a_members_word_is_made_plain_and_foreign_addresses_are_nobodys() {
        let spec = WorkerSliceSpec { pools: vec!["10.77.0.0/20".into()], ..Default::default() };
        let slice = WorkerSlice::new("blue", spec);
        let mut report = WorkerEndpoints::new("blue.east.0", WorkerEndpointsSpec::default());
        let pod = |name: &str, address: &str| PolicyEndpoint {
            namespace: "shop".into(),
            pod: name.into(),
            addresses: vec![address.into()],
            ..PolicyEndpoint::default()
        };
        let endpoints = vec![
            pod("web", "10.77.0.7"),
            pod("web", "10.77.1.7"),
            pod("evil", "10.77.16.9"),
            pod("red\u{1b}[31m", "10.77.0.8"),
        ];
        report.status = Some(WorkerEndpointsStatus { endpoints });
        let east = ClusterName::parse("east").unwrap();
        let known = reported(&east, &slice, [&report]);
        assert_eq!(known.pods.len(), 2, "{known:?}");
        assert_eq!(known.pods["east/shop/web"].addresses.len(), 2);
        assert!(known.pods.keys().all(|id| !id.contains('\u{1b}')), "{known:?}");
    }
}
