//! The goals, and what is printed.

use std::io::{self, Write};

use slicewire_bench_report::{Better, Report, Runs, Table, median};
use slicewire_tunnel_tests::device::Implementation;

use crate::{
    candidates::Candidate,
    plan::{CLOSED_PORT, MANY_PEERS, Metric, PEAK, Part, Plan, UNDER_FLOOD, UNDISTURBED},
};

/// Name of ours.
const OURS: &str = "ours";
/// Largest peak RSS of a gateway, in MB.
const MEMORY: f64 = 20.0;
/// Share of the throughput that must remain with many peers, and under a flood.
const WITH_MANY: f64 = 0.95;
const WITH_FLOOD: f64 = 0.9;

/// What was watched before every candidate's turn, and for whom.
pub(crate) const FOREIGN: &str = "load by others";
pub(crate) const MACHINE: &str = "the machine";
/// Per cent of the machine that others may use before the figures say more about them.
const DISTURBED: f64 = 25.0;

/// One line a figure, one column a candidate, medians.
pub(crate) fn overview(
    runs: &Runs,
    candidates: &[Candidate],
    plan: &Plan,
    out: &mut impl Write,
) -> io::Result<()> {
    let names = candidates.iter().map(|candidate| candidate.name());
    let mut table = Table::new(["median of every round", "unit"].into_iter().chain(names));
    for metric in plan.metrics(Candidate::WireGuard(Implementation::Ours)) {
        let cells = candidates.iter().map(|candidate| {
            let runs = runs.get(&metric.what, candidate.name()).ok();
            runs.and_then(median).map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"))
        });
        let heads = [metric.what.clone(), metric.unit.to_owned()];
        table.row(heads.into_iter().chain(cells));
    }
    table.print(out)?;
    writeln!(out, "{FOREIGN}: {:.0} % of {MACHINE}\n", foreign(runs))
}

/// Ours against everyone, with the goals. Only a complete run is the report `tunnel`.
pub(crate) fn report(complete: bool, runs: &Runs, candidates: &[Candidate], plan: &Plan) -> Report {
    let mut report = Report::new(if complete { "tunnel" } else { "tunnel-partial" });
    for candidate in candidates.iter().filter(|candidate| candidate.name() != OURS) {
        for Metric { what, unit, better } in plan.metrics(*candidate) {
            let goal = goal(&what, *candidate);
            report.compare(runs, &what, unit, better, OURS, candidate.name(), goal);
        }
    }
    let (higher, unit) = (Better::Higher, "Gbit/s");
    if plan.has(Part::Tcp) {
        report.limit(runs, PEAK, "MB", Better::Lower, OURS, MEMORY);
    }
    if plan.has(Part::Peers) {
        report.compare(runs, MANY_PEERS, unit, higher, OURS, UNDISTURBED, Some(WITH_MANY));
    }
    if plan.has(Part::Flood) {
        report.compare(runs, UNDER_FLOOD, unit, higher, OURS, CLOSED_PORT, Some(WITH_FLOOD));
    }
    report.failures(runs);
    if foreign(runs) > DISTURBED {
        let reason = format!("{:.0} % used by others: measure again when quiet", foreign(runs));
        report.cannot("a quiet machine", "everyone", reason);
    }
    report
}

fn foreign(runs: &Runs) -> f64 {
    runs.get(FOREIGN, MACHINE).ok().and_then(median).unwrap_or(0.0)
}

/// The ratio asked for.
fn goal(what: &str, candidate: Candidate) -> Option<f64> {
    let (tcp, small, processor) = match candidate {
        Candidate::WireGuard(Implementation::WireguardGo) => (1.5, Some(2.4), Some(1.0 / 0.65)),
        Candidate::WireGuard(Implementation::Gotatun | Implementation::Boringtun) => {
            (5.0, None, None)
        }
        Candidate::OpenVpn => (8.0, None, None),
        Candidate::Plain | Candidate::Vxlan => return None,
        Candidate::WireGuard(_) | Candidate::Nebula => {
            return what.starts_with("RTT").then_some(1.0);
        }
    };
    match what {
        _ if what.contains("TCP") => Some(tcp),
        _ if what.starts_with("small") => small,
        _ if what.contains("CPU") => processor,
        _ if what.starts_with("RTT") => Some(1.0),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_goal_is_attached_to_a_figure() {
        let go = Candidate::WireGuard(Implementation::WireguardGo);
        let plan = Plan::new(&[], 3);
        let goals: Vec<(String, Option<f64>)> = plan
            .metrics(go)
            .into_iter()
            .map(|metric| (metric.what.clone(), goal(&metric.what, go)))
            .collect();
        let of = |what: &str| goals.iter().find(|(name, _)| name == what).unwrap().1;
        assert_eq!(of("veth TCP 1 stream"), Some(1.5));
        assert_eq!(of("wire TCP 4 streams"), Some(1.5));
        assert_eq!(of("wire TCP 32 streams"), Some(1.5));
        assert_eq!(of(MANY_PEERS), Some(1.5));
        assert_eq!(of("small packets 200 B"), Some(2.4));
        assert_eq!(of("RTT saturated p99"), Some(1.0));
        assert!(of("veth CPU of the gateways").unwrap() > 1.5);
        assert_eq!(of("peak RSS"), None);
        assert_eq!(goal("veth TCP 4 streams", Candidate::OpenVpn), Some(8.0));
        assert_eq!(goal("veth TCP 4 streams", Candidate::Plain), None);
    }
}
