//! What two implementations must stand together on a bad network, and against strangers.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use slicewire_tunnel_tests::{
    device::Implementation,
    flood::Flood,
    lab::{Family::V4, Lab, PORT, Side, Side::Left, Side::Right, socket},
    raw,
    relay::Faults,
    traffic::{Pings, Stream, stream},
};

use crate::scenarios::lossless;

const MTU: u32 = 1420;
/// Initiations in a burst, twice a second: more than any of them answers at once.
const BURST: usize = 400;
/// The same for the kernel, whose queue is longer.
const GUEST_BURST: usize = 800;
/// Initiations a second of a steady flood.
const FLOOD: u32 = 20_000;

pub(crate) fn replayed_packets(left: Implementation, right: Implementation) -> Result<()> {
    faulty(left, right, Faults::Replay)
}

pub(crate) fn reordered_packets(left: Implementation, right: Implementation) -> Result<()> {
    faulty(left, right, Faults::Reorder)
}

pub(crate) fn truncated_packets(left: Implementation, right: Implementation) -> Result<()> {
    faulty(left, right, Faults::Truncate)
}

pub(crate) fn corrupted_packets(left: Implementation, right: Implementation) -> Result<()> {
    faulty(left, right, Faults::Corrupt)
}

/// wireguard-go loses what it received together with an empty datagram, so this is not asked of
/// it.
pub(crate) fn empty_datagrams(left: Implementation, right: Implementation) -> Result<()> {
    faulty(left, right, Faults::Empty)
}

/// Every packet arrives next to a bad one: none is lost, none arrives twice, TCP is whole.
fn faulty(left: Implementation, right: Implementation, faults: Faults) -> Result<()> {
    let lab = Lab::new(left, right, MTU)?;
    through(&lab, faults)?;
    alive(lab)
}

fn through(lab: &Lab, faults: Faults) -> Result<()> {
    let relay = lab.introduce_through_relay(faults)?;
    lab.establish(Left, V4, 20)?;
    for side in [Left, Right] {
        lossless(lab, side, V4, Pings::many(500, 2))?;
    }
    ensure!(relay.harm() > 50, "the relay did harm only {} times", relay.harm());
    lab.transfer(V4, 1 << 20)
}

/// One packet of ten is lost, handshakes included: it converges, and loses no more than was lost.
pub(crate) fn handshake_over_a_lossy_path(
    left: Implementation,
    right: Implementation,
) -> Result<()> {
    let lab = Lab::new(left, right, MTU)?;
    let relay = lab.introduce_through_relay(Faults::Loss)?;
    lab.establish(Left, V4, 25)?;
    let before = relay.harm();
    let answers = lab.ping(Left, V4, Pings { patience: 1000, ..Pings::many(500, 2) })?;
    let (lost, taken) = (answers.sent - answers.received, relay.harm() - before);
    ensure!(taken > 50, "the path lost only {taken}");
    ensure!(u64::from(lost) <= taken, "{lost} were lost, by the path {taken}: {answers:?}");
    ensure!(answers.duplicates == 0, "{answers:?}");
    alive(lab)
}

/// Flooded with initiations, the responder sends cookies, and who answers with one is let in.
pub(crate) fn cookie_reply_under_load(left: Implementation, right: Implementation) -> Result<()> {
    let lab = Lab::new(left, right, MTU)?;
    for responder in [Right, Left] {
        under_load(&lab, responder, BURST)?;
    }
    alive(lab)
}

fn under_load(lab: &Lab, responder: Side, burst: usize) -> Result<()> {
    let target = socket(&responder.outer(V4, 2), PORT);
    let flood = Flood::start(&lab.wan, &target, lab.end(responder).keys.public_bytes(), burst)?;
    let deadline = Instant::now() + Duration::from_secs(10);
    while flood.cookies() == 0 {
        ensure!(Instant::now() < deadline, "no cookie for {} initiations", flood.sent());
        thread::sleep(Duration::from_millis(50));
    }
    lab.introduce(responder.other(), V4)?;
    let patient = Pings { patience: 4000, ..Pings::one() };
    let mut attempts = 0;
    while lab.ping(responder.other(), V4, patient)?.received == 0 {
        attempts += 1;
        ensure!(attempts < 10, "not let in after 40 s of flood\n{}", lab.describe());
    }
    drop(flood);
    lossless(lab, responder, V4, Pings::many(100, 5))?;
    lab.part()
}

