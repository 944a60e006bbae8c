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

/// How long the n-th call waits for an answer, the last entry for all further ones. Longer than
/// any round trip the previous ones may have been too impatient for.
const PATIENCE: [Duration; 6] = [
    Duration::from_secs(1),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(2),
    Duration::from_secs(5),
    Duration::from_secs(15),
];

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
            if handshake(&tunnel.public_key).is_some_and(|age| age < DEAD) {
                *call = Call { turn: call.turn, unanswered: 0, since: now };
                continue;
            }
            let patience = PATIENCE.get(call.unanswered).or(PATIENCE.last());
            if patience.is_some_and(|patience| now.saturating_sub(call.since) >= *patience) {
                call.turn += 1;
                call.unanswered += 1;
                call.since = now;
                again.push(tunnel.public_key);
            }
        }
        again
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
        }
    }

    /// Seconds at which a peer is called anew within `until` seconds.
    fn calls(tunnel: &PlannedTunnel, until: u64, age: impl Fn(u64) -> Option<u64>) -> Vec<u64> {
        let mut endpoints = Endpoints::default();
        let tunnels = [tunnel.clone()];
        let called = |second: &u64| {
            let now = Duration::from_secs(*second);
            let age = age(*second).map(Duration::from_secs);
            !endpoints.step(&tunnels, |_| age, now).is_empty()
        };
        (0..until).filter(called).collect()
    }

    #[test]
    fn a_silent_peer_is_called_often_at_first_and_then_rarely() {
        let silent = tunnel(1, &["192.0.2.1:1"]);
        assert_eq!(calls(&silent, 45, |_| None), [1, 2, 4, 6, 11, 26, 41]);
    }

    #[test]
    fn a_peer_with_a_session_is_never_touched() {
        let peer = tunnel(1, &["192.0.2.1:1", "192.0.2.2:1"]);
        assert!(calls(&peer, 1000, |_| Some(179)).is_empty());
        assert_eq!(calls(&peer, 12, |s| s.checked_sub(2)), [1]);
    }

    #[test]
    fn a_peer_whose_session_died_is_called_again() {
        let peer = tunnel(1, &["192.0.2.1:1"]);
        assert_eq!(calls(&peer, 184, Some), [180, 181, 183]);
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
