//! What this node's routers and NICs should be, from all the daemon knows.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use slicewire_core::attach::{self, Offer};
use slicewire_core::name;
use slicewire_core::onboarding::{GATEWAY_LABEL, PodFacts, SYSTEM_NAMESPACE};
use slicewire_core::prefix::Family;
use slicewire_core::routes;
use slicewire_core::selector::Labels;
use slicewire_kernel::{Mac, Vxlan};

use crate::allocations::Allocations;
use crate::plan::{NicWant, PortWant, RouterWant};
use crate::world::{Pod, Sandbox, Slice, World};

/// How long a gateway that has stopped talking is still used like the others: its process may be
/// restarting while its tunnels work.
const GRACE: Duration = Duration::from_secs(10);
/// How long after its start the daemon leaves other clusters' routes alone while a gateway has not
/// been heard yet.
const SETTLE: Duration = Duration::from_secs(15);

/// NICs there are: pod UID to slice to the NIC's name.
pub(crate) type Present = BTreeMap<String, BTreeMap<String, String>>;

/// The node itself.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) underlay: Vec<IpAddr>,
    /// When the daemon started.
    pub(crate) started: Instant,
}

/// A pod that should be on a slice and is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) slice: String,
    pub(crate) uid: String,
    /// Namespace and name.
    pub(crate) pod: (String, String),
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

/// How this node should be.
#[derive(Debug, Default)]
pub(crate) struct Desired {
    /// By slice. A slice without address blocks yet has none.
    pub(crate) routers: BTreeMap<String, RouterWant>,
    /// By slice and pod UID.
    pub(crate) nics: BTreeMap<(String, String), Arc<NicWant>>,
    pub(crate) failures: Vec<Failure>,
    /// Slices some pod of this node wants, whether it gets it or not.
    pub(crate) wanted: BTreeSet<String>,
    /// Slices about which nothing valid is known: their routers stay as they are.
    pub(crate) unknown: BTreeSet<String>,
}

/// Which slices a sandbox's pod is a member of.
pub(crate) fn memberships(world: &World, node: &str, uid: &str) -> Vec<String> {
    let offers = offers(world, node);
    let Some(sandbox) = world.sandboxes.get(uid) else { return Vec::new() };
    with_facts(world, uid, sandbox, |facts| {
        attach::memberships(&offers, facts).into_iter().map(|o| o.slice.clone()).collect()
    })
}

/// Decides. Gives addresses to pods that have none and takes them back from those that are gone.
pub(crate) fn decide(
    world: &World,
    node: &Node,
    allocations: &mut Allocations,
    present: &Present,
    now: Instant,
    now_ms: u64,
) -> Desired {
    let offers = offers(world, &node.name);
    let mut desired = Desired::default();
    for (slice, entry) in &world.slices {
        if entry.valid.is_none() && !entry.deleting {
            desired.unknown.insert(slice.clone());
        }
        let blocks = world.own_node(slice, &node.name).map_or(&[][..], |n| n.blocks.as_slice());
        allocations.slice(slice).set_blocks(blocks);
    }
    let nothing = BTreeMap::new();
    for (uid, sandbox) in &world.sandboxes {
        if world.pods.get(uid).is_some_and(|p| p.finished) {
            continue;
        }
        let present = present.get(uid).unwrap_or(&nothing);
        let wanted =
            with_facts(world, uid, sandbox, |facts| attach::wanted(&offers, facts, present));
        let pod = (sandbox.namespace.clone(), sandbox.name.clone());
        for refusal in wanted.refused {
            desired.wanted.insert(refusal.slice.clone());
            desired.failures.push(Failure {
                slice: refusal.slice,
                uid: uid.clone(),
                pod: pod.clone(),
                reason: refusal.reason,
                message: refusal.message,
            });
        }
        for (slice, nic) in wanted.nics {
            desired.wanted.insert(slice.clone());
            want_nic(world, allocations, &mut desired, (&slice, uid), sandbox, nic, now_ms);
        }
    }
    desired.wanted.extend(expected(world, &offers));
    release(allocations, &desired, now_ms);
    for slice in &desired.wanted {
        let Some(entry) = valid(world, slice) else { continue };
        let router = router(world, node, entry, &desired, now);
        if !router.addresses.is_empty() || !router.ports.is_empty() {
            desired.routers.insert(slice.clone(), router);
        }
    }
    desired
}

