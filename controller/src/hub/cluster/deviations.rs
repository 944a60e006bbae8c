//! What of a member's report is not taken, for its Cluster's condition `ReportAccepted`.

use std::fmt::Write as _;

use kube::ResourceExt;
use slicewire_api::{WorkerGateway, WorkerSlice};
use slicewire_core::member::{self, Fault};

use super::observe::Observed;
use crate::hub::endpoints;
use crate::hub::slice::exchange;
use crate::hub::slice::gateways::public_key;
use crate::hub::slice::observe::nets;

/// How many are told; of more it is said how many.
const MOST: usize = 8;

/// Something a member says that is not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Deviation {
    /// Object and field.
    pub(super) place: String,
    /// What was found there, cleaned.
    pub(super) value: String,
    /// Why it is not taken.
    pub(super) fault: Fault,
}

/// Everything that is not taken, in the order of objects.
pub(super) fn deviations(observed: &Observed) -> Vec<Deviation> {
    let mut all = Vec::new();
    let mut add = |place: String, value: String, fault| all.push(Deviation { place, value, fault });
    let told = observed.copy.as_ref().and_then(|c| c.status.as_ref());
    let said = told.map(|s| s.reserved_prefixes.as_slice()).unwrap_or_default();
    let (_, refused) = member::reserved(said);
    for (value, fault) in refused {
        add("Cluster status.reservedPrefixes".to_owned(), value, fault);
    }
    for slice in &observed.slices {
        let said = slice.status.as_ref().map_or(0, |s| s.attached_pods);
        if member::pods(said) != said {
            let place = format!("WorkerSlice {} status.attachedPods", slice.name_any());
            add(place, said.to_string(), Fault::Malformed);
        }
    }
    for report in &observed.endpoints {
        let slice = observed.slices.iter().find(|s| s.name_any() == report.spec.slice);
        for (value, fault) in slice.iter().flat_map(|slice| endpoints::refused(report, slice)) {
            add(format!("WorkerEndpoints {} status.endpoints", report.name_any()), value, fault);
        }
    }
    for report in &observed.pods {
        let slice = observed.slices.iter().find(|s| s.name_any() == report.spec.slice);
        for (value, fault) in slice.iter().flat_map(|slice| report.checked(slice).1) {
            add(format!("WorkerPods {} status.pods", report.name_any()), value, fault);
        }
    }
    for gateway in &observed.gateways {
        let slice = observed.slices.iter().find(|s| s.name_any() == gateway.name_any());
        for (field, value, fault) in lanes(gateway, slice.map(|s| &**s)) {
            add(format!("WorkerGateway {} status.{field}", gateway.name_any()), value, fault);
        }
    }
    all
}

fn lanes(gateway: &WorkerGateway, slice: Option<&WorkerSlice>) -> Vec<(String, String, Fault)> {
    let prefixes = slice.map(|s| nets(&s.spec.prefixes)).unwrap_or_default();
    let mut all = Vec::new();
    for lane in gateway.status.iter().flat_map(|s| &s.lanes) {
        let number = lane.lane;
        // A lane that is on its way out may be told of a little longer.
        if number >= slicewire_core::name::MAX_LANES {
            all.push(("lanes".to_owned(), number.to_string(), Fault::UnknownLane));
            continue;
        }
        if let Some(Err(fault)) = lane.public_key.as_deref().map(public_key) {
            let value = member::sentence(lane.public_key.as_deref().unwrap_or_default());
            all.push((format!("lanes[{number}].publicKey"), value, fault));
        }
        for (value, fault) in member::endpoints(&lane.endpoints, &prefixes).1 {
            all.push((format!("lanes[{number}].endpoints"), value, fault));
        }
        let Some(next) = &lane.next else { continue };
        if let Err(fault) = public_key(&next.public_key) {
            let value = member::sentence(&next.public_key);
            all.push((format!("lanes[{number}].next.publicKey"), value, fault));
        }
        for (value, fault) in member::endpoints(&next.endpoints, &prefixes).1 {
            all.push((format!("lanes[{number}].next.endpoints"), value, fault));
        }
    }
    let said = gateway.status.as_ref().and_then(|s| s.exchange.as_ref());
    all.extend(said.iter().flat_map(|said| exchange::refused(said)));
    all
}

