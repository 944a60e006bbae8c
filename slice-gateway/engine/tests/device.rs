//! Devices that talk to each other through memory: who gets what, who is refused, and why.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use slicewire_engine::core::device::{Device, Received};
use slicewire_engine::core::peer::{Endpoints, MIN_BUFFER};
use slicewire_engine::{Config, Drop, PeerConfig, PresharedKey, PrivateKey, PublicKey};

struct Node {
    device: Device,
    config: Config,
    address: SocketAddr,
    got: Vec<Vec<u8>>,
    refused: Vec<Drop>,
}

fn key(seed: u8) -> PrivateKey {
    PrivateKey::from_bytes([seed; 32])
}

fn peer(of: &Node, prefix: &str) -> PeerConfig {
    PeerConfig {
        endpoint: Some(of.address),
        allowed_ips: vec![prefix.parse().unwrap()],
        ..PeerConfig::new(of.public())
    }
}

/// An IPv4 packet of protocol 253 with this text.
fn packet(from: &str, to: &str, text: &[u8]) -> Vec<u8> {
    let mut p = vec![0x45, 0, 0, 20 + text.len() as u8, 0, 0, 0, 0, 64, 253, 0, 0];
    for address in [from, to] {
        let IpAddr::V4(address) = address.parse().unwrap() else { unreachable!() };
        p.extend(address.octets());
    }
    p.extend(text);
    p
}

impl Node {
    fn new(seed: u8) -> Self {
        Self {
            device: Device::default(),
            config: Config { private_key: Some(key(seed)), ..Config::default() },
            address: SocketAddr::new(IpAddr::from([192, 0, 2, seed]), 51820),
            got: Vec::new(),
            refused: Vec::new(),
        }
    }

    fn public(&self) -> PublicKey {
        self.config.private_key.as_ref().unwrap().public()
    }

    fn apply(&self) {
        self.device.apply(&self.config, Endpoints::WhenChanged, Instant::now());
    }

    /// The message for `packet`, if there is one.
    fn send(&self, packet: &[u8]) -> Option<(SocketAddr, Vec<u8>)> {
        let tables = self.device.tables();
        let destination = slicewire_engine::packet::ip::destination(packet).unwrap();
        let mut out = vec![0; packet.len() + MIN_BUFFER];
        let peer = tables.route(destination).unwrap();
        let (to, len) = peer.seal(packet, &mut out, Instant::now()).unwrap();
        out.truncate(len);
        (len > 0).then_some((to, out))
    }

    /// What a message leads to: messages to be sent.
    fn receive(&mut self, from: SocketAddr, message: &[u8]) -> Vec<(SocketAddr, Vec<u8>)> {
        let tables = self.device.tables();
        let mut out = vec![0; message.len().max(MIN_BUFFER)];
        let mut sent = Vec::new();
        match self.device.receive(&tables, from, message, &mut out, Instant::now()) {
            Ok(Received::Packet(len)) => self.got.push(out[..len].to_vec()),
            Ok(Received::Reply(len, peer)) => {
                sent.push((from, out[..len].to_vec()));
                let mut out = vec![0; 65_568];
                while let Some((to, len)) = peer.as_ref().and_then(|p| p.next_queued(&mut out)) {
                    sent.push((to, out[..len].to_vec()));
                }
            }
            Ok(Received::Nothing) => {}
            Err(reason) => self.refused.push(reason),
        }
        sent
    }
}

/// Delivers messages until none is left.
fn deliver(
    nodes: &mut [&mut Node],
    first: impl IntoIterator<Item = (SocketAddr, SocketAddr, Vec<u8>)>,
) {
    let mut queue: VecDeque<_> = first.into_iter().collect();
    while let Some((from, to, message)) = queue.pop_front() {
        let Some(node) = nodes.iter_mut().find(|n| n.address == to) else { continue };
        let at = node.address;
        queue.extend(node.receive(from, &message).into_iter().map(|(to, m)| (at, to, m)));
    }
}

