//! What a member says, taken as what it is: words of somebody who may lie.
//!
//! A worker's credential lets it write statuses of its own objects and nothing else. What is read
//! there is bounded and cleaned here before it decides anything or is shown to anybody.
//!
//! Security: nothing a member says may decide how *other* clusters reach each other, take addresses
//! they need, or reach a person's terminal as anything but plain text.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::ipam::{Holding, Holdings, pool_bits, space};
use crate::name::ClusterName;
use crate::prefix::Family;

/// Longest sentence taken from a member, in characters.
pub const MAX_SENTENCE: usize = 512;
/// Longest word, in characters.
pub const MAX_WORD: usize = 64;
/// Most pods a cluster is believed to have on a slice; sums of it stay far from overflowing.
pub const MAX_PODS: i32 = 1_000_000;
/// Most prefixes of its own a cluster may report.
pub const MAX_RESERVED: usize = 256;
/// Most endpoints taken from one gateway.
pub const MAX_ENDPOINTS: usize = 8;

/// A sentence without what a terminal or a page would obey: control characters are dropped, and
/// so are marks that turn the direction of writing.
pub fn sentence(text: &str) -> String {
    let shown = |c: &char| !c.is_control() && !is_invisible(*c);
    text.chars().filter(shown).take(MAX_SENTENCE).collect()
}

/// A condition's reason: letters and digits only; `Unknown` where nothing is left.
pub fn word(text: &str) -> String {
    let word: String = text.chars().filter(char::is_ascii_alphanumeric).take(MAX_WORD).collect();
    if word.is_empty() { "Unknown".to_owned() } else { word }
}

/// Characters that are not seen but change what is: marks of direction, joiners, byte order.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// Whether it can be the name of an object: lower-case letters, digits, dashes and single dots, at
/// most `most` of them.
pub fn is_name(text: &str, most: usize) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    (1..=most).contains(&text.len()) && text.bytes().all(plain) && !text.contains("..")
}

/// A number of pods that can be.
pub fn pods(said: i32) -> i32 {
    said.clamp(0, MAX_PODS)
}

/// Why something a member says is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// It does not read as what it should be.
    Malformed,
    /// There is more of it than is taken.
    TooMany,
    /// An address that cannot be a gateway's: a host's own, a group's, everybody's, a link's.
    NotUnicast,
    /// An address of the slice itself: what carries the slice cannot run on it.
    InsideSlice,
    /// A prefix so wide that it cannot be a cluster's own.
    TooWide,
    /// A public key with which no secret can be agreed on.
    WeakKey,
    /// A lane that was not planned.
    UnknownLane,
    /// An address of the slice that is not among those this cluster was given.
    NotItsOwn,
}

impl Fault {
    /// A short stable word.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Malformed => "Malformed",
            Self::TooMany => "TooMany",
            Self::NotUnicast => "NotUnicast",
            Self::InsideSlice => "InsideSlice",
            Self::TooWide => "TooWide",
            Self::WeakKey => "WeakKey",
            Self::UnknownLane => "UnknownLane",
            Self::NotItsOwn => "NotItsOwn",
        }
    }
}

/// An endpoint as a gateway publishes it, checked: a unicast address outside the slice, and a port.
///
/// # Errors
/// Why it is not taken.
pub fn endpoint(text: &str, slice: &[IpNet]) -> Result<SocketAddr, Fault> {
    let said: SocketAddr = text.parse().map_err(|_| Fault::Malformed)?;
    // An IPv4 address written as IPv6 is that IPv4 address.
    let ip = said.ip().to_canonical();
    if said.port() == 0 {
        return Err(Fault::Malformed);
    }
    let special = match ip {
        IpAddr::V4(a) => a.is_link_local() || a.is_broadcast() || a.octets()[0] == 0,
        IpAddr::V6(a) => a.is_unicast_link_local(),
    };
    if special || ip.is_loopback() || ip.is_multicast() || ip.is_unspecified() {
        return Err(Fault::NotUnicast);
    }
    if slice.iter().any(|p| p.contains(&ip)) {
        return Err(Fault::InsideSlice);
    }
    Ok(SocketAddr::new(ip, said.port()))
}

/// An address that a cluster says one of its pods has, checked: one of those the cluster was given.
///
/// Security: by addresses policies know who somebody is, so a member that could claim another's
/// would be taken for it.
///
/// # Errors
/// Why it is not taken.
pub fn own_address(text: &str, pools: &[IpNet]) -> Result<IpAddr, Fault> {
    let said: IpAddr = text.parse().map_err(|_| Fault::Malformed)?;
    if !pools.iter().any(|pool| pool.contains(&said)) {
        return Err(Fault::NotItsOwn);
    }
    Ok(said)
}

