//! What two implementations must stand together on a bad network, and against strangers.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use slicewire_tunnel_tests::{
    device::Implementation,
    flood::Flood,
    lab::{Family::V4, Lab, PORT, Side, Side::Left, Side::Right, socket},
    relay::Faults,
    traffic::{Pings, transfer},
};

use crate::scenarios::lossless;

const MTU: u32 = 1420;
/// Initiations in a burst, twice a second: more than any of them answers at once.
const BURST: usize = 400;
/// The same for the kernel, whose queue is longer.
const GUEST_BURST: usize = 800;

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
    lab.establish(Left, V4, 12)?;
    for side in [Left, Right] {
        lossless(lab, side, V4, Pings::many(500, 2))?;
    }
    ensure!(relay.harm() > 50, "the relay did harm only {} times", relay.harm());
    if let (Some(from), Some(to)) = (lab.left.host.namespace(), lab.right.host.namespace()) {
        transfer(from, to, socket(&Right.inner(V4), 5000).parse()?, 1 << 20)?;
    }
    Ok(())
}

/// One packet of ten is lost, handshakes included: it converges, and loses no more than was lost.
pub(crate) fn handshake_over_a_lossy_path(
    left: Implementation,
    right: Implementation,
) -> Result<()> {
    let lab = Lab::new(left, right, MTU)?;
    let _relay = lab.introduce_through_relay(Faults::Loss)?;
    lab.establish(Left, V4, 25)?;
    let answers = lab.ping(Left, V4, Pings::many(500, 2))?;
    // 0.9 × 0.9 of 500 is 405, with a standard deviation of 9.
    ensure!(answers.received > 350, "more was lost than the path loses: {answers:?}");
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

/// A peer may send from its allowed addresses only.
pub(crate) fn spoofed_inner_source(left: Implementation, right: Implementation) -> Result<()> {
    let lab = Lab::new(left, right, MTU)?;
    lab.introduce(Left, V4)?;
    lab.establish(Left, V4, 8)?;
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
