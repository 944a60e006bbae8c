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
use slicewire_core::name::SliceName;
use slicewire_core::onboarding::Rule;
use slicewire_core::prefix::Family;
use slicewire_core::routes::Tunnel;
use slicewire_core::selector::Labels;
use tokio::sync::watch;

/// A slice, validated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Slice {
    pub(crate) name: SliceName,
    pub(crate) prefixes: Vec<IpNet>,
    /// Families in which this cluster has pools: every pod gets an address of each.
    pub(crate) families: BTreeSet<Family>,
    pub(crate) remotes: BTreeMap<String, Vec<IpNet>>,
    pub(crate) rules: Vec<Rule>,
    pub(crate) vni: u32,
    /// Bytes.
    pub(crate) mtu: u32,
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
}

impl Source {
    const ALL: [Self; 6] = [
        Self::Slices,
        Self::SliceNodes,
        Self::Namespaces,
        Self::Pods,
        Self::Gateways,
        Self::Sandboxes,
    ];
}

/// Everything. Keys: objects by name, pods and what belongs to them by UID.
#[derive(Debug, Clone, Default)]
pub(crate) struct World {
    pub(crate) slices: BTreeMap<String, SliceEntry>,
    pub(crate) slice_nodes: BTreeMap<String, SliceNode>,
    pub(crate) namespaces: BTreeMap<String, Labels>,
    pub(crate) pods: BTreeMap<String, Pod>,
    pub(crate) gateways: BTreeMap<String, GatewayPod>,
    pub(crate) sandboxes: BTreeMap<String, Sandbox>,
    pub(crate) routes: BTreeMap<String, GatewayRoutes>,
    pub(crate) listed: BTreeSet<Source>,
}

impl World {
    /// What has not been listed yet.
    pub(crate) fn missing(&self) -> Vec<Source> {
        Source::ALL.into_iter().filter(|s| !self.listed.contains(s)).collect()
    }

    /// This node's SliceNode of a slice, unless it is being deleted.
    pub(crate) fn own_node(&self, slice: &str, node: &str) -> Option<&SliceNode> {
        self.slice_nodes.values().find(|n| n.slice == slice && n.node == node && !n.deleting)
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
