//! The request `set`: first read as a whole, then applied to a configuration as a whole.

use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;

use crate::config::{Config, PeerConfig};
use crate::key::{PresharedKey, PrivateKey, PublicKey};

/// A line that cannot be taken.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("line {line} of the request: {what}")]
pub struct SetError {
    /// Counted from 1, without the line `set=1`.
    pub line: usize,
    /// What is wrong with it. Never holds a value, which may be a key.
    pub what: String,
}

/// A peer's part of a request.
#[derive(Debug, PartialEq, Eq)]
struct PeerChange {
    key: PublicKey,
    remove: bool,
    update_only: bool,
    preshared_key: Option<Option<PresharedKey>>,
    endpoint: Option<SocketAddr>,
    keepalive: Option<Option<Duration>>,
    replace_allowed_ips: bool,
    allowed_ips: Vec<(IpNet, bool)>,
}

/// A whole request, checked.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    private_key: Option<Option<PrivateKey>>,
    listen_port: Option<u16>,
    fwmark: Option<u32>,
    replace_peers: bool,
    peers: Vec<PeerChange>,
}

/// Reads the lines after `set=1`.
pub fn parse(text: &str) -> Result<Changes, SetError> {
    let mut changes = Changes::default();
    for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.is_empty()) {
        let fail = |what: String| SetError { line: at + 1, what };
        let (key, value) = line.split_once('=').ok_or_else(|| fail("no `=`".into()))?;
        if changes.line(key, value).is_none() {
            return Err(fail(format!(
                "`{}` is unknown here or its value is wrong",
                printable(key)
            )));
        }
    }
    Ok(changes)
}

fn printable(key: &str) -> String {
    key.chars().filter(|c| c.is_ascii_lowercase() || *c == '_').take(40).collect()
}

fn truth(value: &str) -> Option<bool> {
    match value {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    }
}

impl Changes {
    fn line(&mut self, key: &str, value: &str) -> Option<()> {
        if key == "public_key" {
            self.peers.push(PeerChange::new(PublicKey::from_hex(value).ok()?));
            return Some(());
        }
        match self.peers.last_mut() {
            Some(peer) => peer.line(key, value),
            None => self.device_line(key, value),
        }
    }

    fn device_line(&mut self, key: &str, value: &str) -> Option<()> {
        match key {
            "private_key" => {
                let key = PrivateKey::from_hex(value).ok()?;
                self.private_key = Some((!key.is_zero()).then_some(key));
            }
            "listen_port" => self.listen_port = Some(value.parse().ok()?),
            "fwmark" => self.fwmark = Some(number(value)?),
            "replace_peers" => self.replace_peers = truth(value)?,
            _ => return None,
        }
        Some(())
    }

    /// Makes the changes.
    pub fn apply(self, config: &mut Config) {
        if let Some(key) = self.private_key {
            config.private_key = key;
        }
        config.listen_port = self.listen_port.unwrap_or(config.listen_port);
        config.fwmark = self.fwmark.unwrap_or(config.fwmark);
        if self.replace_peers {
            config.peers.clear();
        }
        for change in self.peers {
            change.apply(&mut config.peers);
        }
    }
}

/// A number as C reads it: `wg` may write marks in hexadecimal.
fn number(value: &str) -> Option<u32> {
    match value.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None => value.parse().ok(),
    }
}

impl PeerChange {
    fn new(key: PublicKey) -> Self {
        Self {
            key,
            remove: false,
            update_only: false,
            preshared_key: None,
            endpoint: None,
            keepalive: None,
            replace_allowed_ips: false,
            allowed_ips: Vec::new(),
        }
    }

