//! What a slice router and a pod's NIC should be.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use ipnet::IpNet;
use slicewire_core::name;
use slicewire_core::prefix::Family;
use slicewire_core::routes::Routes;
use slicewire_kernel::{LinkEnd, Mac, Vxlan};

/// Values of settings below `/proc/sys/net`, by path.
pub(crate) type Settings = BTreeMap<String, String>;

/// Begins every alias of ours.
pub(crate) const ALIAS: &str = "slicewire/";
/// The MAC address of the router's end of every pod's cable: each cable is its own link, so one
/// address does for all, and pods can be told it before the cable exists.
pub(super) const PORT_MAC: Mac = Mac([0x02, 0x53, 0x57, 0, 0, 0x01]);
/// The next hop in every pod, on its slice NIC only.
const NEXT_HOP_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 1, 1));
const NEXT_HOP_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1));
/// The routing table for packets from other nodes.
pub(super) const FABRIC_TABLE: u32 = 100;
/// The priority of our rules begins here.
pub(super) const RULE_PRIORITY: u32 = 8_300;

/// A slice router on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RouterWant {
    /// The router's network namespace, below `/run/netns`.
    pub(crate) netns: String,
    pub(crate) vxlan: Vxlan,
    pub(crate) vxlan_mac: Mac,
    /// Bytes.
    pub(crate) mtu: u32,
    /// Families of the slice's prefixes.
    pub(crate) families: BTreeSet<Family>,
    /// The router's own.
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) routes: Routes,
    /// Prefixes of other clusters whose routes are to stay as they are, because the gateways have
    /// not been heard yet since the daemon started.
    pub(crate) frozen: Vec<IpNet>,
    /// Pod UID to its port.
    pub(crate) ports: BTreeMap<String, PortWant>,
}

/// A pod's port on a slice router.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PortWant {
    pub(crate) device: String,
    pub(crate) addresses: BTreeSet<IpAddr>,
}

/// A pod's NIC on a slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NicWant {
    pub(crate) slice: String,
    /// The pod's UID.
    pub(crate) uid: String,
    /// The pod, as `namespace/name`.
    pub(crate) pod: (String, String),
    /// The pod's network namespace.
    pub(crate) netns: PathBuf,
    /// The NIC's name in the pod.
    pub(crate) nic: String,
    pub(crate) port: PortWant,
    /// What is reached through it.
    pub(crate) prefixes: Vec<IpNet>,
    /// Bytes.
    pub(crate) mtu: u32,
    /// The pod forwards between the slice and its tunnels.
    pub(crate) gateway: bool,
}

impl RouterWant {
    pub(super) fn vxlan_end(&self) -> LinkEnd {
        LinkEnd::new(name::VXLAN_DEVICE).mac(self.vxlan_mac).mtu(self.mtu).up()
    }

    /// Settings of the router's namespace.
    pub(crate) fn settings(&self) -> Settings {
        let mut settings = vec![
            ("ipv4/ip_forward", "1"),
            // Lanes are chosen per flow, each direction on its own.
            ("ipv4/conf/all/rp_filter", "0"),
            ("ipv4/conf/default/rp_filter", "0"),
            // Flows, not pairs of hosts, are spread over the lanes.
            ("ipv4/fib_multipath_hash_policy", "1"),
        ];
        if self.families.contains(&Family::V6) {
            settings.extend([
                ("ipv6/conf/all/disable_ipv6", "0"),
                ("ipv6/conf/default/disable_ipv6", "0"),
                ("ipv6/conf/default/accept_dad", "0"),
                ("ipv6/conf/all/forwarding", "1"),
                ("ipv6/fib_multipath_hash_policy", "1"),
            ]);
        }
        owned(settings)
    }
}

impl NicWant {
    pub(super) fn mac(&self) -> Mac {
        pod_mac(&self.port.device)
    }

    /// Families the NIC has an address of.
    pub(super) fn families(&self) -> BTreeSet<Family> {
        self.port.addresses.iter().map(Family::of_addr).collect()
    }

    /// Settings of the pod's namespace that hold whether the NIC is there or not: a gateway
    /// forwards, and its packets come back by whichever lane the other cluster chose, and by the
    /// device of other keys: the kernel asks of their source that it can be reached, and no more. It
    /// does so of devices that were there before, too, whatever was set for them.
    pub(crate) fn pod_settings(&self) -> Settings {
        let mut settings = Vec::new();
        if self.gateway {
            settings.extend([("ipv4/ip_forward", "1"), ("ipv4/conf/all/rp_filter", "2")]);
            if self.families().contains(&Family::V6) {
                settings.extend([
                    ("ipv6/conf/default/disable_ipv6", "0"),
                    ("ipv6/conf/all/forwarding", "1"),
                ]);
            }
        }
        owned(settings)
    }

    /// Settings of the NIC itself.
    pub(crate) fn nic_settings(&self) -> Settings {
        let mut settings = Settings::new();
        let mut set = |family: &str, key: &str, value: &str| {
            settings.insert(format!("{family}/conf/{}/{key}", self.nic), value.to_owned());
        };
        if self.families().contains(&Family::V6) {
            set("ipv6", "disable_ipv6", "0");
            set("ipv6", "accept_ra", "0");
            set("ipv6", "accept_dad", "0");
        }
        settings
    }
}

fn owned(settings: Vec<(&str, &str)>) -> Settings {
    settings.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}

pub(super) fn next_hop(family: Family) -> IpAddr {
    match family {
        Family::V4 => NEXT_HOP_V4,
        Family::V6 => NEXT_HOP_V6,
    }
}

/// A pod's MAC address on its slice NIC, out of the port's name, which is a hash of the pod's UID
/// and the slice.
pub(crate) fn pod_mac(port: &str) -> Mac {
    let digits = port.get(3..).unwrap_or_default();
    let number = u64::from_str_radix(digits, 16).unwrap_or_default().to_be_bytes();
    let [_, _, a, b, c, d, e, f] = number;
    // Locally administered, not multicast.
    Mac([(a & 0xfc) | 0x02, b, c, d, e, f])
}

/// The alias of a NIC in a pod: says that it is ready.
pub(crate) fn alias_of_nic(slice: &str) -> String {
    format!("{ALIAS}{slice}")
}

/// The alias of a router's port: says whose it is.
pub(crate) fn alias_of_port(slice: &str, uid: &str) -> String {
    format!("{ALIAS}{slice}/{uid}")
}

/// The pod UID in a port's alias.
pub(crate) fn port_owner<'a>(slice: &str, alias: &'a str) -> Option<&'a str> {
    alias.strip_prefix(ALIAS)?.strip_prefix(slice)?.strip_prefix('/').filter(|u| !u.is_empty())
}
