//! The report as a table, for people.

use std::fmt::Write as _;

use super::{Report, SliceInCluster};
use crate::table::layout;

/// The report for people.
pub(super) fn render(report: &Report) -> String {
    let mark = |ready: bool| if ready { "yes" } else { "no" }.to_owned();
    let mut text = String::new();
    if report.clusters.is_empty() {
        text.push_str(
            "no cluster has joined; run 'slicectl token create' here and 'slicectl join' there\n",
        );
    } else {
        let rows: Vec<Vec<String>> = report
            .clusters
            .iter()
            .map(|c| {
                let nodes = c.nodes.map_or("-".to_owned(), |n| n.to_string());
                let version = c.kubernetes.clone().unwrap_or_else(|| "-".to_owned());
                let name = c.name.clone();
                vec![c.project.clone(), name, mark(c.connected), mark(c.ready), nodes, version]
            })
            .collect();
        let head = ["PROJECT", "CLUSTER", "CONNECTED", "READY", "NODES", "KUBERNETES"];
        text.push_str(&layout(&head, &rows));
    }
    for slice in &report.slices {
        let _ = write!(
            text,
            "\nslice {}/{}  {}  ready: {}\n",
            slice.project,
            slice.name,
            slice.prefixes.join(" "),
            mark(slice.ready)
        );
        if let Some(keys) = &slice.keys {
            let _ = writeln!(text, "  keys: {keys}");
        }
        let rows: Vec<Vec<String>> = slice.clusters.iter().flat_map(rows).collect();
        let head = [
            "  CLUSTER",
            "READY",
            "PODS",
            "GATEWAY",
            "TUNNEL TO",
            "UP",
            "HANDSHAKE",
            "RTT",
            "LOSS",
            "MTU",
        ];
        text.push_str(&layout(&head, &rows));
    }
    if report.slices.is_empty() {
        text.push_str("\nno slice is declared; apply a SliceConfig in a project's namespace\n");
    }
    let faults = faults(report);
    if !faults.is_empty() {
        text.push_str("\nnot right:\n");
        for fault in faults {
            let _ = writeln!(text, "  {fault}");
        }
    }
    text
}

/// One row a tunnel; where there is none, one a gateway; where there is none, one.
fn rows(part: &SliceInCluster) -> Vec<Vec<String>> {
    let dash = || "-".to_owned();
    let yes = |b: bool| if b { "yes" } else { "no" }.to_owned();
    let first = vec![format!("  {}", part.cluster), yes(part.ready), part.pods.to_string()];
    let mut rows = Vec::new();
    for gateway in &part.gateways {
        let place = gateway.node.as_deref().unwrap_or("nowhere");
        let state = if gateway.ready { "" } else { " (not ready)" };
        let gateway_cell = format!("{} on {place}{state}", gateway.lane);
        for tunnel in &gateway.tunnels {
            let up = match (&tunnel.reason, tunnel.up) {
                (_, true) => yes(true),
                (Some(reason), false) => format!("no: {reason}"),
                (None, false) => yes(false),
            };
            rows.push(vec![
                gateway_cell.clone(),
                tunnel.to.clone(),
                up,
                tunnel.handshake_seconds.map_or_else(dash, age),
                tunnel.rtt_milliseconds.map_or_else(dash, |rtt| format!("{rtt:.2} ms")),
                tunnel.loss_percent.map_or_else(dash, |loss| format!("{loss:.1} %")),
                tunnel.path_mtu.map_or_else(dash, |mtu| mtu.to_string()),
            ]);
        }
        if gateway.tunnels.is_empty() {
            rows.push(vec![gateway_cell, dash()]);
        }
    }
    if rows.is_empty() {
        rows.push(vec![dash()]);
    }
    let blank = vec![String::new(); 3];
    let lead = std::iter::once(first).chain(std::iter::repeat(blank));
    lead.zip(rows).map(|(lead, rest)| [lead, rest].concat()).collect()
}

/// Seconds for people. Handshake times are reported to the minute.
fn age(seconds: i64) -> String {
    match seconds {
        ..60 => "< 1 min".to_owned(),
        60..7200 => format!("{} min", seconds / 60),
        _ => format!("{} h", seconds / 3600),
    }
}

/// All faults, each once, with where it is.
pub(super) fn faults(report: &Report) -> Vec<String> {
    let of_clusters = report
        .clusters
        .iter()
        .flat_map(|c| c.faults.iter().map(move |f| format!("cluster {}: {f}", c.name)));
    let of_slices = report.slices.iter().flat_map(|s| {
        let own = s.faults.iter().map(move |f| format!("slice {}: {f}", s.name));
        let parts = s.clusters.iter().flat_map(move |c| {
            c.faults.iter().map(move |f| format!("slice {} in {}: {f}", s.name, c.cluster))
        });
        own.chain(parts)
    });
    of_clusters.chain(of_slices).collect()
}