/// The first endpoints that can be used, and what is wrong with the others.
pub fn endpoints(said: &[String], slice: &[IpNet]) -> (Vec<SocketAddr>, Vec<(String, Fault)>) {
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    for text in said {
        match endpoint(text, slice) {
            Ok(_) if good.len() >= MAX_ENDPOINTS => {
                bad.push((sentence(text), Fault::TooMany));
                break;
            }
            Ok(endpoint) => good.push(endpoint),
            Err(fault) => bad.push((sentence(text), fault)),
        }
    }
    bad.truncate(MAX_ENDPOINTS);
    (good, bad)
}

/// Prefixes a cluster says it uses itself, joined where they touch, and what is wrong with the
/// others. Slices that overlap one of them are refused for the cluster, so none may be so wide that
/// it shuts out slices by itself.
pub fn reserved(said: &[String]) -> (Vec<IpNet>, Vec<(String, Fault)>) {
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    for text in said.iter().take(MAX_RESERVED) {
        match text.parse::<IpNet>() {
            Ok(net) if too_wide(&net) => bad.push((net.to_string(), Fault::TooWide)),
            Ok(net) => good.push(net.trunc()),
            Err(_) => bad.push((sentence(text), Fault::Malformed)),
        }
    }
    if said.len() > MAX_RESERVED {
        bad.push((said.len().to_string(), Fault::TooMany));
    }
    (IpNet::aggregate(&good), bad)
}

/// Wider than the widest private prefix of its family.
fn too_wide(net: &IpNet) -> bool {
    match net {
        IpNet::V4(n) => n.prefix_len() < 8,
        IpNet::V6(n) => n.prefix_len() < 16,
    }
}

