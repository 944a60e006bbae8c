//! Tells how the gateways are, here and to the hub.

use k8s_openapi::jiff::Timestamp;
use slicewire_api::WorkerGatewayStatus;

use super::observe::Observed;
use super::status::{explained, status};
use crate::kubernetes::change::Change;
use crate::kubernetes::event::Notice;
use crate::kubernetes::write::Outcome;
use crate::worker::Worker;

/// Writes both statuses where they say something new. `outcome` is missing while the plan is still
/// being carried out: then only new keys are told, for which the other clusters wait.
pub(super) async fn report(
    worker: &Worker,
    observed: &Observed,
    outcome: Option<&Outcome>,
    now: Timestamp,
) -> Outcome {
    let here = observed.plan().and_then(|gateway| {
        // The caches may know a newer form by now.
        let gateway = worker
            .local
            .gateways
            .get(&observed.namespace, &observed.name)
            .filter(|g| g.metadata.uid == gateway.metadata.uid)?;
        let old = gateway.status.clone().unwrap_or_default();
        let new = status(observed, &old, gateway.metadata.generation, outcome, now)?;
        if new == old || (outcome.is_none() && !keys_differ(&old, &new)) {
            return None;
        }
        worker.events.publish(&*gateway, notices(&old, &new));
        measure(worker, &observed.name, &new);
        Some(Change::status(&*gateway, &new))
    });
    let session = worker.hub.session();
    let there = session.as_ref().and_then(|s| {
        let told = worker.told.gateways.get(&s.namespace, &observed.name)?;
        let old = told.status.clone().unwrap_or_default();
        let new = status(observed, &old, told.metadata.generation, outcome, now)?;
        let says = new != old && (outcome.is_some() || keys_differ(&old, &new));
        says.then(|| Change::status(&*told, &new))
    });
    let hub = async {
        match (&session, there) {
            (Some(session), Some(change)) => {
                session.tell(vec![vec![change]], |object| worker.note(object)).await
            }
            _ => worker.writer.run(Vec::new(), |_| {}).await,
        }
    };
    let here = vec![here.into_iter().collect()];
    let (here, hub) = tokio::join!(worker.writer.run(here, |object| worker.note(object)), hub);
    here.and(hub)
}

fn keys_differ(old: &WorkerGatewayStatus, new: &WorkerGatewayStatus) -> bool {
    let keys = |s: &WorkerGatewayStatus| {
        let lanes = s.lanes.iter().map(|l| (l.public_key.clone(), l.next.clone()));
        (lanes.collect::<Vec<_>>(), s.exchange.clone())
    };
    keys(old) != keys(new)
}

/// Tunnels that went up or down.
pub(super) fn notices(old: &WorkerGatewayStatus, new: &WorkerGatewayStatus) -> Vec<Notice> {
    let mut notices = Vec::new();
    for lane in &new.lanes {
        let before = old.lanes.iter().find(|l| l.lane == lane.lane);
        for tunnel in &lane.tunnels {
            let was = before
                .and_then(|l| l.tunnels.iter().find(|t| t.cluster == tunnel.cluster))
                .is_some_and(|t| t.up);
            if was == tunnel.up {
                continue;
            }
            let path = format!("Tunnel of lane {} to cluster {}", lane.lane, tunnel.cluster);
            notices.push(if tunnel.up {
                Notice { warning: false, reason: "TunnelUp".into(), note: format!("{path} is up.") }
            } else {
                let reason = explained(tunnel.reason.as_deref().unwrap_or("Down"));
                let note = format!("{path} is down: {reason}.");
                Notice { warning: true, reason: "TunnelDown".into(), note }
            });
        }
    }
    notices
}

fn measure(worker: &Worker, slice: &str, status: &WorkerGatewayStatus) {
    for lane in &status.lanes {
        let number = lane.lane.to_string();
        for tunnel in &lane.tunnels {
            let labels =
                [("slice", slice), ("lane", number.as_str()), ("cluster", tunnel.cluster.as_str())];
            let up = f64::from(u8::from(tunnel.up));
            worker.metrics.set("slicewire_tunnel_up", "Whether probes come back.", &labels, up);
            let preshared = f64::from(u8::from(tunnel.preshared_key));
            let what = "Whether the tunnel has a pre-shared key.";
            worker.metrics.set("slicewire_tunnel_preshared_key", what, &labels, preshared);
        }
    }
}
