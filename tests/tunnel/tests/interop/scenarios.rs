//! What two implementations must do together on a good network.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use slicewire_tunnel_tests::{
    device::{Implementation, Peer},
    keys::{KeyPair, preshared},
    lab::{
        Family::{self, V4, V6},
        Lab, PORT,
        Side::{self, Left, Right},
        socket,
    },
    relay::Faults,
    traffic::Pings,
};

const SIDES: [Side; 2] = [Left, Right];
/// IPv6 first: once wireguard-go has sent to an IPv4 endpoint, its first packets to an IPv6 one go
/// to a wrong address (it copies 16 bytes into a recycled slice of 4).
const FAMILIES: [Family; 2] = [V6, V4];
/// The tunnel's usual MTU.
const MTU: u32 = 1420;
/// Seconds a first handshake may take: one attempt, and two more after the protocol's 5 s each.
const FIRST: u32 = 15;

/// Only the initiator knows an endpoint; the other learns it.
pub(crate) fn handshake_from_either_side(
    left: Implementation,
    right: Implementation,
) -> Result<()> {
    handshakes(&Lab::new(left, right, MTU)?)
}

fn handshakes(lab: &Lab) -> Result<()> {
    for initiator in SIDES {
        lab.introduce(initiator, V4)?;
        lab.establish(initiator, V4, FIRST)?;
        lossless(lab, initiator, V4, Pings::many(200, 5))?;
        lossless(lab, initiator.other(), V4, Pings::many(200, 5))?;
        for side in SIDES {
            let end = lab.end(side);
            let peers = end.device.peers(&end.host)?;
            ensure!(peers.len() == 1 && peers[0].handshake > 0, "no handshake on {side:?}");
            ensure!(peers[0].received > 0 && peers[0].sent > 0, "nothing counted on {side:?}");
            let expected = socket(&side.other().outer(V4, 2), PORT);
            ensure!(peers[0].endpoint == expected, "{side:?} sees {}", peers[0].endpoint);
        }
        lab.part()?;
    }
    Ok(())
}

pub(crate) fn both_families_inside_and_outside(
    left: Implementation,
    right: Implementation,
) -> Result<()> {
    families(&Lab::new(left, right, MTU)?)
}

fn families(lab: &Lab) -> Result<()> {
    for outside in FAMILIES {
        lab.introduce(Left, outside)?;
        for inside in FAMILIES {
            lab.establish(Left, inside, FIRST)?;
            lossless(lab, Right, inside, Pings::many(100, 5))?;
        }
        lab.part()?;
    }
    Ok(())
}

/// The same key on both sides works, two keys do not, none on one side does not.
pub(crate) fn preshared_keys(left: Implementation, right: Implementation) -> Result<()> {
    preshared_keys_of(&Lab::new(left, right, MTU)?)
}

fn preshared_keys_of(lab: &Lab) -> Result<()> {
    let endpoint = Some(socket(&Right.outer(V4, 2), PORT));
    let introduce = |one: Option<String>, other: Option<String>| -> Result<()> {
        let left = Peer { preshared: one, endpoint: endpoint.clone(), ..lab.peer_of(Left) };
        lab.set(Left, &left)?;
        lab.set(Right, &Peer { preshared: other, ..lab.peer_of(Right) })
    };
    let key = preshared();
    introduce(Some(key.clone()), Some(key.clone()))?;
    lab.establish(Left, V4, FIRST)?;
    lossless(lab, Right, V4, Pings::many(100, 5))?;
    lab.part()?;
    introduce(Some(key.clone()), Some(preshared()))?;
    silent(lab)?;
    lab.part()?;
    introduce(Some(key), None)?;
    silent(lab)?;
    lab.part()
}

/// A peer known by another key than its own gets nothing through.
pub(crate) fn wrong_keys_carry_nothing(left: Implementation, right: Implementation) -> Result<()> {
    wrong_keys(&Lab::new(left, right, MTU)?)
}

