//! How much one client may ask.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};

use governor::clock::DefaultClock;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};

/// How many clients have a limit of their own, more or less: of more, some share one.
const BUCKETS: usize = 4096;

/// What the server lets clients do.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Questions a second from one client, of which a second's worth may come at once. An IPv6
    /// client is its /64.
    pub per_client: NonZeroU32,
    /// TCP connections at a time.
    pub connections: usize,
    /// TCP connections of one client at a time.
    pub connections_per_client: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            per_client: NonZeroU32::new(20_000).unwrap_or(NonZeroU32::MIN),
            connections: 512,
            connections_per_client: 128,
        }
    }
}

/// Clients by their addresses, in memory that does not grow with their number: whoever makes up
/// addresses shares a bucket with somebody, and which one, nobody outside can tell.
pub(crate) struct Clients {
    buckets: Vec<Bucket>,
    secret: RandomState,
    connections: u32,
}

struct Bucket {
    questions: RateLimiter<NotKeyed, InMemoryState, DefaultClock>,
    connections: AtomicU32,
}

impl Clients {
    pub(crate) fn new(limits: &Limits) -> Self {
        let bucket = || Bucket {
            questions: RateLimiter::direct(Quota::per_second(limits.per_client)),
            connections: AtomicU32::new(0),
        };
        Self {
            buckets: (0..BUCKETS).map(|_| bucket()).collect(),
            secret: RandomState::new(),
            connections: limits.connections_per_client,
        }
    }

    fn bucket(&self, client: IpAddr) -> Option<&Bucket> {
        let network = match client.to_canonical() {
            IpAddr::V4(a) => u64::from(a.to_bits()),
            IpAddr::V6(a) => u64::try_from(a.to_bits() >> 64).unwrap_or_default(),
        };
        let hash = self.secret.hash_one((client.to_canonical().is_ipv4(), network));
        self.buckets.get(usize::try_from(hash).unwrap_or_default() % BUCKETS)
    }

    /// Whether the client may ask one more question now.
    pub(crate) fn may_ask(&self, client: IpAddr) -> bool {
        self.bucket(client).is_some_and(|b| b.questions.check().is_ok())
    }

    /// Room for one more connection of the client; it ends with the value.
    pub(crate) fn connect(&self, client: IpAddr) -> Option<Connected<'_>> {
        let bucket = self.bucket(client)?;
        let taken = Connected(bucket);
        let before = bucket.connections.fetch_add(1, Ordering::Relaxed);
        (before < self.connections).then_some(taken)
    }
}

/// A client's connection.
pub(crate) struct Connected<'a>(&'a Bucket);

impl Drop for Connected<'_> {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clients(per_client: u32, connections_per_client: u32) -> Clients {
        let per_client = NonZeroU32::new(per_client).unwrap();
        Clients::new(&Limits { per_client, connections_per_client, ..Limits::default() })
    }

    #[test]
    fn one_client_uses_up_its_own_share_only() {
        let clients = clients(10, 1);
        let ask = |last: u8| (0..100).filter(|_| clients.may_ask([192, 0, 2, last].into())).count();
        assert!((10..15).contains(&ask(1)));
        // Of these at most a few can share the first one's bucket.
        let others = (2..50).filter(|last| ask(*last) >= 10).count();
        assert!(others >= 45, "{others}");
    }

    #[test]
    fn addresses_of_one_network_are_one_client() {
        let clients = clients(10, 1);
        let address = |i: u16| IpAddr::from([0x2001, 0xdb8, 0, 0, i, 0, 0, i]);
        assert!((10..15).contains(&(0..100).filter(|i| clients.may_ask(address(*i))).count()));
        let mapped: IpAddr = "::ffff:192.0.2.1".parse().unwrap();
        let plain: IpAddr = "192.0.2.1".parse().unwrap();
        assert!((0..10).all(|_| clients.may_ask(mapped)));
        assert!(!clients.may_ask(plain));
    }

    #[test]
    fn connections_are_given_back() {
        let clients = clients(10, 2);
        let client = IpAddr::from([192, 0, 2, 1]);
        let held = [clients.connect(client), clients.connect(client)];
        assert!(held.iter().all(Option::is_some));
        assert!(clients.connect(client).is_none());
        drop(held);
        assert!(clients.connect(client).is_some());
    }
}
