//! What shaping tells: whether promises are kept, and what was delivered.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use slicewire_api::{DeliveredQos, NodeQos};
use slicewire_core::qos::meter::{Delivered, Totals};
use slicewire_core::qos::{Meter, Rate};
use slicewire_kernel::ShapedBoth;

use super::plan::Plan;

/// How the slices of this node are shaped.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Shaped {
    /// What of the uplink slices can use, where it is known.
    pub(super) uplink: Option<Rate>,
    /// By name.
    pub(crate) slices: BTreeMap<String, ShapedSlice>,
}

/// How one slice is shaped.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ShapedSlice {
    /// None where nothing is asked for.
    pub(crate) honoured: Option<Honoured>,
    /// None where it is not shaped.
    pub(crate) traffic: Option<NodeQos>,
    /// What it may send and receive at the moment.
    pub(super) limits: (Rate, Rate),
    totals: Totals,
}

/// Whether what a slice asks for can be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Honoured {
    pub(crate) kept: bool,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

impl ShapedSlice {
    /// The same with what it may send and receive at the moment.
    pub(super) fn limited(self, limits: (Rate, Rate)) -> Self {
        Self { limits, ..self }
    }

    /// The same with the figures of what was told last, if there were any.
    pub(super) fn with_traffic_of(self, last: Option<&Self>) -> Self {
        let traffic = match last.and_then(|l| l.traffic.clone()) {
            Some(told) if self.traffic.is_some() => Some(told),
            _ => self.traffic,
        };
        Self { traffic, ..self }
    }
}

/// Counters as the meter wants them.
pub(super) fn totals(counted: &ShapedBoth) -> Totals {
    Totals {
        left: counted.leaving.bytes,
        arrived: counted.arriving.bytes,
        dropped: counted.leaving.dropped + counted.arriving.dropped,
    }
}

/// What is told of one slice.
pub(super) fn of_slice(
    slice: &str,
    node: &str,
    plan: &Plan,
    fault: Option<&(&'static str, String)>,
    meter: Option<&Meter>,
    now: u64,
) -> ShapedSlice {
    let traffic = meter.map(|meter| NodeQos {
        node: node.to_owned(),
        uplink: plan.uplink.map(|r| number(r.0)),
        minute: rounded(meter.minute(now)),
        hour: rounded(meter.hour(now)),
    });
    ShapedSlice {
        honoured: honoured(slice, plan, fault),
        traffic,
        totals: meter.map(Meter::totals).unwrap_or_default(),
        ..ShapedSlice::default()
    }
}

fn honoured(slice: &str, plan: &Plan, fault: Option<&(&'static str, String)>) -> Option<Honoured> {
    let qos = plan.wants.get(slice)?.qos?;
    let broken = |reason, message| Some(Honoured { kept: false, reason, message });
    if let Some((reason, message)) = fault {
        return broken(reason, message.clone());
    }
    let promised = qos.guarantee.is_some();
    if promised && plan.uplink.is_none() {
        let message = format!(
            "what the node's uplink carries is not known, so slices do not share it by their guarantees; say it in the Node's annotation {}, as 10G",
            slicewire_api::labels::UPLINK
        );
        return broken("UplinkUnknown", message);
    }
    match plan.overcommitted.as_ref().filter(|_| promised) {
        Some(message) => broken("GuaranteesExceedUplink", message.clone()),
        None => Some(Honoured {
            kept: true,
            reason: "Honoured",
            message: "all that is promised can be kept".to_owned(),
        }),
    }
}

fn rounded(delivered: Delivered) -> DeliveredQos {
    DeliveredQos {
        sent: two_digits(delivered.left.0),
        received: two_digits(delivered.arrived.0),
        dropped: two_digits(delivered.dropped),
    }
}

/// Two digits, so that a status changes only when it matters.
fn two_digits(value: u64) -> i64 {
    let mut unit = 1;
    while value / unit >= 100 {
        unit *= 10;
    }
    number((value / unit + u64::from(value % unit * 2 >= unit && unit > 1)) * unit)
}

fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

impl Shaped {
    /// Figures in the Prometheus text format.
    pub(crate) fn metrics(&self) -> String {
        let mut out = String::new();
        let mut table =
            |name: &str, kind: &str, help: &str, of: &dyn Fn(&ShapedSlice) -> [u64; 2]| {
                let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
                for (slice, shaped) in self.slices.iter().filter(|(_, s)| s.traffic.is_some()) {
                    for (direction, value) in ["sent", "received"].iter().zip(of(shaped)) {
                        let labels = format!("slice=\"{slice}\",direction=\"{direction}\"");
                        let _ = writeln!(out, "{name}{{{labels}}} {value}");
                    }
                }
            };
        let help = "Bytes of the slice between this node and others.";
        table("slicewire_qos_bytes_total", "counter", help, &|s| [s.totals.left, s.totals.arrived]);
        let help = "What the slice may send and receive now, in bits a second.";
        table("slicewire_qos_limit_bits", "gauge", help, &|s| [s.limits.0.0, s.limits.1.0]);
        let name = "slicewire_qos_dropped_total";
        let _ =
            writeln!(out, "# HELP {name} Packets over the slice's limits.\n# TYPE {name} counter");
        for (slice, shaped) in self.slices.iter().filter(|(_, s)| s.traffic.is_some()) {
            let _ = writeln!(out, "{name}{{slice=\"{slice}\"}} {}", shaped.totals.dropped);
        }
        let name = "slicewire_qos_uplink_bits";
        let help = "What slices can use of the uplink, in bits a second; 0 while unknown.";
        let uplink = self.uplink.unwrap_or_default().0;
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {uplink}");
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_two_digits() {
        for (value, shown) in [
            (0, 0),
            (7, 7),
            (99, 99),
            (100, 100),
            (1_049, 1_000),
            (1_050, 1_100),
            (995, 1_000),
            (123_456, 120_000),
        ] {
            assert_eq!(two_digits(value), shown, "{value}");
        }
    }

    #[test]
    fn metrics_name_slices_and_directions() {
        let totals = Totals { left: 5, arrived: 6, dropped: 7 };
        let slice = ShapedSlice { traffic: Some(NodeQos::default()), totals, ..Default::default() };
        let shaped = Shaped { uplink: None, slices: [("blue".to_owned(), slice)].into() };
        let text = shaped.metrics();
        for line in [
            "slicewire_qos_bytes_total{slice=\"blue\",direction=\"received\"} 6",
            "slicewire_qos_dropped_total{slice=\"blue\"} 7",
            "slicewire_qos_uplink_bits 0",
        ] {
            assert!(text.contains(line), "{text}");
        }
    }
}
