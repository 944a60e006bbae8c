//! Who is measured, and how each is started.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context, Result};
use slicewire_tunnel_tests::{
    device::{Device, Implementation, Peer, Settings},
    host::Host,
    keys::KeyPair,
    netns::unique,
    peers,
    process::{Daemon, output},
};

use crate::topology::{GATEWAYS, MTU, Net, SITES};

/// The tunnels' port.
pub(crate) const PORT: u16 = 51820;
/// Addresses inside tunnels that need them.
const INNER: [&str; 2] = ["10.82.0.1", "10.82.0.2"];
/// Longest time a program may take to make its interface.
const START: Duration = Duration::from_secs(15);

/// A way from one site to the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Candidate {
    Plain,
    Vxlan,
    WireGuard(Implementation),
    OpenVpn,
    Nebula,
}

/// Everyone, ours first.
pub(crate) const ALL: [Candidate; 9] = [
    Candidate::WireGuard(Implementation::Ours),
    Candidate::WireGuard(Implementation::WireguardGo),
    Candidate::WireGuard(Implementation::WireguardGoDebian),
    Candidate::WireGuard(Implementation::Gotatun),
    Candidate::WireGuard(Implementation::Boringtun),
    Candidate::OpenVpn,
    Candidate::Nebula,
    Candidate::Vxlan,
    Candidate::Plain,
];

/// A running candidate; dropping it ends it.
pub(crate) struct Running {
    devices: Vec<Device>,
    daemons: Vec<Daemon>,
    /// Public key of the second gateway's device.
    pub(crate) public: Option<[u8; 32]>,
    directory: PathBuf,
}

impl Candidate {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain routing",
            Self::Vxlan => "kernel vxlan",
            Self::WireGuard(implementation) => implementation.name(),
            Self::OpenVpn => "OpenVPN",
            Self::Nebula => "Nebula",
        }
    }

    /// Whether it is a process of its own, whose memory and time can be measured.
    pub(crate) fn is_process(self) -> bool {
        !matches!(self, Self::Plain | Self::Vxlan)
    }

    /// Builds or finds what it needs.
    pub(crate) fn prepare(self) -> Result<()> {
        match self {
            Self::Plain | Self::Vxlan => Ok(()),
            Self::OpenVpn => peers::openvpn().map(drop),
            Self::Nebula => peers::nebula().map(drop),
            Self::WireGuard(implementation) => match implementation {
                Implementation::Ours => peers::slice_gateway(),
                Implementation::WireguardGo => peers::wireguard_go(),
                Implementation::WireguardGoDebian => peers::wireguard_go_debian(),
                Implementation::Boringtun => peers::boringtun(),
                Implementation::Gotatun => peers::gotatun(),
                Implementation::Kernel | Implementation::OursInGuest => {
                    anyhow::bail!("guests are not measured")
                }
            }
            .map(drop),
        }
    }

    /// Starts it on both gateways and waits until the clients reach each other.
    pub(crate) fn start(self, net: &Net) -> Result<Running> {
        let directory = std::env::temp_dir().join(format!(
            "slicewire-bench-{}-{}",
            std::process::id(),
            unique()
        ));
        fs::create_dir_all(&directory)?;
        let mut running =
            Running { devices: Vec::new(), daemons: Vec::new(), public: None, directory };
        match self {
            Self::Plain => net.route_into(["wan0", "wan0"], Some(GATEWAYS))?,
            Self::Vxlan => vxlan(net)?,
            Self::WireGuard(implementation) => running.wireguard(implementation, net)?,
            Self::OpenVpn => running.openvpn(net)?,
            Self::Nebula => running.nebula(net)?,
        }
        net.wait().with_context(|| format!("{}\n{}", self.name(), running.log()))?;
        Ok(running)
    }
}

impl Running {
    /// The gateways' processes.
    pub(crate) fn pids(&self) -> Vec<u32> {
        let devices = self.devices.iter().filter_map(Device::pid);
        devices.chain(self.daemons.iter().map(Daemon::pid)).collect()
    }

    /// Configures more peers on both gateways, never heard of, by one `wg` call each.
    pub(crate) fn add_strangers(&self, net: &Net, count: usize) -> Result<()> {
        for (device, host) in self.devices.iter().zip(&net.gateways) {
            let mut arguments = String::new();
            for number in 0..count {
                let (key, high, low) = (KeyPair::generate().public(), number / 250, number % 250);
                arguments += &format!(" peer {key} allowed-ips 10.90.{high}.{low}/32");
            }
            host.sh(&format!("wg set {}{arguments}", device.name()))?;
        }
        Ok(())
    }

    fn log(&self) -> String {
        let devices = self.devices.iter().map(Device::log);
        devices.chain(self.daemons.iter().map(Daemon::log_tail)).collect::<Vec<_>>().join("\n")
    }

    fn wireguard(&mut self, implementation: Implementation, net: &Net) -> Result<()> {
        let keys = [KeyPair::generate(), KeyPair::generate()];
        let settings = Settings { roams: false, ..Settings::new(PORT, MTU) };
        for (side, host) in net.gateways.iter().enumerate() {
            let device = Device::start(implementation, host, &keys[side], settings)?;
            let other = 1 - side;
            let peer = Peer {
                public: keys[other].public(),
                endpoint: Some(format!("{}:{PORT}", GATEWAYS[other])),
                allowed: vec![SITES[other].to_owned()],
                ..Peer::default()
            };
            device.set_peer(host, &peer)?;
            self.devices.push(device);
        }
        self.public = Some(keys[1].public_bytes());
        net.route_into([self.devices[0].name(), self.devices[1].name()], None)
    }

