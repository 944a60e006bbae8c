//! A device: which peer a packet or message belongs to, and what is done with it.

use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use boringtun::noise::handshake::parse_handshake_anon;
use boringtun::noise::{Packet, Tunn, TunnResult};

use super::peer::{Endpoints, MIN_BUFFER, MessageLimits, Opened, Peer};
use super::tables::{Identity, Tables};
use crate::config::Config;
use crate::counters::{Drop, Drops};
use crate::key::PublicKey;
use crate::packet::ip;

/// What a message from the network led to.
pub enum Received {
    /// A packet of this many bytes is in the buffer, from an address its peer may use.
    Packet(usize),
    /// A message of this many bytes is in the buffer and goes back to the sender. With a peer:
    /// afterwards what waited for a session of that peer can be sent.
    Reply(usize, Option<Arc<Peer>>),
    /// Nothing to pass on.
    Nothing,
}

/// The peers, keys and prefixes of one device. All methods may be called from several threads.
#[derive(Default)]
pub struct Device {
    tables: RwLock<Arc<Tables>>,
    drops: Drops,
}

impl Device {
    /// A device without keys and peers, whose sessions carry no more than `limits` says.
    pub fn new(limits: MessageLimits) -> Self {
        Self { tables: RwLock::new(Arc::new(Tables::new(limits))), drops: Drops::default() }
    }

    /// Makes the device what `config` says. Peers that stay keep their sessions.
    pub fn apply(&self, config: &Config, endpoints: Endpoints, now: Instant) {
        let next = Arc::new(self.tables().next(config, endpoints, now));
        *self.tables.write().unwrap_or_else(PoisonError::into_inner) = next;
    }

    /// What holds now; take it once a batch.
    pub fn tables(&self) -> Arc<Tables> {
        self.tables.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Dropped packets by reason.
    pub fn drops(&self) -> &Drops {
        &self.drops
    }

    /// Takes a message from the network. `out` has room for the whole message, at least
    /// [`MIN_BUFFER`].
    pub fn receive(
        &self,
        tables: &Tables,
        from: SocketAddr,
        message: &[u8],
        out: &mut [u8],
        now: Instant,
    ) -> Result<Received, Drop> {
        let result = match message.first() {
            Some(4) => receive_data(tables, from, message, out, now),
            _ => receive_handshake(tables, from, message, out, now),
        };
        if let Err(reason) = result {
            self.drops.add(reason, 1);
        }
        result
    }

    /// Lets time pass. Call at least four times a second.
    pub fn tick(&self, now: Instant, mut send: impl FnMut(SocketAddr, &[u8])) {
        let tables = self.tables();
        let Some(identity) = &tables.identity else { return };
        identity.limiter.reset_count();
        let mut out = [0u8; MIN_BUFFER];
        for peer in tables.peers() {
            if let Some((to, len)) = peer.tick(&mut out, now) {
                send(to, &out[..len]);
            }
        }
    }
}

fn receive_data(
    tables: &Tables,
    from: SocketAddr,
    message: &[u8],
    out: &mut [u8],
    now: Instant,
) -> Result<Received, Drop> {
    let index = match message.get(4..8).and_then(|b| b.first_chunk::<4>()) {
        Some(index) => u32::from_le_bytes(*index) >> 8,
        None => return Err(Drop::MalformedMessage),
    };
    let peer = tables.peer(index).ok_or(Drop::UnknownIndex)?;
    match peer.open(Some(index), from, message, out, now)? {
        Opened::Packet(len) => {
            let packet = &out[..len];
            let source = ip::source(packet).ok_or(Drop::MalformedContent)?;
            if ip::length(packet) != Some(len) {
                return Err(Drop::MalformedContent);
            }
            if !tables.may_send_from(peer, source) {
                return Err(Drop::SpoofedSource);
            }
            Ok(Received::Packet(len))
        }
        _ => Ok(Received::Nothing),
    }
}

fn receive_handshake(
    tables: &Tables,
    from: SocketAddr,
    message: &[u8],
    out: &mut [u8],
    now: Instant,
) -> Result<Received, Drop> {
    let identity = tables.identity.as_ref().ok_or(Drop::UnknownPeer)?;
    let packet = match identity.limiter.verify_packet(Some(from.ip()), message, out) {
        Ok(packet) => packet,
        Err(TunnResult::WriteToNetwork(cookie)) => {
            let may = identity.admission.cookie(from.ip(), now);
            return may.then_some(Received::Reply(cookie.len(), None)).ok_or(Drop::RateLimited);
        }
        Err(_) if Tunn::parse_incoming_packet(message).is_err() => {
            return Err(Drop::MalformedMessage);
        }
        Err(_) => return Err(Drop::Unauthenticated),
    };
    // A cookie proves an address, not good intentions.
    if matches!(packet, Packet::HandshakeInit(_)) && !identity.admission.handshake(from.ip(), now) {
        return Err(Drop::RateLimited);
    }
    let (peer, index) = sender(tables, identity, &packet)?;
    match peer.open(index, from, message, out, now)? {
        Opened::Reply(len) => Ok(Received::Reply(len, Some(peer.clone()))),
        _ => Ok(Received::Nothing),
    }
}

/// Whose handshake a message is part of, and by which index.
fn sender<'a>(
    tables: &'a Tables,
    identity: &Identity,
    packet: &Packet<'_>,
) -> Result<(&'a Arc<Peer>, Option<u32>), Drop> {
    let index = match packet {
        Packet::HandshakeInit(init) => {
            let half = parse_handshake_anon(&identity.secret, &identity.public, init)
                .map_err(|_| Drop::Unauthenticated)?;
            let key = PublicKey::from_bytes(half.peer_static_public);
            let index = tables.index_of(&key).ok_or(Drop::UnknownPeer)?;
            return tables.peer(index).map(|peer| (peer, None)).ok_or(Drop::UnknownPeer);
        }
        Packet::HandshakeResponse(response) => response.receiver_idx >> 8,
        Packet::PacketCookieReply(reply) => reply.receiver_idx >> 8,
        Packet::PacketData(data) => data.receiver_idx >> 8,
    };
    tables.peer(index).map(|peer| (peer, Some(index))).ok_or(Drop::UnknownIndex)
}
