//! How a slice's gateways are, as a pure function of what is known.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use slicewire_api::condition::{self, READY};
use slicewire_api::labels::wireguard_port;
use slicewire_api::{
    GatewayLane, GatewayLaneStatus, NodeAddressType, PublishedKey, SliceGateway, Tunnel,
    TunnelStatus, WorkerGatewayStatus,
};
use slicewire_core::name::{Lane, SliceName, gateway_service};
use slicewire_core::rotation::Generation;
use std::net::{IpAddr, SocketAddr};

use super::observe::Observed;
use super::rounding::{settle, two_digits};
use crate::kubernetes::write::{self, Outcome};

/// The status of the gateways; `old` is what was told last, with its conditions.
pub(super) fn status(
    observed: &Observed,
    old: &WorkerGatewayStatus,
    generation: Option<i64>,
    outcome: Option<&Outcome>,
    now: Timestamp,
) -> Option<WorkerGatewayStatus> {
    let gateway = observed.plan()?;
    let mut lanes: Vec<GatewayLaneStatus> =
        gateway.spec.lanes.iter().map(|l| lane(observed, gateway, l)).collect();
    settle(&old.lanes, &mut lanes);
    let remotes = observed.slice.as_ref().map_or(0, |s| s.spec.remotes.len());
    let planned = lanes.len() * remotes;
    let up = lanes.iter().flat_map(|l| &l.tunnels).filter(|t| t.up).count();
    let (ready, reason, message) = readiness(observed, gateway, &lanes, outcome);
    let mut conditions: Vec<Condition> = old.conditions.clone();
    let one = condition::condition(READY, ready, &reason, message, generation, Time(now));
    condition::set(&mut conditions, one);
    Some(WorkerGatewayStatus {
        observed_generation: generation,
        ready_lanes: i32::try_from(lanes.iter().filter(|l| l.ready).count()).unwrap_or(i32::MAX),
        tunnels: (planned > 0).then(|| format!("{}/{planned}", up.min(planned))),
        lanes,
        exchange: observed.keys.as_ref().and_then(|keys| keys.exchange.clone()),
        conditions,
    })
}

fn lane(observed: &Observed, gateway: &SliceGateway, plan: &GatewayLane) -> GatewayLaneStatus {
    let pod = observed.pod(plan.lane);
    let node = pod.and_then(|p| p.spec.as_ref()?.node_name.clone());
    let report = observed.reports.get(&plan.lane);
    let keys = observed.keys.as_ref();
    let key = keys.and_then(|k| k.current.get(&plan.lane));
    let next = keys.and_then(|k| k.next.get(&plan.lane)).zip(gateway.spec.next_generation);
    let endpoints =
        |generation| endpoints(observed, gateway, plan.lane, node.as_deref(), generation);
    let ready = pod.is_some_and(is_ready);
    GatewayLaneStatus {
        lane: plan.lane,
        public_key: key.map(|k| STANDARD.encode(k)),
        generation: gateway.spec.generation,
        next: next.map(|(key, generation)| PublishedKey {
            generation,
            public_key: STANDARD.encode(key),
            endpoints: endpoints(generation),
        }),
        endpoints: endpoints(gateway.spec.generation),
        node: node.clone(),
        ready,
        backend: report.map(|r| r.backend.clone()).filter(|b| !b.is_empty()),
        tunnels: plan.tunnels.iter().map(|t| tunnel(observed, plan.lane, t, ready)).collect(),
    }
}

/// Where a lane's gateway can be reached: the addresses people chose, or its node's, with the
/// Service's port. Only the node the gateway runs on forwards to it.
fn endpoints(
    observed: &Observed,
    gateway: &SliceGateway,
    lane: Lane,
    node: Option<&str>,
    generation: Generation,
) -> Vec<String> {
    let Some(port) = node_port(observed, lane, generation) else { return Vec::new() };
    let exposure = &gateway.spec.exposure;
    let node = node.and_then(|n| observed.nodes.get(n));
    let addresses: Vec<IpAddr> = match (exposure.addresses.as_slice(), node) {
        (_, None) => Vec::new(),
        ([], Some(node)) => node_addresses(node, exposure.node_address),
        (chosen, Some(_)) => chosen.iter().filter_map(|a| a.parse().ok()).collect(),
    };
    addresses.into_iter().map(|a| SocketAddr::new(a, port).to_string()).collect()
}

fn node_port(observed: &Observed, lane: Lane, generation: Generation) -> Option<u16> {
    let name = gateway_service(&SliceName::parse(&observed.name).ok()?, lane);
    let service = observed.services.iter().find(|s| s.metadata.name.as_ref() == Some(&name))?;
    let mut ports = service.spec.as_ref()?.ports.iter().flatten();
    let port = ports.find(|p| p.port == i32::from(wireguard_port(generation)))?.node_port?;
    u16::try_from(port).ok().filter(|p| *p != 0)
}

fn node_addresses(node: &Node, wanted: NodeAddressType) -> Vec<IpAddr> {
    let kind = match wanted {
        NodeAddressType::InternalIp => "InternalIP",
        NodeAddressType::ExternalIp => "ExternalIP",
    };
    let all = node.status.as_ref().and_then(|s| s.addresses.as_ref()).into_iter().flatten();
    all.filter(|a| a.type_ == kind).filter_map(|a| a.address.parse().ok()).collect()
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_ref());
    pod.metadata.deletion_timestamp.is_none()
        && conditions.into_iter().flatten().any(|c| c.type_ == READY && c.status == "True")
}

