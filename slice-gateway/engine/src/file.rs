//! Configuration files in the format of `wg-quick(8)`. Reading only: names are not looked up,
//! nothing is changed.
//!
//! Lines that would run commands (`PreUp`, `PostUp`, `PreDown`, `PostDown`) are refused: the
//! service manager that starts the program has better places for them. `DNS` and `SaveConfig`
//! are left out with a warning.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;

use crate::key::{PresharedKey, PrivateKey, PublicKey};

/// Something wrong in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Counted from 1; 0 for what is missing from the file as a whole.
    pub line: usize,
    /// What is wrong and what would be right. Never holds a key.
    pub what: String,
}

/// All that is wrong in a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Faults(pub Vec<Fault>);

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, fault) in self.0.iter().enumerate() {
            let separator = if i > 0 { "\n" } else { "" };
            write!(f, "{separator}line {}: {}", fault.line, fault.what)?;
        }
        Ok(())
    }
}

/// Where routes to the peers' prefixes go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Table {
    /// The main table.
    #[default]
    Auto,
    /// Nowhere: no routes are set.
    Off,
    /// The table of this number.
    Number(u32),
}

/// Where a peer is, as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// By address.
    Address(SocketAddr),
    /// By a name that has to be looked up.
    Name(String, u16),
}

/// A section `[Peer]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// `PublicKey`.
    pub public_key: PublicKey,
    /// `PresharedKey`.
    pub preshared_key: Option<PresharedKey>,
    /// `Endpoint`.
    pub endpoint: Option<Endpoint>,
    /// `AllowedIPs`, without host bits.
    pub allowed_ips: Vec<IpNet>,
    /// `PersistentKeepalive`.
    pub keepalive: Option<Duration>,
}

/// A file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// `PrivateKey`.
    pub private_key: PrivateKey,
    /// `Address`, with host bits.
    pub addresses: Vec<IpNet>,
    /// `ListenPort`.
    pub listen_port: u16,
    /// `MTU` in bytes.
    pub mtu: Option<u16>,
    /// `FwMark`; 0 is none.
    pub fwmark: u32,
    /// `Table`.
    pub table: Table,
    /// The sections `[Peer]`.
    pub peers: Vec<Peer>,
    /// Lines that are understood but not acted upon.
    pub ignored: Vec<Fault>,
}

/// Reads a file as a whole.
///
/// # Errors
/// All faults of the file.
pub fn parse(text: &str) -> Result<File, Faults> {
    let mut reader = Reader::default();
    for (at, line) in text.lines().enumerate() {
        reader.line = at + 1;
        reader.take(line.split('#').next().unwrap_or_default().trim());
    }
    reader.finish()
}

#[derive(Default)]
enum Section {
    #[default]
    None,
    Interface,
    Peer,
    /// Already complained about.
    Unknown,
}

/// A `[Peer]` while it is read, and where it began.
#[derive(Default)]
struct OpenPeer {
    line: usize,
    public_key: Option<PublicKey>,
    preshared_key: Option<PresharedKey>,
    endpoint: Option<Endpoint>,
    allowed_ips: Vec<IpNet>,
    keepalive: Option<Duration>,
}

#[derive(Default)]
struct Reader {
    line: usize,
    section: Section,
    faults: Vec<Fault>,
    ignored: Vec<Fault>,
    private_key: Option<PrivateKey>,
    addresses: Vec<IpNet>,
    listen_port: u16,
    mtu: Option<u16>,
    fwmark: u32,
    table: Table,
    peers: Vec<OpenPeer>,
}

impl Reader {
    fn fault(&mut self, what: impl Into<String>) {
        self.faults.push(Fault { line: self.line, what: what.into() });
    }

    fn take(&mut self, line: &str) {
        if line.is_empty() {
            return;
        }
        if line.starts_with('[') {
            return self.section(line);
        }
        let Some((key, value)) = line.split_once('=') else {
            return self.fault("neither a section nor `Key = value`");
        };
        let (key, value) = (key.trim().to_ascii_lowercase(), value.trim());
        match self.section {
            Section::Interface => self.interface(&key, value),
            Section::Peer => self.peer(&key, value),
            Section::None => self.fault("stands before `[Interface]`"),
            Section::Unknown => {}
        }
    }

    fn section(&mut self, line: &str) {
        self.section = match line.to_ascii_lowercase().as_str() {
            "[interface]" => Section::Interface,
            "[peer]" => {
                self.peers.push(OpenPeer { line: self.line, ..OpenPeer::default() });
                Section::Peer
            }
            _ => {
                self.fault("unknown section; there are [Interface] and [Peer]");
                Section::Unknown
            }
        };
    }

