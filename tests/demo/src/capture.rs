//! What somebody sees who listens between the clusters.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// Link type of Ethernet in pcap files.
const ETHERNET: u32 = 1;
/// Bytes before a packet: time, time, captured length, length.
const RECORD: usize = 16;

/// A running capture.
pub(crate) struct Capture {
    tcpdump: Child,
    file: PathBuf,
}

impl Capture {
    /// Starts listening on an interface of a network namespace.
    ///
    /// # Errors
    /// tcpdump does not start.
    pub(crate) fn start(netns: &str, interface: &str, file: &Path) -> Result<Self> {
        let tcpdump = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{netns}"))
            .args(["tcpdump", "-i", interface, "-n", "-U", "-s", "256", "-Z", "root", "-w"])
            .arg(file)
            .args(["udp", "or", "icmp", "or", "icmp6"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot run tcpdump")?;
        // It says when it listens on standard error only, in words that change.
        std::thread::sleep(Duration::from_millis(700));
        Ok(Self { tcpdump, file: file.to_owned() })
    }

    /// Stops listening; the packets.
    ///
    /// # Errors
    /// The capture cannot be read.
    pub(crate) fn stop(mut self) -> Result<Vec<Packet>> {
        std::thread::sleep(Duration::from_millis(300));
        self.tcpdump.kill()?;
        self.tcpdump.wait()?;
        let mut bytes = Vec::new();
        File::open(&self.file)
            .and_then(|mut f| f.read_to_end(&mut bytes))
            .with_context(|| format!("cannot read {}", self.file.display()))?;
        packets(&bytes)
    }
}

/// An IP packet as captured, cut off behind some bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Packet {
    /// From where.
    pub(crate) source: IpAddr,
    /// To where.
    pub(crate) destination: IpAddr,
    /// Its UDP payload; `None` where it is not UDP.
    pub(crate) udp: Option<Vec<u8>>,
    /// The whole IP packet.
    pub(crate) bytes: Vec<u8>,
}

/// What the packets between two sets of machines are.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Census {
    /// WireGuard handshakes: initiations, responses, cookies.
    pub(crate) handshakes: usize,
    /// WireGuard transport data.
    pub(crate) data: usize,
    /// Anything else.
    pub(crate) foreign: usize,
    /// Packets in which an inner address pair can be read.
    pub(crate) readable: usize,
}

