//! The crate against the running kernel, in network namespaces of its own. Needs root.

#[cfg(test)]
mod frame;
#[cfg(test)]
mod lab;
#[cfg(test)]
mod policy_node;
#[cfg(test)]
#[path = "../../../../proto/core/src/policy/sample.rs"]
mod sample;

#[cfg(test)]
mod attach_latency;
#[cfg(test)]
mod ecmp_two_gateways;
#[cfg(test)]
mod namespaces;
#[cfg(test)]
mod one_namespace;
#[cfg(test)]
mod policy_oracle;
#[cfg(test)]
mod policy_rules;
#[cfg(test)]
mod services_router;
#[cfg(test)]
mod shape;
#[cfg(test)]
mod shape_bed;
#[cfg(test)]
mod shape_share;
#[cfg(test)]
mod two_nodes_vxlan;
#[cfg(test)]
mod two_pods_one_router;
#[cfg(test)]
mod wireguard_kernel;