fn pair() -> (Node, Node) {
    let (mut a, mut b) = (Node::new(1), Node::new(2));
    a.config.peers.push(peer(&b, "10.2.0.0/16"));
    b.config.peers.push(PeerConfig { endpoint: None, ..peer(&a, "10.1.0.0/16") });
    a.apply();
    b.apply();
    (a, b)
}

fn talk(a: &mut Node, b: &mut Node, from: &str, to: &str, text: &[u8]) {
    let message = a.send(&packet(from, to, text)).map(|(to, m)| (a.address, to, m));
    deliver(&mut [a, b], message);
}

fn connected() -> (Node, Node) {
    let (mut a, mut b) = pair();
    talk(&mut a, &mut b, "10.1.0.1", "10.2.0.1", b"first");
    talk(&mut b, &mut a, "10.2.0.1", "10.1.0.1", b"back");
    assert_eq!((a.got.len(), b.got.len()), (1, 1));
    (a, b)
}

#[test]
fn packets_wait_for_the_handshake_and_arrive() {
    let (mut a, mut b) = pair();
    let first = a.send(&packet("10.1.0.1", "10.2.0.1", b"one")).unwrap();
    assert_eq!(first.1.len(), 148);
    assert!(a.send(&packet("10.1.0.1", "10.2.0.1", b"two")).is_none());
    deliver(&mut [&mut a, &mut b], [(SocketAddr::from(([192, 0, 2, 1], 51820)), first.0, first.1)]);
    let texts: Vec<&[u8]> = b.got.iter().map(|p| &p[20..]).collect();
    assert_eq!(texts, [b"one", b"two"]);
    talk(&mut b, &mut a, "10.2.0.1", "10.1.0.1", b"back");
    assert_eq!(&a.got[0][20..], b"back");
    assert!(a.refused.is_empty() && b.refused.is_empty());
    let traffic = a.device.tables().peers().next().unwrap().traffic().snapshot();
    assert_eq!(traffic.handshakes, 1);
}

#[test]
fn replays_truncations_and_bit_flips_are_refused() {
    let (a, mut b) = connected();
    let (_, message) = a.send(&packet("10.1.0.1", "10.2.0.1", b"once")).unwrap();
    let from = a.address;
    b.receive(from, &message);
    assert_eq!(b.got.len(), 2);
    b.receive(from, &message);
    for len in 0..message.len() {
        b.receive(from, &message[..len]);
    }
    let (_, fresh) = a.send(&packet("10.1.0.1", "10.2.0.1", b"twice")).unwrap();
    for bit in 0..fresh.len() * 8 {
        let mut broken = fresh.clone();
        broken[bit / 8] ^= 1 << (bit % 8);
        b.receive(from, &broken);
    }
    assert_eq!(b.got.len(), 2);
    assert_eq!(b.refused[0], Drop::Replayed);
    assert_eq!(b.refused.len(), 1 + message.len() + fresh.len() * 8);
    b.receive(from, &fresh);
    assert_eq!(b.got.len(), 3);
}

#[test]
fn reordered_packets_arrive() {
    let (a, mut b) = connected();
    let mut messages: Vec<_> =
        (0..100).map(|i| a.send(&packet("10.1.0.1", "10.2.0.1", &[i])).unwrap().1).collect();
    messages.reverse();
    for message in &messages {
        b.receive(a.address, message);
    }
    assert_eq!(b.got.len(), 101);
}

#[test]
fn garbage_inside_the_tunnel_is_dropped_and_counted() {
    let (a, mut b) = connected();
    let mut send = |packet: &[u8]| {
        let mut out = vec![0; packet.len() + MIN_BUFFER];
        let tables = a.device.tables();
        let peer = tables.peers().next().unwrap();
        let (_, len) = peer.seal(packet, &mut out, Instant::now()).unwrap();
        b.receive(a.address, &out[..len]);
    };
    send(&packet("10.9.0.1", "10.2.0.1", b"not mine"));
    send(&packet("10.2.0.1", "10.2.0.1", b"yours"));
    send(&[0x45; 12]);
    send(&[0x99; 60]);
    let mut lies = packet("10.1.0.1", "10.2.0.1", b"longer than it is");
    lies[3] += 1;
    send(&lies);
    let mut short = packet("10.1.0.1", "10.2.0.1", b"");
    short[3] = 19;
    send(&short);
    use Drop::{MalformedContent as Bad, SpoofedSource as Spoofed};
    assert_eq!(b.refused, [Spoofed, Spoofed, Bad, Bad, Bad, Bad]);
    assert_eq!(b.device.drops().get(Spoofed), 2);
    assert_eq!(b.got.len(), 1);
}