fn tunnel(observed: &Observed, lane: Lane, plan: &Tunnel, ready: bool) -> TunnelStatus {
    let report = observed.reports.get(&lane);
    let route = report.and_then(|r| r.routes.iter().find(|r| r.cluster == plan.cluster));
    let Some(route) = route else {
        let reason = if ready { "NoReport" } else { "GatewayNotReady" };
        return TunnelStatus {
            cluster: plan.cluster.clone(),
            reason: Some(reason.to_owned()),
            ..TunnelStatus::default()
        };
    };
    let known = |figure: u64| (figure > 0).then_some(figure);
    let reason = match (route.up, known(route.last_handshake_ms)) {
        (true, _) => None,
        (false, Some(_)) => Some("NoProbe"),
        (false, None) if plan.endpoints.is_empty() => Some("NoEndpoint"),
        (false, None) => Some("NoHandshake"),
    };
    TunnelStatus {
        cluster: plan.cluster.clone(),
        up: route.up,
        generation: Some(route.generation),
        preshared_key: route.preshared,
        last_handshake: known(route.last_handshake_ms).and_then(to_the_minute),
        rtt_micros: known(route.rtt_micros).map(two_digits),
        loss_permille: i32::try_from(route.loss_permille).ok(),
        path_mtu: known(route.path_mtu.into()).and_then(|m| i32::try_from(m).ok()),
        reason: reason.map(str::to_owned),
    }
}

fn to_the_minute(millis: u64) -> Option<String> {
    let second = i64::try_from(millis / 60_000 * 60).ok()?;
    Timestamp::from_second(second).ok().map(|t| t.to_string())
}

/// Whether all lanes run and all tunnels work, and if not, why and what to do.
fn readiness(
    observed: &Observed,
    gateway: &SliceGateway,
    lanes: &[GatewayLaneStatus],
    outcome: Option<&Outcome>,
) -> (bool, String, String) {
    let no = |reason: &str, message: String| (false, reason.to_owned(), message);
    if let Some(Err(errors)) = outcome {
        let (reason, message) = write::summary(errors);
        return no(reason, message);
    }
    if lanes.is_empty() {
        return (
            true,
            "Alone".into(),
            "The slice has no other cluster: no gateway is needed.".into(),
        );
    }
    if let Some(lane) = lanes.iter().find(|l| !l.ready) {
        let (reason, why) = observed.pod(lane.lane).map_or_else(
            || {
                (
                    "GatewayMissing".to_owned(),
                    "has no pod yet; see the StatefulSet's events".to_owned(),
                )
            },
            pod_trouble,
        );
        return no(&reason, format!("gateway {} {why}", lane.lane));
    }
    let remotes = observed.slice.as_ref().map(|s| s.spec.remotes.as_slice()).unwrap_or_default();
    let planned = gateway.spec.lanes.first().map(|l| l.tunnels.as_slice()).unwrap_or_default();
    let unknown: Vec<&str> = remotes
        .iter()
        .map(|r| r.cluster.as_str())
        .filter(|c| !planned.iter().any(|t| t.cluster == *c))
        .collect();
    if !unknown.is_empty() {
        return no(
            "WaitingForPeers",
            format!("clusters {} have not published their gateways' keys yet", unknown.join(", ")),
        );
    }
    let down: Vec<String> = lanes
        .iter()
        .flat_map(|l| l.tunnels.iter().map(move |t| (l.lane, t)))
        .filter(|(_, t)| !t.up)
        .map(|(lane, t)| {
            let reason = t.reason.as_deref().unwrap_or("Down");
            format!("lane {lane} to {}: {}", t.cluster, explained(reason))
        })
        .collect();
    if down.is_empty() {
        return (true, "TunnelsUp".into(), "Every lane runs and every tunnel works.".into());
    }
    no("TunnelDown", down.join("; "))
}

/// A tunnel's reason as a sentence with a next step.
pub(super) fn explained(reason: &str) -> String {
    let text = match reason {
        "NoEndpoint" => {
            "NoEndpoint: the other cluster has published no address and has to call this one"
        }
        "NoHandshake" => {
            "NoHandshake: nothing comes back; see that UDP passes to the node ports of both clusters' gateways"
        }
        "NoProbe" => {
            "NoProbe: the handshake works but probes do not come back; see the router-sidecar's log on both sides"
        }
        "NoReport" => "NoReport: the gateway has not told yet how the tunnel is",
        "GatewayNotReady" => "GatewayNotReady: this cluster's gateway is not ready",
        other => other,
    };
    text.to_owned()
}

/// Why a gateway's pod is not ready, in the words of whoever knows.
fn pod_trouble(pod: &Pod) -> (String, String) {
    let status = pod.status.clone().unwrap_or_default();
    if pod.metadata.deletion_timestamp.is_some() {
        return ("GatewayRestarting".into(), "is being replaced".into());
    }
    let conditions = status.conditions.unwrap_or_default();
    let unscheduled = conditions.iter().find(|c| c.type_ == "PodScheduled" && c.status == "False");
    if let Some(c) = unscheduled {
        let why = c.message.clone().unwrap_or_default();
        return ("GatewayUnschedulable".into(), format!("cannot be scheduled: {why}"));
    }
    for container in status.container_statuses.unwrap_or_default() {
        let state = container.state.unwrap_or_default();
        if let Some(waiting) = state.waiting {
            let reason = waiting.reason.unwrap_or_else(|| "Waiting".into());
            let why = waiting.message.unwrap_or_default();
            let what = format!("container {} waits ({reason}) {why}", container.name);
            return ("GatewayStarting".into(), what.trim_end().to_owned());
        }
        if !container.ready {
            let what = format!("container {} runs and is not ready yet", container.name);
            return ("GatewayStarting".into(), what);
        }
    }
    ("GatewayStarting".into(), "is starting".into())
}
