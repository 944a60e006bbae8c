//! The crate against the running kernel, in network namespaces of its own. Needs root.

#[cfg(test)]
mod lab;

#[cfg(test)]
mod attach_latency;
#[cfg(test)]
mod ecmp_two_gateways;
#[cfg(test)]
mod namespaces;
#[cfg(test)]
mod one_namespace;
#[cfg(test)]
mod two_nodes_vxlan;
#[cfg(test)]
mod two_pods_one_router;
#[cfg(test)]
mod wireguard_kernel;
