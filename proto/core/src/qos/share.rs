//! How the slices of a node share its uplink.
//!
//! [`divide`] is the rule: guarantees first, then what is spare by priority, fairly among equals,
//! never more than a ceiling and never more than there is. [`Sharer`] applies it over and over to
//! what slices are seen to send, so that the queues stay in the slices' own shapers, where they are
//! short, and none builds up at the uplink, where everybody would wait in it.

use std::collections::BTreeMap;

use super::rate::{MAX_RATE, Rate};

/// For how long a slice that had more to send than it could is taken to have more, in milliseconds:
/// a flow that has just been slowed down is back within that time.
const HUNGRY_FOR: u64 = 300;
/// A slice that uses so much of what it may, in thousandths, is taken to want more.
const NEARLY_ALL: u64 = 900;
/// Room left to a slice that wants no more, above what it sends, in thousandths of that.
const ROOM: u64 = 1_250;
/// What is left open to every slice, in thousandths of the uplink, so that the first packets after
/// silence wait for nothing.
const OPEN: u64 = 10;
/// What is left unused of an uplink, in thousandths, so that no queue builds up there.
const SLACK: u64 = 20;
/// Bytes of tunnel headers that a packet may get: Ethernet, IPv6, UDP and WireGuard or VXLAN, and
/// padding.
const TUNNEL_BYTES: u64 = 100;

/// What a slice is entitled to on every node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// Never more than this.
    pub ceiling: Option<Rate>,
    /// At least this, if it wants that much.
    pub guarantee: Option<Rate>,
    /// Higher gets spare bandwidth first.
    pub priority: u8,
}

/// What a slice would take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// What it is entitled to.
    pub terms: Terms,
    /// What it would send if it were alone.
    pub demand: Rate,
}

/// What a slice has sent, or received.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sample {
    /// Bytes so far.
    pub bytes: u64,
    /// Bytes that wait.
    pub backlog: u64,
}

/// What of a link is there for slices' packets of up to `mtu` bytes, which get tunnels' headers.
pub fn usable(link: Rate, mtu: u32) -> Rate {
    let mtu = u64::from(mtu.max(1));
    let inside = u128::from(link.0) * u128::from(mtu) / u128::from(mtu + TUNNEL_BYTES);
    Rate(u64::try_from(inside).unwrap_or(u64::MAX)).permille(1_000 - SLACK)
}

/// Divides a link. The answer has one rate a claim, in their order.
///
/// The sum is the link's rate or all that is wanted, whichever is less. Where the guarantees alone
/// are more than the link, each gets the same part of its own.
pub fn divide(link: Rate, claims: &[Claim]) -> Vec<Rate> {
    let wanted: Vec<u64> =
        claims.iter().map(|c| c.demand.0.min(c.terms.ceiling.unwrap_or(MAX_RATE).0)).collect();
    let owed = |i: usize| claims[i].terms.guarantee.map_or(0, |g| g.0).min(wanted[i]);
    let all: u128 = (0..claims.len()).map(|i| u128::from(owed(i))).sum();
    let scaled = |rate: u64| {
        let part = u128::from(rate) * u128::from(link.0) / all.max(1);
        u64::try_from(part).unwrap_or(u64::MAX)
    };
    let enough = all <= u128::from(link.0);
    let mut given: Vec<u64> =
        (0..claims.len()).map(|i| if enough { owed(i) } else { scaled(owed(i)) }).collect();
    let mut spare = link.0.saturating_sub(given.iter().sum());
    let mut priorities: Vec<u8> = claims.iter().map(|c| c.terms.priority).collect();
    priorities.sort_unstable();
    priorities.dedup();
    for priority in priorities.into_iter().rev() {
        let mut open: Vec<usize> =
            (0..claims.len()).filter(|i| claims[*i].terms.priority == priority).collect();
        // Those that want least are served first: what they leave is for the others.
        open.sort_by_key(|i| wanted[*i] - given[*i]);
        let mut left = u64::try_from(open.len()).unwrap_or(u64::MAX);
        for i in open {
            let more = (wanted[i] - given[i]).min(spare / left.max(1));
            given[i] += more;
            spare -= more;
            left -= 1;
        }
    }
    given.into_iter().map(Rate).collect()
}

