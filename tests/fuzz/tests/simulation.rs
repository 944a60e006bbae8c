//! Devices on a simulated network with a simulated clock: messages are lost, delayed, reordered
//! and doubled; keys are renewed; every device keeps its sessions and no nonce is used twice.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use mock_instant::MockClock;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use slicewire_engine::core::device::{Device, Received};
use slicewire_engine::core::peer::{Endpoints, MIN_BUFFER};
use slicewire_engine::{Config, Drop, MessageLimits, PeerConfig, PresharedKey, PrivateKey};

const TICK: Duration = Duration::from_millis(200);

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Flight {
    due: Duration,
    serial: u64,
    from: usize,
    to: SocketAddr,
    message: Vec<u8>,
}

/// How bad the network is.
#[derive(Clone, Copy)]
struct Weather {
    /// Of 1,000 messages.
    lost: u32,
    doubled: u32,
    /// Milliseconds.
    delay: u64,
    jitter: u64,
}

const FAIR: Weather = Weather { lost: 0, doubled: 0, delay: 20, jitter: 0 };
const FOUL: Weather = Weather { lost: 50, doubled: 20, delay: 20, jitter: 150 };

struct World {
    rng: SmallRng,
    epoch: Instant,
    now: Duration,
    serial: u64,
    flights: BinaryHeap<Reverse<Flight>>,
    weather: Weather,
    nodes: Vec<Device>,
    configs: Vec<Config>,
    addresses: Vec<SocketAddr>,
    /// Of each sender, receiver and receiver's index: the counters seen.
    nonces: BTreeMap<(usize, SocketAddr, u32), BTreeSet<u64>>,
    handshakes_seen: u64,
    sent: u64,
    /// Packets by their serial number in the payload.
    delivered: BTreeSet<u64>,
    lost_by_network: u64,
}

fn address(node: usize) -> SocketAddr {
    SocketAddr::new(IpAddr::from([192, 0, (node >> 8) as u8, node as u8]), 51820)
}

fn inner(node: usize) -> [u8; 4] {
    [10, 0, (node >> 8) as u8, node as u8]
}

fn key(node: usize) -> PrivateKey {
    let mut bytes = [3u8; 32];
    bytes[8..16].copy_from_slice(&(node as u64).to_le_bytes());
    PrivateKey::from_bytes(bytes)
}

impl World {
    /// `links` says which nodes are peers.
    fn new(seed: u64, count: usize, links: impl Fn(usize, usize) -> bool) -> Self {
        let configs: Vec<Config> = (0..count)
            .map(|i| Config {
                private_key: Some(key(i)),
                peers: (0..count)
                    .filter(|j| *j != i && (links(i, *j) || links(*j, i)))
                    .map(|j| PeerConfig {
                        endpoint: Some(address(j)),
                        allowed_ips: vec![IpAddr::from(inner(j)).into()],
                        ..PeerConfig::new(key(j).public())
                    })
                    .collect(),
                ..Config::default()
            })
            .collect();
        let world = Self {
            rng: SmallRng::seed_from_u64(seed),
            epoch: Instant::now(),
            now: Duration::ZERO,
            serial: 0,
            flights: BinaryHeap::new(),
            weather: FAIR,
            nodes: (0..count).map(|_| Device::default()).collect(),
            addresses: (0..count).map(address).collect(),
            configs,
            nonces: BTreeMap::new(),
            handshakes_seen: 0,
            sent: 0,
            delivered: BTreeSet::new(),
            lost_by_network: 0,
        };
        (0..count).for_each(|i| world.apply(i));
        world
    }

    fn instant(&self) -> Instant {
        self.epoch + self.now
    }

    fn apply(&self, node: usize) {
        self.nodes[node].apply(&self.configs[node], Endpoints::WhenChanged, self.instant());
    }

