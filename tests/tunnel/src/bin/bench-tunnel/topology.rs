//! Two gateways with a network between them, and a client behind each.
//!
//! ```text
//!   c1 10.81.1.2 ── 10.81.1.1 g1 10.80.0.1 ── 10.80.0.2 g2 10.81.2.1 ── 10.81.2.2 c2
//! ```

use anyhow::{Result, bail};
use slicewire_tunnel_tests::{
    host::Host,
    netns::{Netns, veth},
};

/// MTU of every tunnel and of the clients.
pub(crate) const MTU: u32 = 1420;
/// MTU between the gateways.
const WAN_MTU: u32 = 1500;
/// The gateways' addresses on the network between them.
pub(crate) const GATEWAYS: [&str; 2] = ["10.80.0.1", "10.80.0.2"];
/// The prefixes behind them.
pub(crate) const SITES: [&str; 2] = ["10.81.1.0/24", "10.81.2.0/24"];
/// The second client.
pub(crate) const FAR: &str = "10.81.2.2";

/// How packets come from a client to its gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// As from a pod: super-packets.
    Veth,
    /// As from a NIC: one by one.
    Wire,
}

impl Mode {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Veth => "veth",
            Self::Wire => "wire",
        }
    }
}

/// The namespaces, clients first.
pub(crate) struct Net {
    pub(crate) clients: [Netns; 2],
    pub(crate) gateways: [Host; 2],
}

impl Net {
    pub(crate) fn new() -> Result<Self> {
        let (g1, g2) = (Netns::new("g")?, Netns::new("h")?);
        veth((&g1, "wan0"), (&g2, "wan0"), WAN_MTU)?;
        let clients = [client(&g1, 0)?, client(&g2, 1)?];
        Ok(Self { clients, gateways: [Host::Namespace(g1), Host::Namespace(g2)] })
    }

    /// Switches the offloads of the clients' links.
    pub(crate) fn set_mode(&self, mode: Mode) -> Result<()> {
        let switch = match mode {
            Mode::Veth => "on",
            Mode::Wire => "off",
        };
        for (client, gateway) in self.clients.iter().zip(&self.gateways) {
            client.sh(&format!("ethtool -K eth0 tso {switch} gso {switch} gro off"))?;
            gateway.sh(&format!("ethtool -K client0 tso {switch} gso {switch} gro off"))?;
        }
        Ok(())
    }

    /// Routes the other site into `devices`, one on each gateway.
    pub(crate) fn route_into(&self, devices: [&str; 2], via: Option<[&str; 2]>) -> Result<()> {
        for (side, host) in self.gateways.iter().enumerate() {
            let next = via.map(|via| format!("via {}", via[1 - side])).unwrap_or_default();
            let (site, device) = (SITES[1 - side], devices[side]);
            host.sh(&format!("ip route replace {site} {next} dev {device}"))?;
        }
        Ok(())
    }

    /// Waits until the far client answers.
    pub(crate) fn wait(&self) -> Result<()> {
        for _ in 0..30 {
            let ping = format!("ping -n -q -c 1 -W 1 {FAR} >/dev/null 2>&1 && echo yes || true");
            if self.clients[0].sh(&ping)?.contains("yes") {
                return Ok(());
            }
        }
        bail!("no answer from the far client in 30 s")
    }
}

/// Makes the client of a gateway and the link between them.
fn client(gateway: &Netns, side: usize) -> Result<Netns> {
    let client = Netns::new("c")?;
    veth((&client, "eth0"), (gateway, "client0"), MTU)?;
    let site = side + 1;
    client.sh(&format!(
        "ip addr add 10.81.{site}.2/24 dev eth0; ip route add default via 10.81.{site}.1"
    ))?;
    gateway.sh(&format!(
        "ip addr add 10.81.{site}.1/24 dev client0; ip addr add {}/24 dev wan0;
         sysctl -qw net.ipv4.ip_forward=1",
        GATEWAYS[side]
    ))?;
    Ok(client)
}
