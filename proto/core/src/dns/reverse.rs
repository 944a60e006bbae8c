//! Names of addresses: `in-addr.arpa` (RFC 1035, section 3.5) and `ip6.arpa` (RFC 3596).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::prefix::Family;

/// A reverse name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reverse {
    /// What the labels that are numbers say; an address when there are enough of them.
    pub(super) net: IpNet,
    /// Labels that belong to no such name stand in front.
    pub(super) more: bool,
}

/// Reads a reverse name, given as lower-case labels; `None` when it is none.
pub(super) fn parse(labels: &[&str]) -> Option<Reverse> {
    match labels {
        [numbers @ .., "in-addr", "arpa"] => {
            let mut octets = [0u8; 4];
            let count = read(numbers, &mut octets, |label| {
                let octet: u8 = label.parse().ok()?;
                // `01` is not the name of an address.
                (octet.to_string() == label).then_some(octet)
            });
            let net = IpNet::new(Ipv4Addr::from(octets).into(), u8::try_from(count * 8).ok()?);
            Some(Reverse { net: net.ok()?, more: numbers.len() > count })
        }
        [numbers @ .., "ip6", "arpa"] => {
            let mut nibbles = [0u8; 32];
            let count = read(numbers, &mut nibbles, |label| {
                let one = label.len() == 1;
                u8::from_str_radix(label, 16).ok().filter(|_| one && label != "+")
            });
            let bits = nibbles.iter().fold(0u128, |bits, n| bits << 4 | u128::from(*n));
            let net = IpNet::new(Ipv6Addr::from(bits).into(), u8::try_from(count * 4).ok()?);
            Some(Reverse { net: net.ok()?, more: numbers.len() > count })
        }
        _ => None,
    }
}

/// Reads numbers from the last label on, until one is none; how many there were.
fn read(labels: &[&str], into: &mut [u8], number: impl Fn(&str) -> Option<u8>) -> usize {
    let numbers = labels.iter().rev().map_while(|label| number(label));
    into.iter_mut().zip(numbers).map(|(slot, number)| *slot = number).count()
}

/// The zone that the reverse names of a prefix are in, for one address of it: as many whole labels
/// as the prefix's length needs.
pub(super) fn zone(prefix: &IpNet, address: IpAddr) -> String {
    let step = bits_of_label(prefix);
    let all = Family::of(prefix).bits() / step;
    let name = name(address);
    let skip = all - prefix.prefix_len().div_ceil(step);
    let mut rest = name.as_str();
    for _ in 0..skip {
        rest = rest.split_once('.').map_or(rest, |(_, rest)| rest);
    }
    rest.to_owned()
}

/// The zones that the reverse names of a prefix are in, and no others: one where it ends with a
/// label, up to 128 where it does not.
pub(super) fn zones(prefix: &IpNet) -> impl Iterator<Item = IpNet> {
    // No more labels than an address has: this is never out of range.
    prefix.subnets(whole_labels(prefix)).into_iter().flatten()
}

/// The name of a zone of [`zones`].
pub(super) fn zone_name(zone_net: &IpNet) -> String {
    zone(zone_net, zone_net.addr())
}

/// A prefix' length up to the end of its last label.
pub(super) fn whole_labels(prefix: &IpNet) -> u8 {
    prefix.prefix_len().next_multiple_of(bits_of_label(prefix))
}

fn bits_of_label(prefix: &IpNet) -> u8 {
    match Family::of(prefix) {
        Family::V4 => 8,
        Family::V6 => 4,
    }
}

/// The reverse name of an address.
pub fn name(address: IpAddr) -> String {
    match address {
        IpAddr::V4(a) => {
            let [a, b, c, d] = a.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(a) => {
            let mut name = String::with_capacity(72);
            for octet in a.octets().iter().rev() {
                for nibble in [octet & 15, octet >> 4] {
                    name.push(char::from_digit(u32::from(nibble), 16).unwrap_or('0'));
                    name.push('.');
                }
            }
            name + "ip6.arpa"
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(name: &str) -> Option<Reverse> {
        parse(&name.split('.').collect::<Vec<_>>())
    }

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn names_of_addresses_and_of_what_is_above_them() {
        let cases = [
            ("3.2.77.10.in-addr.arpa", "10.77.2.3/32", false),
            ("77.10.in-addr.arpa", "10.77.0.0/16", false),
            ("in-addr.arpa", "0.0.0.0/0", false),
            ("256.77.10.in-addr.arpa", "10.77.0.0/16", true),
            ("03.2.77.10.in-addr.arpa", "10.77.2.0/24", true),
            ("x.3.2.77.10.in-addr.arpa", "10.77.2.3/32", true),
            ("7.d.f.ip6.arpa", "fd70::/12", false),
            ("g.7.d.f.ip6.arpa", "fd70::/12", true),
            ("+.7.d.f.ip6.arpa", "fd70::/12", true),
        ];
        for (name, wanted, more) in cases {
            assert_eq!(read(name), Some(Reverse { net: net(wanted), more }), "{name}");
        }
        assert_eq!(read("example.org"), None);
    }

    #[test]
    fn zones_are_whole_labels() {
        let cases = [
            ("10.77.0.0/16", "10.77.5.6", "77.10.in-addr.arpa"),
            ("10.77.0.0/20", "10.77.5.6", "5.77.10.in-addr.arpa"),
            ("10.77.5.0/28", "10.77.5.6", "6.5.77.10.in-addr.arpa"),
            ("fd77::/16", "fd77::1", "7.7.d.f.ip6.arpa"),
            ("fd77::/13", "fd77::1", "7.7.d.f.ip6.arpa"),
        ];
        for (prefix, address, wanted) in cases {
            assert_eq!(zone(&net(prefix), address.parse().unwrap()), wanted);
        }
    }

    proptest! {
        #[test]
        fn every_address_is_read_as_it_was_written(v4 in any::<u32>(), v6 in any::<u128>()) {
            for address in [IpAddr::from(Ipv4Addr::from(v4)), IpAddr::from(Ipv6Addr::from(v6))] {
                let got = read(&name(address)).unwrap();
                prop_assert_eq!(got, Reverse { net: IpNet::from(address), more: false });
            }
        }

        #[test]
        fn nothing_makes_it_fall_over(labels in prop::collection::vec("[0-9a-z+-]{0,3}", 0..40)) {
            let mut labels: Vec<&str> = labels.iter().map(String::as_str).collect();
            for end in ["in-addr", "ip6"] {
                labels.extend([end, "arpa"]);
                parse(&labels);
                labels.truncate(labels.len() - 2);
            }
        }
    }
}
