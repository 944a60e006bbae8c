//! What our own processes logged during a round.

use std::time::SystemTime;

use k8s_openapi::jiff::Timestamp;
use serde_json::Value;
use slicewire_tests::World;

use crate::observe::SYSTEM;
use crate::timeline::Timeline;

/// Part of a log line's message, a field's value it must have (none when empty), and its mark.
struct Line {
    message: &'static str,
    field: (&'static str, &'static str),
    mark: &'static str,
}

const fn line(message: &'static str, mark: &'static str) -> Line {
    Line { message, field: ("", ""), mark }
}

const GATEWAY: &[Line] = &[
    Line { message: "new plan", field: ("tunnels", "1"), mark: "gateway knows its peer" },
    line("WireGuard device is up", "WireGuard device is up"),
    line("tunnel has a session", "WireGuard handshake done"),
];
const SIDECAR: &[Line] = &[
    line("listening to slice-gateway", "router-sidecar hears slice-gateway"),
    Line { message: "devices of the pod", field: ("forwarding", "true"), mark: "gateway forwards" },
    line("tunnel is up", "probe over the tunnel answered"),
    Line {
        message: "watches the routes",
        field: ("watcher", "-1"),
        mark: "daemon listens to gateway",
    },
];
const DAEMON: &[Line] = &[
    line("asked for address blocks", "asked for address blocks"),
    line("attached", "first pod attached"),
    Line {
        message: "gateway reports",
        field: ("tunnels", "up: true"),
        mark: "daemon told of the route",
    },
];

/// Marks what the logs of a slice's gateway pods and of the daemons say.
pub(crate) fn mark(world: &World, cluster: &str, slice: &str, line: &Timeline) {
    let pod = format!("sw-gw-{slice}-0");
    for (container, lines) in [("slice-gateway", GATEWAY), ("router-sidecar", SIDECAR)] {
        let words = format!("-n {SYSTEM} logs {pod} -c {container}");
        read(&world.k(cluster, &words).unwrap_or_default(), cluster, None, lines, line);
    }
    let listed =
        world.k(cluster, &format!("-n {SYSTEM} get pods -o wide --no-headers")).unwrap_or_default();
    for row in listed.lines().filter(|l| l.contains("daemon")) {
        let words: Vec<&str> = row.split_whitespace().collect();
        let node = words.iter().find(|w| w.starts_with(&format!("{cluster}-")));
        let (Some(pod), Some(node)) = (words.first(), node) else { continue };
        let log = world.k(cluster, &format!("-n {SYSTEM} logs {pod} --since=60s"));
        read(&log.unwrap_or_default(), node, Some(slice), DAEMON, line);
    }
}

/// Marks lines of one log; with `slice`, only those about it.
fn read(log: &str, of: &str, slice: Option<&str>, lines: &[Line], to: &Timeline) {
    for entry in log.lines().filter_map(|l| serde_json::from_str::<Value>(l).ok()) {
        let Some(at) = entry["timestamp"].as_str().and_then(|t| t.parse::<Timestamp>().ok()) else {
            continue;
        };
        if slice.is_some_and(|s| entry["slice"] != s) {
            continue;
        }
        let message = entry["message"].as_str().unwrap_or_default();
        let said = |(name, value): (&str, &str)| {
            name.is_empty() || entry[name].to_string().contains(value)
        };
        for line in lines.iter().filter(|l| message.contains(l.message) && said(l.field)) {
            to.mark_at(&format!("{of}: {}", line.mark), SystemTime::from(at));
        }
    }
}
