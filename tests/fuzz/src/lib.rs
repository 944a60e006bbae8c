//! What the fuzzers call: one function for each way bytes come in from outside. Each checks what
//! must hold for any input; the corpus is replayed by an ordinary test.

mod dns;

use std::net::SocketAddr;
use std::time::Instant;

pub use dns::dns;

use slicewire_core::portal::filter::{Filter, MAX_LENGTH, Record, Scalar};
use slicewire_core::portal::position::{Page, Place};
use slicewire_engine::core::device::{Device, Received};
use slicewire_engine::core::peer::{Endpoints, MIN_BUFFER};
use slicewire_engine::packet::coalesce::{Coalescer, Joins, Sink};
use slicewire_engine::packet::ip;
use slicewire_engine::packet::split::split;
use slicewire_engine::packet::vnet::{self, VnetHdr};
use slicewire_engine::{Config, PeerConfig, PrivateKey, uapi};

/// One of the functions below.
pub type Target = fn(&[u8]);

/// All of them, by the name of their corpus.
pub const ALL: [(&str, Target); 9] = [
    ("message", message),
    ("content", content),
    ("vnet", vnet),
    ("join", join),
    ("control", control),
    ("file", file),
    ("filter", filter),
    ("position", position),
    ("dns", dns),
];

/// A device with one peer, which may use 10.0.0.0/8 and fd00::/8.
fn device(own: u8, peer: u8) -> Device {
    let device = Device::default();
    let public = PrivateKey::from_bytes([peer; 32]).public();
    let peer = PeerConfig {
        endpoint: Some(address(peer)),
        allowed_ips: ["10.0.0.0/8", "fd00::/8"].iter().filter_map(|n| n.parse().ok()).collect(),
        ..PeerConfig::new(public)
    };
    let private_key = Some(PrivateKey::from_bytes([own; 32]));
    let config = Config { private_key, peers: vec![peer], ..Config::default() };
    device.apply(&config, Endpoints::Always, Instant::now());
    device
}

fn address(last: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, last], 51820))
}

/// Whatever `device` answers to `message`.
fn give(device: &Device, from: SocketAddr, message: &[u8]) -> Option<Vec<u8>> {
    let mut out = vec![0; message.len().max(MIN_BUFFER)];
    let tables = device.tables();
    match device.receive(&tables, from, message, &mut out, Instant::now()) {
        Ok(Received::Packet(len)) => {
            // Only whole packets from addresses of the peer get through.
            assert_eq!(ip::length(&out[..len]), Some(len));
            let source = ip::source(&out[..len]).expect("a packet has a source");
            assert!(tables.route(source).is_some());
            None
        }
        Ok(Received::Reply(len, _)) => Some(out[..len].to_vec()),
        Ok(Received::Nothing) | Err(_) => None,
    }
}

fn seal(device: &Device, packet: &[u8]) -> Vec<u8> {
    let mut out = vec![0; packet.len() + MIN_BUFFER];
    let tables = device.tables();
    let peer = tables.peers().next().expect("there is a peer");
    let (_, len) = peer.seal(packet, &mut out, Instant::now()).expect("its address is known");
    out.truncate(len);
    out
}

thread_local! {
    /// Two devices with a session. What they are given changes no more than which numbers they
    /// have seen, so one pair does for all inputs.
    static CONNECTED: (Device, Device) = connected();
}

fn connected() -> (Device, Device) {
    let (a, b) = (device(1, 2), device(2, 1));
    let response = give(&b, address(1), &seal(&a, &[])).expect("a response");
    let keepalive = give(&a, address(2), &response).expect("a keepalive");
    assert!(give(&b, address(1), &keepalive).is_none());
    (a, b)
}

/// Messages from the network: the first bytes say whether a real message is bent or the input is
/// taken as it is.
pub fn message(data: &[u8]) {
    let [kind, at, with, rest @ ..] = data else { return };
    let mut message = match kind % 3 {
        0 => rest.to_vec(),
        1 => seal(&device(1, 2), &[]),
        _ => CONNECTED.with(|(a, _)| seal(a, rest)),
    };
    if let Some(byte) = message.get_mut(usize::from(*at)) {
        *byte ^= with;
    }
    if kind % 3 == 1 {
        // A handshake that is taken makes a session.
        give(&device(2, 1), address(1), &message);
    } else {
        CONNECTED.with(|(_, b)| give(b, address(1), &message));
    }
}

