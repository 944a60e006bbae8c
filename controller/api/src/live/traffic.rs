//! What passes the tunnels of a slice, as a pure function of what its clusters tell. What members say
//! is a stranger's word: counters are not below nothing, and tunnels lead to clusters of the slice.

use std::sync::Arc;

use slicewire_api::WorkerTraffic;
use slicewire_rpc::hub::v1alpha1 as rpc;

/// What one cluster tells of what passes its tunnels.
#[derive(Debug, Clone, Default)]
pub(super) struct Report {
    /// The cluster's name.
    pub(super) cluster: String,
    /// Whether the caller may see what follows.
    pub(super) shown: bool,
    pub(super) traffic: Option<Arc<WorkerTraffic>>,
}

/// The whole of it.
pub(super) fn traffic(project: &str, slice: &str, reports: &[Report]) -> rpc::Traffic {
    let mut all = rpc::Traffic {
        project: project.to_owned(),
        slice: slice.to_owned(),
        ..rpc::Traffic::default()
    };
    for report in reports {
        if !report.shown {
            all.withheld_clusters.push(report.cluster.clone());
            continue;
        }
        let Some(told) = report.traffic.as_ref().and_then(|t| t.status.as_ref()) else { continue };
        let Some(counted) = &told.counted_at else { continue };
        let known = told.tunnels.iter().filter(|t| reports.iter().any(|r| r.cluster == t.cluster));
        let tunnels: Vec<rpc::TunnelTraffic> = known.map(|t| of(&report.cluster, t)).collect();
        let passed = tunnels.iter().filter_map(|t| t.passed).fold(Default::default(), sum);
        all.clusters.push(rpc::ClusterTraffic {
            cluster: report.cluster.clone(),
            count_time: counted.parse().ok(),
            passed: Some(passed),
            tunnels_left_out: told.left_out.max(0),
        });
        all.tunnels.extend(tunnels);
    }
    all.tunnels.sort_by(|a, b| (&a.cluster, &a.peer, a.lane).cmp(&(&b.cluster, &b.peer, b.lane)));
    all
}

fn of(cluster: &str, told: &slicewire_api::TunnelTraffic) -> rpc::TunnelTraffic {
    let passed = rpc::PassedTraffic {
        sent_bytes: told.sent_bytes.max(0),
        received_bytes: told.received_bytes.max(0),
        sent: told.sent_rate.max(0),
        received: told.received_rate.max(0),
    };
    rpc::TunnelTraffic {
        cluster: cluster.to_owned(),
        peer: told.cluster.clone(),
        lane: u32::from(told.lane),
        passed: Some(passed),
    }
}

fn sum(a: rpc::PassedTraffic, b: rpc::PassedTraffic) -> rpc::PassedTraffic {
    rpc::PassedTraffic {
        sent_bytes: a.sent_bytes.saturating_add(b.sent_bytes),
        received_bytes: a.received_bytes.saturating_add(b.received_bytes),
        sent: a.sent.saturating_add(b.sent),
        received: a.received.saturating_add(b.received),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn report(cluster: &str, status: serde_json::Value) -> Report {
        let traffic: WorkerTraffic = serde_json::from_value(json!({
            "metadata": {"name": "blue"},
            "spec": {"slice": "blue", "cluster": cluster},
            "status": status,
        }))
        .unwrap();
        Report { cluster: cluster.into(), shown: true, traffic: Some(traffic.into()) }
    }

    #[test]
    fn tunnels_are_told_one_by_one_and_as_their_clusters_sum() {
        let tunnel = |cluster: &str, lane: u8, sent: i64| {
            json!({"lane": lane, "cluster": cluster, "sentBytes": sent, "receivedBytes": 2,
                "sentRate": 3, "receivedRate": 4})
        };
        let tunnels = [tunnel("west", 1, 10), tunnel("west", 0, i64::MAX), tunnel("nobody", 0, 5)];
        let east = json!({"countedAt": "2026-01-01T10:00:00Z", "tunnels": tunnels, "leftOut": 7});
        let silent = Report { cluster: "west".into(), shown: true, traffic: None };
        let told = traffic("demo", "blue", &[report("east", east), silent]);
        let lanes: Vec<(&str, u32)> =
            told.tunnels.iter().map(|t| (t.peer.as_str(), t.lane)).collect();
        assert_eq!(lanes, [("west", 0), ("west", 1)]);
        let [east] = &told.clusters[..] else { unreachable!("one cluster has told") };
        let passed =
            rpc::PassedTraffic { sent_bytes: i64::MAX, received_bytes: 4, sent: 6, received: 8 };
        assert_eq!((east.passed, east.tunnels_left_out), (Some(passed), 7));
        assert!(east.count_time.is_some());
    }

    #[test]
    fn counters_below_nothing_are_nothing_and_withheld_is_withheld() {
        let tunnels = json!([{"lane": 0, "cluster": "west", "sentBytes": -5, "sentRate": -1}]);
        let east = report("east", json!({"countedAt": "never", "tunnels": tunnels, "leftOut": -3}));
        let west = Report { shown: false, ..report("west", json!({"countedAt": "x"})) };
        let told = traffic("demo", "blue", &[east, west]);
        assert_eq!(told.tunnels[0].passed, Some(rpc::PassedTraffic::default()));
        assert_eq!((told.clusters[0].count_time, told.clusters[0].tunnels_left_out), (None, 0));
        assert_eq!((told.clusters.len(), told.withheld_clusters), (1, vec!["west".to_owned()]));
    }
}
