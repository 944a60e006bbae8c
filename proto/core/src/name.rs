//! Names: what users may call things, and every name derived from them.
//!
//! Derived names (namespaces, devices, objects) are made here and nowhere else,
//! so that two places can never spell the same thing differently.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::onboarding::SYSTEM_NAMESPACE;
use crate::rotation::Generation;
use crate::violation::Violation;

/// Longest slice name, in bytes: its gateway StatefulSet's pods carry it together
/// with a revision hash in a 63-byte label.
pub const MAX_SLICE_NAME: usize = 40;
/// Longest cluster name, in bytes; see [`cluster_namespace`].
pub const MAX_CLUSTER_NAME: usize = 30;
/// Longest project name, in bytes; see [`cluster_namespace`].
pub const MAX_PROJECT_NAME: usize = 20;

/// Checks a name of ours: as [`check_label`], and against the ban on `--`, which separates the
/// parts of derived names.
pub fn check(field: &str, value: &str, max: usize) -> Vec<Violation> {
    let mut faults = check_label(field, value, max);
    if value.contains("--") {
        faults.push(Violation::new(
            field,
            value,
            "NameSeparator",
            "must not contain '--', which separates the parts of derived names",
        ));
    }
    faults
}

/// Checks somebody else's name, as a namespace's, against RFC 1123 label rules and a length.
pub fn check_label(field: &str, value: &str, max: usize) -> Vec<Violation> {
    let mut faults = Vec::new();
    if value.is_empty() || value.len() > max {
        faults.push(Violation::new(
            field,
            value,
            "NameLength",
            format!("is {} bytes long; 1 to {max} are accepted", value.len()),
        ));
    }
    let lower = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = value.as_bytes();
    let ends_well =
        bytes.first().is_none_or(|b| lower(*b)) && bytes.last().is_none_or(|b| lower(*b));
    if !ends_well || !bytes.iter().all(|b| lower(*b) || *b == b'-') {
        faults.push(Violation::new(
            field,
            value,
            "NameCharacters",
            "must be an RFC 1123 label: lower-case letters, digits and '-', beginning and ending with a letter or digit",
        ));
    }
    faults
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $max:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Parses a name.
            ///
            /// # Errors
            /// Every rule the value breaks; the field is left for the caller to fill in.
            pub fn parse(value: &str) -> Result<Self, Vec<Violation>> {
                let faults = check("", value, $max);
                if faults.is_empty() { Ok(Self(value.to_owned())) } else { Err(faults) }
            }

            /// The name as written.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = String;
            fn try_from(value: String) -> Result<Self, String> {
                Self::parse(&value).map_err(|faults| crate::violation::summary(&faults))
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }
    };
}

name_type!(
    /// A slice's name, unique in its project.
    SliceName,
    MAX_SLICE_NAME
);
name_type!(
    /// A cluster's name, unique in its project.
    ClusterName,
    MAX_CLUSTER_NAME
);
name_type!(
    /// A project's name, unique on its hub.
    ProjectName,
    MAX_PROJECT_NAME
);

/// A gateway replica's number: replica `i` of every cluster forms lane `i`.
pub type Lane = u8;

/// Most lanes a slice can have; the size of each cluster's gateway prefix follows from it.
pub const MAX_LANES: Lane = 8;

/// The hub namespace that holds a project's Clusters and SliceConfigs.
pub fn project_namespace(project: &ProjectName) -> String {
    format!("slicewire-{project}")
}

/// The hub namespace of one cluster: the only one its credential opens.
pub fn cluster_namespace(project: &ProjectName, cluster: &ClusterName) -> String {
    format!("slicewire-{project}--{cluster}")
}

/// The hub namespace in which clusters ask to join a project with one token: the only one its secret
/// opens. No project or cluster can have it, as their names hold no `--`.
pub fn token_namespace(project: &ProjectName, token: &str) -> String {
    format!("slicewire-{project}--join--{token}")
}

/// The project and the token of a [`token_namespace`]; `None` when it is another.
pub fn token_of(namespace: &str) -> Option<(ProjectName, String)> {
    let rest = namespace.strip_prefix("slicewire-")?;
    let (project, token) = rest.split_once("--join--")?;
    let token = check("", token, crate::join::MAX_TOKEN_NAME).is_empty().then_some(token)?;
    Some((ProjectName::parse(project).ok()?, token.to_owned()))
}