#[test]
fn both_sides_roam() {
    let (mut a, mut b) = connected();
    a.address = "[2001:db8::9]:7777".parse().unwrap();
    talk(&mut a, &mut b, "10.1.0.1", "10.2.0.1", b"moved");
    talk(&mut b, &mut a, "10.2.0.1", "10.1.0.1", b"found you");
    assert_eq!(a.got.len(), 2);
    // The same configuration again does not undo it; another endpoint does.
    b.apply();
    assert_eq!(b.device.tables().peers().next().unwrap().endpoint(), Some(a.address));
    b.config.peers[0].endpoint = Some("192.0.2.77:1".parse().unwrap());
    b.apply();
    assert_eq!(b.device.tables().peers().next().unwrap().endpoint(), b.config.peers[0].endpoint);
}

#[test]
fn an_unknown_key_and_a_wrong_preshared_key_do_not_get_in() {
    let (mut a, mut b) = pair();
    b.config.peers.clear();
    b.apply();
    talk(&mut a, &mut b, "10.1.0.1", "10.2.0.1", b"hello");
    assert_eq!(b.refused, [Drop::UnknownPeer]);

    let (mut a, mut b) = pair();
    a.config.peers[0].preshared_key = Some(PresharedKey::from_bytes([7; 32]));
    a.apply();
    talk(&mut a, &mut b, "10.1.0.1", "10.2.0.1", b"hello");
    assert!(b.got.is_empty());
    assert_eq!(a.refused, [Drop::Unauthenticated]);
}

#[test]
fn a_changed_configuration_leaves_other_peers_sessions_alone() {
    let (a, mut b) = connected();
    let c = Node::new(3);
    b.config.peers.insert(0, peer(&c, "10.3.0.0/16"));
    b.config.peers[1].keepalive = Some(Duration::from_secs(9));
    b.config.peers[1].allowed_ips.push("10.11.0.0/16".parse().unwrap());
    b.apply();
    let message = a.send(&packet("10.11.0.1", "10.2.0.1", b"same session")).unwrap();
    assert_eq!(message.1[0], 4);
    assert!(b.receive(a.address, &message.1).is_empty());
    assert_eq!(b.got.len(), 2);
    b.config.peers.remove(1);
    b.apply();
    b.receive(a.address, &message.1);
    assert_eq!(b.refused, [Drop::UnknownIndex]);
}

/// A pre-shared key is changed on one side, then on the other; not a packet is lost meanwhile.
#[test]
fn a_new_preshared_key_costs_no_packet() {
    let (mut a, mut b) = connected();
    let mut sent = 1;
    let mut exchange = |a: &mut Node, b: &mut Node| {
        sent += 1;
        talk(a, b, "10.1.0.1", "10.2.0.1", b"forth");
        talk(b, a, "10.2.0.1", "10.1.0.1", b"back");
        assert_eq!((a.got.len(), b.got.len()), (sent, sent));
    };
    let tick = |a: &mut Node, b: &mut Node| {
        for _ in 0..2 {
            let mut due = Vec::new();
            a.device.tick(Instant::now(), |to, m| due.push((a.address, to, m.to_vec())));
            deliver(&mut [a, b], due);
            let mut due = Vec::new();
            b.device.tick(Instant::now(), |to, m| due.push((b.address, to, m.to_vec())));
            deliver(&mut [a, b], due);
        }
    };
    let handshakes =
        |n: &Node| n.device.tables().peers().next().unwrap().traffic().snapshot().handshakes;
    for round in 1..4u8 {
        let new = Some(PresharedKey::from_bytes([round; 32]));
        a.config.peers[0].preshared_key = new.clone();
        a.apply();
        exchange(&mut a, &mut b);
        tick(&mut a, &mut b);
        exchange(&mut a, &mut b);
        let before = handshakes(&b);
        b.config.peers[0].preshared_key = new;
        b.apply();
        exchange(&mut a, &mut b);
        tick(&mut a, &mut b);
        exchange(&mut a, &mut b);
        tick(&mut a, &mut b);
        exchange(&mut a, &mut b);
        assert!(handshakes(&b) > before, "round {round}: no handshake with the new key");
    }
}

