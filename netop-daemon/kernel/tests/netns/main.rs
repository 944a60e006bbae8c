//! The crate against the running kernel, in network namespaces of its own. Needs root.

mod lab;

mod attach_latency;
mod ecmp_two_gateways;
mod namespaces;
mod one_namespace;
mod two_nodes_vxlan;
mod two_pods_one_router;
mod wireguard_kernel;