/// All of it as one sentence.
pub(super) fn summary(deviations: &[Deviation]) -> String {
    let mut text = String::from("Not taken, and without effect: ");
    for (i, one) in deviations.iter().take(MOST).enumerate() {
        let between = if i == 0 { "" } else { "; " };
        let Deviation { place, value, fault } = one;
        let _ = write!(text, "{between}{place}: {value:?} ({})", fault.reason());
    }
    if deviations.len() > MOST {
        let _ = write!(text, "; and {} more", deviations.len() - MOST);
    }
    text.push_str(". See who runs this cluster's worker; slicectl evict cuts it off.");
    text
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use slicewire_api::{
        AttachedPod, ClusterStatus, GatewayLaneStatus, WorkerGatewaySpec, WorkerGatewayStatus,
        WorkerPods, WorkerPodsSpec, WorkerPodsStatus, WorkerSliceSpec, WorkerSliceStatus,
    };

    use super::super::plan::tests::observed;
    use super::*;

    fn hostile() -> Observed {
        let mut observed = observed();
        let mut copy = (*observed.cluster).clone();
        copy.status = Some(ClusterStatus {
            reserved_prefixes: vec!["0.0.0.0/0".into(), "10.0.0.0/24".into()],
            ..ClusterStatus::default()
        });
        observed.copy = Some(Arc::new(copy));
        let mut slice = WorkerSlice::new("blue", WorkerSliceSpec::default());
        slice.spec.prefixes = vec!["10.77.0.0/16".into()];
        slice.status = Some(WorkerSliceStatus { attached_pods: -1, ..Default::default() });
        observed.slices.push(Arc::new(slice));
        let spec = WorkerPodsSpec { slice: "blue".into(), ..Default::default() };
        let mut pods = WorkerPods::new("blue.0", spec);
        pods.status = Some(WorkerPodsStatus { pods: vec![AttachedPod::default()] });
        observed.pods.push(Arc::new(pods));
        let mut gateway = WorkerGateway::new("blue", WorkerGatewaySpec::default());
        let lane = GatewayLaneStatus {
            public_key: Some("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=".into()),
            endpoints: vec!["127.0.0.1:1".into(), "10.77.0.9:1".into(), "192.0.2.1:1".into()],
            ..GatewayLaneStatus::default()
        };
        let more = GatewayLaneStatus { lane: 200, ..GatewayLaneStatus::default() };
        let lanes = vec![lane, more];
        gateway.status = Some(WorkerGatewayStatus { lanes, ..Default::default() });
        observed.gateways.push(Arc::new(gateway));
        observed
    }

    #[test]
    fn everything_that_is_not_taken_is_told_with_its_place() {
        let all = deviations(&hostile());
        let told: Vec<_> = all.iter().map(|d| (d.value.as_str(), d.fault)).collect();
        assert_eq!(
            told,
            [
                ("0.0.0.0/0", Fault::TooWide),
                ("-1", Fault::Malformed),
                ("/", Fault::Malformed),
                ("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", Fault::WeakKey),
                ("127.0.0.1:1", Fault::NotUnicast),
                ("10.77.0.9:1", Fault::InsideSlice),
                ("200", Fault::UnknownLane),
            ]
        );
        assert!(all[4].place.contains("WorkerGateway blue status.lanes[0].endpoints"));
    }

    #[test]
    fn the_sentence_is_bounded_and_plain() {
        let one = Deviation {
            place: "p".into(),
            value: member::sentence(&format!("\u{1b}[2J{}", "x".repeat(4096))),
            fault: Fault::Malformed,
        };
        let text = summary(&vec![one; 1000]);
        assert!(text.len() < 8 * 1024 && text.contains("and 992 more"), "{}", text.len());
        assert!(!text.contains('\u{1b}'));
    }
}
