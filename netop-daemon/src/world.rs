//! All the daemon knows, in one place: what the API server says, which sandboxes the runtime has,
//! what the gateways say.
//!
//! Watchers write, the converging loop reads a snapshot; whoever changes something bumps a version
//! that others can wait for.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use ipnet::IpNet;
use slicewire_api::policy::NamedPorts;
use slicewire_core::name::{ClusterName, SliceName};
use slicewire_core::onboarding::Rule;
use slicewire_core::policy::{self, Endpoint, EndpointId, Keys};
use slicewire_core::prefix::Family;
use slicewire_core::qos::Qos;
use slicewire_core::routes::Tunnel;
use slicewire_core::selector::Labels;
use slicewire_core::service::balance::Spread;
use tokio::sync::watch;

use crate::services::ServiceEntry;

/// A slice, validated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Slice {
    pub(crate) name: SliceName,
    pub(crate) prefixes: Vec<IpNet>,
    /// Families in which this cluster has pools: every pod gets an address of each.
    pub(crate) families: BTreeSet<Family>,
    pub(crate) remotes: BTreeMap<String, Vec<IpNet>>,
    pub(crate) rules: Vec<Rule>,
    /// This cluster's name on the hub.
    pub(crate) cluster: ClusterName,
    pub(crate) policy: SlicePolicy,
    pub(crate) vni: u32,
    /// Bytes.
    pub(crate) mtu: u32,
    /// What is asked for; none: nothing.
    pub(crate) qos: Option<Qos>,
    pub(crate) balancing: Balancing,
}

/// How connections to a slice's services are spread over clusters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Balancing {
    pub(crate) spread: Spread,
    /// Of those that have another than the default.
    pub(crate) weights: BTreeMap<ClusterName, u16>,
}

/// A slice's own say about who may talk to whom.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct SlicePolicy {
    pub(crate) default: policy::Default,
    pub(crate) mode: policy::Mode,
    /// NetworkPolicies hold on the slice, too.
    pub(crate) network_policies: bool,
    /// What is to be told of pods; none: nothing.
    pub(crate) keys: Option<Keys>,
}

/// A policy, of the slice it names or, with none, of every slice that wants NetworkPolicies.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct PolicyEntry {
    pub(crate) slice: Option<String>,
    /// What it is told about under: the policy's name; `<namespace>/<name>` of a NetworkPolicy.
    pub(crate) name: String,
    pub(crate) revision: Option<i64>,
    pub(crate) policy: Arc<policy::Policy>,
}

/// Pods of one place, with names that are unique among all places.
pub(crate) type Pods = Arc<Vec<(EndpointId, Endpoint)>>;

/// Pods of another cluster on a slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FarPods {
    pub(crate) slice: String,
    pub(crate) pods: Pods,
}

/// A Slice object: what it last said that was valid, and whether it is being deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SliceEntry {
    pub(crate) valid: Option<Slice>,
    pub(crate) deleting: bool,
}

/// A SliceNode object, trimmed.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SliceNode {
    pub(crate) slice: String,
    pub(crate) node: String,
    pub(crate) blocks: Vec<IpNet>,
    pub(crate) underlay: Vec<IpAddr>,
    /// What it tells of its pods; only of other nodes.
    pub(crate) pods: Pods,
    pub(crate) deleting: bool,
    pub(crate) generation: Option<i64>,
    pub(crate) finalizers: Vec<String>,
    /// The status as it is; only of this node's own.
    pub(crate) status: Option<slicewire_api::SliceNodeStatus>,
}

/// A pod of this node, trimmed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pod {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) labels: Labels,
    pub(crate) service_account: String,
    pub(crate) ports: NamedPorts,
    pub(crate) host_network: bool,
    /// All its containers have ended and none will start.
    pub(crate) finished: bool,
    pub(crate) deleting: bool,
    pub(crate) network_status: Option<String>,
    pub(crate) resource_version: String,
}

/// A gateway pod of any node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GatewayPod {
    pub(crate) slice: String,
    pub(crate) node: String,
    pub(crate) ip: Option<IpAddr>,
    pub(crate) deleting: bool,
}

