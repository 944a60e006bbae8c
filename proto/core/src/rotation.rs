//! Renewing the gateways' keys without losing a packet.
//!
//! Keys have generations, counted through the whole slice. A gateway has two WireGuard devices, one
//! for even and one for odd generations, each with its own key and port; so two generations live
//! beside each other and never touch one another's sessions. The hub says which generations are
//! open ([`Keys::step`]); each end of a tunnel decides for itself by which one it *sends*
//! ([`choose`]), and receives on both. The old one closes when every end has sent by the new one
//! for a while. So whatever is late, lost or killed in between, an end sends only where probes come
//! back, and that is where the other end listens.
//!
//! One generation for the whole slice, and not one for each cluster: a device can give a prefix to
//! one peer only, so both ends of a tunnel have to change devices together.

mod schedule;
#[cfg(test)]
mod simulation;

use std::time::Duration;

use crate::name::{Lane, SliceName};

pub use schedule::{DRAIN, Demand, Keys, MAX_INTERVAL, MIN_INTERVAL, interval};

/// A generation of keys; a slice begins with 0.
pub type Generation = u64;

/// How long probes have to come back before a newer generation is sent by.
pub const SETTLE: Duration = Duration::from_secs(2);

/// What one end knows of a tunnel in one generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// The generation.
    pub generation: Generation,
    /// Since when probes come back; `None` while they do not.
    pub up_for: Option<Duration>,
}

/// By which generation an end sends: by the newest that has proven itself, by the one it `used` as
/// long as that works, and by any that works before one that does not. `None`: there is none.
pub fn choose(seen: &[Seen], used: Option<Generation>) -> Option<Generation> {
    let used = used.and_then(|used| seen.iter().find(|s| s.generation == used));
    let up = || seen.iter().filter(|s| s.up_for.is_some());
    let newest = up().filter(|s| s.up_for >= Some(SETTLE)).max_by_key(|s| s.generation);
    let chosen = match used {
        Some(used) if used.up_for.is_some() => {
            newest.filter(|newest| newest.generation > used.generation).unwrap_or(used)
        }
        used => up().max_by_key(|s| s.generation).or(used).or_else(|| {
            // Nothing works yet: the oldest is the one the others have, too.
            seen.iter().min_by_key(|s| s.generation)
        })?,
    };
    Some(chosen.generation)
}

/// One end's part in the agreement on a tunnel's pre-shared key: all of it public.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Party<'a> {
    /// The cluster.
    pub cluster: &'a str,
    /// Its gateway's WireGuard key.
    pub public_key: &'a str,
    /// What others encapsulate to.
    pub encapsulation_key: &'a [u8],
    /// What it has encapsulated to the other end.
    pub ciphertext: &'a [u8],
}

/// What a tunnel's pre-shared key is bound to, the same at both ends: slice, lane, generation, and
/// everything that either end has said. Security: who alters any of it on the way gets two ends
/// that do not understand each other, and not a key of his choice.
pub fn transcript(
    slice: &SliceName,
    lane: Lane,
    generation: Generation,
    one: Party<'_>,
    other: Party<'_>,
) -> Vec<u8> {
    let mut text = b"slicewire tunnel pre-shared key 1".to_vec();
    let mut add = |part: &[u8]| {
        text.extend_from_slice(&(part.len() as u64).to_be_bytes());
        text.extend_from_slice(part);
    };
    add(slice.as_str().as_bytes());
    add(&[lane]);
    add(&generation.to_be_bytes());
    for party in in_order(one, other) {
        add(party.cluster.as_bytes());
        add(party.public_key.as_bytes());
        add(party.encapsulation_key);
        add(party.ciphertext);
    }
    text
}

/// Whether a cluster comes first where both ends need the same order.
pub fn comes_first(cluster: &str, other: &str) -> bool {
    cluster <= other
}

fn in_order<'a>(one: Party<'a>, other: Party<'a>) -> [Party<'a>; 2] {
    if comes_first(one.cluster, other.cluster) { [one, other] } else { [other, one] }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(generation: Generation, up_for: Option<u64>) -> Seen {
        Seen { generation, up_for: up_for.map(Duration::from_secs) }
    }

    #[test]
    fn the_newer_one_is_used_when_it_has_proven_itself() {
        let cases = [
            (vec![], Some(1), None),
            (vec![seen(0, None)], None, Some(0)),
            (vec![seen(0, None), seen(1, None)], None, Some(0)),
            (vec![seen(0, Some(9)), seen(1, Some(1))], Some(0), Some(0)),
            (vec![seen(0, Some(9)), seen(1, Some(2))], Some(0), Some(1)),
            (vec![seen(0, Some(9)), seen(1, Some(9))], Some(1), Some(1)),
            // A way back, and none into what does not work.
            (vec![seen(0, Some(9)), seen(1, None)], Some(1), Some(0)),
            (vec![seen(0, None), seen(1, Some(0))], Some(0), Some(1)),
            (vec![seen(0, None), seen(1, None)], Some(1), Some(1)),
            // What was used has been closed.
            (vec![seen(1, None)], Some(0), Some(1)),
        ];
        for (seen, used, wanted) in cases {
            assert_eq!(choose(&seen, used), wanted, "{seen:?}, used {used:?}");
        }
    }

    #[test]
    fn both_ends_say_the_same_and_every_part_counts() {
        let slice = SliceName::parse("blue").unwrap();
        let east =
            Party { cluster: "east", public_key: "e", encapsulation_key: b"ek", ciphertext: b"ec" };
        let west =
            Party { cluster: "west", public_key: "w", encapsulation_key: b"wk", ciphertext: b"wc" };
        let whole = transcript(&slice, 1, 7, east, west);
        assert_eq!(whole, transcript(&slice, 1, 7, west, east));
        let red = SliceName::parse("red").unwrap();
        let others = [
            transcript(&red, 1, 7, east, west),
            transcript(&slice, 2, 7, east, west),
            transcript(&slice, 1, 8, east, west),
            transcript(&slice, 1, 7, Party { cluster: "eas", ..east }, west),
            transcript(&slice, 1, 7, Party { public_key: "x", ..east }, west),
            transcript(&slice, 1, 7, Party { encapsulation_key: b"x", ..east }, west),
            transcript(&slice, 1, 7, Party { ciphertext: b"x", ..east }, west),
            // A part's end moved into the next one.
            transcript(
                &slice,
                1,
                7,
                Party { encapsulation_key: b"eke", ciphertext: b"c", ..east },
                west,
            ),
        ];
        for other in others {
            assert_ne!(whole, other);
        }
    }
}
