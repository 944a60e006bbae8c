//! Two ends of a tunnel with a network of ours between them.
//!
//! ```text
//!   left  10.77.1.2  ── 10.77.1.1  wan  10.77.2.1 ──  10.77.2.2  right
//!         fd77:1::2     fd77:1::1       fd77:2::1     fd77:2::2
//!   inside the tunnel: left 10.99.0.1 fd99::1, right 10.99.0.2 fd99::2
//! ```

use anyhow::{Context, Result, bail};

use crate::{
    device::{Device, Implementation, Peer, Settings},
    guest::Guest,
    host::Host,
    keys::KeyPair,
    netns::{Netns, veth},
    relay::{Faults, Relay},
    traffic::{self, Pings},
};

/// MTU of the network between the ends: room for the largest tunnel.
const UNDERLAY: u32 = 9200;
/// Port every device listens on at first.
pub const PORT: u16 = 51820;
/// Port of the relay towards either end.
const RELAY: u16 = 51900;

/// The address family of the network between the ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// One of the two ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The first.
    Left,
    /// The second.
    Right,
}

impl Side {
    /// The opposite end.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Left => Self::Right,
            Self::Right => Self::Left,
        }
    }

    fn number(self) -> u8 {
        match self {
            Self::Left => 1,
            Self::Right => 2,
        }
    }

    /// Its address inside the tunnel.
    #[must_use]
    pub fn inner(self, family: Family) -> String {
        match family {
            Family::V4 => format!("10.99.0.{}", self.number()),
            Family::V6 => format!("fd99::{}", self.number()),
        }
    }

    /// An address on its side of the network: host 1 is the router, 2 the end.
    #[must_use]
    pub fn outer(self, family: Family, host: u8) -> String {
        match family {
            Family::V4 => format!("10.77.{}.{host}", self.number()),
            Family::V6 => format!("fd77:{}::{host}", self.number()),
        }
    }
}

/// A place with a device.
pub struct End {
    /// Its device; dropped before the place it lives in.
    pub device: Device,
    /// Where it lives.
    pub host: Host,
    /// Whose WireGuard it has.
    pub implementation: Implementation,
    /// Its identity.
    pub keys: KeyPair,
    /// Name of its interface towards the network.
    pub uplink: &'static str,
}

/// Two devices and the network between them.
pub struct Lab {
    /// The first end.
    pub left: End,
    /// The second end.
    pub right: End,
    /// The network between them.
    pub wan: Netns,
}

impl Lab {
    /// Makes the network and starts both devices; neither knows the other yet.
    ///
    /// # Errors
    /// When a program is missing or does not start.
    pub fn new(left: Implementation, right: Implementation, mtu: u32) -> Result<Self> {
        Self::with(left, right, Settings::new(PORT, mtu))
    }

    /// The same with other settings.
    ///
    /// # Errors
    /// As [`Lab::new`].
    pub fn with(left: Implementation, right: Implementation, settings: Settings) -> Result<Self> {
        let wan = Netns::new("w")?;
        wan.sh("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")?;
        let left = End::new(left, Side::Left, &wan, settings)?;
        let right = End::new(right, Side::Right, &wan, settings)?;
        Ok(Self { left, right, wan })
    }

    /// The end on `side`.
    #[must_use]
    pub fn end(&self, side: Side) -> &End {
        match side {
            Side::Left => &self.left,
            Side::Right => &self.right,
        }
    }

    /// How `side` is told of the other end: its key and addresses, and no endpoint.
    #[must_use]
    pub fn peer_of(&self, side: Side) -> Peer {
        let other = side.other();
        let allowed = vec![
            format!("{}/32", other.inner(Family::V4)),
            format!("{}/128", other.inner(Family::V6)),
        ];
        Peer { public: self.end(other).keys.public(), allowed, ..Peer::default() }
    }

    /// Makes the ends peers, `initiator` knowing where the other one is.
    ///
    /// # Errors
    /// When a device refuses.
    pub fn introduce(&self, initiator: Side, family: Family) -> Result<()> {
        let endpoint = socket(&initiator.other().outer(family, 2), PORT);
        self.set(initiator.other(), &self.peer_of(initiator.other()))?;
        self.set(initiator, &Peer { endpoint: Some(endpoint), ..self.peer_of(initiator) })
    }

    /// Makes the ends peers through a relay that does `faults` to their packets.
    ///
    /// # Errors
    /// When a device refuses or the relay cannot start.
    pub fn introduce_through_relay(&self, faults: Faults) -> Result<Relay> {
        let ends = [Side::Left, Side::Right].map(|side| {
            (socket(&side.outer(Family::V4, 1), RELAY), socket(&side.outer(Family::V4, 2), PORT))
        });
        let led_away = [&self.left, &self.right].map(|end| end.implementation.is_led_away());
        let relay = Relay::start(&self.wan, ends, faults, led_away)?;
        for side in [Side::Left, Side::Right] {
            self.set(side, &self.relayed_peer_of(side))?;
        }
        Ok(relay)
    }