/// A pod sandbox that runs on this node. Named by the pod's UID.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sandbox {
    pub(crate) id: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) labels: Labels,
    /// Its network namespace; none when it shares the node's.
    pub(crate) netns: Option<PathBuf>,
    pub(crate) seen: Instant,
}

/// What a gateway last said about its tunnels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GatewayRoutes {
    pub(crate) tunnels: Vec<Tunnel>,
    /// Since when it has not been heard; none while its stream is up.
    pub(crate) lost: Option<Instant>,
}

/// A kind of thing that is watched; nothing is removed from the kernel before each of them has
/// been listed once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Source {
    Slices,
    SliceNodes,
    Namespaces,
    Pods,
    Gateways,
    Sandboxes,
    Rules,
    FarPods,
    NetworkPolicies,
    Services,
}

impl Source {
    pub(crate) const ALL: [Self; 10] = [
        Self::Slices,
        Self::SliceNodes,
        Self::Namespaces,
        Self::Pods,
        Self::Gateways,
        Self::Sandboxes,
        Self::Rules,
        Self::FarPods,
        Self::NetworkPolicies,
        Self::Services,
    ];
}

/// Everything. Keys: objects by name, pods and what belongs to them by UID. What there are many of is
/// shared: every round takes a copy.
#[derive(Debug, Clone, Default)]
pub(crate) struct World {
    pub(crate) slices: BTreeMap<String, SliceEntry>,
    pub(crate) slice_nodes: BTreeMap<String, Arc<SliceNode>>,
    pub(crate) namespaces: BTreeMap<String, Labels>,
    pub(crate) pods: BTreeMap<String, Arc<Pod>>,
    pub(crate) gateways: BTreeMap<String, GatewayPod>,
    pub(crate) sandboxes: BTreeMap<String, Arc<Sandbox>>,
    pub(crate) routes: BTreeMap<String, GatewayRoutes>,
    pub(crate) policies: BTreeMap<String, Arc<PolicyEntry>>,
    pub(crate) network_policies: BTreeMap<String, Arc<PolicyEntry>>,
    pub(crate) far_pods: BTreeMap<String, FarPods>,
    pub(crate) services: BTreeMap<String, Arc<ServiceEntry>>,
    /// This node's zone, where it has one.
    pub(crate) zone: Option<String>,
    pub(crate) listed: BTreeSet<Source>,
}

impl World {
    /// What has not been listed yet.
    pub(crate) fn missing(&self) -> Vec<Source> {
        Source::ALL.into_iter().filter(|s| !self.listed.contains(s)).collect()
    }

    /// This node's SliceNode of a slice, unless it is being deleted.
    pub(crate) fn own_node(&self, slice: &str, node: &str) -> Option<&SliceNode> {
        let mut nodes = self.slice_nodes.values().map(Arc::as_ref);
        nodes.find(|n| n.slice == slice && n.node == node && !n.deleting)
    }
}

/// The world, shared.
#[derive(Clone)]
pub(crate) struct Shared {
    world: Arc<Mutex<World>>,
    version: watch::Sender<u64>,
}

impl Default for Shared {
    fn default() -> Self {
        Self { world: Arc::default(), version: watch::Sender::new(0) }
    }
}

impl Shared {
    /// Looks at the world; keep it short.
    pub(crate) fn read<T>(&self, look: impl FnOnce(&World) -> T) -> T {
        look(&self.lock())
    }

    /// Changes the world. `change` says whether it changed anything; then everybody who waits wakes.
    pub(crate) fn change(&self, change: impl FnOnce(&mut World) -> bool) {
        let changed = change(&mut self.lock());
        if changed {
            self.version.send_modify(|v| *v = v.wrapping_add(1));
        }
    }

    /// A copy.
    pub(crate) fn snapshot(&self) -> World {
        self.lock().clone()
    }

    /// Wakes when the world changes from now on.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        let mut receiver = self.version.subscribe();
        receiver.mark_unchanged();
        receiver
    }

    fn lock(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