    /// Puts a message on the network and looks at it as an eavesdropper would.
    fn launch(&mut self, from: usize, to: SocketAddr, message: &[u8]) {
        match message[0] {
            4 => {
                let index = u32::from_le_bytes(message[4..8].try_into().unwrap());
                let counter = u64::from_le_bytes(message[8..16].try_into().unwrap());
                let fresh = self.nonces.entry((from, to, index)).or_default().insert(counter);
                assert!(fresh, "node {from} used counter {counter} of {index:#x} twice");
            }
            2 => self.handshakes_seen += 1,
            _ => {}
        }
        if self.rng.random_range(0..1000) < self.weather.lost {
            self.lost_by_network += u64::from(message[0] == 4 && message.len() > 32);
            return;
        }
        let copies = 1 + usize::from(self.rng.random_range(0..1000) < self.weather.doubled);
        for _ in 0..copies {
            let jitter = self.rng.random_range(0..=self.weather.jitter);
            let due = self.now + Duration::from_millis(self.weather.delay + jitter);
            self.serial += 1;
            let (serial, message) = (self.serial, message.to_vec());
            self.flights.push(Reverse(Flight { due, serial, from, to, message }));
        }
    }

    fn send(&mut self, from: usize, to: usize) {
        self.sent += 1;
        let mut packet = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, 253, 0, 0];
        packet.extend(inner(from));
        packet.extend(inner(to));
        packet.extend(self.sent.to_le_bytes());
        let mut out = [0u8; 512];
        let tables = self.nodes[from].tables();
        let peer = tables.route(IpAddr::from(inner(to))).expect("a peer");
        let (to, len) = peer.seal(&packet, &mut out, self.instant()).expect("an endpoint");
        if len > 0 {
            self.launch(from, to, &out[..len]);
        }
    }

    /// Lets time pass until `end`.
    fn run_until(&mut self, end: Duration, mut on_tick: impl FnMut(&mut Self)) {
        while self.now < end {
            let tick = self.now + TICK;
            while self.flights.peek().is_some_and(|f| f.0.due <= tick) {
                let flight = self.flights.pop().unwrap().0;
                self.advance(flight.due);
                self.land(flight);
            }
            self.advance(tick);
            for node in 0..self.nodes.len() {
                let mut due = Vec::new();
                let now = self.instant();
                self.nodes[node].tick(now, |to, message| due.push((to, message.to_vec())));
                due.into_iter().for_each(|(to, message)| self.launch(node, to, &message));
            }
            on_tick(self);
        }
    }

    fn advance(&mut self, to: Duration) {
        if to > self.now {
            MockClock::advance(to - self.now);
            self.now = to;
        }
    }

    fn land(&mut self, flight: Flight) {
        let Some(node) = self.addresses.iter().position(|a| *a == flight.to) else { return };
        let (from, tables) = (self.addresses[flight.from], self.nodes[node].tables());
        let mut out = vec![0; flight.message.len().max(MIN_BUFFER)];
        match self.nodes[node].receive(&tables, from, &flight.message, &mut out, self.instant()) {
            Ok(Received::Packet(len)) => {
                let number = u64::from_le_bytes(out[20..len].try_into().unwrap());
                assert!(self.delivered.insert(number), "packet {number} came twice");
            }
            Ok(Received::Reply(len, peer)) => {
                self.launch(node, from, &out[..len]);
                let mut out = vec![0; 65_568];
                while let Some((to, len)) = peer.as_ref().and_then(|p| p.next_queued(&mut out)) {
                    self.launch(node, to, &out[..len]);
                }
            }
            Ok(Received::Nothing) | Err(_) => {}
        }
    }

    /// Every pair of peers can talk, both ways.
    fn all_can_talk(&mut self) {
        self.weather = FAIR;
        let pairs: Vec<(usize, usize)> = (0..self.nodes.len())
            .flat_map(|i| (0..self.nodes.len()).map(move |j| (i, j)))
            .filter(|(i, j)| {
                self.configs[*i].peers.iter().any(|p| p.public_key == key(*j).public())
            })
            .collect();
        let settled = self.now + Duration::from_secs(30);
        for (from, to) in &pairs {
            self.send(*from, *to);
        }
        self.run_until(settled, |_| {});
        let before = self.sent;
        for (from, to) in &pairs {
            self.send(*from, *to);
        }
        self.run_until(settled + Duration::from_secs(2), |_| {});
        let missing = (before + 1..=self.sent).filter(|n| !self.delivered.contains(n)).count();
        assert_eq!(missing, 0, "of {} packets on a good network", pairs.len());
    }

    fn drops(&self, reason: Drop) -> u64 {
        self.nodes.iter().map(|n| n.drops().get(reason)).sum()
    }
}

