//! How a node's pods get their interfaces.

use serde_json::{Value, json};

/// The CNI configuration list of a node with these pod prefixes.
///
/// `ptp` and not `bridge`: a reply between two pods of a node then passes the
/// node's routing, where a service's address is put back. Unlike `bridge`, `ptp` waits until nobody
/// has objected to the pod's IPv6 address, up to 2 s with every pod; [`NO_DAD`] before it says that
/// nobody will, on a cable with two ends.
pub fn configuration(pod_cidrs: &[String; 2]) -> Value {
    let range = |cidr: &String| json!([{ "subnet": cidr }]);
    json!({
        "cniVersion": "1.0.0",
        "name": "testbed",
        "plugins": [
            { "type": NO_DAD_NAME },
            {
                "type": "ptp",
                "mtu": 1500,
                "ipam": {
                    "type": "host-local",
                    "ranges": pod_cidrs.iter().map(range).collect::<Vec<_>>(),
                    "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }],
                },
            },
            { "type": "portmap", "capabilities": { "portMappings": true }, "backend": "nftables" },
        ],
    })
}

/// The name of [`NO_DAD`].
pub const NO_DAD_NAME: &str = "no-dad";

/// A CNI plugin that switches duplicate address detection off for interfaces to come.
pub const NO_DAD: &str = r#"#!/bin/sh
cat >/dev/null
case "$CNI_COMMAND" in
VERSION) echo '{"cniVersion":"1.0.0","supportedVersions":["0.4.0","1.0.0"]}' ;;
ADD)
  nsenter --net="$CNI_NETNS" sh -c 'echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad'
  echo '{"cniVersion":"1.0.0"}'
  ;;
esac
"#;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Plan;
    use crate::spec::Spec;

    #[test]
    fn pods_get_one_address_of_each_family() {
        let plan = Plan::new(&Spec::standard("main"), 0);
        let node = plan.machine("west-2").unwrap();
        let config = configuration(&node.pod_cidrs().unwrap());
        let ranges = &config["plugins"][1]["ipam"]["ranges"];
        assert_eq!(ranges[0][0]["subnet"], "10.244.2.0/24");
        assert_eq!(ranges[1][0]["subnet"], "fd00:10:244:2::/64");
    }
}
