//! What only time shows: sessions are renewed after the protocol's 120 s.

use std::{
    thread,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, anyhow, ensure};
use slicewire_tunnel_tests::{
    device::Implementation::{self, Boringtun, Gotatun, Ours, WireguardGo, WireguardGoDebian},
    lab::{
        Family::V4,
        Lab,
        Side::{self, Left, Right},
    },
    traffic::Pings,
};

/// Pings every 20 ms for longer than a session's 120 s (REKEY_AFTER_TIME) and its renewal.
const PINGS: Pings = Pings { count: 6_400, interval: 20, size: 200, patience: 3000 };

/// Ours with everyone, as initiator and as responder, and a control pair, all at the same time.
const PAIRS: [(Implementation, Implementation); 10] = [
    (Ours, Ours),
    (Ours, WireguardGo),
    (WireguardGo, Ours),
    (Ours, WireguardGoDebian),
    (WireguardGoDebian, Ours),
    (Ours, Boringtun),
    (Boringtun, Ours),
    (Ours, Gotatun),
    (Gotatun, Ours),
    (WireguardGo, Gotatun),
];

#[test]
fn rekey_after_120_seconds_loses_nothing() -> Result<()> {
    let results: Vec<Result<()>> = thread::scope(|scope| {
        let running: Vec<_> = PAIRS.map(|pair| scope.spawn(move || rekey(pair))).into();
        let joined = running.into_iter().map(|thread| thread.join());
        joined.map(|result| result.map_err(|_| anyhow!("panicked"))?).collect()
    });
    let failures: Vec<String> =
        results.into_iter().filter_map(Result::err).map(|error| format!("{error:#}")).collect();
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}

fn rekey((left, right): (Implementation, Implementation)) -> Result<()> {
    let pair = format!("{} initiates to {}", left.name(), right.name());
    let lab = Lab::new(left, right, 1420).with_context(|| pair.clone())?;
    lab.introduce(Left, V4)?;
    lab.establish(Left, V4, 8).with_context(|| pair.clone())?;
    let first = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let answers = lab.ping(Left, V4, PINGS)?;
    for (side, implementation) in [(Left, left), (Right, right)] {
        let renewed = !implementation.tells_handshake_time() || handshake(&lab, side)? > first;
        ensure!(renewed, "{pair}: no new handshake on {side:?}\n{}", lab.describe());
    }
    let perfect = answers.received == answers.sent && answers.duplicates == 0;
    ensure!(perfect, "{pair}: {answers:?} during a rekey\n{}", lab.describe());
    Ok(())
}

fn handshake(lab: &Lab, side: Side) -> Result<u64> {
    let end = lab.end(side);
    let peer = end.device.peers(&end.host)?.into_iter().next().context("the peer is gone")?;
    Ok(peer.handshake)
}
