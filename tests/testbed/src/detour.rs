//! Leading a machine's frames through a relay, and directly again.

use std::fs;
use std::io::Read;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::fault::remove_file;
use crate::plan::Machine;
use crate::power;
use crate::process::Identity;
use crate::testbed::Testbed;
use crate::wan::{self, BRIDGE};

/// Starts a relay and moves the machine's port behind it.
pub(crate) fn insert(testbed: &Testbed, machine: &Machine) -> Result<()> {
    let port = &machine.name;
    let (bridge, inner, outer) =
        (wan::relay_bridge(machine), format!("i-{port}"), format!("o-{port}"));
    let log = testbed.paths.machine(port).join("log/relay.log");
    let mut relay = Command::new("nsenter")
        .arg(format!("--net=/run/netns/{}", testbed.plan.wan_netns()))
        .arg(power::program()?)
        .arg("relay")
        .arg(testbed.rules_file(machine))
        .args([&testbed.machine_cgroup(machine), &inner, &outer])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(fs::File::create(&log)?)
        .spawn()?;
    let mut ready = [0u8; 5];
    relay.stdout.take().context("no pipe")?.read_exact(&mut ready).with_context(|| {
        let said = fs::read_to_string(&log).unwrap_or_default();
        format!("the relay of {port} does not start\n{said}")
    })?;
    Identity::of(i32::try_from(relay.id())?)
        .context("the relay ended at once")?
        .save(&testbed.relay_file(machine))?;
    wan::ip(
        &testbed.plan,
        &format!(
            "link add {bridge} type bridge stp_state 0 mcast_snooping 0
             link set {bridge} addrgenmode none
             link set {inner} addrgenmode none
             link set {outer} addrgenmode none
             link set {inner} master {bridge}
             link set {outer} master {BRIDGE}
             link set {bridge} up
             link set {inner} up
             link set {outer} up
             link set {port} master {bridge}
            "
        ),
    )
}

/// Moves the machine's port back and ends its relay.
pub(crate) fn remove(testbed: &Testbed, machine: &Machine, relay: Identity) -> Result<()> {
    wan::ip(&testbed.plan, &format!("link set {} master {BRIDGE}\n", machine.name))?;
    relay.kill()?;
    wan::ip(&testbed.plan, &format!("link del {}\n", wan::relay_bridge(machine)))?;
    remove_file(&testbed.relay_file(machine))
}
