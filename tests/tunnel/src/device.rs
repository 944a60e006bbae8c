//! A WireGuard device of any implementation, controlled the way users do: with `ip` and `wg`.

use std::{fs, os::unix::net::UnixStream, path::PathBuf, thread, time::Duration};

use anyhow::{Context, Result, bail};

use crate::{
    guest::Guest,
    host::Host,
    keys::KeyPair,
    lacking::{Lack, lack},
    netns::{Netns, unique},
    peers,
    process::Daemon,
};

/// Longest time a program may take to make its interface and open its socket, on a machine that
/// hardly runs it.
const START: Duration = Duration::from_secs(60);

/// Who implements WireGuard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Implementation {
    /// The engine of `slice-gateway`.
    Ours,
    /// wireguard-go, newest.
    WireguardGo,
    /// wireguard-go as Debian ships it.
    WireguardGoDebian,
    /// boringtun.
    Boringtun,
    /// gotatun.
    Gotatun,
    /// Linux itself; only in a guest.
    Kernel,
    /// `slice-gateway` where Linux has WireGuard; only in a guest.
    OursInGuest,
}

impl Implementation {
    /// The name used in tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::WireguardGo => "wireguard-go",
            Self::WireguardGoDebian => "wireguard-go Debian",
            Self::Boringtun => "boringtun",
            Self::Gotatun => "gotatun",
            Self::Kernel => "kernel",
            Self::OursInGuest => "ours in a guest",
        }
    }

    /// The largest MTU it can carry of those asked for here: gotatun reads packets into buffers of
    /// 4,096 bytes.
    #[must_use]
    pub fn largest_mtu(self) -> u32 {
        if self == Self::Gotatun { 4000 } else { 9000 }
    }

    /// Whether it goes on when its own address changes: wireguard-go of 2022 keeps sending from the
    /// old one for as long as it has a session.
    #[must_use]
    pub fn moves(self) -> bool {
        self != Self::WireguardGoDebian
    }

    /// Whether it can be told another port: gotatun's program at times ends then, with an unexpected
    /// end of its device, whoever its peer is.
    #[must_use]
    pub fn changes_port(self) -> bool {
        self != Self::Gotatun
    }

    /// Whether it is asked to send streams. On a starved machine, streams that boringtun's program
    /// sends stand still at times after their first ten segments, to wireguard-go as to us; why is
    /// not known.
    #[must_use]
    pub fn sends_streams(self) -> bool {
        self != Self::Boringtun
    }

    /// Whether it sends to where a replayed packet came from, at times: seen of Debian's wireguard-go
    /// while what it had sent before was still being taken.
    #[must_use]
    pub fn is_led_away(self) -> bool {
        self == Self::WireguardGoDebian
    }

    /// Whether it lives in a guest, whose kernel has WireGuard.
    #[must_use]
    pub fn needs_guest(self) -> bool {
        matches!(self, Self::Kernel | Self::OursInGuest)
    }

    /// Whether it says when the last handshake was: boringtun gives its age instead of its time.
    #[must_use]
    pub fn tells_handshake_time(self) -> bool {
        self != Self::Boringtun
    }
}

/// What every device is told at its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// The port it listens on.
    pub port: u16,
    /// The tunnel's MTU.
    pub mtu: u32,
    /// Whether it must be able to change its own address, or may run with its defaults.
    pub roams: bool,
    /// What its kernel seems to lack; for ours alone.
    pub lacks: &'static [Lack],
    /// More of `slice-gateway run`'s options; for ours alone.
    pub options: &'static [&'static str],
}

impl Settings {
    /// The usual ones.
    #[must_use]
    pub const fn new(port: u16, mtu: u32) -> Self {
        Self { port, mtu, roams: true, lacks: &[], options: &[] }
    }
}

/// A device that is up; dropping it ends its process, or removes it from the kernel's guest.
#[derive(Debug)]
pub struct Device {
    name: String,
    process: Option<Daemon>,
    files: Vec<PathBuf>,
}