    /// How `side` is told of the other end, with the relay as its endpoint.
    #[must_use]
    pub fn relayed_peer_of(&self, side: Side) -> Peer {
        let endpoint = Some(socket(&side.outer(Family::V4, 1), RELAY));
        Peer { endpoint, ..self.peer_of(side) }
    }

    /// Tells `side` about a peer.
    ///
    /// # Errors
    /// When the device refuses.
    pub fn set(&self, side: Side, peer: &Peer) -> Result<()> {
        let end = self.end(side);
        end.device.set_peer(&end.host, peer)
    }

    /// Tells `side` to forget a peer and to learn it anew: not every implementation changes one.
    ///
    /// # Errors
    /// When the device refuses.
    pub fn set_anew(&self, side: Side, peer: &Peer) -> Result<()> {
        let end = self.end(side);
        end.device.remove_peer(&end.host, &self.end(side.other()).keys.public())?;
        self.set(side, peer)
    }

    /// Makes both ends forget each other.
    ///
    /// # Errors
    /// When a device refuses.
    pub fn part(&self) -> Result<()> {
        for side in [Side::Left, Side::Right] {
            let end = self.end(side);
            end.device.remove_peer(&end.host, &self.end(side.other()).keys.public())?;
        }
        Ok(())
    }

    /// Sends pings from `side` through the tunnel to the other end.
    ///
    /// # Errors
    /// When ping cannot run.
    pub fn ping(&self, side: Side, family: Family, pings: Pings) -> Result<traffic::Answers> {
        traffic::ping(&self.end(side).host, &side.other().inner(family), pings)
    }

    /// Sends `bytes` bytes over TCP through the tunnel, left to right and back; every byte is
    /// checked. Not asked of guests, nor of the right end if it cannot be relied on to send.
    ///
    /// # Errors
    /// When the stream stalls or a byte is wrong; with what both devices say.
    pub fn transfer(&self, family: Family, bytes: usize) -> Result<()> {
        let (Some(from), Some(to)) = (self.left.host.namespace(), self.right.host.namespace())
        else {
            return Ok(());
        };
        let back = if self.right.implementation.sends_streams() { bytes } else { 0 };
        let target = socket(&Side::Right.inner(family), 5000).parse()?;
        traffic::transfer(from, to, target, (bytes, back)).with_context(|| self.describe())
    }

    /// Pings from `side` until the other end answers.
    ///
    /// # Errors
    /// When `seconds` pass without an answer; with what both devices say.
    pub fn establish(&self, side: Side, family: Family, seconds: u32) -> Result<()> {
        for _ in 0..seconds {
            if self.ping(side, family, Pings::one())?.received > 0 {
                return Ok(());
            }
        }
        bail!("no answer through the tunnel in {seconds} s\n{}", self.describe())
    }

    /// What both devices say of themselves, for messages.
    #[must_use]
    pub fn describe(&self) -> String {
        let show = |end: &End| {
            let shown = end.host.sh(&format!("wg show {}", end.device.name()));
            format!("{}\n{}", shown.unwrap_or_else(|error| error.to_string()), end.device.log())
        };
        format!("left: {}\nright: {}", show(&self.left), show(&self.right))
    }
}

impl End {
    fn new(
        implementation: Implementation,
        side: Side,
        wan: &Netns,
        settings: Settings,
    ) -> Result<Self> {
        let port = match side {
            Side::Left => "left0",
            Side::Right => "right0",
        };
        let host = if implementation.needs_guest() {
            Host::Guest(Guest::boot(wan, port, UNDERLAY)?)
        } else {
            let namespace = Netns::new(&port[..1])?;
            veth((&namespace, "eth0"), (wan, port), UNDERLAY)?;
            Host::Namespace(namespace)
        };
        address(wan, &host, side, port)?;
        let keys = KeyPair::generate();
        let device = Device::start(implementation, &host, &keys, settings)?;
        let (v4, v6) = (side.inner(Family::V4), side.inner(Family::V6));
        let name = device.name();
        let ipv6 = if settings.mtu >= 1280 {
            format!("ip addr add {v6}/64 dev {name} nodad")
        } else {
            String::new()
        };
        host.sh(&format!("ip addr add {v4}/24 dev {name}; {ipv6}"))?;
        Ok(Self { device, host, implementation, keys, uplink: "eth0" })
    }
}

/// Gives the end its addresses, the router its own, and the end its default routes.
fn address(wan: &Netns, host: &Host, side: Side, port: &str) -> Result<()> {
    let outer = |family, number| side.outer(family, number);
    wan.sh(&format!(
        "ip addr add {}/24 dev {port}; ip addr add {}/64 dev {port} nodad",
        outer(Family::V4, 1),
        outer(Family::V6, 1)
    ))?;
    host.sh(&format!(
        "ip addr add {}/24 dev eth0; ip addr add {}/64 dev eth0 nodad;
         ip route add default via {}; ip -6 route add default via {}",
        outer(Family::V4, 2),
        outer(Family::V6, 2),
        outer(Family::V4, 1),
        outer(Family::V6, 1)
    ))?;
    Ok(())
}

/// `address:port`, with brackets where the family needs them.
#[must_use]
pub fn socket(address: &str, port: u16) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}
