//! What only time shows: sessions are renewed after the protocol's 120 s, or many messages.

use std::{
    collections::BTreeSet,
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, anyhow, ensure};
use slicewire_tunnel_tests::{
    device::{
        Implementation::{self, Boringtun, Gotatun, Ours, WireguardGo, WireguardGoDebian},
        Settings,
    },
    lab::{
        Family::V4,
        Lab, PORT,
        Side::{self, Left, Right},
    },
    traffic::Pings,
};

/// Pings every 20 ms for longer than a session's 120 s (REKEY_AFTER_TIME) and its renewal.
const PINGS: Pings = Pings::many(6_400, 20).sized(200);

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
    all_at_once(PAIRS, rekey)
}

/// Tries every case in a thread of its own, and tells of all that failed.
fn all_at_once<T: Send + 'static, const N: usize>(
    cases: [T; N],
    attempt: fn(T) -> Result<()>,
) -> Result<()> {
    let running = cases.map(|case| thread::spawn(move || attempt(case)));
    let results = running.map(|thread| thread.join().map_err(|_| anyhow!("panicked"))?);
    let failures: Vec<String> =
        results.into_iter().filter_map(Result::err).map(|error| format!("{error:#}")).collect();
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}

fn rekey((left, right): (Implementation, Implementation)) -> Result<()> {
    let pair = format!("{} initiates to {}", left.name(), right.name());
    let lab = Lab::new(left, right, 1420).with_context(|| pair.clone())?;
    lab.introduce(Left, V4)?;
    lab.establish(Left, V4, 15).with_context(|| pair.clone())?;
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

/// Ours is told to renew sessions after few messages, and does with everyone, under traffic,
/// whichever side began.
#[test]
fn rekey_after_messages_loses_nothing() -> Result<()> {
    all_at_once([Ours, WireguardGo, WireguardGoDebian, Boringtun, Gotatun], renewals)
}

fn renewals(other: Implementation) -> Result<()> {
    let settings = Settings { options: &["--renew-after", "200"], ..Settings::new(PORT, 1420) };
    let lab = Lab::with(Ours, other, settings).with_context(|| other.name())?;
    for initiator in [Left, Right] {
        lab.introduce(initiator, V4)?;
        lab.establish(initiator, V4, 15).with_context(|| other.name())?;
        let mut seen = BTreeSet::new();
        let answers = thread::scope(|scope| {
            let traffic = scope.spawn(|| lab.ping(Left, V4, Pings::many(1200, 10)));
            while !traffic.is_finished() {
                seen.extend(handshake(&lab, Left).ok());
                thread::sleep(Duration::from_millis(200));
            }
            traffic.join().map_err(|_| anyhow!("ping panicked"))?
        })?;
        let perfect = answers.received == answers.sent && answers.duplicates == 0;
        ensure!(perfect, "{}: {answers:?}\n{}", other.name(), lab.describe());
        // 12 s and more, 5 s at least between two: the first, and two more.
        let count = seen.len();
        ensure!(count >= 3, "{}: {count} handshakes\n{}", other.name(), lab.describe());
        lab.part()?;
    }
    Ok(())
}