/// Whether a cluster that says it ran out of addresses may have another pool: as long as half of an
/// equal share of the slice stays open to every other of its `clusters` clusters.
pub fn may_grow(
    prefixes: &[IpNet],
    held: &Holdings,
    clusters: usize,
    who: &ClusterName,
    family: Family,
) -> bool {
    let own: Vec<&IpNet> = prefixes.iter().filter(|p| Family::of(p) == family).collect();
    let sum = |sizes: &mut dyn Iterator<Item = u128>| sizes.fold(0u128, u128::saturating_add);
    let whole = sum(&mut own.iter().map(|p| space::size(p)));
    let half = whole / (2 * clusters.max(1) as u128);
    let holds = |holding: &Holding| {
        sum(&mut holding.all().filter(|p| Family::of(p) == family).map(space::size))
    };
    let used = sum(&mut held.values().map(holds));
    let others = held.iter().filter(|(name, _)| *name != who);
    let unknown = clusters.saturating_sub(others.clone().count() + 1) as u128;
    let open = sum(&mut others.map(|(_, holding)| half.saturating_sub(holds(holding))));
    let next = own.iter().map(|p| space::power(pool_bits(p, clusters))).max().unwrap_or(0);
    let needed = open.saturating_add(half.saturating_mul(unknown)).saturating_add(next);
    whole.saturating_sub(used) >= needed
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::ipam::{Demand, allocate};

    fn name(i: usize) -> ClusterName {
        ClusterName::parse(&format!("c{i}")).unwrap()
    }

    #[test]
    fn what_a_terminal_would_obey_is_dropped() {
        assert_eq!(sentence("a\u{1b}[31mred\u{7}\r\nb\u{202e}c\u{200b}"), "a[31mredbc");
        assert_eq!(sentence(&"é".repeat(2 * MAX_SENTENCE)).chars().count(), MAX_SENTENCE);
        assert_eq!(word("Not a word!"), "Notaword");
        assert_eq!(word("\u{1b}"), "Unknown");
    }

    #[test]
    fn endpoints_are_unicast_outside_the_slice_with_a_port() {
        let slice: Vec<IpNet> = ["10.77.0.0/16", "fd77::/48"].map(|p| p.parse().unwrap()).to_vec();
        for good in ["192.0.2.1:1", "[2001:db8::1]:30000", "10.78.0.1:51820"] {
            assert!(endpoint(good, &slice).is_ok(), "{good}");
        }
        assert_eq!(
            endpoint("[::ffff:192.0.2.1]:7", &slice).unwrap(),
            "192.0.2.1:7".parse().unwrap()
        );
        for (bad, fault) in [
            ("host:1", Fault::Malformed),
            ("192.0.2.1:0", Fault::Malformed),
            ("", Fault::Malformed),
            ("127.0.0.1:1", Fault::NotUnicast),
            ("[::ffff:127.0.0.1]:1", Fault::NotUnicast),
            ("169.254.169.254:80", Fault::NotUnicast),
            ("[fe80::1]:80", Fault::NotUnicast),
            ("255.255.255.255:9", Fault::NotUnicast),
            ("0.1.2.3:9", Fault::NotUnicast),
            ("224.0.0.1:5", Fault::NotUnicast),
            ("[ff02::1]:5", Fault::NotUnicast),
            ("[::]:5", Fault::NotUnicast),
            ("10.77.3.4:51820", Fault::InsideSlice),
            ("[::ffff:10.77.3.4]:51820", Fault::InsideSlice),
            ("[fd77::9]:51820", Fault::InsideSlice),
        ] {
            assert_eq!(endpoint(bad, &slice), Err(fault), "{bad}");
        }
    }

    #[test]
    fn only_the_first_endpoints_count_and_the_rest_is_told_once() {
        let many: Vec<String> = (1..200).map(|i| format!("192.0.2.{i}:1")).collect();
        let (good, bad) = endpoints(&many, &[]);
        assert_eq!((good.len(), bad.len(), bad[0].1), (MAX_ENDPOINTS, 1, Fault::TooMany));
    }

    #[test]
    fn a_cluster_cannot_reserve_everything() {
        let said = ["0.0.0.0/0", "::/0", "10.0.0.0/24", "10.0.1.7/24", "fd00::/8", "x"];
        let (good, bad) = reserved(&said.map(String::from));
        assert_eq!(good, ["10.0.0.0/23".parse::<IpNet>().unwrap()]);
        let faults: Vec<_> = bad.iter().map(|(_, f)| *f).collect();
        assert_eq!(faults, [Fault::TooWide, Fault::TooWide, Fault::TooWide, Fault::Malformed]);
        let (_, bad) = reserved(&vec!["10.0.0.0/24".to_owned(); MAX_RESERVED + 1]);
        assert_eq!(bad.last().unwrap().1, Fault::TooMany);
    }

    proptest! {
        #[test]
        fn no_text_survives_that_a_terminal_obeys(text in ".{0,700}") {
            let shown = sentence(&text);
            prop_assert!(shown.chars().count() <= MAX_SENTENCE);
            prop_assert!(!shown.chars().any(|c| c.is_control() || is_invisible(c)));
            let word = word(&text);
            prop_assert!(!word.is_empty() && word.len() <= MAX_WORD);
            prop_assert!(word.bytes().all(|b| b.is_ascii_alphanumeric()));
        }

        #[test]
        fn no_endpoint_is_taken_that_is_not_elsewhere(a in any::<u128>(), v6: bool, port: u16) {
            let ip = if v6 {
                IpAddr::from(a.to_be_bytes())
            } else {
                IpAddr::from((a as u32).to_be_bytes())
            };
            let slice: IpNet = "10.0.0.0/8".parse().unwrap();
            if let Ok(taken) = endpoint(&SocketAddr::new(ip, port).to_string(), &[slice]) {
                prop_assert!(taken.port() != 0 && !taken.ip().is_loopback());
                prop_assert!(!slice.contains(&taken.ip()) && !taken.ip().is_multicast());
            }
        }

        /// However often one cluster says that it ran out, every other still gets half of its share.
        #[test]
        fn greed_leaves_the_others_half_of_their_share(n in 2usize..6, length in 16u8..=22) {
            let prefixes: Vec<IpNet> = vec![format!("10.0.0.0/{length}").parse().unwrap()];
            let clusters: std::collections::BTreeSet<_> = (0..n).map(name).collect();
            let mut demand = Demand { clusters, lanes: 1, ..Demand::default() };
            let (mut held, refused) = allocate(&prefixes, &Holdings::new(), &demand);
            prop_assert!(refused.is_empty());
            let greedy = name(0);
            let mut rounds = 0;
            while may_grow(&prefixes, &held, n, &greedy, Family::V4) {
                demand.grow = BTreeMap::from([(greedy.clone(), [Family::V4].into())]);
                let (next, refused) = allocate(&prefixes, &held, &demand);
                if !refused.is_empty() {
                    break;
                }
                held = next;
                rounds += 1;
                prop_assert!(rounds < 10_000);
            }
            let whole = space::size(&prefixes[0]);
            let sizes = |held: &Holdings| -> BTreeMap<ClusterName, u128> {
                held.iter().map(|(c, h)| (c.clone(), h.all().map(space::size).sum())).collect()
            };
            let now = sizes(&held);
            let free = whole - now.values().sum::<u128>();
            let half = whole / (2 * n as u128);
            let owed: u128 = (1..n).map(|i| half.saturating_sub(now[&name(i)])).sum();
            prop_assert!(free >= owed, "{free} free, {owed} owed");
            prop_assert!(rounds > 0, "nobody could grow at all");
        }
    }
}
