//! What a slice router's packet rules are made of, from all the daemon knows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use slicewire_core::name::ClusterName;
use slicewire_core::policy::{Default, Endpoint, EndpointId, Identity, Mode, Port, Role};

use crate::decide::{Desired, Node};
use crate::plan::{NicWant, pod_mac};
use crate::world::{Pods, PolicyEntry, Slice, World};

/// How long a pod that the API server has not told of is taken to be told of still. Longer, and it
/// is one that the API server knows nothing of: then the runtime's word counts.
const GRACE: Duration = Duration::from_secs(10);

/// What a slice router's packet rules are made of.
#[derive(Debug)]
pub(crate) struct PolicyWant {
    pub(super) cluster: ClusterName,
    pub(super) default: (Default, Mode),
    /// By the name that is unique in the slice.
    pub(super) policies: BTreeMap<String, Arc<PolicyEntry>>,
    pub(super) ports: BTreeMap<String, Port>,
    pub(super) far: BTreeSet<IpNet>,
    /// Pods of this node.
    pub(super) local: BTreeMap<EndpointId, Endpoint>,
    /// Pods elsewhere, by place.
    pub(super) elsewhere: BTreeMap<String, Pods>,
}

/// What a pod of this node is called.
pub(super) const LOCAL: &str = "local/";

/// Says what the rules of a slice are made of.
pub(crate) fn want(
    world: &World,
    desired: &Desired,
    slice: &Slice,
    node: &Node,
    now: Instant,
) -> PolicyWant {
    let name = slice.name.as_str();
    let mut ports = BTreeMap::new();
    let mut local = BTreeMap::new();
    let mut namespaces = BTreeSet::new();
    for ((_, uid), nic) in desired.nics.iter().filter(|((s, _), _)| s == name) {
        let id: EndpointId = format!("{LOCAL}{uid}").into();
        let role = if nic.gateway { Role::Gateway } else { Role::Pod(id.clone()) };
        let (mac, addresses) = (pod_mac(&nic.port.device).0, nic.port.addresses.clone());
        ports.insert(nic.port.device.clone(), Port { mac, addresses, role });
        if nic.gateway {
            continue;
        }
        namespaces.insert(nic.pod.0.as_str());
        if let Some(endpoint) = endpoint(world, slice, uid, nic, node, now) {
            local.insert(id, endpoint);
        }
    }
    PolicyWant {
        cluster: slice.cluster.clone(),
        default: (slice.policy.default, slice.policy.mode),
        policies: policies(world, slice, &namespaces),
        ports,
        far: slice.remotes.values().flatten().copied().collect(),
        local,
        elsewhere: elsewhere(world, name, node),
    }
}

fn policies(
    world: &World,
    slice: &Slice,
    namespaces: &BTreeSet<&str>,
) -> BTreeMap<String, Arc<PolicyEntry>> {
    let mut all = BTreeMap::new();
    for entry in world.policies.values() {
        if entry.slice.as_deref() == Some(slice.name.as_str()) {
            let namespace = entry.policy.subject.namespaces.iter().next();
            let tier = entry.policy.tier;
            let key = match namespace.filter(|_| tier == slicewire_core::policy::Tier::Namespaced) {
                Some(namespace) => format!("{namespace}/{}", entry.name),
                None => entry.name.clone(),
            };
            all.insert(key, entry.clone());
        }
    }
    if slice.policy.network_policies {
        // Those of other namespaces select none of this node's pods.
        let here = world.network_policies.values().filter(|entry| {
            entry.policy.subject.namespaces.iter().any(|n| namespaces.contains(n.as_str()))
        });
        all.extend(here.map(|e| (format!("{}/{}", slice.cluster, e.name), e.clone())));
    }
    all
}

/// A pod of this node, with all its labels: what is selected on may change at any time.
fn endpoint(
    world: &World,
    slice: &Slice,
    uid: &str,
    nic: &NicWant,
    node: &Node,
    now: Instant,
) -> Option<Endpoint> {
    let namespace = nic.pod.0.clone();
    let namespace_labels = world.namespaces.get(&namespace).cloned().unwrap_or_default();
    let (service_account, labels, named_ports) = match world.pods.get(uid) {
        Some(pod) => (pod.service_account.clone(), pod.labels.clone(), pod.ports.clone()),
        None => {
            let sandbox = world.sandboxes.get(uid)?;
            let adopted = sandbox.seen.saturating_duration_since(node.started) < GRACE / 2;
            // Who it is decides what passes: rather nothing than by half of what there is to know.
            if !adopted && now.saturating_duration_since(sandbox.seen) < GRACE {
                return None;
            }
            (String::new(), sandbox.labels.clone(), BTreeMap::new())
        }
    };
    let identity = Identity {
        cluster: slice.cluster.clone(),
        namespace,
        service_account,
        labels,
        namespace_labels,
    };
    let addresses = nic.port.addresses.iter().copied().collect();
    Some(Endpoint { identity: Arc::new(identity), addresses, named_ports })
}

fn elsewhere(world: &World, slice: &str, node: &Node) -> BTreeMap<String, Pods> {
    let nodes = world.slice_nodes.iter();
    let nodes = nodes.filter(|(_, n)| n.slice == slice && n.node != node.name);
    let far = world.far_pods.iter().filter(|(_, far)| far.slice == slice);
    // The names of both sorts of objects are of different shapes, and so are these.
    nodes
        .map(|(name, n)| (format!("node {name}"), n.pods.clone()))
        .chain(far.map(|(name, far)| (name.clone(), far.pods.clone())))
        .filter(|(_, pods)| !pods.is_empty())
        .collect()
}