/// Why guarantees cannot all be kept on a link, if they cannot: a sentence with what to do.
pub fn overcommitted(link: Rate, guarantees: &BTreeMap<String, Rate>) -> Option<String> {
    let sum: u64 = guarantees.values().map(|g| g.0).fold(0, u64::saturating_add);
    if sum <= link.0 {
        return None;
    }
    let each: Vec<String> = guarantees.iter().map(|(slice, g)| format!("{slice} {g}")).collect();
    Some(format!(
        "the slices of this node are promised {} together ({}), and {link} of its uplink is usable: while all want theirs, each gets {} % of it; lower guarantees, move pods, or correct the uplink's capacity",
        Rate(sum),
        each.join(", "),
        u128::from(link.0) * 100 / u128::from(sum),
    ))
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    at: u64,
    sample: Sample,
    /// What it sends, smoothed.
    rate: Rate,
    /// Until when it is taken to want more.
    hungry_until: u64,
    limit: Rate,
}

/// Applies [`divide`] to what slices are seen to do, in one direction of an uplink.
#[derive(Debug, Clone, Default)]
pub struct Sharer {
    seen: BTreeMap<String, Seen>,
}

impl Sharer {
    /// Whether some slice wants more than it may have, or did just now.
    pub fn contended(&self, now: u64) -> bool {
        self.seen.values().any(|seen| now < seen.hungry_until)
    }

    /// What each slice may send from now on. `now` is in milliseconds and never goes back.
    ///
    /// An idle slice keeps its guarantee ready, so for one step after it has begun to use it the sum
    /// may be more than the link by that much.
    pub fn step(
        &mut self,
        link: Rate,
        now: u64,
        slices: &BTreeMap<String, (Terms, Sample)>,
    ) -> BTreeMap<String, Rate> {
        self.seen.retain(|slice, _| slices.contains_key(slice));
        let mut claims = Vec::new();
        for (slice, (terms, sample)) in slices {
            let top = terms.ceiling.unwrap_or(MAX_RATE);
            let seen = look(self.seen.get(slice), *sample, now, top);
            let hungry = now < seen.hungry_until;
            let room = Rate(seen.rate.permille(ROOM).0.saturating_add(link.permille(OPEN).0));
            claims.push(Claim { terms: *terms, demand: if hungry { top } else { room.min(top) } });
            self.seen.insert(slice.clone(), seen);
        }
        let given = divide(link, &claims);
        let used: u64 = given.iter().map(|g| g.0).sum();
        let count = u64::try_from(given.len()).unwrap_or(u64::MAX).max(1);
        // Only where nobody is held back is anything left.
        let each = link.0.saturating_sub(used) / count;
        let mut limits = BTreeMap::new();
        for ((slice, (terms, _)), given) in slices.iter().zip(given) {
            let ready = terms.guarantee.unwrap_or_default().max(link.permille(OPEN));
            let top = terms.ceiling.unwrap_or(MAX_RATE);
            let limit = Rate(given.0.saturating_add(each)).max(ready).min(top).min(link);
            if let Some(seen) = self.seen.get_mut(slice) {
                seen.limit = limit;
            }
            limits.insert(slice.clone(), limit);
        }
        limits
    }
}