/// An hour of steady traffic both ways on a good network: keys are renewed about every two
/// minutes, and not a packet is lost.
#[test]
fn rekeys_lose_nothing() {
    let mut world = World::new(1, 2, |i, j| i < j);
    // One side begins; if both did at the same moment, both would go on renewing keys.
    world.send(0, 1);
    world.run_until(Duration::from_secs(1), |_| {});
    world.run_until(Duration::from_secs(3600), |world| {
        world.send(0, 1);
        world.send(1, 0);
    });
    world.run_until(Duration::from_secs(3601), |_| {});
    assert_eq!(world.delivered.len() as u64, world.sent);
    assert!((25..=40).contains(&world.handshakes_seen), "{} handshakes", world.handshakes_seen);
}

/// On a bad network nothing is lost but what the network loses, duplicates are noticed, and
/// afterwards all is well.
#[test]
fn two_peers_in_foul_weather() {
    for seed in 0..8 {
        let mut world = World::new(seed, 2, |i, j| i < j);
        world.weather = FOUL;
        world.run_until(Duration::from_secs(900), |world| {
            world.send(0, 1);
            world.send(1, 0);
        });
        let lost = world.sent - world.delivered.len() as u64;
        assert!(
            lost <= world.lost_by_network + 60,
            "seed {seed}: {lost} lost, {} by the network",
            world.lost_by_network
        );
        assert!(world.drops(Drop::Replayed) > 0);
        world.all_can_talk();
    }
}

/// A hub with 40 spokes, and a mesh of 8.
#[test]
fn many_peers_in_foul_weather() {
    for (seed, count, hub) in [(1, 41, true), (2, 8, false)] {
        let mut world = World::new(seed, count, |i, j| if hub { i == 0 } else { i < j });
        world.weather = FOUL;
        world.run_until(Duration::from_secs(400), |world| {
            let from = world.rng.random_range(1..count);
            let to = if hub || from == 1 { 0 } else { world.rng.random_range(0..from) };
            world.send(from, to);
            world.send(to, from);
        });
        world.all_can_talk();
    }
}

/// Pre-shared keys are changed again and again, first here, then there.
#[test]
fn preshared_keys_change_under_traffic() {
    let mut world = World::new(5, 2, |i, j| i < j);
    world.all_can_talk();
    for round in 1..20u8 {
        for node in [usize::from(round % 2), usize::from((round + 1) % 2)] {
            let new = Some(PresharedKey::from_bytes([round; 32]));
            world.configs[node].peers[0].preshared_key = new;
            world.apply(node);
            let end = world.now + Duration::from_secs(20);
            world.run_until(end, |world| {
                world.send(0, 1);
                world.send(1, 0);
            });
        }
    }
    let end = world.now + Duration::from_secs(1);
    world.run_until(end, |_| {});
    let missing: Vec<u64> = (1..=world.sent).filter(|n| !world.delivered.contains(n)).collect();
    assert_eq!(missing, [], "packets lost");
}

/// Long silence, then both ways at once; and a peer that restarts without its sessions.
#[test]
fn silence_and_restart() {
    let mut world = World::new(6, 2, |i, j| i < j);
    world.all_can_talk();
    let end = world.now + Duration::from_secs(1000);
    world.run_until(end, |_| {});
    world.all_can_talk();
    world.nodes[1] = Device::default();
    world.nonces.clear();
    world.apply(1);
    world.all_can_talk();
}

