//! The network between the machines: a bridge in a namespace of its own.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::plan::{Cluster, Machine, Plan, Role, WAN_LEN4, WAN_LEN6};
use crate::process::{run, run_with_input};

/// The bridge's name, in the WAN's namespace.
pub const BRIDGE: &str = "wan";

/// Runs `ip` commands in the WAN's namespace, all or an error.
pub fn ip(plan: &Plan, batch: &str) -> Result<()> {
    let mut command = Command::new("ip");
    command.args(["-n", &plan.wan_netns(), "-batch", "-"]);
    run_with_input(&mut command, batch.as_bytes()).map(drop)
}

/// Makes the WAN and the host's link into it, unless they are there; whether it did.
pub fn ensure(plan: &Plan) -> Result<bool> {
    let netns = plan.wan_netns();
    // Its link's being up is the last thing that is done.
    let up = run(Command::new("ip").args(["link", "show", &plan.host_link(), "up"]));
    if exists(plan) && up.is_ok_and(|shown| !shown.is_empty()) {
        return Ok(false);
    }
    remove(plan)?;
    run(Command::new("ip").args(["netns", "add", &netns]))?;
    let (gateway4, gateway6) = plan.gateway();
    let (link, pid) = (plan.host_link(), std::process::id());
    // Its own, or it would be that of whichever machine has the lowest.
    let [a, b, c, d] = gateway4.octets();
    let mac = format!("02:53:{a:02x}:{b:02x}:{c:02x}:{d:02x}");
    ip(
        plan,
        &format!(
            "link set lo up
             link add {BRIDGE} address {mac} type bridge stp_state 0 mcast_snooping 0
             link set {BRIDGE} addrgenmode none
             addr add {gateway4}/{WAN_LEN4} dev {BRIDGE}
             addr add {gateway6}/{WAN_LEN6} dev {BRIDGE} nodad
             link set {BRIDGE} up
             link add host type veth peer name {link} netns {pid}
             link set host master {BRIDGE}
             link set host up
            "
        ),
    )?;
    // What is sent elsewhere is answered as unreachable, at once. Frames
    // between machines are none of a firewall's business.
    let sysctls = "echo 1 > /proc/sys/net/ipv4/ip_forward
        echo 1 > /proc/sys/net/ipv6/conf/all/forwarding
        for f in /proc/sys/net/bridge/bridge-nf-call-*; do [ ! -e $f ] || echo 0 > $f; done";
    let mut enter = Command::new("nsenter");
    run(enter.arg(format!("--net=/run/netns/{netns}")).args(["sh", "-ec", sysctls]))?;
    let (host4, host6) = plan.host_addresses();
    let host = format!(
        "addr add {host4}/{WAN_LEN4} dev {link}
         addr add {host6}/{WAN_LEN6} dev {link} nodad
         link set {link} up
        "
    );
    run_with_input(Command::new("ip").args(["-batch", "-"]), host.as_bytes())?;
    Ok(true)
}

/// Whether the WAN's namespace is there.
pub fn exists(plan: &Plan) -> bool {
    Path::new("/run/netns").join(plan.wan_netns()).exists()
}

/// Removes the WAN with all links into it.
pub fn remove(plan: &Plan) -> Result<()> {
    if exists(plan) {
        run(Command::new("ip").args(["netns", "del", &plan.wan_netns()]))?;
    }
    let link = plan.host_link();
    if Path::new("/sys/class/net").join(&link).exists() {
        // The namespace may be taking the link along right now.
        let _ = run(Command::new("ip").args(["link", "del", &link]));
    }
    Ok(())
}

/// Plugs a machine in: a link from the bridge to `eth0` in the namespace of process `pid`.
pub fn plug(plan: &Plan, machine: &Machine, pid: i32) -> Result<()> {
    let port = &machine.name;
    let mac = machine.mac().map(|byte| format!("{byte:02x}")).join(":");
    unplug(plan, machine);
    ip(
        plan,
        &format!(
            "link add {port} type veth peer name eth0 address {mac} netns {pid}
             link set {port} addrgenmode none
             link set {port} master {BRIDGE}
             link set {port} up
            "
        ),
    )
}

/// Pulls a machine's plug, if it is in.
pub fn unplug(plan: &Plan, machine: &Machine) {
    // Usually gone already, together with the machine.
    let _ = ip(plan, &format!("link del {}\n", machine.name));
    let _ = ip(plan, &format!("link del {}\n", relay_bridge(machine)));
}

/// The bridge between a machine's port and its relay, while there is one.
pub fn relay_bridge(machine: &Machine) -> String {
    format!("b-{}", machine.name)
}

/// The `ip` commands a machine runs at boot: its addresses, and ways to the
/// pods of its cluster's nodes.
pub fn machine_batch(plan: &Plan, cluster: &Cluster, machine: &Machine) -> String {
    let (gateway4, gateway6) = plan.gateway();
    let mut batch = format!(
        "link set lo up
         link set eth0 up
         addr add {}/{WAN_LEN4} dev eth0
         addr add {}/{WAN_LEN6} dev eth0 nodad
         route add default via {gateway4}
         route add default via {gateway6}
",
        machine.wan4, machine.wan6
    );
    for other in cluster.workers.iter().filter(|other| other.name != machine.name) {
        if let Some([pods4, pods6]) = other.pod_cidrs() {
            // Writing to a String cannot fail.
            let _ = writeln!(batch, "route add {pods4} via {}", other.wan4);
            let _ = writeln!(batch, "route add {pods6} via {}", other.wan6);
        }
    }
    batch
}

/// The sysctls of a machine, as paths below /proc/sys and values.
pub fn machine_sysctls(machine: &Machine) -> Vec<(&'static str, &'static str)> {
    let mut sysctls = vec![
        ("net/ipv6/conf/all/accept_dad", "0"),
        ("net/ipv6/conf/default/accept_dad", "0"),
        ("net/ipv6/conf/all/accept_ra", "0"),
        ("net/ipv6/conf/default/accept_ra", "0"),
    ];
    if matches!(machine.role, Role::Worker { .. }) {
        sysctls.extend([
            ("net/ipv4/ip_forward", "1"),
            ("net/ipv6/conf/all/forwarding", "1"),
            ("net/ipv4/conf/all/rp_filter", "0"),
            ("net/ipv4/conf/default/rp_filter", "0"),
        ]);
    }
    sysctls
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Spec;

    #[test]
    fn every_machine_of_a_cluster_knows_the_way_to_the_other_nodes_pods() {
        let plan = Plan::new(&Spec::standard("main"), 0);
        let east = plan.cluster("east").unwrap();
        let of = |name: &str| machine_batch(&plan, east, plan.machine(name).unwrap());
        assert!(of("east-1").contains("route add 10.244.2.0/24 via 198.18.1.3\n"));
        assert!(!of("east-1").contains("10.244.1.0/24"));
        assert!(of("east-cp").contains("route add 10.244.1.0/24 via 198.18.1.2\n"));
        assert!(of("east-cp").contains("route add fd00:10:244:2::/64 via fd53:4c57::1:3\n"));
        let west =
            machine_batch(&plan, plan.cluster("west").unwrap(), plan.machine("west-1").unwrap());
        assert!(
            !west.contains("198.18.1."),
            "another cluster's pods are nobody's business: {west}"
        );
    }
}
