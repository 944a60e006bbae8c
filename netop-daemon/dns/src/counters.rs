//! Figures for Prometheus.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::wire::{Outcome, Transport};

/// What became of messages since the start.
#[derive(Debug, Default)]
pub struct Counters {
    udp: [AtomicU64; Outcome::ALL.len()],
    tcp: [AtomicU64; Outcome::ALL.len()],
    limited: AtomicU64,
    unsent: AtomicU64,
    turned_away: AtomicU64,
    connections: AtomicU64,
}

impl Counters {
    pub(crate) fn outcome(&self, transport: Transport, outcome: Outcome) {
        let table = self.table(transport);
        if let Some(at) = Outcome::ALL.iter().position(|o| *o == outcome) {
            table[at].fetch_add(1, Ordering::Relaxed);
        }
    }

    fn table(&self, transport: Transport) -> &[AtomicU64; Outcome::ALL.len()] {
        match transport {
            Transport::Udp => &self.udp,
            Transport::Tcp => &self.tcp,
        }
    }

    /// A client asked more than it may.
    pub(crate) fn limited(&self) {
        self.limited.fetch_add(1, Ordering::Relaxed);
    }

    /// Answers could not be sent.
    pub(crate) fn unsent(&self, count: u64) {
        self.unsent.fetch_add(count, Ordering::Relaxed);
    }

    /// A connection was closed at once: there were too many.
    pub(crate) fn turned_away(&self) {
        self.turned_away.fetch_add(1, Ordering::Relaxed);
    }

    /// A connection was taken.
    pub(crate) fn connected(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
    }

    /// Messages that ended so.
    pub fn count(&self, transport: Transport, outcome: Outcome) -> u64 {
        let all = self.table(transport).iter().zip(Outcome::ALL);
        all.filter(|(_, o)| *o == outcome).map(|(n, _)| n.load(Ordering::Relaxed)).sum()
    }

    /// Questions that were dropped because the client asked too many.
    pub fn over_limit(&self) -> u64 {
        self.limited.load(Ordering::Relaxed)
    }

    /// Connections that were closed at once because there were too many.
    pub fn connections_refused(&self) -> u64 {
        self.turned_away.load(Ordering::Relaxed)
    }

    /// The Prometheus text format.
    pub fn render(&self) -> String {
        let mut out = String::from(
            "# HELP slicewire_dns_messages_total Messages by what became of them.\n\
             # TYPE slicewire_dns_messages_total counter\n",
        );
        for (name, transport) in [("udp", Transport::Udp), ("tcp", Transport::Tcp)] {
            for (n, outcome) in self.table(transport).iter().zip(Outcome::ALL) {
                let (n, outcome) = (n.load(Ordering::Relaxed), outcome.reason());
                let _ = writeln!(
                    out,
                    "slicewire_dns_messages_total{{transport=\"{name}\",outcome=\"{outcome}\"}} {n}"
                );
            }
        }
        let singles = [
            ("slicewire_dns_limited_total", "Questions over a client's limit.", &self.limited),
            ("slicewire_dns_unsent_total", "Answers that could not be sent.", &self.unsent),
            ("slicewire_dns_connections_total", "TCP connections taken.", &self.connections),
            (
                "slicewire_dns_connections_refused_total",
                "TCP connections closed at once: too many.",
                &self.turned_away,
            ),
        ];
        for (name, help, n) in singles {
            let n = n.load(Ordering::Relaxed);
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} counter\n{name} {n}");
        }
        out
    }
}