fn look(before: Option<&Seen>, sample: Sample, now: u64, top: Rate) -> Seen {
    let Some(old) = before else {
        return Seen { at: now, sample, rate: Rate(0), hungry_until: 0, limit: top };
    };
    let time = now.saturating_sub(old.at);
    if time == 0 {
        return *old;
    }
    // A counter that went back is one that was made anew.
    let bytes = sample.bytes.checked_sub(old.sample.bytes).unwrap_or(sample.bytes);
    let fresh = Rate(bytes.saturating_mul(8_000) / time);
    let rate =
        Rate(fresh.0 / 2 + old.rate.0 / 2).max(if fresh > old.rate { fresh } else { Rate(0) });
    let wants = sample.backlog > 0 || fresh >= old.limit.permille(NEARLY_ALL);
    let hungry_until = if wants { now + HUNGRY_FOR } else { old.hungry_until };
    Seen { at: now, sample, rate, hungry_until, limit: old.limit }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const M: u64 = 1_000_000;

    fn claim(demand: u64, guarantee: u64, ceiling: u64, priority: u8) -> Claim {
        let some = |rate: u64| (rate > 0).then_some(Rate(rate * M));
        let terms = Terms { ceiling: some(ceiling), guarantee: some(guarantee), priority };
        Claim { terms, demand: Rate(demand * M) }
    }

    fn given(link: u64, claims: &[Claim]) -> Vec<u64> {
        divide(Rate(link * M), claims).into_iter().map(|r| r.0 / M).collect()
    }

    #[test]
    fn guarantees_then_priorities_then_fairness() {
        let all = 1_000;
        let two = [claim(all, 60, 0, 4), claim(all, 0, 0, 4)];
        assert_eq!(given(100, &two), [80, 20]);
        let ranked = [claim(all, 60, 0, 1), claim(all, 0, 0, 7)];
        assert_eq!(given(100, &ranked), [60, 40]);
        let idle = [claim(0, 60, 0, 4), claim(all, 0, 0, 4)];
        assert_eq!(given(100, &idle), [0, 100]);
        let capped = [claim(all, 0, 30, 7), claim(all, 0, 0, 4), claim(10, 0, 0, 4)];
        assert_eq!(given(100, &capped), [30, 60, 10]);
        let too_much = [claim(all, 150, 0, 4), claim(all, 50, 0, 4)];
        assert_eq!(given(100, &too_much), [75, 25]);
    }

    fn any_claim() -> impl Strategy<Value = Claim> {
        let rate = || prop_oneof![Just(0), 1..2_000_u64, Just(1_000_000)];
        (rate(), rate(), rate(), 0..8_u8).prop_map(|(demand, a, b, priority)| {
            // A guarantee above its ceiling is refused before it gets here.
            let (low, high) = (a.min(b), a.max(b));
            claim(demand, low, high, priority)
        })
    }

    proptest! {
        #[test]
        fn what_is_divided_is_all_there_is_or_all_that_is_wanted(
            link in 1..3_000_u64, claims in prop::collection::vec(any_claim(), 0..12),
        ) {
            let link = Rate(link * M);
            let given = divide(link, &claims);
            let top = |c: &Claim| c.demand.min(c.terms.ceiling.unwrap_or(MAX_RATE)).0;
            let wanted: u64 = claims.iter().map(top).sum();
            let sum: u64 = given.iter().map(|g| g.0).sum();
            prop_assert!(sum <= link.0);
            // Whole bits are given, so a few are left.
            prop_assert!(sum + 200 >= link.0.min(wanted), "{sum} of {} for {wanted}", link.0);
            let owed: u64 = claims.iter().map(|c| c.terms.guarantee.map_or(0, |g| g.0).min(top(c))).sum();
            for (claim, given) in claims.iter().zip(&given) {
                prop_assert!(given.0 <= top(claim));
                let mine = claim.terms.guarantee.map_or(0, |g| g.0).min(top(claim));
                let kept = if owed <= link.0 { given.0 >= mine } else { given.0 <= mine + 200 };
                prop_assert!(kept);
            }
            for (a, x) in claims.iter().zip(&given) {
                for (b, y) in claims.iter().zip(&given) {
                    let beyond = y.0 > b.terms.guarantee.map_or(0, |g| g.0) + 200;
                    let held_back = x.0 + 200 < top(a);
                    prop_assert!(!(a.terms.priority > b.terms.priority && held_back && beyond));
                }
            }
        }
    }

    /// Slices that send as fast as they may, or as they want, step by step.
    fn simulate(link: Rate, steps: u64, slices: &[(Terms, Rate)]) -> (Vec<u64>, u64) {
        let mut sharer = Sharer::default();
        let mut sent = vec![Sample::default(); slices.len()];
        let mut limits = vec![Rate(0); slices.len()];
        let mut before = vec![0; slices.len()];
        let mut most = 0;
        for step in 0..steps {
            let mut total = 0;
            for (i, (_, wants)) in slices.iter().enumerate() {
                let rate = limits[i].min(*wants);
                sent[i].bytes += rate.bytes_in(20);
                sent[i].backlog = if *wants > limits[i] { 30_000 } else { 0 };
                total += rate.0;
            }
            if step == steps / 2 {
                before = sent.iter().map(|s| s.bytes).collect();
            }
            if step > steps / 2 {
                most = most.max(total);
            }
            let named: BTreeMap<String, (Terms, Sample)> =
                (0..slices.len()).map(|i| (i.to_string(), (slices[i].0, sent[i]))).collect();
            let next = sharer.step(link, step * 20, &named);
            limits = (0..slices.len()).map(|i| next[&i.to_string()]).collect();
        }
        let time = (steps - steps / 2 - 1) * 20;
        let rates =
            sent.iter().zip(before).map(|(s, b)| (s.bytes - b) * 8_000 / time / M).collect();
        (rates, most)
    }

    #[test]
    fn slices_settle_at_what_they_are_entitled_to() {
        let link = Rate(100 * M);
        let terms = |guarantee: u64, priority| claim(0, guarantee, 0, priority).terms;
        let all = Rate(1_000 * M);
        let (rates, most) = simulate(link, 200, &[(terms(60, 1), all), (terms(0, 7), all)]);
        assert!((59..=61).contains(&rates[0]) && (38..=40).contains(&rates[1]), "{rates:?}");
        assert!(most <= link.0, "{most}");
        // Spare is used by who wants it; a slice that sends little is not held up.
        let some = Rate(5 * M);
        let (rates, most) = simulate(link, 200, &[(terms(60, 1), some), (terms(0, 7), all)]);
        assert!((4..=5).contains(&rates[0]) && rates[1] >= 91, "{rates:?}");
        assert!(most <= link.0 + some.0 / 4, "{most}");
    }

    #[test]
    fn an_idle_slice_has_its_guarantee_ready() {
        let link = Rate(100 * M);
        let busy = Sample { bytes: 0, backlog: 9_000 };
        let mut sharer = Sharer::default();
        let mut last = BTreeMap::new();
        for step in 0..20_u64 {
            let busy = Sample { bytes: busy.bytes + step * 250_000, ..busy };
            let slices = BTreeMap::from([
                ("idle".to_owned(), (claim(0, 40, 0, 4).terms, Sample::default())),
                ("busy".to_owned(), (claim(0, 0, 0, 4).terms, busy)),
                ("other".to_owned(), (claim(0, 0, 0, 4).terms, Sample::default())),
            ]);
            last = sharer.step(link, step * 20, &slices);
        }
        assert_eq!(last["idle"], Rate(40 * M));
        assert_eq!(last["other"], Rate(M));
        assert!(sharer.contended(400) && !sharer.contended(2_000));
        assert!(last["busy"] >= Rate(97 * M) && last["busy"] <= link, "{last:?}");
    }

    #[test]
    fn too_many_promises_are_told_with_what_to_do() {
        let promises =
            BTreeMap::from([("a".to_owned(), Rate(80 * M)), ("b".to_owned(), Rate(40 * M))]);
        assert_eq!(overcommitted(Rate(120 * M), &promises), None);
        let told = overcommitted(Rate(90 * M), &promises).unwrap();
        assert!(told.contains("120M together (a 80M, b 40M)") && told.contains("75 %"), "{told}");
    }

    #[test]
    fn tunnels_headers_are_left_room() {
        assert_eq!(usable(Rate(1_000 * M), 1_400), Rate(914_666_666));
    }
}
