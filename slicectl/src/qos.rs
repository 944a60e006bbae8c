//! `slicectl qos`: what slices are promised and what they got, per cluster and node.

use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use kube::api::ListParams;
use kube::{Api, ResourceExt as _};
use slicewire_api::condition::QOS_HONOURED;
use slicewire_api::{DeliveredQos, QosLimits, WorkerSlice};
use slicewire_core::member::sentence;
use slicewire_core::qos::{Qos, QosFields};

use crate::cluster::HubArguments;
use crate::table::layout;

/// What to show.
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    hub: HubArguments,
    /// Only this project.
    #[arg(long)]
    project: Option<String>,
    /// Only this slice.
    #[arg(long)]
    slice: Option<String>,
}

/// Prints the table; exit status 2 when something promised cannot be kept.
///
/// # Errors
/// The hub cannot be read.
pub(crate) async fn qos(arguments: Arguments) -> Result<ExitCode> {
    let hub = arguments.hub.connect().await?;
    let list = Api::<WorkerSlice>::all(hub.client).list(&ListParams::default()).await?;
    let wanted = |s: &WorkerSlice| {
        arguments.project.as_ref().is_none_or(|p| *p == s.spec.project)
            && arguments.slice.as_ref().is_none_or(|name| *name == s.spec.slice)
    };
    let mut slices: Vec<WorkerSlice> = list.items.into_iter().filter(wanted).collect();
    slices.sort_by_key(|s| (s.spec.project.clone(), s.spec.slice.clone(), s.name_any()));
    let (text, kept) = render(&slices);
    io::stdout().write_all(text.as_bytes())?;
    Ok(if kept { ExitCode::SUCCESS } else { ExitCode::from(2) })
}

const HEAD: [&str; 11] = [
    "PROJECT",
    "SLICE",
    "CLUSTER",
    "CEILING",
    "GUARANTEE",
    "PRIORITY",
    "NODE",
    "UPLINK",
    "SENT 1m/1h",
    "RECEIVED 1m/1h",
    "DROPPED 1m/1h",
];

/// The tables, and whether all that is promised can be kept.
fn render(slices: &[WorkerSlice]) -> (String, bool) {
    let rows: Vec<Vec<String>> = slices.iter().flat_map(rows).collect();
    if rows.is_empty() {
        return ("no slice asks for anything; see SliceConfig's spec.qos\n".to_owned(), true);
    }
    let mut text = layout(&HEAD, &rows);
    let broken: Vec<String> = slices.iter().filter_map(broken).collect();
    if !broken.is_empty() {
        text.push_str("\nnot kept:\n");
        for line in &broken {
            text.push_str(&format!("  {line}\n"));
        }
    }
    (text, broken.is_empty())
}

/// One row a node that shapes the slice; one in all where there is none.
fn rows(slice: &WorkerSlice) -> Vec<Vec<String>> {
    let nodes = slice.status.as_ref().map(|s| s.qos.clone()).unwrap_or_default();
    if slice.spec.qos.is_none() && nodes.is_empty() {
        return Vec::new();
    }
    let limits = slice.spec.qos.clone().unwrap_or_default();
    let asked = QosFields::from(&limits).parse("spec.qos").unwrap_or_default();
    let own = |limits: &QosLimits, asked: &Qos| {
        let dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        vec![
            slice.spec.project.clone(),
            slice.spec.slice.clone(),
            slice.spec.cluster.clone(),
            dash(&limits.ceiling),
            dash(&limits.guarantee),
            asked.priority.to_string(),
        ]
    };
    if nodes.is_empty() {
        return vec![[own(&limits, &asked), vec!["-".to_owned()]].concat()];
    }
    nodes
        .iter()
        .map(|node| {
            let pair = |of: fn(&DeliveredQos) -> String| {
                format!("{} / {}", of(&node.minute), of(&node.hour))
            };
            let rest = vec![
                sentence(&node.node),
                node.uplink.map_or_else(|| "unknown".to_owned(), rate),
                pair(|d| rate(d.sent)),
                pair(|d| rate(d.received)),
                pair(|d| d.dropped.to_string()),
            ];
            [own(&limits, &asked), rest].concat()
        })
        .collect()
}

fn broken(slice: &WorkerSlice) -> Option<String> {
    let conditions = &slice.status.as_ref()?.conditions;
    let found = conditions.iter().find(|c| c.type_ == QOS_HONOURED && c.status != "True")?;
    let (name, cluster) = (&slice.spec.slice, &slice.spec.cluster);
    Some(format!("slice {name} in {cluster}: {}", sentence(&found.message)))
}

/// Bits a second for people: two or three digits and a unit.
fn rate(bits: i64) -> String {
    for (unit, letter) in [(1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k")] {
        if bits >= unit * 10 {
            return format!("{}{letter}", bits / unit);
        }
        if bits >= unit {
            return format!("{}.{}{letter}", bits / unit, bits % unit * 10 / unit);
        }
    }
    bits.max(0).to_string()
}

#[cfg(test)]
mod tests {
    use slicewire_api::{NodeQos, WorkerSliceSpec, WorkerSliceStatus};

    use super::*;

    fn slice(name: &str, limits: Option<QosLimits>, nodes: &[NodeQos]) -> WorkerSlice {
        let spec = WorkerSliceSpec {
            project: "demo".into(),
            slice: name.into(),
            cluster: "east".into(),
            qos: limits,
            ..WorkerSliceSpec::default()
        };
        let mut slice = WorkerSlice::new(name, spec);
        let qos = nodes.to_vec();
        slice.status = Some(WorkerSliceStatus { qos, ..WorkerSliceStatus::default() });
        slice
    }

    #[test]
    fn promised_is_shown_beside_delivered() {
        let limits = QosLimits { ceiling: Some("100M".into()), ..QosLimits::default() };
        let minute = DeliveredQos { sent: 96_000_000, received: 1_500_000, dropped: 12 };
        let node = NodeQos {
            node: "n1".into(),
            minute,
            uplink: Some(9_100_000_000),
            ..NodeQos::default()
        };
        let (text, kept) = render(&[slice("blue", Some(limits), &[node]), slice("red", None, &[])]);
        assert!(kept);
        let row = text.lines().nth(1).unwrap();
        for part in ["100M", " n1 ", "9.1G", "96M / 0", "1.5M / 0", "12 / 0"] {
            assert!(row.contains(part), "{part}: {row}");
        }
        assert_eq!(text.lines().count(), 2);
    }

    #[test]
    fn what_cannot_be_kept_is_told() {
        let mut slice = slice("blue", Some(QosLimits::default()), &[]);
        let now = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(
            k8s_openapi::jiff::Timestamp::UNIX_EPOCH,
        );
        let condition = slicewire_api::condition::condition(
            QOS_HONOURED,
            false,
            "UplinkUnknown",
            "node n1: say it",
            None,
            now,
        );
        slice.status.as_mut().unwrap().conditions.push(condition);
        let (text, kept) = render(&[slice]);
        assert!(!kept && text.contains("slice blue in east: node n1: say it"), "{text}");
    }

    #[test]
    fn rates_have_units() {
        for (bits, text) in
            [(0, "0"), (950, "950"), (1_500, "1.5k"), (12_000_000, "12M"), (9_100_000_000, "9.1G")]
        {
            assert_eq!(rate(bits), text);
        }
    }
}