fn wrong_keys(lab: &Lab) -> Result<()> {
    let stranger = KeyPair::generate().public();
    for side in SIDES {
        lab.introduce(side, V4)?;
        let end = lab.end(side.other());
        end.device.remove_peer(&end.host, &lab.end(side).keys.public())?;
        lab.set(side.other(), &Peer { public: stranger.clone(), ..lab.peer_of(side.other()) })?;
        let answers = lab.ping(side, V4, Pings::unanswered())?;
        ensure!(answers.received == 0, "{side:?} got {answers:?} from one who does not know it");
        end.device.remove_peer(&end.host, &stranger)?;
        lab.set(side.other(), &lab.peer_of(side.other()))?;
        lab.part()?;
    }
    Ok(())
}

/// Persistent keepalive alone opens the session and keeps sending, in either direction.
pub(crate) fn keepalive_without_traffic(left: Implementation, right: Implementation) -> Result<()> {
    keepalive(&Lab::new(left, right, MTU)?)
}

fn keepalive(lab: &Lab) -> Result<()> {
    for (side, index) in SIDES.into_iter().zip([0, 1]) {
        let relay = lab.introduce_through_relay(Faults::None)?;
        lab.set_anew(side, &Peer { keepalive: Some(1), ..lab.relayed_peer_of(side) })?;
        let mut waited = 0;
        while relay.keepalives()[index] == 0 {
            ensure!(waited < 200, "no keepalive from {side:?} in 20 s\n{}", lab.describe());
            thread::sleep(Duration::from_millis(100));
            waited += 1;
        }
        let (before, started) = (relay.keepalives()[index], Instant::now());
        thread::sleep(Duration::from_millis(4500));
        let (sent, time) = (relay.keepalives()[index] - before, started.elapsed());
        // One is due each second; a busy machine may make some late, but none early.
        let due = 2..=time.as_secs() + 1;
        ensure!(due.contains(&sent), "{side:?} sent {sent} keepalives in {time:?}, one a second");
        lab.part()?;
    }
    Ok(())
}

/// Each side in turn changes its port, then its address; the other follows without being told.
pub(crate) fn either_side_roams(left: Implementation, right: Implementation) -> Result<()> {
    roaming(&Lab::new(left, right, MTU)?, left, right)
}

fn roaming(lab: &Lab, left: Implementation, right: Implementation) -> Result<()> {
    for (side, implementation) in SIDES.into_iter().zip([left, right]) {
        let end = lab.end(side);
        let listen = |port| {
            end.host.sh(&format!("wg set {} listen-port {port}", end.device.name())).map(drop)
        };
        lab.introduce(side, V4)?;
        lab.establish(side, V4, FIRST)?;
        let port = if implementation.changes_port() { PORT + 7 } else { PORT };
        if port != PORT {
            listen(port)?;
            follow(lab, side, &socket(&side.outer(V4, 2), port))?;
        }
        let number = if implementation.moves() { 3 } else { 2 };
        let (old, new) = (side.outer(V4, 2), side.outer(V4, number));
        let (gateway, uplink) = (side.outer(V4, 1), end.uplink);
        let move_to = |from: &str, to: &str| {
            end.host.sh(&format!(
                "ip addr del {from}/24 dev {uplink}; ip addr add {to}/24 dev {uplink};
                 ip route replace default via {gateway}"
            ))
        };
        move_to(&old, &new)?;
        follow(lab, side, &socket(&new, port))?;
        lab.part()?;
        move_to(&new, &old)?;
        if port != PORT {
            listen(PORT)?;
        }
    }
    Ok(())
}

/// The side that moved sends first; then both directions work without loss.
fn follow(lab: &Lab, moved: Side, expected: &str) -> Result<()> {
    lab.establish(moved, V4, FIRST)?;
    lossless(lab, moved.other(), V4, Pings::many(100, 5))?;
    let end = lab.end(moved.other());
    let seen = end.device.peers(&end.host)?.swap_remove(0).endpoint;
    ensure!(seen == expected, "{:?} sees {seen}, not {expected}", moved.other());
    lossless(lab, moved, V4, Pings::many(100, 5))
}