/// Sessions that may carry few messages are renewed in time: nothing is lost, and none carries
/// more than it may.
#[test]
fn the_number_of_messages_renews_sessions() {
    for limited in [[true, false], [false, true], [true, true]] {
        let mut world = World::new(7, 2, |i, j| i < j);
        let limits = MessageLimits { renew: 100, refuse: 200 };
        for (node, limited) in limited.into_iter().enumerate() {
            let limits = if limited { limits } else { MessageLimits::default() };
            world.nodes[node] = Device::new(limits);
            world.apply(node);
        }
        world.all_can_talk();
        let (before, end) = (world.handshakes_seen, world.now + Duration::from_secs(300));
        world.run_until(end, |world| {
            world.send(0, 1);
            world.send(1, 0);
        });
        let end = world.now + Duration::from_secs(1);
        world.run_until(end, |_| {});
        assert_eq!(world.delivered.len() as u64, world.sent, "{limited:?}");
        // Of 1,500 messages each way, each 100 call for a handshake; time alone for three.
        let renewed = world.handshakes_seen - before;
        assert!((10..=32).contains(&renewed), "{limited:?}: {renewed} handshakes");
        let used = world.nonces.iter().filter(|((from, ..), _)| limited[*from]);
        assert!(used.clone().all(|(_, counters)| counters.last() < Some(&130)));
    }
}

/// With nobody there to renew it with, a session ends at its last message.
#[test]
fn no_session_carries_more_than_it_may() {
    let mut world = World::new(8, 2, |i, j| i < j);
    world.nodes[0] = Device::new(MessageLimits { renew: 100, refuse: 200 });
    world.apply(0);
    world.all_can_talk();
    // The other end is gone.
    world.addresses[1] = address(9);
    let end = world.now + Duration::from_secs(60);
    world.run_until(end, |world| world.send(0, 1));
    let last = world.nonces.iter().filter(|((from, ..), _)| *from == 0).map(|(_, c)| c.last());
    assert_eq!(last.max().flatten(), Some(&199));
}

/// Strangers flood a device, by one address or by many, with handshakes of a key it does not know.
/// A peer that has no session yet is let in by its cookie; one that has notices nothing.
#[test]
fn a_flood_keeps_nobody_out() {
    for senders in [1u16, 5000] {
        let mut world = World::new(9, 3, |i, _| i == 0);
        // A fourth, unknown to the first: only its handshake is taken.
        let stranger = Device::default();
        let hub = PeerConfig {
            endpoint: Some(address(0)),
            allowed_ips: vec![IpAddr::from(inner(0)).into()],
            ..PeerConfig::new(key(0).public())
        };
        let private_key = Some(key(99));
        let config = Config { private_key, peers: vec![hub], ..Config::default() };
        stranger.apply(&config, Endpoints::Always, world.instant());
        let mut init = [0u8; 512];
        let tables = stranger.tables();
        let peer = tables.peers().next().expect("the hub");
        let (_, len) = peer.seal(&[], &mut init, world.instant()).expect("an endpoint");
        world.send(1, 0);
        world.run_until(Duration::from_secs(2), |_| {});
        let mut count = 0u16;
        world.run_until(Duration::from_secs(40), |world| {
            // 5,000 a second; where their answers go is nobody's concern.
            let (tables, mut out) = (world.nodes[0].tables(), [0; MIN_BUFFER]);
            for _ in 0..1000 {
                count = (count + 1) % senders;
                let [high, low] = count.to_be_bytes();
                let from = SocketAddr::from(([198, 18, high, low], 7));
                let now = world.instant();
                let _ = world.nodes[0].receive(&tables, from, &init[..len], &mut out, now);
            }
            world.send(0, 1);
            world.send(1, 0);
            world.send(2, 0);
        });
        let end = world.now + Duration::from_secs(1);
        world.run_until(end, |_| {});
        let lost = world.sent - world.delivered.len() as u64;
        // Packets wait for their session: some hundred at most. 190 went each of three ways.
        assert!(lost <= 60, "{senders} senders: {lost} of {} lost", world.sent);
        let worked = world.nodes[0].drops().get(Drop::UnknownPeer);
        assert!(worked <= 38 * 500 + 100, "{worked} handshakes were worked on");
        world.all_can_talk();
    }
}