    /// OpenVPN between two points: each knows the other by its certificate's fingerprint.
    fn openvpn(&mut self, net: &Net) -> Result<()> {
        let program = peers::openvpn()?;
        let (first, second) = (self.certificate("first")?, self.certificate("second")?);
        for (side, host) in net.gateways.iter().enumerate() {
            let (own, other) = if side == 0 { ("first", &second) } else { ("second", &first) };
            let namespace = host.namespace().context("a gateway is a namespace")?;
            let mut command = namespace.command(&program.path)?;
            program.prepare(&mut command);
            command.current_dir(&self.directory).args(["--dev", "ovpn0", "--dev-type", "tun"]);
            command.args(["--proto", "udp", "--local", GATEWAYS[side], "--port", "1194"]);
            command.args(["--remote", GATEWAYS[1 - side], "1194", "--peer-fingerprint", other]);
            command.args(["--ifconfig", INNER[side], INNER[1 - side]]);
            command.args(["--data-ciphers", "AES-256-GCM", "--tun-mtu", &MTU.to_string()]);
            command.args(["--cert", &format!("{own}.crt"), "--key", &format!("{own}.key")]);
            match side {
                0 => command.arg("--tls-client"),
                _ => command.args(["--tls-server", "--dh", "none"]),
            };
            self.launch("OpenVPN", &mut command, host, "ovpn0", side)?;
        }
        net.route_into(["ovpn0", "ovpn0"], None)
    }

    /// A self-signed certificate; returns its fingerprint.
    fn certificate(&self, name: &str) -> Result<String> {
        let script = format!(
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 \
             -subj /CN={name} -keyout {name}.key -out {name}.crt 2>/dev/null;
             openssl x509 -in {name}.crt -noout -fingerprint -sha256"
        );
        let mut command = std::process::Command::new("sh");
        let text = output(command.args(["-ec", &script]).current_dir(&self.directory))?;
        let (_, fingerprint) =
            text.trim().split_once('=').context("openssl gave no fingerprint")?;
        Ok(fingerprint.to_owned())
    }

    fn nebula(&mut self, net: &Net) -> Result<()> {
        let (program, tool) = peers::nebula()?;
        let sign = |arguments: &[&str]| {
            let mut command = std::process::Command::new(&tool.path);
            output(command.args(arguments).current_dir(&self.directory)).map(drop)
        };
        sign(&["ca", "-name", "bench"])?;
        for (side, inner) in INNER.iter().enumerate() {
            let network = format!("{inner}/24");
            let name = format!("g{side}");
            let networks = ["-networks", &network, "-unsafe-networks", SITES[side]];
            sign(&[&["sign", "-name", &name][..], &networks].concat())?;
        }
        for (side, host) in net.gateways.iter().enumerate() {
            let file = self.directory.join(format!("g{side}.yml"));
            fs::write(&file, nebula_config(side))?;
            let namespace = host.namespace().context("a gateway is a namespace")?;
            let mut command = namespace.command(&program.path)?;
            command.current_dir(&self.directory).arg("-config").arg(&file);
            self.launch("Nebula", &mut command, host, "neb0", side)?;
        }
        Ok(())
    }

    /// Starts a program and waits for its interface.
    fn launch(
        &mut self,
        name: &str,
        command: &mut std::process::Command,
        host: &Host,
        device: &str,
        side: usize,
    ) -> Result<()> {
        let log = self.directory.join(format!("{side}.log"));
        let mut daemon = Daemon::start(name, command, log)?;
        let up = format!("ip link show {device} up 2>/dev/null | grep -q {device}");
        daemon.wait_until(START, || host.sh(&up).is_ok())?;
        self.daemons.push(daemon);
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.devices.clear();
        self.daemons.clear();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn vxlan(net: &Net) -> Result<()> {
    for (side, host) in net.gateways.iter().enumerate() {
        host.sh(&format!(
            "ip link add vxlan0 mtu {MTU} type vxlan id 7 dstport 4789 dev wan0 local {} remote {};
             ip addr add {}/24 dev vxlan0; ip link set vxlan0 mtu {MTU} up",
            GATEWAYS[side],
            GATEWAYS[1 - side],
            INNER[side]
        ))?;
    }
    net.route_into(["vxlan0", "vxlan0"], Some(INNER))
}

fn nebula_config(side: usize) -> String {
    let other = 1 - side;
    let (inner, outer, site) = (INNER[other], GATEWAYS[other], SITES[other]);
    format!(
        r#"pki: {{ca: ca.crt, cert: g{side}.crt, key: g{side}.key}}
static_host_map: {{"{inner}": ["{outer}:4242"]}}
lighthouse: {{am_lighthouse: false, hosts: []}}
listen: {{host: 0.0.0.0, port: 4242}}
tun:
  dev: neb0
  mtu: {MTU}
  unsafe_routes: [{{route: {site}, via: {inner}}}]
firewall:
  outbound: [{{port: any, proto: any, host: any, local_cidr: 0.0.0.0/0}}]
  inbound: [{{port: any, proto: any, host: any, local_cidr: 0.0.0.0/0}}]
logging: {{level: warning}}
"#
    )
}
