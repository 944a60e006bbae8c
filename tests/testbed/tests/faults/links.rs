//! Faults of links and paths, seen between a node and another cluster's control plane.

use std::net::IpAddr;
use std::process::Command;

use anyhow::{Result, ensure};

use crate::bed::{Bed, NAME, until};
use crate::measure::{Pings, Server, ping};

/// The two ends, and one that no fault is meant for.
const NEAR: &str = "east-1";
const FAR: &str = "west-cp";
const THIRD: &str = "east-cp";

/// Slower than any packet on a whole path should be even on a busy machine, in
/// milliseconds, and faster than any on the delayed paths here.
const PROMPT: f64 = 8.0;

pub(crate) fn carrier(bed: &Bed) -> Result<String> {
    bed.run(&format!("fault cut {NEAR}"))?;
    ensure!(sees_carrier(bed)? == "0", "the machine still has a carrier");
    silence(bed)?;
    bed.run(&format!("fault restore {NEAR}"))?;
    ensure!(sees_carrier(bed)? == "1", "the machine has no carrier after restore");
    connected(bed)?;
    let routes = bed.sh(NEAR, "ip route show default; ip -6 route show default")?;
    ensure!(routes.lines().count() == 2, "a default route is lost: {routes}");
    Ok("no carrier, no packets; both and the routes are back after restore".to_owned())
}

pub(crate) fn silent(bed: &Bed) -> Result<String> {
    bed.run(&format!("fault cut --silent {NEAR}"))?;
    ensure!(sees_carrier(bed)? == "1", "the machine lost its carrier");
    silence(bed)?;
    // What else is done to the link must not mend it.
    bed.run(&format!("fault delay --between {NEAR} {FAR} --ms 1"))?;
    flap()?;
    silence(bed)?;
    ensure!(bed.run("status")?.contains("cut off silently"), "the status does not tell");
    bed.run(&format!("fault restore {NEAR}"))?;
    bed.run(&format!("fault delay --between {NEAR} {FAR}"))?;
    connected(bed)?;
    Ok("no packets though the carrier stays, until restore".to_owned())
}

pub(crate) fn shape(bed: &Bed) -> Result<String> {
    let server = Server::start(bed, FAR)?;
    let free = server.tcp(bed, NEAR, "-t 1")?;
    bed.run(&format!("fault shape {NEAR} --rate 10mbit"))?;
    let (out, back) = (server.tcp(bed, NEAR, "-t 2")?, server.tcp(bed, NEAR, "-t 2 -R")?);
    for rate in [out, back] {
        ensure!((5.0..11.0).contains(&rate), "limited to 10 Mbit/s: {out:.1} out, {back:.1} back");
    }
    bed.run(&format!("fault shape {NEAR} --rate none"))?;
    let after = server.tcp(bed, NEAR, "-t 1")?;
    ensure!(free > 100.0 && after > 100.0, "without limit: {free:.0}, after it {after:.0} Mbit/s");
    Ok(format!(
        "Mbit/s: {free:.0} unlimited, {out:.1} out and {back:.1} back at 10mbit, {after:.0} after"
    ))
}

pub(crate) fn delay(bed: &Bed) -> Result<String> {
    let server = Server::start(bed, FAR)?;
    let before = pings(bed, FAR, 10)?;
    bed.run(&format!("fault delay --between {NEAR} {FAR} --ms 40"))?;
    let there = pings(bed, FAR, 10)?;
    let there6 = ping(bed, NEAR, bed.machine(FAR)?.wan6.into(), 10, 0.05)?;
    // In force when the command returns, not some time later.
    ensure!(before.fastest() < PROMPT, "before: {before:?}");
    for pings in [&there, &there6] {
        let fine = pings.fastest() >= 80.0 && pings.fastest() < 130.0 && pings.lost() == 0.0;
        ensure!(fine, "40 ms each way: {pings:?}");
    }
    let third = pings(bed, THIRD, 10)?;
    ensure!(third.fastest() < PROMPT, "{THIRD} is not meant: {third:?}");
    server.unharmed(bed, NEAR)?;
    bed.run(&format!("fault delay --between {FAR} {NEAR} --ms 15"))?;
    let less = pings(bed, FAR, 10)?;
    ensure!(less.fastest() >= 30.0 && less.fastest() < 60.0, "15 ms each way: {less:?}");
    bed.run(&format!("fault delay --between {NEAR} {FAR}"))?;
    let after = pings(bed, FAR, 10)?;
    ensure!(after.fastest() < PROMPT && after.lost() == 0.0, "after: {after:?}");
    Ok(format!(
        "round trips of {:.1} ms (IPv6 {:.1}) at 40 ms, {:.1} at 15, {:.2} without; TCP and UDP whole",
        there.fastest(),
        there6.fastest(),
        less.fastest(),
        after.fastest()
    ))
}

