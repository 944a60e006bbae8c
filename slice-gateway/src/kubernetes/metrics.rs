//! Metrics in Prometheus' text format.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use slicewire_core::gateway::Tunnel;

use super::gateway::{Snapshot, Snapshots};

/// Everything, as of the newest snapshot; nothing before there is one.
pub(super) fn render(snapshots: &Snapshots) -> String {
    snapshots.borrow().as_deref().map(text).unwrap_or_default()
}

fn text(snapshot: &Snapshot) -> String {
    let of = &snapshot.tunnels;
    let labels = format!("slice=\"{}\",lane=\"{}\"", of.slice, of.lane);
    let mut out = String::new();
    let mut family = |name: &str, kind: &str, help: &str, lines: Vec<(String, u64)>| {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (more, value) in lines {
            let _ = writeln!(out, "{name}{{{labels}{more}}} {value}");
        }
    };
    // While keys are renewed, a cluster has two tunnels.
    let peers = |value: fn(&Tunnel) -> u64, join: fn(u64, u64) -> u64| {
        let mut clusters: BTreeMap<&str, u64> = BTreeMap::new();
        for tunnel in &of.tunnels {
            let sum = clusters.entry(&tunnel.cluster).or_default();
            *sum = join(*sum, value(tunnel));
        }
        let line = |(cluster, value)| (format!(",remote=\"{cluster}\""), value);
        clusters.into_iter().map(line).collect::<Vec<_>>()
    };
    family(
        "slicewire_gateway_info",
        "gauge",
        "What does WireGuard here.",
        vec![(format!(",backend=\"{}\",cluster=\"{}\"", of.backend, of.cluster), 1)],
    );
    family(
        "slicewire_gateway_receive_bytes_total",
        "counter",
        "WireGuard bytes received from a remote cluster.",
        peers(|t| t.traffic.rx_bytes, u64::saturating_add),
    );
    family(
        "slicewire_gateway_transmit_bytes_total",
        "counter",
        "WireGuard bytes sent to a remote cluster.",
        peers(|t| t.traffic.tx_bytes, u64::saturating_add),
    );
    family(
        "slicewire_gateway_last_handshake_seconds",
        "gauge",
        "Unix time of the last handshake with a remote cluster; 0 before the first.",
        peers(|t| t.traffic.last_handshake_ms.unwrap_or(0) / 1000, u64::max),
    );
    family(
        "slicewire_gateway_dropped_packets_total",
        "counter",
        "Packets the embedded engine dropped.",
        snapshot.drops.iter().map(|(why, n)| (format!(",reason=\"{why}\""), *n)).collect(),
    );
    family(
        "slicewire_gateway_plan_faults",
        "gauge",
        "Faults in the plan; the tunnels concerned are left out.",
        vec![(String::new(), snapshot.plan_faults as u64)],
    );
    out
}
