//! Which prefixes of rules an address lies in, for all addresses: ranges that do not overlap.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use crate::prefix::Family;

/// A first and a last address, of one family.
pub(super) type Range = (IpAddr, IpAddr);

/// Ranges with the numbers of the prefixes they lie in, never none.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Nets {
    ranges: BTreeMap<Range, Vec<u32>>,
}

impl Nets {
    /// The ranges of these numbered prefixes with their exceptions.
    pub(super) fn of(all: &[(u32, &IpNet, &BTreeSet<IpNet>)]) -> Self {
        let mut ranges = BTreeMap::new();
        for family in [Family::V4, Family::V6] {
            let mut edges = Edges::new();
            let of_family = all.iter().filter(|(_, net, _)| Family::of(net) == family);
            for (number, net, except) in of_family {
                add(&mut edges, *number, net, 1);
                for out in IpNet::aggregate(&except.iter().copied().collect()) {
                    if net.contains(&out) {
                        add(&mut edges, *number, &out, -1);
                    }
                }
            }
            sweep(family, &edges, &mut ranges);
        }
        Self { ranges }
    }

    /// The numbers of the prefixes that this address lies in.
    pub(super) fn find(&self, address: IpAddr) -> &[u32] {
        let highest = match address {
            IpAddr::V4(_) => IpAddr::V4(std::net::Ipv4Addr::BROADCAST),
            IpAddr::V6(_) => IpAddr::V6(u128::MAX.into()),
        };
        let below = self.ranges.range(..=(address, highest)).next_back();
        below.filter(|((_, last), _)| address <= *last).map_or(&[], |(_, numbers)| numbers)
    }

    /// All ranges with the numbers of the prefixes they lie in.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Range, &Vec<u32>)> {
        self.ranges.iter()
    }
}

/// Where prefixes begin (+1) and end (-1), by the first address behind the edge. What reaches to
/// the very last address has no end.
type Edges = BTreeMap<u128, Vec<(u32, i32)>>;

fn add(edges: &mut Edges, number: u32, net: &IpNet, sign: i32) {
    let (first, last) = (bits(net.network()), bits(net.broadcast()));
    edges.entry(first).or_default().push((number, sign));
    if last != highest(Family::of(net)) {
        edges.entry(last + 1).or_default().push((number, -sign));
    }
}

fn sweep(family: Family, edges: &Edges, ranges: &mut BTreeMap<Range, Vec<u32>>) {
    let mut depth: BTreeMap<u32, i32> = BTreeMap::new();
    let mut starts = edges.iter().peekable();
    while let Some((start, here)) = starts.next() {
        for (number, sign) in here {
            let now = depth.entry(*number).or_default();
            *now += sign;
        }
        depth.retain(|_, depth| *depth != 0);
        let end = starts.peek().map_or(highest(family), |(next, _)| **next - 1);
        if !depth.is_empty() {
            let range = (address(family, *start), address(family, end));
            ranges.insert(range, depth.keys().copied().collect());
        }
    }
}

fn highest(family: Family) -> u128 {
    match family {
        Family::V4 => u128::from(u32::MAX),
        Family::V6 => u128::MAX,
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

fn address(family: Family, bits: u128) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(u32::try_from(bits).unwrap_or(u32::MAX).into()),
        Family::V6 => IpAddr::V6(bits.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exceptions_and_the_very_last_address() {
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        let all = net("0.0.0.0/0");
        let upper = net("128.0.0.0/1");
        let none = BTreeSet::new();
        let except = BTreeSet::from([net("10.0.0.0/8"), net("10.1.0.0/16"), net("192.0.0.0/2")]);
        let nets = Nets::of(&[(1, &all, &except), (2, &upper, &none)]);
        let at = |text: &str| nets.find(text.parse().unwrap()).to_vec();
        assert_eq!(at("9.255.255.255"), [1]);
        assert_eq!(at("10.1.2.3"), [0; 0]);
        assert_eq!(at("11.0.0.0"), [1]);
        assert_eq!(at("128.0.0.0"), [1, 2]);
        assert_eq!(at("255.255.255.255"), [2]);
        assert_eq!(at("::1"), [0; 0]);
    }
}