#[test]
fn another_private_key_ends_all_sessions() {
    let (a, mut b) = connected();
    let (_, message) = a.send(&packet("10.1.0.1", "10.2.0.1", b"for the old key")).unwrap();
    b.config.private_key = Some(key(8));
    b.apply();
    b.receive(a.address, &message);
    let (_, message) = b.send(&packet("10.2.0.1", "10.1.0.1", b"who am I")).unwrap();
    assert_eq!((b.got.len(), b.refused.as_slice(), message[0]), (1, &[Drop::UnknownIndex][..], 1));
}

#[test]
fn a_flood_of_handshakes_costs_little_work_and_few_cookies() {
    let (mut a, mut b) = connected();
    let stranger = {
        let mut c = Node::new(3);
        c.config.peers.push(peer(&b, "10.2.0.0/16"));
        c.apply();
        c
    };
    let (_, init) = stranger.send(&packet("10.3.0.1", "10.2.0.1", b"let me in")).unwrap();
    let started = Instant::now();
    let flood = |b: &mut Node, senders: u16, count: u16| {
        let answers = (0..count).flat_map(|i| {
            let [high, low] = (i % senders).to_be_bytes();
            b.receive(SocketAddr::from(([198, 18, high, low], 7)), &init)
        });
        answers.filter(|(_, m)| m[0] == 3).count()
    };
    // What one sender gets, and then all together, however many they are.
    let (one, all) = (flood(&mut b, 1, 5000), flood(&mut b, 5000, 5000));
    let seconds = started.elapsed().as_secs_f64();
    assert!((1..=10 + (10.0 * seconds) as usize).contains(&one), "{one} cookies for one");
    assert!((80..=100 + (1000.0 * seconds) as usize).contains(&all), "{all} cookies for all");
    let worked = b.device.drops().get(Drop::UnknownPeer);
    assert!((40..=140 + (500.0 * seconds) as u64).contains(&worked), "{worked} worked on");
    assert!(b.device.drops().get(Drop::RateLimited) > 5000);
    // An established peer does not notice.
    talk(&mut a, &mut b, "10.1.0.1", "10.2.0.1", b"still here");
    assert_eq!(b.got.len(), 2);
}

#[test]
fn a_thousand_peers() {
    let mut hub = Node::new(1);
    let mut spokes: Vec<Node> = (0..1000u32)
        .map(|i| {
            let mut seed = [9u8; 32];
            seed[8..12].copy_from_slice(&i.to_le_bytes());
            let mut node = Node::new(2);
            node.config.private_key = Some(PrivateKey::from_bytes(seed));
            node.address = SocketAddr::new(IpAddr::from([198, 18, (i >> 8) as u8, i as u8]), 9);
            node.config.peers.push(peer(&hub, "10.0.0.0/8"));
            node.apply();
            node
        })
        .collect();
    for (i, spoke) in spokes.iter().enumerate() {
        hub.config.peers.push(PeerConfig {
            endpoint: None,
            ..peer(spoke, &format!("10.1.{}.{}/32", i >> 8, i & 255))
        });
    }
    hub.apply();
    // Some at a time: more in one second would be asked for cookies.
    for i in (0..1000).step_by(37) {
        let from = format!("10.1.{}.{}", i >> 8, i & 255);
        talk(&mut spokes[i], &mut hub, &from, "10.0.0.1", b"hi");
        talk(&mut hub, &mut spokes[i], "10.0.0.1", &from, b"hi yourself");
        assert_eq!(spokes[i].got.len(), 1, "spoke {i}");
    }
}
