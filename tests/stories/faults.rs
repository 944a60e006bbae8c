//! Faults under traffic.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use slicewire_tests::world::World;

const EAST: (&str, &str, &str) = ("east", "shop", "web");
const WEST: (&str, &str, &str) = ("west", "shop", "web");

/// Kills each control process under a ping and a TCP stream: nothing may be lost.
pub(crate) fn restarts(world: &mut World) -> Result<String> {
    let to = world.addresses("west", "shop", "web", "blue")?[0];
    world.reaches(EAST, to, 20)?;
    let cases: [(&str, &[&str], &str); 4] = [
        ("the daemon of the sender's node", &["east-1"], "netop-daemon"),
        ("the worker's controller", &["east-1", "east-2"], "controller"),
        ("the hub's controller", &["hub-1"], "controller"),
        ("the hub's API server", &["hub-cp"], "kube-apiserver"),
    ];
    let mut seen = Vec::new();
    for (what, machines, process) in cases {
        let traffic = world.traffic(EAST, WEST, to, 8)?;
        sleep(Duration::from_secs(2));
        let killed = kill(world, machines, process)?;
        ensure!(killed > 0, "no process {process} found on {machines:?}");
        let lost = traffic.lost()?;
        ensure!(lost == 0, "{what}: {lost} pings lost");
        seen.push(what);
    }
    World::wait("the hub's API answers again", 60, || world.k("hub", "get --raw /readyz"))?;
    let far = world.addresses("east", "shop", "far", "blue")?;
    world.reaches(WEST, far[0], 20)?;
    Ok(format!("no ping lost and no stream broken when killed: {}", seen.join(", ")))
}

/// Kills processes by exact name on machines; how many.
fn kill(world: &World, machines: &[&str], process: &str) -> Result<u32> {
    let mut killed = 0;
    for machine in machines {
        let said = world.testbed.exec(machine, &["pkill", "-KILL", "-c", "-x", process])?;
        killed += String::from_utf8_lossy(&said.stdout).trim().parse::<u32>().unwrap_or(0);
    }
    Ok(killed)
}

pub(crate) fn gateway_deleted(world: &mut World) -> Result<String> {
    let to = world.addresses("west", "shop", "web", "blue")?[0];
    world.reaches(EAST, to, 20)?;
    let begun = Instant::now();
    world.k("west", "-n slicewire-system delete pod sw-gw-blue-0 --now")?;
    World::wait("the path works again", 60, || {
        world.sh("east", "shop", "web", &format!("ping -c 2 -i 0.2 -W 1 {to}"))
    })?;
    Ok(format!("healed {:.1} s after the deletion began", begun.elapsed().as_secs_f64()))
}

pub(crate) fn power(world: &mut World) -> Result<String> {
    world.power_off("west-1")?;
    sleep(Duration::from_secs(3));
    world.power_on("west-1")?;
    let begun = Instant::now();
    let to = World::wait("the node's pods are on the slice again", 180, || {
        let all = world.addresses_now("west", "shop", "web", "blue")?;
        let to = *all.first().context("no address")?;
        world.sh("east", "shop", "web", &format!("ping -c 1 -W 1 {to}"))?;
        Ok(to)
    })?;
    world.reaches(EAST, to, 30)?;
    Ok(format!(
        "{:.1} s after power-on the node's pods answer again",
        begun.elapsed().as_secs_f64()
    ))
}