pub(crate) fn jitter(bed: &Bed) -> Result<String> {
    bed.run(&format!("fault delay --between {NEAR} {FAR} --ms 40 --jitter 20"))?;
    let seen = ping(bed, NEAR, address(bed, FAR)?, 100, 0.02)?;
    bed.run(&format!("fault delay --between {NEAR} {FAR}"))?;
    let (fastest, slowest) = (seen.fastest(), seen.slowest());
    ensure!((40.0..72.0).contains(&fastest) && slowest > 88.0, "40 ms ± 20 each way: {seen:?}");
    ensure!(seen.late == 0 && seen.lost() == 0.0, "jitter only delays: {seen:?}");
    Ok(format!("round trips of {fastest:.1} to {slowest:.1} ms at 40 ± 20, all in order"))
}

pub(crate) fn loss(bed: &Bed) -> Result<String> {
    bed.run(&format!("fault delay --between {NEAR} {FAR} --loss 20 --seed 7"))?;
    let seen = ping(bed, NEAR, address(bed, FAR)?, 400, 0.005)?;
    let third = pings(bed, THIRD, 10)?;
    bed.run(&format!("fault delay --between {NEAR} {FAR} --loss 100"))?;
    silence(bed)?;
    bed.run(&format!("fault delay --between {NEAR} {FAR}"))?;
    let after = pings(bed, FAR, 50)?;
    // Both ways: 1 - 0.8²
    ensure!((0.28..0.44).contains(&seen.lost()), "{} lost instead of 0.36", seen.lost());
    ensure!(third.lost() == 0.0, "{THIRD} is not meant: {third:?}");
    ensure!(after.lost() == 0.0, "after: {after:?}");
    Ok(format!("{:.0} % of pings lost at 20 % each way, all at 100 %", seen.lost() * 100.0))
}

pub(crate) fn reorder(bed: &Bed) -> Result<String> {
    // All at once: on a busy machine, others would come too late to be overtaken.
    let burst = || ping(bed, NEAR, address(bed, FAR)?, 100, 0.0);
    let mut shares = Vec::new();
    for delay in ["", "--ms 20"] {
        bed.run(&format!("fault delay --between {NEAR} {FAR} --reorder 20 {delay}"))?;
        let seen = burst()?;
        ensure!(seen.late >= 8, "only {} of 100 late {delay}", seen.late);
        ensure!(seen.lost() == 0.0, "reordering loses nothing: {} lost {delay}", seen.lost());
        shares.push(seen.late);
    }
    bed.run(&format!("fault delay --between {NEAR} {FAR}"))?;
    let after = burst()?;
    ensure!(after.late == 0 && after.lost() == 0.0, "after: {after:?}");
    Ok(format!("of 100 pings {shares:?} late without and with delay, none lost; none late after"))
}

pub(crate) fn power_cycle(bed: &Bed) -> Result<String> {
    bed.run(&format!("fault delay --between {NEAR} {FAR} --ms 20"))?;
    bed.run(&format!("fault power-off {NEAR}"))?;
    bed.run(&format!("fault cut --silent {NEAR}"))?;
    bed.run(&format!("fault power-on {NEAR}"))?;
    until("the machine's network is up", 20, || {
        Ok(bed
            .output(&format!("exec {NEAR} ip -6 route get {}", bed.machine(FAR)?.wan6))?
            .status
            .success())
    })?;
    silence(bed)?;
    bed.run(&format!("fault restore {NEAR}"))?;
    connected(bed)?;
    let seen = pings(bed, FAR, 5)?;
    ensure!(seen.fastest() >= 40.0, "the delay is lost: {seen:?}");
    bed.run(&format!("fault delay --between {NEAR} {FAR}"))?;
    Ok(format!("still cut off, and after restore still {:.1} ms", seen.fastest()))
}

fn address(bed: &Bed, machine: &str) -> Result<IpAddr> {
    Ok(bed.machine(machine)?.wan4.into())
}

fn pings(bed: &Bed, to: &str, count: usize) -> Result<Pings> {
    ping(bed, NEAR, address(bed, to)?, count, 0.05)
}

/// Takes the machine's carrier away for a moment.
fn flap() -> Result<()> {
    let netns = format!("swtb-{NAME}");
    for state in ["down", "up"] {
        let status =
            Command::new("ip").args(["-n", &netns, "link", "set", NEAR, state]).status()?;
        ensure!(status.success(), "cannot set {NEAR} {state}");
    }
    Ok(())
}

fn sees_carrier(bed: &Bed) -> Result<String> {
    Ok(bed.sh(NEAR, "cat /sys/class/net/eth0/carrier")?.trim().to_owned())
}

/// Nothing comes back.
fn silence(bed: &Bed) -> Result<()> {
    let seen = pings(bed, FAR, 5)?;
    ensure!(seen.lost() == 1.0, "packets still get through: {seen:?}");
    Ok(())
}

/// Pings come back, after the neighbours have found each other again.
fn connected(bed: &Bed) -> Result<()> {
    until("pings come back", 10, || Ok(pings(bed, FAR, 3)?.lost() == 0.0)).map(drop)
}