/// What a peer with the right keys sends inside the tunnel.
pub fn content(data: &[u8]) {
    for packet in packets(data) {
        CONNECTED.with(|(a, b)| give(b, address(1), &seal(a, packet)));
    }
}

/// Vnet headers and super-packets from the device.
pub fn vnet(data: &[u8]) {
    let Some((hdr, packet)) = data.split_first_chunk::<{ vnet::LEN }>() else { return };
    let mut packet = packet.to_vec();
    let len = packet.len();
    let mut emitted = 0;
    let result = split(&VnetHdr::decode(hdr), &mut packet, |p| {
        assert!(p.len() <= len);
        emitted += 1;
    });
    assert_eq!(result.unwrap_or(0), emitted);
}

/// Packets of at most 255 bytes, each behind its length.
fn packets(data: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = data;
    std::iter::from_fn(move || {
        let (len, after) = rest.split_first()?;
        let (packet, after) = after.split_at_checked(usize::from(*len))?;
        rest = after;
        Some(packet)
    })
}

struct Again(Vec<Vec<u8>>);

impl Sink for Again {
    fn write(&mut self, hdr: &VnetHdr, packet: &[u8]) {
        let cut = split(hdr, &mut packet.to_vec(), |p| self.0.push(p.to_vec()));
        assert!(cut.is_ok(), "what is joined can be cut");
    }
}

/// Packets to be joined: none is lost, none is invented, each keeps its size.
pub fn join(data: &[u8]) {
    let mut join = Coalescer::new(Joins { tcp: true, udp: true });
    let mut again = Again(Vec::new());
    let mut sizes = Vec::new();
    for packet in packets(data) {
        let Some(len) = ip::length(packet) else { continue };
        let room = join.landing(packet.len().max(MIN_BUFFER));
        room[..packet.len()].copy_from_slice(packet);
        if len % 7 == 6 {
            join.abandon();
        } else {
            join.commit(len, &mut again);
            sizes.push(len);
        }
    }
    join.flush(&mut again);
    let mut cut: Vec<usize> = again.0.iter().map(Vec::len).collect();
    cut.sort_unstable();
    sizes.sort_unstable();
    assert_eq!(cut, sizes);
}

/// Requests on the control socket.
pub fn control(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(changes) = uapi::set::parse(text) {
        let mut config = Config::default();
        changes.apply(&mut config);
        Device::default().apply(&config, Endpoints::Always, Instant::now());
    }
}

/// Configuration files.
pub fn file(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Err(faults) = slicewire_engine::file::parse(text) {
        assert!(!faults.0.is_empty());
        assert!(faults.0.iter().all(|f| f.line <= text.lines().count()));
    }
}

/// An object with one value of each kind at every path.
struct Anything;

impl Record for Anything {
    fn show(&self, path: &[String], see: &mut dyn FnMut(Scalar<'_>)) {
        see(Scalar::Text(&path[0]));
        see(Scalar::Number(path.len() as f64));
        see(Scalar::Bool(path.len() % 2 == 0));
    }
}

/// Filters of portals.
pub fn filter(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match Filter::parse("filter", text) {
        Ok(filter) => {
            let yes = filter.matches(&Anything);
            assert_ne!(Filter::Not(Box::new(filter.clone())).matches(&Anything), yes);
            let same = filter.clone().with_paths(&mut |path| Ok::<_, ()>(path));
            assert_eq!(same, Ok(filter));
        }
        Err(fault) => assert!(!fault.message.is_empty() && fault.value.len() <= MAX_LENGTH),
    }
}

/// Tokens that portals bring back: what is taken has one form only.
pub fn position(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Some(page) = Page::parse(text) {
        assert_eq!(page.to_string(), text);
    }
    if let Some(place) = Place::parse(text) {
        assert_eq!(place.to_string(), text);
    }
}
