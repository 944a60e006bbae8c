//! What a device knows at one moment. Replaced as a whole, so that readers never wait.

use std::collections::BTreeMap;
use std::hash::RandomState;
use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::x25519;

use super::admission::Admission;
use super::allowed_ips::AllowedIps;
use super::peer::{Endpoints, MessageLimits, Peer, Tunnel};
use crate::config::Config;
use crate::key::{PrivateKey, PublicKey};

/// Handshake messages a second before cookies are asked for.
const HANDSHAKES_PER_SECOND: u64 = 100;

/// The device's own key and what follows from it.
pub(super) struct Identity {
    pub(super) private: PrivateKey,
    pub(super) secret: x25519::StaticSecret,
    pub(super) public: x25519::PublicKey,
    /// Checks mac1 and mac2 of everything that comes in, for all peers together.
    pub(super) limiter: RateLimiter,
    /// Handed to the peers, which check again: never under load.
    pub(super) passed: Arc<RateLimiter>,
    /// Rations what strangers can make the device do.
    pub(super) admission: Admission,
}

impl Identity {
    fn new(private: PrivateKey) -> Self {
        let secret = private.secret();
        let public = x25519::PublicKey::from(&secret);
        let limiter = RateLimiter::new(&public, HANDSHAKES_PER_SECOND);
        let passed = Arc::new(RateLimiter::new(&public, u64::MAX));
        let admission = Admission::new(RandomState::new());
        Self { private, secret, public, limiter, passed, admission }
    }
}

/// Keys, peers and prefixes.
#[derive(Clone, Default)]
pub struct Tables {
    pub(super) identity: Option<Arc<Identity>>,
    /// By the upper 24 bits of the index in messages.
    pub(super) peers: Vec<Option<Arc<Peer>>>,
    by_key: BTreeMap<PublicKey, u32>,
    /// Where to look for the next free index.
    cursor: usize,
    allowed: AllowedIps,
    limits: MessageLimits,
}

impl Tables {
    /// Nothing yet; sessions are to carry so many messages.
    pub(super) fn new(limits: MessageLimits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// The tables for `config`, with the peers that stay what they are taken over.
    pub(super) fn next(&self, config: &Config, endpoints: Endpoints, now: Instant) -> Self {
        let identity = self.next_identity(config.private_key.as_ref());
        let mut next = Self {
            peers: vec![None; self.peers.len()],
            identity,
            cursor: self.cursor + 1,
            limits: self.limits,
            ..Self::default()
        };
        let Some(identity) = next.identity.clone() else { return next };
        let same = self.identity.as_ref().is_some_and(|old| Arc::ptr_eq(old, &identity));
        let own = identity.private.public();
        let wanted = config.peers.iter().filter(|p| p.public_key != own);
        let old = |key: &PublicKey| self.peer(self.index_of(key)?);
        // Those that keep their sessions keep their indices, so they come first.
        for peer in wanted.clone() {
            if let Some(old) = old(&peer.public_key) {
                old.adopt(peer, endpoints);
                if same {
                    next.enter(old.clone());
                }
            }
        }
        for peer in wanted {
            let index = next.free_index();
            let limiter = || identity.passed.clone();
            let tunnel = || Tunnel::new(peer, &identity.private, index, limiter(), self.limits);
            match old(&peer.public_key) {
                Some(old) if !same => {
                    old.restart(peer, tunnel());
                    next.enter(old.clone());
                }
                Some(old) if old.needs_tunnel(peer) => {
                    old.renew(peer, tunnel(), now);
                    next.enter(old.clone());
                }
                Some(_) => {}
                None => next.enter(Arc::new(Peer::new(peer, tunnel()))),
            }
        }
        for peer in &config.peers {
            if let Some(&index) = next.by_key.get(&peer.public_key) {
                peer.allowed_ips.iter().for_each(|net| next.allowed.insert(*net, index));
            }
        }
        next
    }

    fn next_identity(&self, key: Option<&PrivateKey>) -> Option<Arc<Identity>> {
        let key = key?;
        match &self.identity {
            Some(old) if old.private == *key => Some(old.clone()),
            _ => Some(Arc::new(Identity::new(key.clone()))),
        }
    }

    /// Makes a peer be found by all its indices.
    fn enter(&mut self, peer: Arc<Peer>) {
        let mut indices = peer.indices();
        if let Some(newest) = indices.next() {
            self.by_key.insert(peer.public_key(), newest);
            self.peers[newest as usize] = Some(peer.clone());
        }
        for older in indices {
            self.peers[older as usize] = Some(peer.clone());
        }
    }

    /// An index nobody uses and, as long as that is cheap, nobody has used lately: late messages
    /// to a peer or tunnel that is gone then find nobody.
    fn free_index(&mut self) -> u32 {
        let (used, len) = (self.by_key.len(), self.peers.len());
        let free = |range: Range<usize>| range.into_iter().find(|i| self.peers[*i].is_none());
        let later = free(self.cursor.min(len)..len);
        let index = match later {
            Some(index) => index,
            None if len < 4 * used + 64 => len,
            None => free(0..len).unwrap_or(len),
        };
        if index == len {
            self.peers.push(None);
        }
        self.cursor = index;
        index as u32
    }

    /// The peer that packets to `destination` go to.
    pub fn route(&self, destination: IpAddr) -> Option<&Arc<Peer>> {
        self.peer(self.allowed.find(destination)?)
    }

    /// True if `peer` may send from `source`.
    pub(super) fn may_send_from(&self, peer: &Arc<Peer>, source: IpAddr) -> bool {
        self.route(source).is_some_and(|owner| Arc::ptr_eq(owner, peer))
    }

    pub(super) fn peer(&self, index: u32) -> Option<&Arc<Peer>> {
        self.peers.get(index as usize)?.as_ref()
    }

    pub(super) fn index_of(&self, key: &PublicKey) -> Option<u32> {
        self.by_key.get(key).copied()
    }

    /// All peers, by key.
    pub fn peers(&self) -> impl Iterator<Item = &Arc<Peer>> {
        self.by_key.values().filter_map(|index| self.peer(*index))
    }
}