/// What a namespace on the hub is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HubNamespace {
    /// It holds a project's Clusters and SliceConfigs.
    Project(ProjectName),
    /// It holds what one cluster is told.
    Cluster(ProjectName, ClusterName),
}

/// What a hub namespace is for, by its name; `None` when it is not one of ours.
pub fn hub_namespace(name: &str) -> Option<HubNamespace> {
    let rest = name.strip_prefix("slicewire-").filter(|_| name != SYSTEM_NAMESPACE)?;
    match rest.split_once("--") {
        None => ProjectName::parse(rest).ok().map(HubNamespace::Project),
        Some((project, cluster)) => Some(HubNamespace::Cluster(
            ProjectName::parse(project).ok()?,
            ClusterName::parse(cluster).ok()?,
        )),
    }
}

/// The network namespace of a slice's router on a node, below `/run/netns`.
pub fn router_netns(slice: &SliceName) -> String {
    format!("sw-{slice}")
}

/// The StatefulSet (and headless Service) of a slice's gateways in a worker.
pub fn gateway_workload(slice: &SliceName) -> String {
    format!("sw-gw-{slice}")
}

/// The NodePort Service of one gateway lane in a worker.
pub fn gateway_service(slice: &SliceName, lane: Lane) -> String {
    format!("sw-gw-{slice}-{lane}")
}

/// The entry of a lane's private key in that Secret. The first generation's has the name it had
/// before there were others.
pub fn gateway_key_entry(lane: Lane, generation: Generation) -> String {
    match generation {
        0 => format!("lane-{lane}"),
        _ => format!("lane-{lane}-generation-{generation}"),
    }
}

/// The entry of a tunnel's pre-shared key in that Secret.
pub fn preshared_key_entry(lane: Lane, generation: Generation, cluster: &str) -> String {
    format!("psk-{lane}-generation-{generation}-{cluster}")
}

/// The Secret with what a worker has of an exchange of pre-shared keys that goes on; gateways do
/// not see it.
pub fn key_exchange_secret(slice: &SliceName) -> String {
    format!("sw-gw-{slice}-exchange")
}

/// The Secret with the private keys of a slice's gateways in a worker: one entry a lane and
/// generation, and the pre-shared keys of their tunnels.
pub fn gateway_key_secret(slice: &SliceName) -> String {
    format!("sw-gw-{slice}-keys")
}

/// The Secret with the certificate of a slice's gateways in a worker.
pub fn gateway_certificate_secret(slice: &SliceName) -> String {
    format!("sw-gw-{slice}-rpc")
}

/// The name a slice's gateways are known by when they speak to their cluster: what their
/// certificate says, never looked up. `.internal` belongs to nobody.
pub fn gateway_server_name(slice: &SliceName) -> String {
    format!("{slice}.gateway.slicewire.internal")
}

/// The SliceNode object of a slice on a node. Slice names hold no dot, so this is unambiguous.
pub fn slice_node(slice: &SliceName, node: &str) -> String {
    format!("{slice}.{node}")
}

/// A policy of a slice as a cluster is told it. Slice names hold no dot, so this is unambiguous.
pub fn policy_object(slice: &str, policy: &str) -> String {
    format!("{slice}.{policy}")
}

/// The `number`-th object with a cluster's endpoints on a slice.
pub fn endpoints_object(slice: &str, cluster: &str, number: usize) -> String {
    format!("{slice}.{cluster}.{number}")
}

/// The `number`-th object in which a cluster tells people of its pods on a slice.
pub fn pods_object(slice: &str, number: usize) -> String {
    format!("{slice}.{number}")
}

/// The `number`-th place in which a cluster tells of its services on a slice.
pub fn export_object(slice: &str, number: usize) -> String {
    format!("{slice}.{number}")
}

/// A service of a slice as a cluster is told it. None of the three names holds a dot.
pub fn import_object(slice: &str, namespace: &str, service: &str) -> String {
    format!("{slice}.{namespace}.{service}")
}

/// Name of the VXLAN device inside a slice router.
pub const VXLAN_DEVICE: &str = "swvx";

/// Names of the WireGuard devices in a gateway pod: for even generations of keys, and for odd ones.
pub const GATEWAY_DEVICES: [&str; 2] = ["swwg0", "swwg1"];