fn valid<'a>(world: &'a World, slice: &str) -> Option<&'a Slice> {
    world.slices.get(slice).and_then(|e| e.valid.as_ref())
}

/// Slices that pods of this node can be on: valid, and not on their way out, here or everywhere.
fn offers(world: &World, node: &str) -> Vec<Offer> {
    let leaving = |slice: &str| {
        world.slice_nodes.values().any(|n| n.slice == slice && n.node == node && n.deleting)
    };
    world
        .slices
        .iter()
        .filter(|(name, entry)| !entry.deleting && !leaving(name))
        .filter_map(|(name, entry)| {
            let slice = entry.valid.as_ref()?;
            let (prefixes, rules) = (slice.prefixes.clone(), slice.rules.clone());
            Some(Offer { slice: name.clone(), prefixes, rules })
        })
        .collect()
}

/// Slices of pods that have been given to this node and have no sandbox yet: address blocks and the
/// router are there by the time they have.
fn expected(world: &World, offers: &[Offer]) -> BTreeSet<String> {
    let none = Labels::new();
    let coming = |(uid, pod): &(&String, &Arc<Pod>)| {
        !pod.finished && !pod.deleting && !world.sandboxes.contains_key(*uid)
    };
    let pods = world.pods.iter().filter(coming);
    pods.flat_map(|(_, pod)| {
        let facts = PodFacts {
            namespace: &pod.namespace,
            namespace_labels: world.namespaces.get(&pod.namespace).unwrap_or(&none),
            labels: &pod.labels,
            host_network: pod.host_network,
        };
        attach::memberships(offers, &facts)
    })
    .map(|offer| offer.slice.clone())
    .collect()
}