/// One peer of a device, as `wg set` takes it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Peer {
    /// Public key, base64.
    pub public: String,
    /// Pre-shared key, base64.
    pub preshared: Option<String>,
    /// `address:port`.
    pub endpoint: Option<String>,
    /// Allowed prefixes.
    pub allowed: Vec<String>,
    /// Seconds between keepalives.
    pub keepalive: Option<u16>,
}

/// What `wg show … dump` says of one peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerState {
    /// Public key, base64.
    pub public: String,
    /// Where it was last heard from.
    pub endpoint: String,
    /// Unix time of the last handshake in seconds, 0 for never.
    pub handshake: u64,
    /// Bytes received.
    pub received: u64,
    /// Bytes sent.
    pub sent: u64,
}

impl Device {
    /// Makes a device on `host` and brings it up.
    ///
    /// # Errors
    /// When the program is not there, does not start, or refuses the configuration.
    pub fn start(
        implementation: Implementation,
        host: &Host,
        keys: &KeyPair,
        settings: Settings,
    ) -> Result<Self> {
        let name = format!("t{}n{}", std::process::id() % 1_000_000, unique());
        let mut device = Self { name, process: None, files: Vec::new() };
        match host {
            Host::Guest(guest) if implementation == Implementation::OursInGuest => {
                device.run_in_guest(guest, keys, settings)?;
            }
            Host::Guest(guest) => {
                guest.sh(&format!("ip link add {} type wireguard", device.name))?;
            }
            Host::Namespace(namespace) => {
                device.launch(implementation, namespace, keys, settings)?;
            }
        }
        let (name, Settings { port, mtu, .. }) = (&device.name, settings);
        host.sh(&format!(
            "echo {} | wg set {name} private-key /dev/stdin listen-port {port};
             ip link set {name} mtu {mtu} up",
            keys.private()
        ))
        .with_context(|| format!("{} refused its configuration", implementation.name()))?;
        if implementation == Implementation::Boringtun {
            // It looks at the MTU once a second.
            thread::sleep(Duration::from_millis(1200));
        }
        Ok(device)
    }