/// Name of the WireGuard device of a generation of keys.
pub fn gateway_device(generation: Generation) -> &'static str {
    let [even, odd] = GATEWAY_DEVICES;
    if generation.is_multiple_of(2) { even } else { odd }
}

/// Name of the `index`-th slice NIC in a pod: `slice0`, `slice1` …
pub fn pod_nic(index: usize) -> String {
    format!("slice{index}")
}

/// Host-side (slice router side) device of a pod's NIC: `swp` and 12 hex digits of a hash over
/// the pod's UID and slice, within the kernel's 15 bytes.
pub fn router_port(slice: &SliceName, pod_uid: &str) -> String {
    format!("swp{:012x}", fnv1a(&[slice.as_str(), pod_uid]) & 0xffff_ffff_ffff)
}

/// A node's MAC address on a slice's VXLAN: locally administered, derived from the node's name so
/// that nobody has to learn it.
pub fn vxlan_mac(slice: &SliceName, node: &str) -> [u8; 6] {
    let h = fnv1a(&[slice.as_str(), node]).to_be_bytes();
    [0x02, h[3], h[4], h[5], h[6], h[7]]
}

/// 64-bit FNV-1a (Fowler, Noll, Vo) over the parts, with a separator between them.
pub fn fnv1a(parts: &[&str]) -> u64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for part in parts {
        for byte in part.bytes().chain([0u8]) {
            hash ^= u64::from(byte);
            hash = hash.wrapping_mul(0x0100_0000_01b3);
        }
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_name_is_told_every_rule_it_breaks() {
        let long = format!("-A--{}", "x".repeat(50));
        let reasons: Vec<_> =
            check("metadata.name", &long, MAX_SLICE_NAME).into_iter().map(|v| v.reason).collect();
        assert_eq!(reasons, ["NameLength", "NameCharacters", "NameSeparator"]);
    }

    #[test]
    fn the_longest_names_fit_a_namespace() {
        let project = ProjectName::parse(&"p".repeat(MAX_PROJECT_NAME)).unwrap();
        let cluster = ClusterName::parse(&"c".repeat(MAX_CLUSTER_NAME)).unwrap();
        assert!(cluster_namespace(&project, &cluster).len() <= 63);
    }

    #[test]
    fn projects_and_clusters_cannot_be_confused() {
        let ns = |p: &str, c: &str| {
            cluster_namespace(&ProjectName::parse(p).unwrap(), &ClusterName::parse(c).unwrap())
        };
        assert_ne!(ns("a", "b-c"), ns("a-b", "c"));
    }

    #[test]
    fn hub_namespaces_are_recognised() {
        let project = ProjectName::parse("demo").unwrap();
        let cluster = ClusterName::parse("east-1").unwrap();
        let of_cluster = cluster_namespace(&project, &cluster);
        assert_eq!(
            hub_namespace(&project_namespace(&project)),
            Some(HubNamespace::Project(project.clone()))
        );
        assert_eq!(hub_namespace(&of_cluster), Some(HubNamespace::Cluster(project, cluster)));
        for other in
            [SYSTEM_NAMESPACE, "default", "slicewire-", "slicewire-a--", "slicewire-a--b--c"]
        {
            assert_eq!(hub_namespace(other), None, "{other}");
        }
    }

    #[test]
    fn namespaces_of_tokens_are_recognised_and_fit() {
        let project = ProjectName::parse(&"p".repeat(MAX_PROJECT_NAME)).unwrap();
        let token = "t".repeat(crate::join::MAX_TOKEN_NAME);
        let namespace = token_namespace(&project, &token);
        assert!(namespace.len() <= 63);
        assert_eq!(token_of(&namespace), Some((project, token)));
        assert_eq!(hub_namespace(&namespace), None);
        for other in ["slicewire-demo--join", "slicewire-a--join--", "slicewire-a--join--b--c"] {
            assert_eq!(token_of(other), None, "{other}");
        }
    }

    #[test]
    fn device_names_fit_the_kernel() {
        let slice = SliceName::parse(&"s".repeat(MAX_SLICE_NAME)).unwrap();
        assert!(router_port(&slice, "0b1e4f5a-0000-4000-8000-000000000000").len() <= 15);
        assert_eq!(vxlan_mac(&slice, "node-1")[0] & 0x03, 0x02);
    }
}