/// Sorts the packets that cross from one side to the other, either way.
///
/// A WireGuard message begins with its type, 1 to 4, and three zero bytes
/// (<https://www.wireguard.com/protocol/>). `inner` are addresses inside the tunnel.
pub(crate) fn census(
    packets: &[Packet],
    one: &BTreeSet<IpAddr>,
    other: &BTreeSet<IpAddr>,
    inner: (IpAddr, IpAddr),
) -> Census {
    let crosses = |p: &&Packet| {
        (one.contains(&p.source) && other.contains(&p.destination))
            || (other.contains(&p.source) && one.contains(&p.destination))
    };
    let there = [octets(inner.0), octets(inner.1)].concat();
    let back = [octets(inner.1), octets(inner.0)].concat();
    let mut census = Census::default();
    for packet in packets.iter().filter(crosses) {
        match packet.udp.as_deref() {
            Some([1..=3, 0, 0, 0, ..]) => census.handshakes += 1,
            Some([4, 0, 0, 0, ..]) => census.data += 1,
            _ => census.foreign += 1,
        }
        let holds = |pair: &[u8]| packet.bytes.windows(pair.len()).any(|w| w == pair);
        if holds(&there) || holds(&back) {
            census.readable += 1;
        }
    }
    census
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

/// The IP packets of a pcap file (classic format, this machine's byte order).
fn packets(file: &[u8]) -> Result<Vec<Packet>> {
    let word = |at: usize| -> Option<u32> {
        Some(u32::from_ne_bytes(file.get(at..at + 4)?.try_into().ok()?))
    };
    if word(0) != Some(0xa1b2_c3d4) || word(20) != Some(ETHERNET) {
        bail!("the capture is no pcap file of Ethernet frames");
    }
    let mut found = Vec::new();
    let mut at = 24;
    // A capture that was stopped may end within a record.
    while let Some(length) = word(at + 8) {
        let begin = at + RECORD;
        let end = begin + length as usize;
        let Some(frame) = file.get(begin..end) else { break };
        found.extend(ip_packet(frame));
        at = end;
    }
    Ok(found)
}

fn ip_packet(frame: &[u8]) -> Option<Packet> {
    let ip = frame.get(14..)?;
    match frame.get(12..14)? {
        [0x08, 0x00] => {
            let header = usize::from(ip.first()? & 0x0f) * 4;
            let address = |at: usize| -> Option<IpAddr> {
                let bytes: [u8; 4] = ip.get(at..at + 4)?.try_into().ok()?;
                Some(Ipv4Addr::from(bytes).into())
            };
            Some(packet(ip, *ip.get(9)?, header, address(12)?, address(16)?))
        }
        [0x86, 0xdd] => {
            let address = |at: usize| -> Option<IpAddr> {
                let bytes: [u8; 16] = ip.get(at..at + 16)?.try_into().ok()?;
                Some(Ipv6Addr::from(bytes).into())
            };
            Some(packet(ip, *ip.get(6)?, 40, address(8)?, address(24)?))
        }
        _ => None,
    }
}

fn packet(ip: &[u8], protocol: u8, header: usize, source: IpAddr, destination: IpAddr) -> Packet {
    let udp = (protocol == 17).then(|| ip.get(header + 8..).unwrap_or_default().to_vec());
    Packet { source, destination, udp, bytes: ip.to_vec() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// A pcap file with one Ethernet frame that holds a UDP packet over IPv4.
    fn file(payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend([0x08, 0x00, 0x45]);
        frame.extend([0; 8]);
        frame.extend([17, 0, 0, 198, 18, 0, 1, 198, 18, 0, 2]);
        frame.extend([0; 8]);
        frame.extend(payload);
        let mut file = 0xa1b2_c3d4_u32.to_ne_bytes().to_vec();
        file.extend([0; 16]);
        file.extend(ETHERNET.to_ne_bytes());
        file.extend([0; 8]);
        file.extend(u32::try_from(frame.len()).unwrap().to_ne_bytes());
        file.extend([0; 4]);
        file.extend(frame);
        file
    }

    fn counted(payload: &[u8]) -> Census {
        let packets = packets(&file(payload)).unwrap();
        assert_eq!(packets.len(), 1);
        let side = |a: &str| BTreeSet::from([ip(a)]);
        census(
            &packets,
            &side("198.18.0.1"),
            &side("198.18.0.2"),
            (ip("10.77.0.2"), ip("10.77.9.3")),
        )
    }

    #[test]
    fn wireguard_messages_are_told_by_their_type() {
        assert_eq!(counted(&[1, 0, 0, 0, 9]).handshakes, 1);
        assert_eq!(counted(&[4, 0, 0, 0, 9]).data, 1);
        assert_eq!(counted(&[4, 1, 0, 0, 9]).foreign, 1);
        assert_eq!(counted(&[]).foreign, 1);
    }

    #[test]
    fn inner_addresses_in_clear_are_noticed() {
        let clear = [0, 0, 10, 77, 9, 3, 10, 77, 0, 2];
        assert_eq!(counted(&clear), Census { foreign: 1, readable: 1, ..Census::default() });
        assert_eq!(counted(&[4, 0, 0, 0, 10, 77, 9, 3]).readable, 0);
    }

    #[test]
    fn packets_of_others_are_not_counted() {
        let packets = packets(&file(&[4, 0, 0, 0])).unwrap();
        let nobody = BTreeSet::new();
        let inner = (ip("10.77.0.2"), ip("10.77.9.3"));
        assert_eq!(census(&packets, &nobody, &nobody, inner), Census::default());
    }
}
