//! Every address and name of a testbed, computed from its specification.
//!
//! A testbed's WAN is one of 32 blocks of 4096 addresses of 198.18.0.0/15 (set
//! aside for benchmarks by RFC 2544) and one /64 of a unique local prefix. All
//! worker clusters use the same pod and service ranges, on purpose: that is
//! what clusters in the world do.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::spec::Spec;

/// The pod range of every cluster.
pub const POD_CIDR4: &str = "10.244.0.0/16";
/// The pod range of every cluster, IPv6.
pub const POD_CIDR6: &str = "fd00:10:244::/56";
/// The service range of every cluster.
pub const SERVICE_CIDR4: &str = "10.96.0.0/16";
/// The service range of every cluster, IPv6.
pub const SERVICE_CIDR6: &str = "fd00:10:96::/112";
/// The first service address: the API server's.
pub const SERVICE_API: &str = "10.96.0.1";
/// The cluster DNS service's address.
pub const SERVICE_DNS: &str = "10.96.0.10";
/// Where every API server listens.
pub const API_PORT: u16 = 6443;
/// WAN blocks to choose from: testbeds on one machine at a time.
pub const MAX_INDEX: u8 = 31;

/// What a machine is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// etcd, API server, controller manager and, with workers, scheduler.
    ControlPlane,
    /// containerd, kubelet and kube-proxy.
    Worker {
        /// 1-based, unique in the cluster.
        number: u16,
    },
}

/// One node or control plane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// Host name, node name and the name of its port in the WAN: `east-1`, `hub-cp`.
    pub name: String,
    /// The cluster it belongs to.
    pub cluster: String,
    /// What runs on it.
    pub role: Role,
    /// Its address in the WAN.
    pub wan4: Ipv4Addr,
    /// Its IPv6 address in the WAN.
    pub wan6: Ipv6Addr,
}

impl Machine {
    /// The pods' prefixes on this node, IPv4 first; `None` for a control plane.
    pub fn pod_cidrs(&self) -> Option<[String; 2]> {
        match self.role {
            Role::ControlPlane => None,
            Role::Worker { number } => {
                Some([format!("10.244.{number}.0/24"), format!("fd00:10:244:{number:x}::/64")])
            }
        }
    }

    /// A locally administered link address, the same after each boot.
    pub fn mac(&self) -> [u8; 6] {
        let [a, b, c, d] = self.wan4.octets();
        [0x02, 0x53, a, b, c, d]
    }
}

/// One cluster with its machines, the control plane first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// As in the specification.
    pub name: String,
    /// The control plane.
    pub control: Machine,
    /// The nodes, by number.
    pub workers: Vec<Machine>,
}

impl Cluster {
    /// Control plane, then nodes.
    pub fn machines(&self) -> impl Iterator<Item = &Machine> {
        std::iter::once(&self.control).chain(&self.workers)
    }

    /// The API server, as seen from the host, any node and any pod.
    pub fn api_url(&self) -> String {
        format!("https://{}:{API_PORT}", self.control.wan4)
    }
}

/// A testbed's names and addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The testbed's name.
    pub name: String,
    /// Which of the WAN blocks it uses, 0 to [`MAX_INDEX`].
    pub index: u8,
    /// The clusters in the specification's order.
    pub clusters: Vec<Cluster>,
}

impl Plan {
    /// Lays out a specification without [`Spec::faults`] on one WAN block.
    pub fn new(spec: &Spec, index: u8) -> Self {
        let clusters = spec.clusters.iter().zip(0u8..).map(|(cluster, position)| {
            let machine = |name: String, role, host: u8| Machine {
                name,
                cluster: cluster.name.clone(),
                role,
                wan4: wan4(index, position, host),
                wan6: wan6(index, position, host),
            };
            let worker = |number: u16| {
                // At most 250 nodes, so that the host part fits a byte.
                let host = u8::try_from(number + 1).unwrap_or(u8::MAX);
                machine(format!("{}-{number}", cluster.name), Role::Worker { number }, host)
            };
            Cluster {
                name: cluster.name.clone(),
                control: machine(format!("{}-cp", cluster.name), Role::ControlPlane, 1),
                workers: (1..=cluster.nodes).map(worker).collect(),
            }
        });
        Self { name: spec.name.clone(), index, clusters: clusters.collect() }
    }

    /// Every machine of every cluster.
    pub fn machines(&self) -> impl Iterator<Item = &Machine> {
        self.clusters.iter().flat_map(Cluster::machines)
    }

