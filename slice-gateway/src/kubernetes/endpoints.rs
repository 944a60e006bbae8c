//! Which of a peer's endpoints to call, and when to call anew.
//!
//! WireGuard repeats an unanswered handshake every 5 s. Two gateways that come up one after the
//! other would lose that time, and one whose first endpoint is not reachable from here would
//! never be found. So while a peer has not answered, it is called anew sooner, at its next
//! endpoint, which is done by leaving it out of the configuration for a moment; peers with a
//! session are never touched.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use slicewire_engine::PublicKey;

use super::plan::PlannedTunnel;

/// A session is dead this long after its handshake: WireGuard's Reject-After-Time.
const DEAD: Duration = Duration::from_secs(180);

/// How long the n-th call waits for an answer, in milliseconds, the last entry for all further
/// ones. Short at first, because two gateways of a new slice come up within moments of each other
/// and are reachable some moments later; every third is long enough for a path around the world,
/// which the others are too impatient for.
const PATIENCE_MS: [u64; 15] =
    [150, 150, 500, 150, 150, 500, 150, 150, 500, 1_000, 1_000, 2_000, 2_000, 5_000, 15_000];
/// So many calls are made in quick succession.
const EAGER_CALLS: usize = 9;

/// The calls that go unanswered. Times are durations since any fixed moment.
#[derive(Debug, Default)]
pub(super) struct Endpoints {
    calls: BTreeMap<PublicKey, Call>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Call {
    /// Which endpoint, counted on without end.
    turn: usize,
    /// Calls without an answer.
    unanswered: usize,
    since: Duration,
    /// Whether there is a session.
    answered: bool,
}

impl Endpoints {
    /// The endpoint to configure for a peer.
    pub(super) fn pick(&self, tunnel: &PlannedTunnel) -> Option<SocketAddr> {
        let turn = self.calls.get(&tunnel.public_key).map_or(0, |call| call.turn);
        let index = turn.checked_rem(tunnel.endpoints.len())?;
        tunnel.endpoints.get(index).copied()
    }

    /// Lets time pass. `handshake` says how long ago a peer's last handshake was. Returns the
    /// peers to call anew, at what [`Self::pick`] now says.
    pub(super) fn step(
        &mut self,
        tunnels: &[PlannedTunnel],
        handshake: impl Fn(&PublicKey) -> Option<Duration>,
        now: Duration,
    ) -> Vec<PublicKey> {
        self.calls.retain(|key, _| tunnels.iter().any(|t| t.public_key == *key));
        let mut again = Vec::new();
        for tunnel in tunnels.iter().filter(|t| !t.endpoints.is_empty()) {
            let call = self.calls.entry(tunnel.public_key);
            let call = call.or_insert(Call { since: now, ..Call::default() });
            call.answered = handshake(&tunnel.public_key).is_some_and(|age| age < DEAD);
            if call.answered {
                *call = Call { unanswered: 0, since: now, ..*call };
                continue;
            }
            let patience = PATIENCE_MS.get(call.unanswered).or(PATIENCE_MS.last());
            let patience = patience.copied().map(Duration::from_millis);
            if patience.is_some_and(|patience| now.saturating_sub(call.since) >= patience) {
                call.turn += 1;
                call.unanswered += 1;
                call.since = now;
                again.push(tunnel.public_key);
            }
        }
        again
    }

    /// Whether a peer is being called in quick succession.
    pub(super) fn eager(&self) -> bool {
        self.calls.values().any(|call| !call.answered && call.unanswered < EAGER_CALLS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tunnel(key: u8, endpoints: &[&str]) -> PlannedTunnel {
        PlannedTunnel {
            cluster: "west".into(),
            public_key: PublicKey::from_bytes([key; 32]),
            endpoints: endpoints.iter().map(|e| e.parse().unwrap()).collect(),
            addresses: vec![],
            prefixes: vec![],
            preshared_key: None,
        }
    }

    /// Milliseconds at which a peer is called anew within `until` seconds, looked at twenty times
    /// a second; `age` says how many seconds ago its handshake was.
    fn calls(tunnel: &PlannedTunnel, until: u64, age: impl Fn(u64) -> Option<u64>) -> Vec<u64> {
        let mut endpoints = Endpoints::default();
        let tunnels = [tunnel.clone()];
        let called = |ms: &u64| {
            let age = age(*ms / 1_000).map(Duration::from_secs);
            !endpoints.step(&tunnels, |_| age, Duration::from_millis(*ms)).is_empty()
        };
        (0..until * 1_000).step_by(50).filter(called).collect()
    }

    #[test]
    fn a_silent_peer_is_called_often_at_first_and_then_rarely() {
        let silent = tunnel(1, &["192.0.2.1:1"]);
        let at = calls(&silent, 45, |_| None);
        assert_eq!(at[..6], [150, 300, 800, 950, 1_100, 1_600]);
        assert_eq!(at[9..], [3_400, 4_400, 6_400, 8_400, 13_400, 28_400, 43_400]);
    }

    #[test]
    fn a_peer_with_a_session_is_never_touched() {
        let peer = tunnel(1, &["192.0.2.1:1", "192.0.2.2:1"]);
        assert!(calls(&peer, 1000, |_| Some(179)).is_empty());
        assert_eq!(calls(&peer, 12, |s| s.checked_sub(1)), [150, 300, 800, 950]);
    }

    #[test]
    fn a_peer_whose_session_died_is_called_again() {
        let peer = tunnel(1, &["192.0.2.1:1"]);
        assert_eq!(calls(&peer, 181, Some), [180_100, 180_250, 180_750, 180_900]);
    }

    #[test]
    fn only_a_peer_that_may_come_any_moment_is_looked_at_often() {
        let peer = [tunnel(1, &["192.0.2.1:1"])];
        let mut endpoints = Endpoints::default();
        assert!(!endpoints.eager());
        let second = Duration::from_secs;
        endpoints.step(&peer, |_| None, second(0));
        assert!(endpoints.eager());
        endpoints.step(&peer, |_| Some(second(1)), second(1));
        assert!(!endpoints.eager());
        for s in 2..40 {
            endpoints.step(&peer, |_| None, second(s));
        }
        assert!(!endpoints.eager());
    }

    #[test]
    fn a_peer_that_calls_itself_is_left_to_it() {
        assert!(calls(&tunnel(1, &[]), 60, |_| None).is_empty());
        assert_eq!(Endpoints::default().pick(&tunnel(1, &[])), None);
    }

    #[test]
    fn endpoints_take_turns_and_a_good_one_stays() {
        let peer = tunnel(1, &["192.0.2.1:1", "192.0.2.2:1"]);
        let tunnels = [peer.clone()];
        let mut endpoints = Endpoints::default();
        let at = |endpoints: &Endpoints| endpoints.pick(&peer).unwrap().ip().to_string();
        let second = Duration::from_secs;
        assert_eq!(at(&endpoints), "192.0.2.1");
        endpoints.step(&tunnels, |_| None, second(0));
        endpoints.step(&tunnels, |_| None, second(1));
        assert_eq!(at(&endpoints), "192.0.2.2");
        for s in 2..60 {
            endpoints.step(&tunnels, |_| Some(second(s - 2)), second(s));
        }
        assert_eq!(at(&endpoints), "192.0.2.2");
        endpoints.step(&tunnels, |_| Some(second(200)), second(61));
        assert_eq!(at(&endpoints), "192.0.2.1");
    }
}
