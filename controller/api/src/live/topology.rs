//! A slice over its clusters, as a pure function of what is reported. What members report is a
//! stranger's word: it is cleaned of what a terminal or a page would obey, endpoints are those that
//! other clusters are given, and tunnels those to clusters of the slice.

use std::collections::BTreeSet;
use std::sync::Arc;

use slicewire_api::condition::{QOS_HONOURED, READY, is_true};
use slicewire_api::{SliceClusterStatus, SliceConfig, WorkerGateway, WorkerSlice};
use slicewire_core::member::{self, sentence, word};
use slicewire_rpc::hub::v1alpha1 as rpc;

/// What the hub is not told by its members, so that nobody takes its absence for a zero.
const UNKNOWN: [&str; 1] = ["packets"];

/// What is known of a slice in one cluster.
#[derive(Debug, Clone, Default)]
pub(super) struct Report {
    /// The cluster's name.
    pub(super) cluster: String,
    /// Whether the caller may see what follows.
    pub(super) shown: bool,
    pub(super) slice: Option<Arc<WorkerSlice>>,
    pub(super) gateway: Option<Arc<WorkerGateway>>,
}

/// The clusters of a slice: those it is to span, and those it still runs in.
pub(super) fn clusters(config: &SliceConfig) -> BTreeSet<String> {
    let running = config.status.iter().flat_map(|s| &s.clusters).map(|c| c.name.clone());
    config.spec.clusters.iter().map(|c| c.name.clone()).chain(running).collect()
}

/// The whole of it.
pub(super) fn topology(project: &str, config: &SliceConfig, reports: &[Report]) -> rpc::Topology {
    let status = config.status.clone().unwrap_or_default();
    let told = |cluster: &str| status.clusters.iter().find(|c| c.name == cluster);
    let (shown, withheld): (Vec<&Report>, Vec<&Report>) = reports.iter().partition(|r| r.shown);
    let mut tunnels: Vec<rpc::LiveTunnel> = shown.iter().flat_map(|r| tunnels(r)).collect();
    tunnels.retain(|t| reports.iter().any(|r| r.cluster == t.peer));
    tunnels.sort_by(|a, b| (&a.cluster, &a.peer, a.lane).cmp(&(&b.cluster, &b.peer, b.lane)));
    rpc::Topology {
        project: project.to_owned(),
        slice: config.metadata.name.clone().unwrap_or_default(),
        prefixes: config.spec.prefixes.clone(),
        ready: is_true(&status.conditions, READY),
        attached_pods: status.attached_pods,
        clusters: reports.iter().map(|r| cluster(r, told(&r.cluster), config)).collect(),
        tunnels,
        withheld_clusters: withheld.iter().map(|r| r.cluster.clone()).collect(),
        unknown: UNKNOWN.map(str::to_owned).to_vec(),
    }
}

fn cluster(
    report: &Report,
    told: Option<&SliceClusterStatus>,
    config: &SliceConfig,
) -> rpc::LiveCluster {
    let told = told.cloned().unwrap_or_default();
    let mut cluster = rpc::LiveCluster {
        name: report.cluster.clone(),
        ready: told.ready,
        reason: told.reason.unwrap_or_default(),
        message: told.message.unwrap_or_default(),
        pools: told.pools,
        gateway_prefixes: told.gateway_prefixes,
        attached_pods: told.attached_pods,
        ..rpc::LiveCluster::default()
    };
    if !report.shown {
        return cluster;
    }
    if let Some(status) = report.slice.as_ref().and_then(|s| s.status.as_ref()) {
        cluster.namespaces = status.namespaces.iter().map(|n| sentence(n)).collect();
        cluster.failures = status
            .failures
            .iter()
            .map(|f| rpc::AttachFailure {
                pod: sentence(&f.pod),
                node: sentence(&f.node),
                reason: word(&f.reason),
                message: sentence(&f.message),
            })
            .collect();
        cluster.qos = status.qos.iter().map(qos).collect();
        if let Some(kept) = status.conditions.iter().find(|c| c.type_ == QOS_HONOURED) {
            cluster.qos_honoured = Some(kept.status == "True");
            if kept.status != "True" {
                cluster.qos_message = sentence(&kept.message);
            }
        }
    }
    let slice: Vec<_> = config.spec.prefixes.iter().filter_map(|p| p.parse().ok()).collect();
    let reached = |said: &[String]| -> Vec<String> {
        member::endpoints(said, &slice).0.iter().map(ToString::to_string).collect()
    };
    cluster.gateways = lanes(report)
        .map(|l| rpc::LiveGateway {
            lane: u32::from(l.lane),
            node: l.node.as_deref().map(sentence),
            ready: l.ready,
            backend: l.backend.as_deref().map(word),
            public_key: l.public_key.as_deref().map(sentence),
            endpoints: reached(&l.endpoints),
        })
        .collect();
    cluster.gateways.sort_by_key(|g| g.lane);
    cluster
}