/// Twenty thousand initiations a second by strangers cost an established peer nothing that counts:
/// as many packets arrive as without, and no ping is lost.
pub(crate) fn flood_beside_traffic(left: Implementation, right: Implementation) -> Result<()> {
    let lab = Lab::new(left, right, MTU)?;
    lab.introduce(Left, V4)?;
    lab.establish(Left, V4, 15)?;
    let (Some(from), Some(to)) = (lab.left.host.namespace(), lab.right.host.namespace()) else {
        return alive(lab);
    };
    let wanted = Stream { rate: 5_000, size: 1_000, time: Duration::from_secs(3) };
    let measure = |port| -> Result<f64> {
        let target = socket(&Right.inner(V4), port).parse()?;
        let (sent, arrived) = stream(from, to, target, wanted)?;
        ensure!(sent > 5_000, "only {sent} were sent: the machine is too busy to tell");
        Ok(arrived as f64 / sent as f64)
    };
    let without = measure(6001)?;
    let outside = socket(&Right.outer(V4, 2), PORT);
    let flood = Flood::steady(&lab.wan, &outside, lab.right.keys.public_bytes(), FLOOD)?;
    thread::sleep(Duration::from_millis(200));
    let with = measure(6002)?;
    lossless(&lab, Left, V4, Pings::many(200, 5))?;
    let (sent, cookies) = (flood.sent(), flood.cookies());
    drop(flood);
    ensure!(sent > 20_000, "{sent} initiations are no flood");
    ensure!(cookies > 0, "no cookie for {sent} initiations");
    ensure!(with > 0.9 * without, "{without:.3} arrived without the flood, {with:.3} with it");
    alive(lab)
}

/// A peer may send from its allowed addresses only.
pub(crate) fn spoofed_inner_source(left: Implementation, right: Implementation) -> Result<()> {
    let lab = Lab::new(left, right, MTU)?;
    lab.introduce(Left, V4)?;
    lab.establish(Left, V4, 15)?;
    for side in [Left, Right] {
        let (near, far) = (lab.end(side), lab.end(side.other()));
        // Answers would find their way: only the allowed addresses stop the ping.
        let other = side.other().inner(V4);
        near.host.sh(&format!("ip addr add 10.98.0.1/32 dev {}", near.device.name()))?;
        far.host.sh(&format!("ip route add 10.98.0.1/32 dev {}", far.device.name()))?;
        let spoofed = near
            .host
            .sh(&format!("ping -n -q -c 20 -i 0.02 -W 1 -I 10.98.0.1 {other} 2>&1 || true"))?;
        ensure!(spoofed.contains(" 0 received"), "a spoofed source passed: {spoofed}");
        lossless(&lab, side, V4, Pings::many(50, 5))?;
    }
    alive(lab)
}

/// A peer with a session that sends what is no packet, or not from its addresses: nothing of it
/// gets to the device, each is counted by its reason, and its good packets pass as before.
pub(crate) fn garbage_inside(left: Implementation, right: Implementation) -> Result<()> {
    const EACH: usize = 20;
    let mut lab = Lab::new(left, right, MTU)?;
    lab.introduce(Right, V4)?;
    lab.establish(Right, V4, 15)?;
    let arrived = |lab: &Lab| -> Result<String> {
        let name = lab.left.device.name();
        // The line below the one with the header of received bytes and packets.
        lab.left.host.sh(&format!("ip -s link show {name} | grep -A1 RX: | tail -n 1"))
    };
    let ipv4 = |length: u16, source: [u8; 4]| {
        let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 253, 0, 0];
        packet[2..4].copy_from_slice(&length.to_be_bytes());
        packet.extend(source.into_iter().chain([10, 99, 0, 1]).chain([7; 20]));
        packet
    };
    let mut ipv6 = vec![0x60, 0, 0, 0, 0, 99, 253, 64];
    for (last, byte) in [(2, 0), (1, 7)] {
        ipv6.extend([0xfd, 0x99, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
        ipv6.extend([byte; 20].iter().take(if byte == 7 { 20 } else { 0 }));
    }
    let own = [10, 99, 0, 2];
    let spoofed = ipv4(40, [10, 98, 7, 7]);
    let malformed = [ipv4(400, own), ipv4(19, own), ipv6];
    let before = arrived(&lab)?;
    let sender = lab.right.host.namespace().context("no namespace")?;
    for packet in malformed.iter().chain([&spoofed]) {
        raw::send(sender, lab.right.device.name(), &vec![packet.clone(); EACH])?;
    }
    thread::sleep(Duration::from_millis(500));
    ensure!(arrived(&lab)? == before, "something got through: {before} → {}", arrived(&lab)?);
    lossless(&lab, Right, V4, Pings::many(100, 5))?;
    let log = lab.left.device.end()?;
    for (reason, count) in [("malformed_content", malformed.len() * EACH), ("spoofed_source", EACH)]
    {
        let counted = format!("(\\\"{reason}\\\", {count})");
        ensure!(log.contains(&counted), "no {counted} in {log}");
    }
    Ok(())
}

/// Everything above that needs no socket of ours in the guest, in one guest.
pub(crate) fn a_bad_network_and_a_guest(left: Implementation, right: Implementation) -> Result<()> {
    let lab = Lab::new(left, right, MTU)?;
    for faults in [Faults::Replay, Faults::Reorder, Faults::Truncate, Faults::Corrupt] {
        through(&lab, faults)?;
        lab.part()?;
    }
    // The guest as responder: emulated, it is always slower than the flood.
    under_load(&lab, Right, GUEST_BURST)
}

/// Nobody died of it.
fn alive(mut lab: Lab) -> Result<()> {
    for end in [&mut lab.left, &mut lab.right] {
        ensure!(end.device.is_running(), "a device ended:\n{}", end.device.log());
    }
    Ok(())
}
