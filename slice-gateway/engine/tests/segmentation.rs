//! Cutting and joining, checked against a plain model of the headers: whatever the device cuts
//! are whole, right packets, and whatever it joins is cut into the same packets again.

use proptest::prelude::*;
use slicewire_engine::packet::coalesce::{Coalescer, Joins, Sink};
use slicewire_engine::packet::split::split;
use slicewire_engine::packet::vnet::{self, VnetHdr};

/// RFC 1071 as it is written there; shares nothing with the engine's.
fn checksum(parts: &[&[u8]]) -> u16 {
    let data: Vec<u8> = parts.concat();
    let mut sum = 0u32;
    for pair in data.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
    }
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// What a packet is made of.
#[derive(Debug, Clone)]
struct Shape {
    v6: bool,
    tcp: bool,
    /// Bytes of an IPv6 destination-options header, 0 or 8 times something.
    extension: usize,
    /// Bytes of TCP options.
    options: usize,
    flags: u8,
    seq: u32,
    id: u16,
    /// "Don't fragment": then the identification has no meaning (RFC 6864).
    df: bool,
    ports: (u16, u16),
    payload: Vec<u8>,
    gso: u16,
}

impl Shape {
    fn ip_len(&self) -> usize {
        if self.v6 { 40 + self.extension } else { 20 }
    }

    fn transport_len(&self) -> usize {
        if self.tcp { 20 + self.options } else { 8 }
    }

    /// The packet, with all checksums if `complete`, else with the pseudo-header's sum.
    fn build(&self, payload: &[u8], complete: bool) -> Vec<u8> {
        let protocol = if self.tcp { 6u8 } else { 17 };
        let transport_len = self.transport_len() + payload.len();
        let mut p = if self.v6 {
            self.ipv6(protocol, transport_len)
        } else {
            self.ipv4(protocol, transport_len)
        };
        let start = p.len();
        p.extend(self.ports.0.to_be_bytes());
        p.extend(self.ports.1.to_be_bytes());
        if self.tcp {
            p.extend(self.seq.to_be_bytes());
            p.extend(0x0102_0304u32.to_be_bytes());
            p.push((self.transport_len() as u8 / 4) << 4);
            p.push(self.flags);
            p.extend([0x12, 0x34, 0, 0, 0, 0]);
            p.extend((0..self.options).map(|i| i as u8 | 1));
        } else {
            p.extend((transport_len as u16).to_be_bytes());
            p.extend([0, 0]);
        }
        p.extend(payload);
        let addresses = if self.v6 { &p[8..40] } else { &p[12..20] };
        let pseudo = [&[0, protocol][..], &(transport_len as u32).to_be_bytes()].concat();
        let sum = if complete {
            let sum = checksum(&[addresses, &pseudo, &p[start..]]);
            if sum == 0 && !self.tcp { 0xffff } else { sum }
        } else {
            !checksum(&[addresses, &pseudo])
        };
        let at = start + if self.tcp { 16 } else { 6 };
        p[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        p
    }

    fn ipv4(&self, protocol: u8, transport_len: usize) -> Vec<u8> {
        let mut p = vec![0x45, 0x28];
        p.extend(((20 + transport_len) as u16).to_be_bytes());
        p.extend(self.id.to_be_bytes());
        p.extend([u8::from(self.df) << 6, 0, 63, protocol, 0, 0, 10, 1, 2, 3, 10, 4, 5, 6]);
        let sum = checksum(&[&p]);
        p[10..12].copy_from_slice(&sum.to_be_bytes());
        p
    }

    fn ipv6(&self, protocol: u8, transport_len: usize) -> Vec<u8> {
        let mut p = vec![0x62, 0x81, 0x23, 0x45];
        p.extend(((self.extension + transport_len) as u16).to_be_bytes());
        p.push(if self.extension > 0 { 60 } else { protocol });
        p.push(61);
        p.extend((0..32).map(|i| i * 3));
        if self.extension > 0 {
            p.extend([protocol, (self.extension / 8 - 1) as u8, 1, (self.extension - 4) as u8]);
            p.extend(vec![0; self.extension - 4]);
        }
        p
    }

    fn vnet(&self) -> VnetHdr {
        VnetHdr {
            flags: vnet::NEEDS_CSUM,
            gso_type: match (self.tcp, self.v6) {
                (true, false) => vnet::GSO_TCPV4,
                (true, true) => vnet::GSO_TCPV6,
                (false, _) => vnet::GSO_UDP_L4,
            },
            hdr_len: 0,
            gso_size: self.gso,
            csum_start: self.ip_len() as u16,
            csum_offset: if self.tcp { 16 } else { 6 },
        }
    }

    /// What the wire should see, by the plain model.
    fn wire(&self) -> Vec<Vec<u8>> {
        let chunks: Vec<&[u8]> = self.payload.chunks(self.gso.into()).collect();
        let last = chunks.len() - 1;
        let packet = |(i, chunk): (usize, &&[u8])| {
            let mut one = self.clone();
            one.id = self.id.wrapping_add(i as u16);
            one.seq = self.seq.wrapping_add((i * usize::from(self.gso)) as u32);
            if i < last {
                one.flags &= !0x09;
            }
            if i > 0 {
                one.flags &= !0x80;
            }
            one.build(chunk, true)
        };
        chunks.iter().enumerate().map(packet).collect()
    }
}

fn shape() -> impl Strategy<Value = Shape> {
    let ids = (any::<u32>(), any::<u16>(), any::<bool>());
    let head = (any::<bool>(), any::<bool>(), 0usize..3, 0usize..=10, ids);
    let flags = prop_oneof![Just(0x10u8), Just(0x18), Just(0x90), Just(0x11), any::<u8>()];
    (head, flags, 1u16..1500, prop::collection::vec(any::<u8>(), 1..6_000), 0u16..3).prop_map(
        |((v6, tcp, ext, options, (seq, id, df)), flags, gso, payload, port)| Shape {
            v6,
            tcp,
            extension: if v6 { ext * 8 } else { 0 },
            options: options * 4,
            flags,
            seq,
            id,
            df,
            ports: (4000 + port, 53),
            payload,
            gso,
        },
    )
}

fn cut(hdr: &VnetHdr, packet: &[u8]) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    let count = split(hdr, &mut packet.to_vec(), |p| out.push(p.to_vec()));
    assert_eq!(count, Ok(out.len()));
    out
}