fn qos(of: &slicewire_api::NodeQos) -> rpc::LiveQos {
    let over = |d: &slicewire_api::DeliveredQos| rpc::DeliveredQos {
        sent: d.sent,
        received: d.received,
        dropped: d.dropped,
    };
    rpc::LiveQos {
        node: sentence(&of.node),
        uplink: of.uplink,
        minute: Some(over(&of.minute)),
        hour: Some(over(&of.hour)),
    }
}

fn lanes(report: &Report) -> impl Iterator<Item = &slicewire_api::GatewayLaneStatus> {
    report.gateway.iter().filter_map(|g| g.status.as_ref()).flat_map(|s| &s.lanes)
}

fn tunnels(report: &Report) -> Vec<rpc::LiveTunnel> {
    let of_lane = |lane: &slicewire_api::GatewayLaneStatus| {
        let number = u32::from(lane.lane);
        let tunnel = move |t: &slicewire_api::TunnelStatus| rpc::LiveTunnel {
            cluster: report.cluster.clone(),
            peer: t.cluster.clone(),
            lane: number,
            up: t.up,
            reason: t.reason.as_deref().map(word),
            last_handshake: t.last_handshake.as_ref().and_then(|t| t.parse().ok()),
            rtt_micros: t.rtt_micros,
            loss_permille: t.loss_permille,
            path_mtu: t.path_mtu,
            key_generation: t.generation,
            // A worker of the release before tells neither.
            preshared_key: t.generation.map(|_| t.preshared_key),
        };
        lane.tunnels.iter().map(tunnel).collect::<Vec<_>>()
    };
    lanes(report).flat_map(of_lane).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use slicewire_api::WorkerSliceSpec;

    use super::*;

    fn config() -> SliceConfig {
        serde_json::from_value(json!({
            "metadata": {"name": "blue", "namespace": "slicewire-demo"},
            "spec": {"prefixes": ["10.77.0.0/16"], "clusters": [{"name": "west"}, {"name": "east"}]},
            "status": {
                "attachedPods": 3,
                "clusters": [
                    {"name": "east", "ready": true, "attachedPods": 3, "pools": ["10.77.0.0/20"]},
                    {"name": "old", "ready": false, "reason": "Removing"},
                ],
                "conditions": [{"type": "Ready", "status": "True", "reason": "Ready", "message": "",
                    "lastTransitionTime": "2026-01-01T00:00:00Z"}],
            },
        }))
        .unwrap()
    }

    fn report(cluster: &str, shown: bool) -> Report {
        let gateway: WorkerGateway = serde_json::from_value(json!({
            "metadata": {"name": "blue"},
            "spec": {"slice": "blue", "cluster": cluster, "lanes": []},
            "status": {"lanes": [
                {"lane": 1, "ready": false},
                {"lane": 0, "ready": true, "node": "n1", "backend": "kernel", "tunnels": [
                    {"cluster": "west", "up": true, "rttMicros": 1200, "pathMtu": 1420,
                     "generation": 3, "presharedKey": true, "lastHandshake": "2026-01-01T10:00:00Z"},
                    {"cluster": "old", "up": false, "reason": "NoAnswer", "lastHandshake": "never"},
                ]},
            ]},
        }))
        .unwrap();
        Report { cluster: cluster.into(), shown, slice: None, gateway: Some(gateway.into()) }
    }

    #[test]
    fn clusters_that_are_left_are_told_until_they_are() {
        let names: Vec<String> = clusters(&config()).into_iter().collect();
        assert_eq!(names, ["east", "old", "west"]);
    }

    #[test]
    fn what_is_not_measured_is_absent() {
        let silent = |cluster: &str| Report { cluster: cluster.into(), ..Report::default() };
        let reports = [report("east", true), silent("old"), silent("west")];
        let topology = topology("demo", &config(), &reports);
        assert!(topology.ready);
        assert_eq!(topology.clusters[0].attached_pods, 3);
        let lanes: Vec<u32> = topology.clusters[0].gateways.iter().map(|g| g.lane).collect();
        assert_eq!(lanes, [0, 1]);
        let [down, up] = &topology.tunnels[..] else { unreachable!("two tunnels") };
        assert_eq!((up.rtt_micros, up.loss_permille), (Some(1200), None));
        assert!(up.last_handshake.is_some());
        assert_eq!((down.up, down.last_handshake), (false, None));
        assert_eq!(down.reason.as_deref(), Some("NoAnswer"));
        assert_eq!((up.key_generation, up.preshared_key), (Some(3), Some(true)));
        assert_eq!((down.key_generation, down.preshared_key), (None, None));
        assert_eq!(topology.unknown, ["packets"]);
    }

    #[test]
    fn a_members_words_are_a_strangers() {
        let gateway: WorkerGateway = serde_json::from_value(json!({
            "metadata": {"name": "blue"},
            "spec": {"slice": "blue", "cluster": "east", "lanes": []},
            "status": {"lanes": [{"lane": 0, "node": "n\u{1b}[31m1",
                "endpoints": ["169.254.169.254:80", "192.0.2.7:30001", "10.77.0.1:30001"],
                "tunnels": [{"cluster": "nobody", "up": true}]}]},
        }))
        .unwrap();
        let hostile = Report { gateway: Some(gateway.into()), ..report("east", true) };
        let topology = topology("demo", &config(), &[hostile]);
        let gateway = &topology.clusters[0].gateways[0];
        assert_eq!(gateway.node.as_deref(), Some("n[31m1"));
        assert_eq!(gateway.endpoints, ["192.0.2.7:30001"]);
        assert!(topology.tunnels.is_empty(), "a tunnel to nobody: {topology:?}");
    }

    #[test]
    fn what_a_slice_got_is_told_by_node() {
        let slice: WorkerSlice = serde_json::from_value(json!({
            "metadata": {"name": "blue"},
            "spec": WorkerSliceSpec::default(),
            "status": {
                "qos": [{"node": "n1", "uplink": 1_000_000_000, "minute": {"sent": 40_000_000, "dropped": 7}}],
                "conditions": [{"type": "QosHonoured", "status": "False", "reason": "R", "message": "too much",
                    "lastTransitionTime": "2026-01-01T00:00:00Z"}],
            },
        }))
        .unwrap();
        let busy = Report { slice: Some(slice.into()), ..report("east", true) };
        let told = &topology("demo", &config(), &[busy]).clusters[0];
        assert_eq!((told.qos_honoured, told.qos_message.as_str()), (Some(false), "too much"));
        let [node] = &told.qos[..] else { unreachable!("one node") };
        let minute = node.minute.unwrap();
        assert_eq!((minute.sent, minute.received, minute.dropped), (40_000_000, 0, 7));
        assert_eq!(node.uplink, Some(1_000_000_000));
    }

    #[test]
    fn nothing_a_withheld_cluster_reports_is_told() {
        let topology = topology("demo", &config(), &[report("east", false)]);
        assert_eq!(topology.withheld_clusters, ["east"]);
        assert!(topology.tunnels.is_empty());
        assert!(topology.clusters[0].gateways.is_empty());
        // What the slice's own status says, which the caller may read.
        assert_eq!(topology.clusters[0].pools, ["10.77.0.0/20"]);
    }
}
