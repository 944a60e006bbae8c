//! How much strangers may make a device do.
//!
//! A handshake's first message costs a Diffie-Hellman, and a cookie a message in return. Both are
//! rationed: by sender, so that one who asks too often only hurts himself, and all together, so
//! that many senders cannot take the processor away from those who have a session.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Places for senders. Two that share one share its ration, too; which ones do depends on a
/// random hash, so nobody can choose whom to push out.
const PLACES: usize = 1024;

/// So many at once, then one each interval.
#[derive(Clone, Copy)]
struct Ration {
    interval: Duration,
    burst: u32,
}

const fn per_second(number: u64, burst: u32) -> Ration {
    Ration { interval: Duration::from_nanos(1_000_000_000 / number), burst }
}

/// Cookies for one sender.
const COOKIES_EACH: Ration = per_second(10, 10);
/// Cookies for all senders: about a hundredth of a processor.
const COOKIES: Ration = per_second(1000, 100);
/// Handshakes begun by one sender: a NAT may hide many peers.
const HANDSHAKES_EACH: Ration = per_second(20, 40);
/// Handshakes begun by all senders: some hundredths of a processor.
const HANDSHAKES: Ration = per_second(500, 100);

/// When everything asked for so far would have been given at the steady rate, since `start`.
type Debt = Duration;

struct Ledger {
    /// The time debts count from: that of the first question.
    start: Option<Instant>,
    cookies: Debt,
    handshakes: Debt,
    /// Cookies and handshakes of each place.
    places: Box<[(Debt, Debt)]>,
}

/// What has been given to whom.
pub(super) struct Admission<S = RandomState> {
    hasher: S,
    ledger: Mutex<Ledger>,
}

impl<S: BuildHasher> Admission<S> {
    /// `hasher` decides which senders share a place.
    pub(super) fn new(hasher: S) -> Self {
        let places = vec![(Debt::ZERO, Debt::ZERO); PLACES].into_boxed_slice();
        let (cookies, handshakes) = (Debt::ZERO, Debt::ZERO);
        Self { hasher, ledger: Mutex::new(Ledger { start: None, cookies, handshakes, places }) }
    }

    /// Whether a cookie may be sent to `to`.
    pub(super) fn cookie(&self, to: IpAddr, now: Instant) -> bool {
        self.take(to, now, |ledger, place, at| {
            let debts = (&mut ledger.places[place].0, &mut ledger.cookies);
            take_both(debts, (COOKIES_EACH, COOKIES), at)
        })
    }

    /// Whether a handshake begun by `from` may be worked on.
    pub(super) fn handshake(&self, from: IpAddr, now: Instant) -> bool {
        self.take(from, now, |ledger, place, at| {
            let debts = (&mut ledger.places[place].1, &mut ledger.handshakes);
            take_both(debts, (HANDSHAKES_EACH, HANDSHAKES), at)
        })
    }

    fn take(
        &self,
        who: IpAddr,
        now: Instant,
        take: impl FnOnce(&mut Ledger, usize, Duration) -> bool,
    ) -> bool {
        let place = self.place(who);
        let mut ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        let start = *ledger.start.get_or_insert(now);
        take(&mut ledger, place, now.saturating_duration_since(start))
    }

    /// An IPv6 sender can have any address of its /64.
    fn place(&self, who: IpAddr) -> usize {
        let hash = match who.to_canonical() {
            IpAddr::V4(address) => self.hasher.hash_one(address),
            IpAddr::V6(address) => self.hasher.hash_one(&address.segments()[..4]),
        };
        (hash % PLACES as u64) as usize
    }
}

/// Takes one from both or from none.
fn take_both(debts: (&mut Debt, &mut Debt), rations: (Ration, Ration), at: Duration) -> bool {
    let next = (after(*debts.0, rations.0, at), after(*debts.1, rations.1, at));
    let (Some(one), Some(all)) = next else { return false };
    (*debts.0, *debts.1) = (one, all);
    true
}

/// The debt after one more, unless that is too much.
fn after(debt: Debt, ration: Ration, at: Duration) -> Option<Debt> {
    let next = debt.max(at) + ration.interval;
    (next <= at + ration.interval * ration.burst).then_some(next)
}

#[cfg(test)]
mod tests {
    use std::hash::{BuildHasherDefault, DefaultHasher};

    use super::*;

    type Fixed = BuildHasherDefault<DefaultHasher>;

    fn admission() -> Admission<Fixed> {
        Admission::new(Fixed::default())
    }

    fn sender(number: u32) -> IpAddr {
        IpAddr::from((0x0a00_0000 + number).to_be_bytes())
    }

    /// Of `count` questions a second by each of `senders`, for ten seconds, those that are granted.
    fn granted(admission: &Admission<Fixed>, senders: u32, count: u32) -> u32 {
        let start = Instant::now();
        let step = Duration::from_secs(1) / count;
        let times = (0..count * 10).map(|i| start + step * i);
        let ask = |at| (0..senders).filter(|s| admission.handshake(sender(*s), at)).count() as u32;
        times.map(ask).sum()
    }

    #[test]
    fn who_asks_moderately_gets_everything() {
        assert_eq!(granted(&admission(), 1, 15), 150);
    }

    #[test]
    fn who_asks_too_often_gets_the_ration() {
        let got = granted(&admission(), 1, 2000);
        assert!((235..=245).contains(&got), "{got}");
    }

    #[test]
    fn all_together_get_no_more_than_there_is() {
        let got = granted(&admission(), 900, 20);
        assert!((5000..=5100).contains(&got), "{got}");
    }

    #[test]
    fn one_greedy_sender_does_not_starve_another() {
        let (admission, start) = (admission(), Instant::now());
        assert_ne!(admission.place(sender(1)), admission.place(sender(2)));
        for i in 0..200_000 {
            let now = start + Duration::from_micros(50) * i;
            admission.cookie(sender(1), now);
            admission.handshake(sender(1), now);
            if i % 4000 == 0 {
                assert!(admission.cookie(sender(2), now) && admission.handshake(sender(2), now));
            }
        }
    }

    #[test]
    fn addresses_of_one_ipv6_network_are_one_sender() {
        let admission = admission();
        let place = |text: &str| text.parse().map(|address| admission.place(address)).ok();
        assert_eq!(place("2001:db8::1"), place("2001:db8::ffff:1"));
        assert_ne!(place("2001:db8::1"), place("2001:db8:0:1::1"));
        assert_eq!(place("192.0.2.1"), place("::ffff:192.0.2.1"));
    }
}