    /// The machine of that name.
    pub fn machine(&self, name: &str) -> Option<&Machine> {
        self.machines().find(|machine| machine.name == name)
    }

    /// The cluster of that name.
    pub fn cluster(&self, name: &str) -> Option<&Cluster> {
        self.clusters.iter().find(|cluster| cluster.name == name)
    }

    /// The WAN's named network namespace.
    pub fn wan_netns(&self) -> String {
        format!("swtb-{}", self.name)
    }

    /// The host's link into the WAN.
    pub fn host_link(&self) -> String {
        format!("swtb-{}", self.name)
    }

    /// The host's addresses in the WAN.
    pub fn host_addresses(&self) -> (Ipv4Addr, Ipv6Addr) {
        (wan4(self.index, 15, 254), wan6(self.index, 15, 254))
    }

    /// The WAN's own addresses: every machine's default gateway, behind which
    /// there is nothing.
    pub fn gateway(&self) -> (Ipv4Addr, Ipv6Addr) {
        (wan4(self.index, 15, 253), wan6(self.index, 15, 253))
    }

    /// Where the testbed's cgroups are, below each hierarchy's root.
    pub fn cgroup(&self) -> String {
        cgroup(&self.name)
    }
}

/// The IPv4 WAN's prefix length.
pub const WAN_LEN4: u8 = 20;
/// The IPv6 WAN's prefix length.
pub const WAN_LEN6: u8 = 64;

/// Where a testbed's cgroups are, below each hierarchy's root.
pub fn cgroup(testbed: &str) -> String {
    format!("slicewire-testbed/{testbed}")
}

fn wan4(index: u8, group: u8, host: u8) -> Ipv4Addr {
    // 16 blocks of 16 groups fit in 198.18/16, the others in 198.19/16.
    Ipv4Addr::new(198, 18 + index / 16, (index % 16) * 16 + group, host)
}

fn wan6(index: u8, group: u8, host: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd53, 0x4c57, 0, u16::from(index), 0, 0, u16::from(group), u16::from(host))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::spec::{ClusterSpec, MAX_CLUSTERS, MAX_NODES};

    fn largest(index: u8) -> Plan {
        let clusters = (0..MAX_CLUSTERS)
            .map(|i| ClusterSpec { name: format!("c{i}"), nodes: MAX_NODES })
            .collect();
        Plan::new(&Spec { name: "big".into(), clusters }, index)
    }

    #[test]
    fn no_address_is_given_twice_even_between_testbeds() {
        let (mut seen4, mut seen6, mut macs) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for plan in [largest(0), largest(15), largest(16), largest(MAX_INDEX)] {
            for machine in plan.machines() {
                assert!(seen4.insert(machine.wan4), "{}", machine.wan4);
                assert!(seen6.insert(machine.wan6), "{}", machine.wan6);
                assert!(macs.insert(machine.mac()));
            }
            for (v4, v6) in [plan.host_addresses(), plan.gateway()] {
                assert!(seen4.insert(v4) && seen6.insert(v6), "{v4} {v6}");
            }
        }
    }

    #[test]
    fn all_of_a_testbed_is_in_its_wan_prefix() {
        let plan = largest(17);
        let mask = u32::MAX << (32 - WAN_LEN4);
        let network = u32::from(plan.gateway().0) & mask;
        assert!(plan.machines().all(|m| u32::from(m.wan4) & mask == network));
        assert_eq!(Ipv4Addr::from(network), Ipv4Addr::new(198, 19, 16, 0));
    }

    #[test]
    fn clusters_share_pod_prefixes_and_nodes_of_one_do_not() {
        let plan = Plan::new(&Spec::standard("main"), 0);
        let pods = |name: &str| plan.machine(name).and_then(Machine::pod_cidrs).unwrap();
        assert_eq!(pods("east-1"), pods("west-1"));
        assert_ne!(pods("east-1"), pods("east-2"));
        assert_eq!(pods("east-2"), ["10.244.2.0/24", "fd00:10:244:2::/64"]);
        assert_eq!(plan.machine("hub-cp").unwrap().pod_cidrs(), None);
    }

    #[test]
    fn names_fit_a_network_device() {
        for plan in [largest(0), Plan::new(&Spec::standard("main"), 0)] {
            assert!(plan.machines().all(|m| m.name.len() <= 13));
            assert!(plan.host_link().len() <= 15);
        }
    }
}
