//! Metrics in Prometheus' text format.

use std::fmt::Write as _;

use slicewire_core::gateway::{Route, Routes};

use crate::report::RoutesSeen;

/// Everything, as of the newest routes; nothing before there are any.
pub(crate) fn render(routes: &RoutesSeen) -> String {
    routes.borrow().as_deref().map(text).unwrap_or_default()
}

fn text(routes: &Routes) -> String {
    let mut out = String::new();
    let mut family = |name: &str, help: &str, value: fn(&Route) -> f64| {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} gauge");
        for route in &routes.routes {
            let (slice, lane, remote) = (&routes.slice, routes.lane, &route.cluster);
            let labels = format!("slice=\"{slice}\",lane=\"{lane}\",remote=\"{remote}\"");
            let _ = writeln!(out, "{name}{{{labels}}} {}", value(route));
        }
    };
    family("slicewire_tunnel_up", "Whether the tunnel carries packets.", |r| {
        f64::from(u8::from(r.health.up))
    });
    family("slicewire_tunnel_rtt_seconds", "Median round-trip time; 0 while unknown.", |r| {
        r.health.rtt.map_or(0.0, |rtt| rtt.as_secs_f64())
    });
    family("slicewire_tunnel_jitter_seconds", "Jitter of the round-trip time.", |r| {
        r.health.jitter.as_secs_f64()
    });
    family("slicewire_tunnel_loss_ratio", "Lost probes of the last minute.", |r| {
        f64::from(r.health.loss_permille) / 1000.0
    });
    family(
        "slicewire_tunnel_key_generation",
        "Generation of the gateways' keys by which packets are sent.",
        |r| r.generation as f64,
    );
    family("slicewire_tunnel_preshared_key", "Whether that has a pre-shared key.", |r| {
        f64::from(u8::from(r.preshared))
    });
    family(
        "slicewire_tunnel_path_mtu_bytes",
        "Largest packet that passes; 0 while unknown.",
        |r| f64::from(r.path_mtu.unwrap_or(0)),
    );
    out
}
