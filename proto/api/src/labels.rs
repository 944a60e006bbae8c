//! Labels, annotations, finalizers and field managers that mark what is ours.

pub use slicewire_core::onboarding::{EXCLUDE_LABEL, GATEWAY_LABEL, SLICE_LABEL, SYSTEM_NAMESPACE};

/// `app.kubernetes.io/managed-by`, set to the writing component on every object we make.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Value of [`MANAGED_BY`] and field manager of `controller hub`.
pub const HUB_MANAGER: &str = "slicewire-hub";
/// Value of [`MANAGED_BY`] and field manager of `controller worker`.
pub const WORKER_MANAGER: &str = "slicewire-worker";
/// Field manager of `netop-daemon`.
pub const DAEMON_MANAGER: &str = "slicewire-netop-daemon";
/// Field manager of `nsm-injector`.
pub const INJECTOR_MANAGER: &str = "slicewire-nsm-injector";

/// The project an object on the hub belongs to.
pub const PROJECT: &str = "slicewire.dev/project";
/// The cluster an object on the hub belongs to.
pub const CLUSTER: &str = "slicewire.dev/cluster";
/// The JoinToken an object on the hub belongs to.
pub const JOIN_TOKEN: &str = "slicewire.dev/join-token";
/// On a Cluster that was registered because it asks to join: the uid of its JoinRequest.
pub const JOIN_REQUEST: &str = "slicewire.dev/join-request";
/// The slice an object of ours belongs to, where [`SLICE_LABEL`] would mean membership.
pub const OF_SLICE: &str = "slicewire.dev/of-slice";
/// The node a SliceNode belongs to.
pub const OF_NODE: &str = "slicewire.dev/of-node";
/// The lane of a gateway Service.
pub const LANE: &str = "slicewire.dev/lane";

/// Finalizer of `controller hub`.
pub const HUB_FINALIZER: &str = "slicewire.dev/hub";
/// Finalizer of `controller worker`: nodes and gateways are clean before the object goes.
pub const WORKER_FINALIZER: &str = "slicewire.dev/worker";
/// Finalizer of `netop-daemon` on SliceNodes: the slice router is gone before the object goes.
pub const NODE_FINALIZER: &str = "slicewire.dev/node";

/// The network-status annotation of the Network Plumbing Working Group's multi-network
/// specification: a JSON list, one entry a NIC. Entries of others are kept.
pub const NETWORK_STATUS: &str = "k8s.v1.cni.cncf.io/network-status";

/// On Secrets with what processes of a cluster know each other by.
pub const RPC_LABEL: &str = "slicewire.dev/rpc";
/// The Secret with the authorities that sign those certificates; `controller worker` alone reads it.
pub const RPC_AUTHORITY: &str = "slicewire-rpc-authority";
/// The Secret with the certificate of every `netop-daemon`.
pub const DAEMON_CERTIFICATE: &str = "slicewire-netop-daemon-rpc";

/// Annotation on a Node: what its uplink carries each direction, in bits a second, as `10G`. Without
/// it, the speed that the node's network device tells is taken.
pub const UPLINK: &str = "slicewire.dev/uplink";
/// Kubernetes' label of a Node that says its zone.
pub const ZONE: &str = "topology.kubernetes.io/zone";
/// UDP ports a gateway pod listens on for WireGuard: even generations of keys, and odd ones.
pub const WIREGUARD_PORTS: [u16; 2] = [51820, 51821];
/// The UDP port of a generation of keys in a gateway pod.
pub fn wireguard_port(generation: slicewire_core::rotation::Generation) -> u16 {
    let [even, odd] = WIREGUARD_PORTS;
    if generation.is_multiple_of(2) { even } else { odd }
}

/// Annotation on a SliceConfig: a value it has not had before asks for new keys of its gateways.
pub const ROTATE_KEYS: &str = "slicewire.dev/rotate-keys";
/// TCP port of the router-sidecar's gRPC stream in a gateway pod.
pub const ROUTES_PORT: u16 = 5580;
/// UDP port of the tunnel probes between gateways, inside the tunnels.
pub const PROBE_PORT: u16 = 5581;
/// UDP port of the slices' VXLANs between the nodes of a cluster; not 4789 or 8472, which CNIs use.
pub const VXLAN_PORT: u16 = 5789;

/// Annotation on a Cluster that will never come back, or is not wanted back: `"true"` lets slices be
/// deleted without its worker's word that it has cleaned up, and, when the Cluster itself is
/// deleted, cuts it off at once: its credential dies, its tunnels are dropped, its objects go.
pub const ABANDON: &str = "slicewire.dev/abandon";
/// `app.kubernetes.io/part-of`, on every workload of Slicewire.
pub const PART_OF: &str = "app.kubernetes.io/part-of";
/// Value of [`PART_OF`].
pub const PRODUCT: &str = "slicewire";
/// ServiceAccount of a worker in its hub namespace, and name of its heartbeat Lease there.
pub const WORKER_ACCOUNT: &str = "worker";
/// Secret in a worker with its way into the hub: `server`, `ca.crt`, `token`, `namespace`,
/// `cluster`, `project`.
pub const HUB_SECRET: &str = "slicewire-hub";
