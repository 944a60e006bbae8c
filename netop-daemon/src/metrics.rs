//! Figures for Prometheus.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use slicewire_api::NodePolicy;

use crate::policy::DefaultHits;
use crate::report::Report;

/// Upper bounds of the histograms, in seconds.
const BUCKETS: [f64; 10] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 2.0];

/// Name, help and value of what is told of each rule.
type RuleFigure = (&'static str, &'static str, fn(&(u64, u64)) -> u64);
const RULES: [RuleFigure; 2] = [
    ("slicewire_policy_hits_total", "Connections that a rule has decided about.", |s| s.0),
    (
        "slicewire_policy_would_drop_total",
        "Connections that passed and would be dropped, were nothing in audit mode.",
        |s| s.1,
    ),
];

#[derive(Debug, Default)]
struct Histogram {
    counts: [u64; BUCKETS.len()],
    total: u64,
    seconds: f64,
}

impl Histogram {
    fn observe(&mut self, time: Duration) {
        let seconds = time.as_secs_f64();
        for (count, bound) in self.counts.iter_mut().zip(BUCKETS) {
            *count += u64::from(seconds <= bound);
        }
        self.total += 1;
        self.seconds += seconds;
    }

    fn render(&self, out: &mut String, name: &str, help: &str) {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} histogram");
        for (count, bound) in self.counts.iter().zip(BUCKETS) {
            let _ = writeln!(out, "{name}_bucket{{le=\"{bound}\"}} {count}");
        }
        let _ = writeln!(out, "{name}_bucket{{le=\"+Inf\"}} {}", self.total);
        let _ = writeln!(out, "{name}_sum {}\n{name}_count {}", self.seconds, self.total);
    }
}

#[derive(Debug, Default)]
struct Figures {
    attached: BTreeMap<String, u64>,
    failed: BTreeMap<&'static str, u64>,
    nics: BTreeMap<String, u64>,
    failing: u64,
    attach: Histogram,
    round: Histogram,
    gateways: u64,
    nri: bool,
    /// Hits and what would have been dropped, by labels.
    rules: BTreeMap<String, (u64, u64)>,
}

/// The figures, shared.
#[derive(Debug, Default)]
pub(crate) struct Metrics(Mutex<Figures>);

impl Metrics {
    fn lock(&self) -> MutexGuard<'_, Figures> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A NIC was made.
    pub(crate) fn attached(&self, slice: &str) {
        *self.lock().attached.entry(slice.to_owned()).or_default() += 1;
    }

    /// The kernel part of attaching one pod that is being started took this long.
    pub(crate) fn attached_in(&self, time: Duration) {
        self.lock().attach.observe(time);
    }

    /// Something was tried in vain.
    pub(crate) fn failed(&self, reason: &'static str) {
        *self.lock().failed.entry(reason).or_default() += 1;
    }

    /// A round took this long.
    pub(crate) fn round(&self, time: Duration) {
        self.lock().round.observe(time);
    }

    /// What there is.
    pub(crate) fn nics(&self, report: &Report) {
        let mut nics = BTreeMap::new();
        for (slice, _) in report.nics.keys() {
            *nics.entry(slice.clone()).or_default() += 1;
        }
        let mut figures = self.lock();
        figures.nics = nics;
        figures.failing = report.failures.len() as u64;
    }

    /// What policies, and slices' defaults, have decided about.
    pub(crate) fn policies(
        &self,
        of: &BTreeMap<String, Vec<NodePolicy>>,
        defaults: BTreeMap<String, DefaultHits>,
    ) {
        let mut rules = BTreeMap::new();
        for (slice, policies) in of {
            for policy in policies {
                for hits in &policy.hits {
                    let place = hits.rule.map_or("unlisted".to_owned(), |r| r.to_string());
                    let labels = format!(
                        "slice=\"{slice}\",policy=\"{}\",direction=\"{}\",rule=\"{place}\"",
                        policy.policy, hits.direction
                    );
                    let number = |n: i64| u64::try_from(n).unwrap_or_default();
                    rules.insert(labels, (number(hits.hits), number(hits.would_drop)));
                }
            }
        }
        for (slice, hits) in defaults {
            let labels = format!("slice=\"{slice}\",policy=\"\",direction=\"\",rule=\"default\"");
            rules.insert(labels, (hits.hits, hits.would_drop));
        }
        self.lock().rules = rules;
    }

    /// So many gateways are heard.
    pub(crate) fn gateways(&self, heard: u64) {
        self.lock().gateways = heard;
    }

    /// Whether the runtime asks before it starts a pod.
    pub(crate) fn nri(&self, connected: bool) {
        self.lock().nri = connected;
    }

    /// The Prometheus text format.
    pub(crate) fn render(&self) -> String {
        let figures = self.lock();
        let mut out = String::new();
        let mut table = |name: &str, kind: &str, help: &str, label: &str, of: &[(&str, u64)]| {
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
            for (value, n) in of {
                if label.is_empty() {
                    let _ = writeln!(out, "{name} {n}");
                } else {
                    let _ = writeln!(out, "{name}{{{label}=\"{value}\"}} {n}");
                }
            }
        };
        let attached: Vec<_> = figures.attached.iter().map(|(k, v)| (k.as_str(), *v)).collect();
        let failed: Vec<_> = figures.failed.iter().map(|(k, v)| (*k, *v)).collect();
        let nics: Vec<_> = figures.nics.iter().map(|(k, v)| (k.as_str(), *v)).collect();
        table("slicewire_attached_total", "counter", "NICs made.", "slice", &attached);
        table("slicewire_failures_total", "counter", "Tries in vain.", "reason", &failed);
        table("slicewire_nics", "gauge", "Slice NICs of pods on this node.", "slice", &nics);
        let failing = [("", figures.failing)];
        table("slicewire_failing_pods", "gauge", "Pods not attached as wanted.", "", &failing);
        let gateways = [("", figures.gateways)];
        table("slicewire_gateways_heard", "gauge", "Gateways that report routes.", "", &gateways);
        let nri = [("", u64::from(figures.nri))];
        table("slicewire_nri_connected", "gauge", "1: the runtime asks us first.", "", &nri);
        for (name, help, of) in RULES {
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} counter");
            for (labels, sums) in &figures.rules {
                let _ = writeln!(out, "{name}{{{labels}}} {}", of(sums));
            }
        }
        let help = "Time to attach a pod that is being started, in seconds.";
        figures.attach.render(&mut out, "slicewire_attach_seconds", help);
        let help = "Time of one round over everything, in seconds.";
        figures.round.render(&mut out, "slicewire_round_seconds", help);
        out
    }
}