    fn line(&mut self, key: &str, value: &str) -> Option<()> {
        match key {
            "remove" => self.remove = truth(value)?,
            "update_only" => self.update_only = truth(value)?,
            "preshared_key" => {
                let key = PresharedKey::from_hex(value).ok()?;
                self.preshared_key = Some((!key.is_zero()).then_some(key));
            }
            "endpoint" => self.endpoint = Some(value.parse().ok()?),
            "persistent_keepalive_interval" => {
                let seconds: u16 = value.parse().ok()?;
                let interval = Duration::from_secs(seconds.into());
                self.keepalive = Some((seconds > 0).then_some(interval));
            }
            "replace_allowed_ips" => self.replace_allowed_ips = truth(value)?,
            "allowed_ip" => {
                let (net, add) = match value.strip_prefix('-') {
                    Some(net) => (net, false),
                    None => (value, true),
                };
                self.allowed_ips.push((net.parse::<IpNet>().ok()?.trunc(), add));
            }
            "protocol_version" => return (value == "1").then_some(()),
            _ => return None,
        }
        Some(())
    }

    fn apply(self, peers: &mut Vec<PeerConfig>) {
        if self.remove {
            return peers.retain(|p| p.public_key != self.key);
        }
        let at = match peers.iter().position(|p| p.public_key == self.key) {
            Some(at) => at,
            None if self.update_only => return,
            None => {
                peers.push(PeerConfig::new(self.key));
                peers.len() - 1
            }
        };
        let peer = &mut peers[at];
        if let Some(key) = self.preshared_key {
            peer.preshared_key = key;
        }
        peer.endpoint = self.endpoint.or(peer.endpoint);
        peer.keepalive = self.keepalive.unwrap_or(peer.keepalive);
        if self.replace_allowed_ips {
            peer.allowed_ips.clear();
        }
        for (net, add) in self.allowed_ips {
            if add {
                // A prefix belongs to one peer: the one that got it last.
                peers.iter_mut().for_each(|p| p.allowed_ips.retain(|n| *n != net));
                peers[at].allowed_ips.push(net);
            } else {
                peers[at].allowed_ips.retain(|n| *n != net);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "aa11111111111111111111111111111111111111111111111111111111111111";
    const B: &str = "bb22222222222222222222222222222222222222222222222222222222222222";

    fn applied(config: &mut Config, text: &str) {
        parse(text).unwrap().apply(config);
    }

    #[test]
    fn builds_and_changes_a_configuration() {
        let mut config = Config::default();
        applied(
            &mut config,
            &format!(
                "private_key={B}\nlisten_port=5\nfwmark=0x10\nreplace_peers=true\npublic_key={A}\n\
                 preshared_key={B}\nendpoint=[fd00::1%3]:9\nallowed_ip=10.0.0.9/8\n\
                 persistent_keepalive_interval=7\nprotocol_version=1\n"
            ),
        );
        assert_eq!((config.listen_port, config.fwmark), (5, 16));
        let peer = &config.peers[0];
        assert_eq!(peer.allowed_ips, ["10.0.0.0/8".parse().unwrap()]);
        assert_eq!(peer.keepalive, Some(Duration::from_secs(7)));
        assert!(peer.preshared_key.is_some());

        applied(&mut config, &format!("public_key={B}\nallowed_ip=10.0.0.0/8\n"));
        assert!(config.peers[0].allowed_ips.is_empty());
        assert_eq!(config.peers[1].allowed_ips.len(), 1);
        applied(&mut config, &format!("public_key={B}\nallowed_ip=-10.0.0.0/8\n"));
        assert!(config.peers[1].allowed_ips.is_empty());
        applied(&mut config, &format!("public_key={A}\nremove=true\n"));
        assert_eq!(config.peers.len(), 1);
        applied(&mut config, &format!("public_key={A}\nupdate_only=true\nallowed_ip=::/0\n"));
        assert_eq!(config.peers.len(), 1);
    }

    #[test]
    fn refuses_and_names_the_line() {
        for (text, line) in [
            ("listen_port=70000\n", 1),
            ("fwmark=1\nnonsense\n", 2),
            ("endpoint=1.2.3.4:5\n", 1),
            (&format!("public_key={A}\nallowed_ip=1.2.3.4/40\n") as &str, 2),
            (&format!("public_key={A}\nlisten_port=1\n"), 2),
            ("public_key=abc\n", 1),
        ] {
            assert_eq!(parse(text).unwrap_err().line, line, "{text}");
        }
    }

    #[test]
    fn an_error_does_not_show_a_key() {
        let error = parse(&format!("private_key={A}0\n")).unwrap_err();
        assert!(!error.to_string().contains("aa11"));
    }
}