    /// The interface's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The process's id, when it is one.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Daemon::pid)
    }

    /// The last lines the process wrote.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.as_ref().map(Daemon::log_tail).unwrap_or_default()
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.process.as_mut().is_none_or(Daemon::is_running)
    }

    /// Ends the process and returns the last lines it wrote.
    ///
    /// # Errors
    /// When it is no process of its own, or does not end.
    pub fn end(&mut self) -> Result<String> {
        self.process.as_mut().context("no process")?.end()
    }

    /// Adds a peer or changes it.
    ///
    /// # Errors
    /// When the device refuses it.
    pub fn set_peer(&self, host: &Host, peer: &Peer) -> Result<()> {
        let mut command = format!("wg set {} peer {}", self.name, peer.public);
        if let Some(key) = &peer.preshared {
            command = format!("echo {key} | {command} preshared-key /dev/stdin");
        }
        if let Some(endpoint) = &peer.endpoint {
            command += &format!(" endpoint {endpoint}");
        }
        if let Some(seconds) = peer.keepalive {
            command += &format!(" persistent-keepalive {seconds}");
        }
        command += &format!(" allowed-ips {}", peer.allowed.join(","));
        host.sh(&command).map(drop)
    }

    /// Removes a peer.
    ///
    /// # Errors
    /// When the device refuses it.
    pub fn remove_peer(&self, host: &Host, public: &str) -> Result<()> {
        host.sh(&format!("wg set {} peer {public} remove", self.name)).map(drop)
    }

    /// What the device says of its peers.
    ///
    /// # Errors
    /// When it does not answer, or not in `wg`'s form.
    pub fn peers(&self, host: &Host) -> Result<Vec<PeerState>> {
        let dump = host.sh(&format!("wg show {} dump", self.name))?;
        dump.lines().skip(1).map(parse_peer).collect()
    }

    /// Starts `slice-gateway` in a guest.
    fn run_in_guest(&self, guest: &Guest, keys: &KeyPair, settings: Settings) -> Result<()> {
        let (name, options) = (&self.name, settings.options.join(" "));
        let file = interface_section(keys, settings).replace('\n', "\\n");
        guest.sh(&format!(
            "printf '{file}' > /tmp/{name}.conf;
             slice-gateway run --config /tmp/{name}.conf {options} > /tmp/{name}.log 2>&1 &
             for i in $(seq 100); do
               if grep -q 'device is up' /tmp/{name}.log; then exit 0; fi; usleep 100000;
             done;
             cat /tmp/{name}.log; false"
        ))?;
        Ok(())
    }

    /// Starts a program that keeps the device in user space.
    fn launch(
        &mut self,
        implementation: Implementation,
        namespace: &Netns,
        keys: &KeyPair,
        settings: Settings,
    ) -> Result<()> {
        let program = match implementation {
            Implementation::Ours => peers::slice_gateway()?,
            Implementation::WireguardGo => peers::wireguard_go()?,
            Implementation::WireguardGoDebian => peers::wireguard_go_debian()?,
            Implementation::Boringtun => peers::boringtun()?,
            Implementation::Gotatun => peers::gotatun()?,
            Implementation::Kernel | Implementation::OursInGuest => bail!("it lives in a guest"),
        };
        let socket = PathBuf::from(format!("/var/run/wireguard/{}.sock", self.name));
        let log = std::env::temp_dir().join(format!("slicewire-{}.log", self.name));
        let mut command = namespace.command(&program.path)?;
        match implementation {
            Implementation::Ours => {
                let file = log.with_file_name(format!("{}.conf", self.name));
                fs::write(&file, interface_section(keys, settings))?;
                command.args(["run", "--config"]).arg(&file).args(settings.options);
                command.env("RUST_LOG", "debug");
                lack(&mut command, settings.lacks);
                self.files.push(file);
            }
            Implementation::Boringtun | Implementation::Gotatun => {
                command.args(["--foreground", "--disable-drop-privileges", "--verbosity", "error"]);
                if implementation == Implementation::Boringtun && settings.roams {
                    // Its connected sockets do not follow when it roams itself.
                    command.arg("--disable-connected-udp");
                }
                command.arg(&self.name);
            }
            _ => {
                command
                    .env("LOG_LEVEL", "error")
                    .env("WG_PROCESS_FOREGROUND", "1")
                    .args(["-f", &self.name]);
            }
        }
        self.files.extend([socket.clone(), log.clone()]);
        let process = self.process.insert(Daemon::start(implementation.name(), &mut command, log)?);
        let name = &self.name;
        let ready = || {
            UnixStream::connect(&socket).is_ok()
                && namespace.sh(&format!("ip link show {name} >/dev/null 2>&1")).is_ok()
        };
        process.wait_until(START, ready)
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.process = None;
        for file in &self.files {
            let _ = fs::remove_file(file);
        }
    }
}

/// What `slice-gateway` is told at its start.
fn interface_section(keys: &KeyPair, settings: Settings) -> String {
    format!("[Interface]\nPrivateKey = {}\nListenPort = {}\n", keys.private(), settings.port)
}

/// A line of `wg show … dump`: key, preshared key, endpoint, allowed addresses, handshake,
/// received, sent, keepalive.
fn parse_peer(line: &str) -> Result<PeerState> {
    let fields: Vec<&str> = line.split('\t').collect();
    let [public, _, endpoint, _, handshake, received, sent, ..] = fields[..] else {
        bail!("wg shows a peer as {line:?}");
    };
    Ok(PeerState {
        public: public.to_owned(),
        endpoint: endpoint.to_owned(),
        handshake: handshake.parse()?,
        received: received.parse()?,
        sent: sent.parse()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dumped_peer_is_understood() {
        let state = parse_peer("KEY=\t(none)\t10.0.0.1:7\t10.0.0.0/8\t1700\t92\t148\toff").unwrap();
        assert_eq!((state.handshake, state.received, state.sent), (1700, 92, 148));
        assert_eq!(state.endpoint, "10.0.0.1:7");
        assert!(parse_peer("KEY=").is_err());
    }
}