/// Keeps what would be written to the device.
#[derive(Default)]
struct Written(Vec<(VnetHdr, Vec<u8>)>);

impl Sink for Written {
    fn write(&mut self, hdr: &VnetHdr, packet: &[u8]) {
        self.0.push((*hdr, packet.to_vec()));
    }
}

fn join(packets: &[Vec<u8>], joins: Joins) -> Written {
    let (mut join, mut written) = (Coalescer::new(joins), Written::default());
    for packet in packets {
        let room = join.landing(packet.len().max(148));
        room.fill(0xee);
        room[..packet.len()].copy_from_slice(packet);
        join.commit(packet.len(), &mut written);
    }
    join.flush(&mut written);
    written
}

const ALL: Joins = Joins { tcp: true, udp: true };

/// A packet without what has no meaning: the identification of one that is never fragmented.
fn meaning(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    if packet[0] == 0x45 {
        assert_eq!(checksum(&[&packet[..20]]), 0, "IPv4 header checksum");
        if packet[6] & 0x40 != 0 {
            packet[4..6].fill(0);
            packet[10..12].fill(0);
        }
    }
    packet
}

/// A flow's identity: addresses, protocol and ports, of packets without extension headers.
fn flow(packet: &[u8]) -> Vec<u8> {
    if packet[0] >> 4 == 4 {
        [&packet[9..10], &packet[12..24]].concat()
    } else {
        [&packet[6..7], &packet[8..44]].concat()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn cuts_into_what_the_model_says(shape in shape()) {
        let super_packet = shape.build(&shape.payload, false);
        prop_assert_eq!(cut(&shape.vnet(), &super_packet), shape.wire());
    }

    /// Flows mixed in any order, with broken packets in between: every flow comes out in order,
    /// byte by byte.
    #[test]
    fn joined_is_cut_into_the_same(
        shapes in prop::collection::vec(shape(), 1..12),
        order in prop::collection::vec(0usize..12, 0..300),
        broken in prop::collection::vec(0usize..300, 0..4),
    ) {
        let mut flows: Vec<_> = shapes.iter().map(|s| s.wire().into_iter().take(80)).collect();
        let count = flows.len();
        let mut packets: Vec<Vec<u8>> =
            order.iter().filter_map(|i| flows[i % count].next()).collect();
        for at in broken {
            if let Some(packet) = packets.get_mut(at) {
                let last = packet.len() - 1;
                packet[last] ^= 0x55;
            }
        }
        let written = join(&packets, ALL);
        let again: Vec<Vec<u8>> = written.0.iter().flat_map(|(hdr, p)| cut(hdr, p)).collect();
        prop_assert_eq!(again.len(), packets.len());
        let of = |list: &[Vec<u8>], key: &[u8]| -> Vec<Vec<u8>> {
            list.iter().filter(|p| flow(p) == key).map(|p| meaning(p)).collect()
        };
        for packet in &packets {
            let key = flow(packet);
            prop_assert_eq!(of(&again, &key), of(&packets, &key));
        }
    }

    /// Nothing from outside makes it panic, and what it emits stays inside the packet.
    #[test]
    fn survives_any_vnet_header(
        hdr in any::<[u8; vnet::LEN]>(),
        kind in prop::sample::select(vec![0u8, 1, 4, 5, 0x81, 0x84]),
        packet in prop::collection::vec(any::<u8>(), 0..3000),
        first in prop::sample::select(vec![0x45u8, 0x60, 0x4f, 0]),
    ) {
        let mut hdr = VnetHdr::decode(&hdr);
        hdr.gso_type = kind;
        let mut packet = packet;
        if let Some(byte) = packet.first_mut() {
            *byte = first;
        }
        let len = packet.len();
        let mut most = 0;
        let _ = split(&hdr, &mut packet, |p| most = most.max(p.len()));
        prop_assert!(most <= len);
    }

    #[test]
    fn survives_any_packets(
        packets in prop::collection::vec(prop::collection::vec(any::<u8>(), 20..200), 0..40),
        first in prop::sample::select(vec![0x45u8, 0x60]),
        protocol in prop::sample::select(vec![6u8, 17]),
    ) {
        let packets: Vec<Vec<u8>> = packets.into_iter().map(|mut p| {
            p[0] = first;
            p[if first == 0x45 { 9 } else { 6 }] = protocol;
            p
        }).collect();
        let written = join(&packets, ALL);
        prop_assert_eq!(written.0.len(), packets.len());
    }
}

fn stream(payload: usize) -> Shape {
    Shape {
        v6: false,
        tcp: true,
        extension: 0,
        options: 12,
        flags: 0x18,
        seq: u32::MAX - 5000,
        id: u16::MAX - 3,
        df: true,
        ports: (4001, 80),
        payload: (0..payload).map(|i| (i * 7 % 251) as u8).collect(),
        gso: 1368,
    }
}

#[test]
fn a_stream_becomes_one_super_packet_again() {
    let shape = stream(40_000);
    let written = join(&shape.wire(), ALL);
    assert_eq!(written.0.len(), 1);
    let (hdr, packet) = &written.0[0];
    assert_eq!(*hdr, VnetHdr { hdr_len: 52, ..shape.vnet() });
    assert_eq!(*packet, shape.build(&shape.payload, false));
}

#[test]
fn datagrams_of_one_size_become_one_super_packet() {
    let shape = Shape { tcp: false, v6: true, gso: 200, ..stream(200 * 40 + 7) };
    let written = join(&shape.wire(), ALL);
    assert_eq!(written.0.len(), 1);
    assert_eq!(written.0[0].1, shape.build(&shape.payload, false));
}

#[test]
fn without_offload_nothing_is_joined() {
    let wire = stream(20_000).wire();
    let written = join(&wire, Joins::default());
    assert_eq!(written.0, wire.iter().map(|p| (VnetHdr::default(), p.clone())).collect::<Vec<_>>());
}

#[test]
fn a_gap_a_retransmission_and_other_options_are_not_joined() {
    let mut wire = stream(1368 * 6).wire();
    wire.remove(2);
    wire.swap(3, 4);
    let written = join(&wire, ALL);
    let again: Vec<Vec<u8>> = written.0.iter().flat_map(|(hdr, p)| cut(hdr, p)).collect();
    assert_eq!(again, wire);
    // 0 1 | 3 | 5 (pushes) | 4
    assert_eq!(written.0.len(), 4);
}