/// Removing and adding the peer forces a new handshake in the middle of traffic.
pub(crate) fn a_peer_is_set_anew_under_traffic(
    left: Implementation,
    right: Implementation,
) -> Result<()> {
    set_anew(&Lab::new(left, right, MTU)?)
}

fn set_anew(lab: &Lab) -> Result<()> {
    for side in SIDES {
        lab.introduce(side, V4)?;
        lab.establish(side, V4, FIRST)?;
        let (answers, away) = thread::scope(|scope| -> Result<_> {
            let traffic = scope.spawn(|| lab.ping(side, V4, Pings::many(400, 10).regardless()));
            let mut away = Duration::ZERO;
            for _ in 0..2 {
                thread::sleep(Duration::from_millis(1000));
                let endpoint = Some(socket(&side.other().outer(V4, 2), PORT));
                let started = Instant::now();
                lab.set_anew(side, &Peer { endpoint, ..lab.peer_of(side) })?;
                away += started.elapsed();
            }
            Ok((traffic.join().map_err(|_| anyhow::anyhow!("ping panicked"))??, away))
        })?;
        // While the peer is away its packets have nowhere to go, and a handshake takes a moment.
        let excused = (away.as_millis() / 10) as u32 + 50;
        let lost = answers.sent - answers.received;
        ensure!(lost <= excused, "{side:?}: {answers:?}, away {away:?}\n{}", lab.describe());
        lossless(lab, side, V4, Pings::many(100, 5))?;
        lab.part()?;
    }
    Ok(())
}

/// Packets of exactly the MTU pass unfragmented, and TCP fills them with the right bytes.
pub(crate) fn mtu_1280_to_9000(left: Implementation, right: Implementation) -> Result<()> {
    for mtu in [1280, 1420, left.largest_mtu().min(right.largest_mtu())] {
        let lab = Lab::new(left, right, mtu)?;
        lab.introduce(Left, V4)?;
        lab.establish(Left, V4, FIRST)?;
        full_packets(&lab, mtu)?;
        for family in FAMILIES {
            lab.transfer(family, 1 << 20)?;
        }
    }
    Ok(())
}

fn full_packets(lab: &Lab, mtu: u32) -> Result<()> {
    for side in SIDES {
        for (family, headers) in [(V4, 28), (V6, 48)] {
            for size in [mtu - headers, mtu - headers - 1, 1, 0] {
                lossless(lab, side, family, Pings::many(20, 10).sized(size))?;
            }
        }
    }
    Ok(())
}

/// Everything above that needs no socket of ours in the guest, in one guest.
pub(crate) fn a_good_network_and_a_guest(
    left: Implementation,
    right: Implementation,
) -> Result<()> {
    let lab = Lab::new(left, right, MTU)?;
    families(&lab)?;
    handshakes(&lab)?;
    preshared_keys_of(&lab)?;
    wrong_keys(&lab)?;
    keepalive(&lab)?;
    roaming(&lab, left, right)?;
    lab.introduce(Left, V4)?;
    lab.establish(Left, V4, FIRST)?;
    full_packets(&lab, MTU)?;
    for mtu in [1280, 9000] {
        for side in SIDES {
            let end = lab.end(side);
            end.host.sh(&format!("ip link set {} mtu {mtu}", end.device.name()))?;
        }
        full_packets(&lab, mtu)?;
    }
    Ok(())
}

/// Every ping is answered exactly once. So few are on their way at a time that no queue overflows
/// when a busy machine does not run somebody for a while: there is no excuse for a loss.
pub(crate) fn lossless(lab: &Lab, side: Side, family: Family, pings: Pings) -> Result<()> {
    let answers = lab.ping(side, family, pings)?;
    let perfect = answers.received == answers.sent && answers.duplicates == 0;
    ensure!(perfect, "from {side:?} over {family:?}: {pings:?} → {answers:?}\n{}", lab.describe());
    Ok(())
}

/// No ping of either side is answered.
fn silent(lab: &Lab) -> Result<()> {
    for side in SIDES {
        let answers = lab.ping(side, V4, Pings::unanswered())?;
        ensure!(answers.received == 0, "{side:?} must not get through, but {answers:?}");
    }
    Ok(())
}