    /// The value, or a fault.
    fn want<T>(&mut self, value: Option<T>, wanted: &str) -> Option<T> {
        if value.is_none() {
            self.fault(format!("wanted {wanted}"));
        }
        value
    }

    fn nets(&mut self, value: &str) -> Vec<IpNet> {
        let mut nets = Vec::new();
        for part in value.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let host = || part.parse::<IpAddr>().map(IpNet::from).ok();
            let net = part.parse::<IpNet>().ok().or_else(host);
            let wanted = format!("an address or prefix, not `{}`", part.escape_debug());
            nets.extend(self.want(net, &wanted));
        }
        nets
    }

    fn interface(&mut self, key: &str, value: &str) {
        match key {
            "privatekey" => {
                let key = PrivateKey::from_base64(value).ok();
                self.private_key = self.want(key, "a private key in base64, made by `wg genkey`");
            }
            "address" => {
                let nets = self.nets(value);
                self.addresses.extend(nets);
            }
            "listenport" => {
                self.listen_port = self.want(value.parse().ok(), "a port").unwrap_or_default();
            }
            "mtu" => {
                let mtu = value.parse().ok().filter(|mtu| *mtu >= 576);
                self.mtu = self.want(mtu, "an MTU of 576 to 65535 bytes");
            }
            "fwmark" => self.fwmark = self.want(mark(value), "a number or `off`").unwrap_or(0),
            "table" => {
                let table = self.want(table(value), "`auto`, `off` or a table's number");
                self.table = table.unwrap_or_default();
            }
            "dns" | "saveconfig" => {
                let what = format!("`{key}` is not acted upon");
                self.ignored.push(Fault { line: self.line, what });
            }
            "preup" | "postup" | "predown" | "postdown" => self.fault(format!(
                "`{key}` would run a command, which this program does not do; \
                 let the service manager run it before or after"
            )),
            _ => self.unknown(key, "Interface"),
        }
    }

    fn unknown(&mut self, key: &str, section: &str) {
        self.fault(format!("`{}` is unknown in [{section}]", key.escape_debug()));
    }

    fn peer(&mut self, key: &str, value: &str) {
        let Some(mut peer) = self.peers.pop() else { return };
        match key {
            "publickey" => {
                let key = PublicKey::from_base64(value).ok();
                peer.public_key = self.want(key, "a public key in base64");
            }
            "presharedkey" => {
                let key = PresharedKey::from_base64(value).ok();
                peer.preshared_key = self.want(key, "a pre-shared key in base64");
            }
            "endpoint" => {
                peer.endpoint =
                    self.want(endpoint(value), "`address:port`, `[IPv6]:port` or `name:port`");
            }
            "allowedips" => peer.allowed_ips.extend(self.nets(value).iter().map(IpNet::trunc)),
            "persistentkeepalive" => {
                let seconds = if value == "off" { Some(0) } else { value.parse::<u16>().ok() };
                let seconds = self.want(seconds, "seconds, up to 65535, or `off`");
                peer.keepalive = seconds.filter(|s| *s > 0).map(|s| Duration::from_secs(s.into()));
            }
            _ => self.unknown(key, "Peer"),
        }
        self.peers.push(peer);
    }

    fn finish(mut self) -> Result<File, Faults> {
        let mut peers: Vec<Peer> = Vec::new();
        for open in std::mem::take(&mut self.peers) {
            let faulty = self.faults.iter().any(|f| f.line > open.line);
            self.line = open.line;
            match open.public_key {
                None if !faulty => self.fault("this peer has no `PublicKey`"),
                None => {}
                Some(key) if peers.iter().any(|p| p.public_key == key) => {
                    self.fault(format!("peer {key} is there twice"));
                }
                Some(public_key) => peers.push(Peer {
                    public_key,
                    preshared_key: open.preshared_key,
                    endpoint: open.endpoint,
                    allowed_ips: open.allowed_ips,
                    keepalive: open.keepalive,
                }),
            }
        }
        if self.private_key.is_none() && self.faults.is_empty() {
            self.line = 0;
            self.fault("there is no `PrivateKey` in an [Interface]");
        }
        match self.private_key {
            Some(private_key) if self.faults.is_empty() => Ok(File {
                private_key,
                addresses: self.addresses,
                listen_port: self.listen_port,
                mtu: self.mtu,
                fwmark: self.fwmark,
                table: self.table,
                peers,
                ignored: self.ignored,
            }),
            _ => {
                self.faults.sort_by_key(|f| f.line);
                Err(Faults(self.faults))
            }
        }
    }
}

