//! Whether the hub's plan for the gateways can be carried out.

use std::net::IpAddr;

use kube::ResourceExt;
use slicewire_api::{GatewayLane, WorkerGateway};
use slicewire_core::name::{MAX_LANES, SliceName};
use slicewire_core::prefix;
use slicewire_core::violation::Violation;

use super::observe::Observed;

/// Lanes that can be carried out, in their order.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ValidLanes(pub(super) Vec<GatewayLane>);

/// The lanes, or every fault; `None` when the hub says nothing.
pub(super) fn validate(observed: &Observed) -> Option<Result<ValidLanes, Vec<Violation>>> {
    let told = observed.told.as_deref()?;
    let faults = faults(told);
    Some(if faults.is_empty() { Ok(ValidLanes(told.spec.lanes.clone())) } else { Err(faults) })
}

fn faults(told: &WorkerGateway) -> Vec<Violation> {
    let mut faults = Vec::new();
    if SliceName::parse(&told.name_any()).is_err() || told.spec.slice != told.name_any() {
        let what = "is not the object's name, or no slice can have it";
        faults.push(Violation::new("spec.slice", &told.spec.slice, "WrongObject", what));
    }
    for (i, lane) in told.spec.lanes.iter().enumerate() {
        let at = format!("spec.lanes[{i}]");
        if usize::from(lane.lane) != i || lane.lane >= MAX_LANES {
            let what = format!("must be {i}: lanes are numbered from 0 to {}", MAX_LANES - 1);
            faults.push(Violation::new(format!("{at}.lane"), lane.lane.to_string(), "Lane", what));
        }
        for address in &lane.addresses {
            if address.parse::<IpAddr>().is_err() {
                let what = "is not an IP address";
                faults.push(Violation::new(
                    format!("{at}.addresses"),
                    address,
                    "MalformedAddress",
                    what,
                ));
            }
        }
        for tunnel in &lane.tunnels {
            let at = format!("{at}.tunnels[{}].prefixes", tunnel.cluster);
            let bad = tunnel.prefixes.iter().filter_map(|p| prefix::parse(&at, p).err());
            faults.extend(bad);
        }
    }
    faults
}
