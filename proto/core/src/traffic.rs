//! What passes a tunnel: how fast, and when that is worth telling. Each report is a write on the hub,
//! so a tunnel on which nothing but probes pass is told of rarely, and a steady stream once a minute.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::gateway::Traffic;
use crate::name::Lane;
use crate::rotation::Generation;

/// How often counters are looked at; no report comes sooner after another.
pub const INTERVAL: Duration = Duration::from_secs(15);
/// How old a report may be whose rates still hold, when much has passed since.
pub const REFRESH: Duration = Duration::from_secs(60);
/// Bytes that are not worth a report while rates hold: probes make as much in some minutes.
const LITTLE: u64 = 64 << 10;
/// A rate below is as good as none, in bits a second: what probes make.
const QUIET: u64 = 16_000;

/// A tunnel: its gateway and the cluster at the other end.
pub type Tunnel = (Lane, String);

/// Counters of a tunnel as its gateway told them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sample {
    /// When, since any moment that stays the same.
    pub at: Duration,
    /// The keys whose device counts.
    pub generation: Generation,
    /// The counters.
    pub traffic: Traffic,
}

/// What is told of a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Told {
    /// Bytes sent.
    pub sent: u64,
    /// Bytes received.
    pub received: u64,
    /// Bits sent a second.
    pub sent_rate: u64,
    /// Bits received a second.
    pub received_rate: u64,
}

/// What is to be told after `now`, where `before` is what was counted last.
pub fn told(before: Option<&Sample>, now: &Sample) -> Told {
    let traffic = &now.traffic;
    let mut told = Told { sent: traffic.tx_bytes, received: traffic.rx_bytes, ..Told::default() };
    let Some(before) = before else { return told };
    let elapsed = now.at.saturating_sub(before.at);
    let again = before.generation != now.generation
        || traffic.tx_bytes < before.traffic.tx_bytes
        || traffic.rx_bytes < before.traffic.rx_bytes;
    // Counters that started over count from nothing.
    let from = if again { Traffic::default() } else { before.traffic };
    told.sent_rate = rate(traffic.tx_bytes.saturating_sub(from.tx_bytes), elapsed);
    told.received_rate = rate(traffic.rx_bytes.saturating_sub(from.rx_bytes), elapsed);
    told
}

/// Bits a second; nothing where no time has passed.
fn rate(bytes: u64, elapsed: Duration) -> u64 {
    let bits = u128::from(bytes) * 8 * 1_000;
    let rate = bits.checked_div(elapsed.as_millis()).unwrap_or(0);
    u64::try_from(rate).unwrap_or(u64::MAX)
}

/// Whether `now` is worth a report, where `told` was the last one and is so old.
pub fn is_news(told: &BTreeMap<Tunnel, Told>, now: &BTreeMap<Tunnel, Told>, age: Duration) -> bool {
    if !told.keys().eq(now.keys()) {
        return true;
    }
    let pairs = || told.values().zip(now.values());
    let grown = |then: u64, now: u64| now.abs_diff(then) >= LITTLE;
    pairs().any(|(then, now)| {
        moved(then.sent_rate, now.sent_rate) || moved(then.received_rate, now.received_rate)
    }) || age >= REFRESH
        && pairs()
            .any(|(then, now)| grown(then.sent, now.sent) || grown(then.received, now.received))
}

/// Whether a rate is another by more than a quarter, above what probes make.
fn moved(then: u64, now: u64) -> bool {
    let (then, now) = (then.max(QUIET), now.max(QUIET));
    u128::from(then.abs_diff(now)) * 4 > u128::from(then.max(now))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(seconds: u64, generation: Generation, sent: u64, received: u64) -> Sample {
        let traffic = Traffic { last_handshake_ms: None, rx_bytes: received, tx_bytes: sent };
        Sample { at: Duration::from_secs(seconds), generation, traffic }
    }

    fn one(told: Told) -> BTreeMap<Tunnel, Told> {
        [((0, "west".to_owned()), told)].into()
    }

    #[test]
    fn rates_are_bits_a_second_between_two_counts() {
        let before = sample(100, 0, 1_000, 5_000);
        let now = told(Some(&before), &sample(116, 0, 3_000, 5_000));
        let rates = Told { sent: 3_000, received: 5_000, sent_rate: 1_000, received_rate: 0 };
        assert_eq!(now, rates);
        assert_eq!(told(None, &before).sent_rate, 0);
        assert_eq!(told(Some(&before), &before).sent_rate, 0, "no time has passed");
    }

    #[test]
    fn counters_that_started_over_make_no_absurd_rate() {
        let before = sample(0, 0, 1 << 40, 1 << 40);
        for now in [sample(8, 0, 4_000, 1 << 41), sample(8, 1, 4_000, 1 << 41)] {
            assert_eq!(told(Some(&before), &now).sent_rate, 4_000);
        }
        let wide = told(Some(&sample(0, 0, 0, 0)), &sample(1, 0, u64::MAX, 0));
        assert_eq!(wide.sent_rate, u64::MAX);
    }

    #[test]
    fn probes_alone_are_rarely_told_and_a_stream_once_a_minute() {
        let [soon, later] = [INTERVAL, REFRESH];
        let quiet = Told { sent: 1_000, sent_rate: 300, ..Told::default() };
        let probed = Told { sent: 9_000, sent_rate: 9_000, ..Told::default() };
        assert!(!is_news(&one(quiet), &one(probed), later));
        let after_long = Told { sent: 1_000 + LITTLE, ..probed };
        assert!(!is_news(&one(quiet), &one(after_long), soon));
        assert!(is_news(&one(quiet), &one(after_long), later));
        let busy = Told { received: 1 << 30, received_rate: 1_000_000, ..Told::default() };
        assert!(is_news(&one(quiet), &one(busy), soon));
        let steady = Told { received: 2 << 30, received_rate: 1_200_000, ..Told::default() };
        assert!(!is_news(&one(busy), &one(steady), soon));
        assert!(is_news(&one(busy), &one(steady), later));
        let ended = Told { received_rate: 0, ..busy };
        assert!(is_news(&one(busy), &one(ended), soon));
        assert!(is_news(&one(busy), &BTreeMap::new(), soon));
        assert!(is_news(&BTreeMap::new(), &one(quiet), soon));
    }
}
