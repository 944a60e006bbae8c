//! Free room inside a prefix.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::prefix::{Family, overlap};

/// Which end of a prefix is used up first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// The lowest address first.
    FromStart,
    /// The highest address first.
    FromEnd,
}

/// Bits of a prefix behind its length.
pub fn host_bits(net: &IpNet) -> u8 {
    Family::of(net).bits() - net.prefix_len()
}

/// How many addresses a prefix has; saturates for `::/0`.
pub fn size(net: &IpNet) -> u128 {
    power(host_bits(net))
}

/// How many addresses so many host bits count; saturates at 128.
pub fn power(bits: u8) -> u128 {
    1u128.checked_shl(u32::from(bits)).unwrap_or(u128::MAX)
}

/// The address at `offset` in a prefix, if it is inside.
pub fn address(net: &IpNet, offset: u128) -> Option<IpAddr> {
    if offset >= size(net) {
        return None;
    }
    Some(match net {
        IpNet::V4(n) => {
            let base = u32::from(n.network());
            IpAddr::V4(Ipv4Addr::from(base + u32::try_from(offset).ok()?))
        }
        IpNet::V6(n) => IpAddr::V6(Ipv6Addr::from(u128::from(n.network()) + offset)),
    })
}

/// The first free prefix with `bits` host bits inside `within`, counted from one end.
///
/// "Free" means that it overlaps nothing of `used`. The search halves the prefix and looks only
/// into halves that are partly used, so its cost follows `used` and not the prefix.
pub fn find(within: &IpNet, used: &[IpNet], bits: u8, direction: Direction) -> Option<IpNet> {
    let near: Vec<IpNet> = used.iter().copied().filter(|u| overlap(u, within)).collect();
    find_near(within, &near, bits, direction)
}

fn find_near(within: &IpNet, used: &[IpNet], bits: u8, direction: Direction) -> Option<IpNet> {
    if host_bits(within) < bits || used.iter().any(|u| u.contains(within)) {
        return None;
    }
    if used.is_empty() {
        let edge = match direction {
            Direction::FromStart => within.network(),
            Direction::FromEnd => within.broadcast(),
        };
        let length = Family::of(within).bits() - bits;
        return IpNet::new(edge, length).ok().map(|n| n.trunc());
    }
    if host_bits(within) == bits {
        return None;
    }
    let mut halves: Vec<IpNet> = within.subnets(within.prefix_len() + 1).ok()?.collect();
    if direction == Direction::FromEnd {
        halves.reverse();
    }
    halves.iter().find_map(|half| find(half, used, bits, direction))
}
