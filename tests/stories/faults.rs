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
    let cases: [(&str, &[&str], &str); 5] = [
        ("the daemon of the sender's node", &["east-1"], "netop-daemon"),
        ("what steers the gateways", &["east-1", "east-2", "west-1", "west-2"], "router-sidecar"),
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

/// Stops a node's container runtime: pods that are there keep their slice, and pods that come
/// afterwards get theirs.
pub(crate) fn runtime_restarted(world: &mut World) -> Result<String> {
    let to = world.addresses("west", "shop", "web", "blue")?[0];
    world.reaches(EAST, to, 20)?;
    world.testbed.stop_daemon("west-1", "containerd")?;
    let held = (0..5).try_for_each(|_| world.reaches(EAST, to, 5));
    world.testbed.start_daemon("west-1", "containerd")?;
    held.context("a pod lost its slice while its node's container runtime was away")?;
    World::wait("the node is ready", 90, || {
        world.k("west", "wait node/west-1 --for=condition=Ready --timeout=5s")
    })?;
    world.pod("west", "shop", "after", Some("west-1"))?;
    let after = world.addresses("west", "shop", "after", "blue")?;
    world.reaches(EAST, after[0], 15)?;
    world.k("west", "-n shop delete pod after --now")?;
    Ok("pods stay on their slice without the runtime; new ones join when it is back".to_owned())
}

/// Where the runtime has no hook (or it is switched off), pods are found by asking it.
pub(crate) fn without_hook(world: &mut World) -> Result<String> {
    let daemon = "-n slicewire-system";
    let rollout = |world: &World, socket: &str| -> Result<()> {
        let set = format!("{daemon} set env ds/slicewire-netop-daemon NRI_SOCKET={socket}");
        world.k("east", &set)?;
        let wait = format!("{daemon} rollout status ds/slicewire-netop-daemon --timeout=90s");
        world.k("east", &wait).map(drop)
    };
    let before = world.k(
        "east",
        &format!(
            "{daemon} get ds slicewire-netop-daemon -o \
             jsonpath={{.spec.template.spec.containers[0].env[?(@.name==\"NRI_SOCKET\")].value}}"
        ),
    )?;
    ensure!(!before.trim().is_empty(), "the hook was off before");
    rollout(world, "")?;
    let attached = (|| {
        world.pod("east", "shop", "asked", Some("east-1"))?;
        let to = world.addresses("east", "shop", "asked", "blue")?;
        world.reaches(WEST, to[0], 15)
    })();
    rollout(world, before.trim())?;
    attached?;
    world.k("east", "-n shop delete pod asked --now")?;
    Ok("without the runtime's hook a new pod is attached, too".to_owned())
}