/// What the API server says of the pod, or, before it says anything, the runtime.
fn with_facts<T>(
    world: &World,
    uid: &str,
    sandbox: &Sandbox,
    ask: impl FnOnce(&PodFacts<'_>) -> T,
) -> T {
    let none = Labels::new();
    let pod = world.pods.get(uid);
    ask(&PodFacts {
        namespace: &sandbox.namespace,
        namespace_labels: world.namespaces.get(&sandbox.namespace).unwrap_or(&none),
        labels: pod.map_or(&sandbox.labels, |p| &p.labels),
        host_network: sandbox.netns.is_none() || pod.is_some_and(|p| p.host_network),
    })
}

fn want_nic(
    world: &World,
    allocations: &mut Allocations,
    desired: &mut Desired,
    (slice_name, uid): (&str, &str),
    sandbox: &Sandbox,
    nic: String,
    now_ms: u64,
) {
    let (Some(slice), Some(netns)) = (valid(world, slice_name), sandbox.netns.clone()) else {
        return;
    };
    let pod = (sandbox.namespace.clone(), sandbox.name.clone());
    let mut fail = |reason, message| {
        let (slice, uid) = (slice_name.to_owned(), uid.to_owned());
        desired.failures.push(Failure { slice, uid, pod: pod.clone(), reason, message });
    };
    if slice.families.is_empty() {
        let message = "the hub has not given this cluster addresses of the slice yet";
        return fail("NoPool", message.to_owned());
    }
    let addresses = match allocations.slice(slice_name).acquire(uid, &slice.families, now_ms) {
        Ok(addresses) => addresses,
        Err(error) => return fail(error.reason(), error.to_string()),
    };
    let port = PortWant { device: name::router_port(&slice.name, uid), addresses };
    let want = NicWant {
        slice: slice_name.to_owned(),
        uid: uid.to_owned(),
        pod,
        netns,
        nic,
        port,
        prefixes: slice.prefixes.clone(),
        mtu: slice.mtu,
        gateway: sandbox.namespace == SYSTEM_NAMESPACE && is_gateway(world, uid, sandbox),
    };
    desired.nics.insert((slice_name.to_owned(), uid.to_owned()), Arc::new(want));
}

fn is_gateway(world: &World, uid: &str, sandbox: &Sandbox) -> bool {
    let labels = world.pods.get(uid).map_or(&sandbox.labels, |p| &p.labels);
    labels.contains_key(GATEWAY_LABEL)
}

fn release(allocations: &mut Allocations, desired: &Desired, now_ms: u64) {
    for (slice, addresses) in allocations.slices() {
        let gone: Vec<String> = addresses
            .pods()
            .filter(|uid| !desired.nics.contains_key(&(slice.clone(), (*uid).to_owned())))
            .map(str::to_owned)
            .collect();
        // A slice that is not understood keeps what it has.
        if desired.unknown.contains(slice) {
            continue;
        }
        for uid in gone {
            addresses.release(&uid, now_ms);
        }
    }
}

fn router(
    world: &World,
    node: &Node,
    slice: &Slice,
    desired: &Desired,
    now: Instant,
) -> RouterWant {
    let name = slice.name.as_str();
    let blocks = world.own_node(name, &node.name).map_or(&[][..], |n| n.blocks.as_slice());
    let ports: BTreeMap<String, PortWant> = desired
        .nics
        .iter()
        .filter(|((s, _), _)| s == name)
        .map(|((_, uid), nic)| (uid.clone(), nic.port.clone()))
        .collect();
    let input = routes::Input {
        underlay: node.underlay.clone(),
        remotes: slice.remotes.clone(),
        peers: peers(world, node, slice),
        gateways: gateways(world, node, name, &ports, now),
    };
    RouterWant {
        netns: name::router_netns(&slice.name),
        vxlan: Vxlan {
            vni: slice.vni,
            port: slicewire_api::labels::VXLAN_PORT,
            local: node.underlay.first().copied(),
        },
        vxlan_mac: Mac(name::vxlan_mac(&slice.name, &node.name)),
        mtu: slice.mtu,
        families: slice.prefixes.iter().map(Family::of).collect(),
        addresses: slicewire_core::node_addresses::router_addresses(blocks),
        routes: routes::routes(&input),
        frozen: if settling(world, node, name, now) {
            slice.remotes.values().flatten().copied().collect()
        } else {
            Vec::new()
        },
        ports,
    }
}

/// Whether routes to other clusters are still to be left alone after a start.
fn settling(world: &World, node: &Node, slice: &str, now: Instant) -> bool {
    now.duration_since(node.started) < SETTLE
        && world
            .gateways
            .iter()
            .any(|(uid, g)| g.slice == slice && !g.deleting && !world.routes.contains_key(uid))
}

fn peers(world: &World, node: &Node, slice: &Slice) -> Vec<routes::Peer> {
    world
        .slice_nodes
        .values()
        .filter(|n| n.slice == slice.name.as_str() && n.node != node.name && !n.blocks.is_empty())
        .map(|n| routes::Peer {
            node: n.node.clone(),
            mac: name::vxlan_mac(&slice.name, &n.node),
            blocks: n.blocks.clone(),
            underlay: n.underlay.clone(),
        })
        .collect()
}

fn gateways(
    world: &World,
    node: &Node,
    slice: &str,
    ports: &BTreeMap<String, PortWant>,
    now: Instant,
) -> Vec<routes::Gateway> {
    let of_slice = world.gateways.iter().filter(|(_, g)| g.slice == slice);
    of_slice
        .filter_map(|(uid, gateway)| {
            let said = world.routes.get(uid)?;
            let place = if gateway.node == node.name {
                routes::Place::Here(ports.get(uid)?.addresses.clone())
            } else {
                routes::Place::Node(gateway.node.clone())
            };
            let heard = said.lost.is_none_or(|lost| now.duration_since(lost) < GRACE);
            Some(routes::Gateway {
                place,
                fresh: heard && !gateway.deleting,
                tunnels: said.tunnels.clone(),
            })
        })
        .collect()
}
