//! Which services there are, and what is asked about them.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

/// The zone, to both servers.
pub(crate) const ZONE: &str = "clusterset.local";
/// Namespaces, each with as many services.
pub(crate) const NAMESPACES: u32 = 10;
/// The name of a service's only port.
pub(crate) const PORT_NAME: &str = "http";

/// A service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Number(pub(crate) u32);

impl Number {
    pub(crate) fn namespace(self) -> String {
        format!("shop-{}", self.0 % NAMESPACES)
    }

    pub(crate) fn name(self) -> String {
        format!("web-{}", self.0)
    }

    /// Every tenth of a namespace.
    pub(crate) fn headless(self) -> bool {
        (self.0 / NAMESPACES) % 10 == 9
    }

    /// Its virtual address at our server.
    pub(crate) fn virtual_address(self) -> Ipv4Addr {
        (u32::from(Ipv4Addr::new(10, 77, 0, 0)) + self.0).into()
    }

    pub(crate) fn endpoint(self, number: u32) -> Ipv4Addr {
        (u32::from(Ipv4Addr::new(10, 64, 0, 0)) + self.0 * 32 + number).into()
    }

    fn full(self) -> String {
        format!("{}.{}.svc.{ZONE}", self.name(), self.namespace())
    }
}

/// Questions about all services in no order: of ten, one is for a name that is not there, two are
/// for addresses of another family, one is for servers, and six are for addresses.
pub(crate) fn questions(services: u32) -> String {
    let mut text = String::new();
    for turn in 0..services {
        // A prime that divides no sensible number of services.
        let name = Number((u64::from(turn) * 7919 % u64::from(services)) as u32).full();
        // Writing to a string never fails.
        let _ = match turn % 10 {
            0 => writeln!(text, "no-{name} A"),
            3 | 6 => writeln!(text, "{name} AAAA"),
            9 => writeln!(text, "_{PORT_NAME}._tcp.{name} SRV"),
            _ => writeln!(text, "{name} A"),
        };
    }
    text
}

/// Of all questions, so many are about names that are there.
pub(crate) const THERE: f64 = 0.9;