fn mark(value: &str) -> Option<u32> {
    match value.strip_prefix("0x") {
        _ if value == "off" => Some(0),
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None => value.parse().ok(),
    }
}

fn table(value: &str) -> Option<Table> {
    match value {
        "auto" => Some(Table::Auto),
        "off" => Some(Table::Off),
        number => number.parse().ok().filter(|n| *n > 0).map(Table::Number),
    }
}

fn endpoint(value: &str) -> Option<Endpoint> {
    if let Ok(address) = value.parse() {
        return Some(Endpoint::Address(address));
    }
    let (name, port) = value.rsplit_once(':')?;
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.' || c == '_';
    let named = !name.is_empty() && name.chars().all(allowed);
    named.then_some(Endpoint::Name(name.to_owned(), port.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRIVATE: &str = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=";
    const PUBLIC: &str = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";

    #[test]
    fn reads_what_wg_quick_reads() {
        let text = format!(
            "# a gateway\n[Interface]\nPrivateKey = {PRIVATE}\nAddress = 10.9.0.1/24, fd09::1/64\n\
             Address = 10.10.0.1\nListenPort=51820 # fixed\nMTU = 1380\nFwMark = 0xca6c\n\
             Table = 77\nDNS = 1.1.1.1\n\n[peer]\npublickey = {PUBLIC}\nPresharedKey={PRIVATE}\n\
             AllowedIPs = 10.9.0.7/24,fd09::/64\nEndpoint = [fd00::5]:500\nPersistentKeepalive = 25\n"
        );
        let file = parse(&text).unwrap();
        let nets = |list: &[&str]| list.iter().map(|n| n.parse().unwrap()).collect::<Vec<IpNet>>();
        assert_eq!(file.addresses, nets(&["10.9.0.1/24", "fd09::1/64", "10.10.0.1/32"]));
        assert_eq!((file.listen_port, file.mtu, file.fwmark), (51820, Some(1380), 0xca6c));
        assert_eq!(file.table, Table::Number(77));
        assert_eq!(file.ignored.iter().map(|i| i.line).collect::<Vec<_>>(), [10]);
        let peer = &file.peers[0];
        assert_eq!(peer.allowed_ips, nets(&["10.9.0.0/24", "fd09::/64"]));
        assert_eq!(peer.keepalive, Some(Duration::from_secs(25)));
        assert_eq!(peer.endpoint, Some(Endpoint::Address("[fd00::5]:500".parse().unwrap())));
        assert!(peer.preshared_key.is_some());
    }

    #[test]
    fn lists_every_fault_with_its_line() {
        let text = format!(
            "Oops = 1\n[Interface]\nPrivateKey = short\nPostUp = rm -rf /\nMTU = 12\nAddress = 1.2.3.4/33, x\n\
             [Peer]\nAllowedIPs = 10.0.0.0/8\n[Pear]\nx = y\n[Peer]\nPublicKey = {PUBLIC}\nColour = red\nnothing\n\
             Endpoint = a b:1\n"
        );
        let faults = parse(&text).unwrap_err();
        let lines: Vec<usize> = faults.0.iter().map(|f| f.line).collect();
        assert_eq!(lines, [1, 3, 4, 5, 6, 6, 9, 13, 14, 15]);
        assert!(!faults.to_string().contains("short"));
    }

    #[test]
    fn a_peer_without_a_key_and_a_peer_that_is_there_twice() {
        let text = format!(
            "[Interface]\nPrivateKey={PRIVATE}\n[Peer]\n[Peer]\nPublicKey={PUBLIC}\n[Peer]\nPublicKey={PUBLIC}\n"
        );
        let lines: Vec<usize> = parse(&text).unwrap_err().0.iter().map(|f| f.line).collect();
        assert_eq!(lines, [3, 6]);
        assert_eq!(parse("").unwrap_err().0[0].line, 0);
    }

    #[test]
    fn names_as_endpoints() {
        assert_eq!(endpoint("gw.example:7"), Some(Endpoint::Name("gw.example".into(), 7)));
        for wrong in ["", ":7", "gw", "gw:x", "gw:70000", "fd00::1:x"] {
            assert_eq!(endpoint(wrong), None, "{wrong}");
        }
    }
}
