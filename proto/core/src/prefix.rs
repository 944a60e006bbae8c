//! Address prefixes of both families.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::violation::Violation;

/// IPv4 or IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of a prefix.
    pub fn of(prefix: &IpNet) -> Self {
        match prefix {
            IpNet::V4(_) => Self::V4,
            IpNet::V6(_) => Self::V6,
        }
    }

    /// The family of an address.
    pub fn of_addr(addr: &IpAddr) -> Self {
        match addr {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// Bits in an address: 32 or 128.
    pub fn bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }
}

/// Parses a prefix in CIDR notation with no host bits set.
///
/// # Errors
/// One violation at `field` that says what was wrong and, where it can, what was meant.
pub fn parse(field: &str, text: &str) -> Result<IpNet, Violation> {
    let net: IpNet = text.parse().map_err(|_| {
        Violation::new(
            field,
            text,
            "MalformedPrefix",
            "is not an address prefix; write it as 10.20.0.0/16 or fd00:20::/48",
        )
    })?;
    if net.addr() != net.network() {
        return Err(Violation::new(
            field,
            text,
            "HostBitsSet",
            format!("has bits set behind its length; the prefix is {}", net.trunc()),
        ));
    }
    Ok(net)
}

/// Whether two prefixes share an address.
pub fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

/// The host prefix of one address: /32 or /128.
pub fn host(addr: IpAddr) -> IpNet {
    IpNet::from(addr)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_bits_are_refused_with_the_prefix_that_was_meant() {
        let fault = parse("spec.prefixes[0]", "10.20.3.4/16").unwrap_err();
        assert_eq!(fault.reason, "HostBitsSet");
        assert!(fault.message.contains("10.20.0.0/16"), "{}", fault.message);
    }

    #[test]
    fn families_never_overlap() {
        let v4 = parse("", "0.0.0.0/0").unwrap();
        let v6 = parse("", "::/0").unwrap();
        assert!(!overlap(&v4, &v6));
        assert!(overlap(&v4, &parse("", "10.0.0.0/8").unwrap()));
    }
}
