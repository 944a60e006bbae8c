//! What is measured, in parts that can be chosen.

use clap::ValueEnum;
use slicewire_bench_report::Better;
use slicewire_tunnel_tests::device::Implementation;

use crate::{candidates::Candidate, topology::Mode};

pub(crate) const PEAK: &str = "peak RSS";
pub(crate) const MANY_PEERS: &str = "veth TCP 1 stream, 100 peers";
pub(crate) const UNDER_FLOOD: &str = "veth TCP 1 stream, 20,000 forged initiations/s";
/// Name of the run that ours with many peers is compared with.
pub(crate) const UNDISTURBED: &str = "the same, undisturbed";
/// Name of the run that ours under a flood is compared with: the flood itself takes processor time
/// from the streams, on a machine where both ends run.
pub(crate) const CLOSED_PORT: &str = "the same flood at a closed port";
pub(crate) const SMALL: &str = "small packets 200 B";
pub(crate) const LARGE: &str = "UDP goodput 1,400 B";

/// A measurement, or several that belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// Round trips through an idle tunnel.
    Idle,
    /// TCP of super-packets: 1 and 32 streams, processor time, memory.
    Tcp,
    /// Round trips under 300 Mbit/s.
    Load,
    /// TCP with 4 streams, and round trips during it.
    Saturated,
    /// As many small packets as pass.
    Small,
    /// As many large datagrams as pass.
    Udp,
    /// TCP of packets as a NIC has them.
    Wire,
    /// TCP with 100 peers configured.
    Peers,
    /// TCP while strangers ask for handshakes.
    Flood,
}

/// How much is measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    parts: Vec<Part>,
    /// Seconds of a TCP run.
    pub(crate) seconds: u32,
}

/// One figure of the report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Metric {
    pub(crate) what: String,
    pub(crate) unit: &'static str,
    pub(crate) better: Better,
}

impl Metric {
    fn new(what: impl Into<String>, unit: &'static str, better: Better) -> Self {
        Self { what: what.into(), unit, better }
    }

    fn round_trips(load: &str) -> [Self; 2] {
        ["p50", "p99"].map(|p| Self::new(format!("RTT {load} {p}"), "µs", Better::Lower))
    }

    /// Throughput with these numbers of streams, and what the first of them costs.
    fn tcp(candidate: Candidate, mode: Mode, streams: &[u32]) -> Vec<Self> {
        let tcp = |n: &u32| Self::new(tcp_name(mode, *n), "Gbit/s", Better::Higher);
        let cpu = |whose| Self::new(cpu_name(mode, whose), "s/GB", Better::Lower);
        let own = candidate.is_process().then(|| cpu("gateways"));
        streams.iter().map(tcp).chain([cpu("machine")]).chain(own).collect()
    }
}

impl Plan {
    /// These parts, or all of them if there are none.
    pub(crate) fn new(parts: &[Part], seconds: u32) -> Self {
        let all = Part::value_variants();
        Self { parts: if parts.is_empty() { all } else { parts }.to_vec(), seconds }
    }

    pub(crate) fn has(&self, part: Part) -> bool {
        self.parts.contains(&part)
    }

    pub(crate) fn is_complete(&self) -> bool {
        Part::value_variants().iter().all(|part| self.has(*part))
    }

    /// Every figure that `candidate` has, in the order of the report.
    pub(crate) fn metrics(&self, candidate: Candidate) -> Vec<Metric> {
        let parts = Part::value_variants().iter().filter(|part| self.has(**part));
        parts.flat_map(|part| metrics(*part, candidate)).collect()
    }
}

fn metrics(part: Part, candidate: Candidate) -> Vec<Metric> {
    match part {
        Part::Idle => Metric::round_trips("idle").into(),
        Part::Load => Metric::round_trips("300 Mbit/s").into(),
        Part::Saturated => {
            let tcp = Metric::new(tcp_name(Mode::Veth, 4), "Gbit/s", Better::Higher);
            [tcp].into_iter().chain(Metric::round_trips("saturated")).collect()
        }
        Part::Tcp => {
            let memory = Metric::new(PEAK, "MB", Better::Lower);
            let memory = candidate.is_process().then_some(memory);
            Metric::tcp(candidate, Mode::Veth, &[1, 32]).into_iter().chain(memory).collect()
        }
        Part::Wire => Metric::tcp(candidate, Mode::Wire, &[1, 4, 32]),
        Part::Small => vec![Metric::new(SMALL, "kpps", Better::Higher)],
        Part::Udp => vec![Metric::new(LARGE, "Gbit/s", Better::Higher)],
        Part::Peers if has_many_peers(candidate) => {
            vec![Metric::new(MANY_PEERS, "Gbit/s", Better::Higher)]
        }
        // Forged handshakes are an attack on ours alone.
        Part::Peers | Part::Flood => Vec::new(),
    }
}

/// Whether it is measured with many peers: those whose one peer is fast enough to show a loss.
pub(crate) fn has_many_peers(candidate: Candidate) -> bool {
    let those = [Implementation::Ours, Implementation::WireguardGo];
    those.map(Candidate::WireGuard).contains(&candidate)
}

pub(crate) fn tcp_name(mode: Mode, streams: u32) -> String {
    format!("{} TCP {streams} stream{}", mode.name(), if streams == 1 { "" } else { "s" })
}

pub(crate) fn cpu_name(mode: Mode, whose: &str) -> String {
    format!("{} CPU of the {whose}", mode.name())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_parts_are_those_that_are_named() {
        let ours = Candidate::WireGuard(Implementation::Ours);
        let all = Plan::new(&[], 3);
        assert!(all.is_complete());
        let one_by_one: usize =
            Part::value_variants().iter().map(|p| Plan::new(&[*p], 3).metrics(ours).len()).sum();
        assert_eq!(all.metrics(ours).len(), one_by_one);
        let idle = Plan::new(&[Part::Idle], 3);
        assert!(!idle.is_complete());
        assert_eq!(idle.metrics(Candidate::Plain).len(), 2);
    }
}
