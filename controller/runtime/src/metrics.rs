//! A registry for the Prometheus text format, version 0.0.4.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

/// Metrics of a process. Clones share the same figures.
#[derive(Clone, Default)]
pub struct Metrics {
    families: Arc<Mutex<BTreeMap<&'static str, Family>>>,
}

#[derive(Default)]
struct Family {
    kind: &'static str,
    help: &'static str,
    samples: BTreeMap<String, f64>,
}

impl Metrics {
    /// Adds `by` to a counter; its name ends in `_total`.
    pub fn count(&self, name: &'static str, help: &'static str, labels: &[(&str, &str)], by: f64) {
        self.sample(name, "counter", help, labels, |old| old + by);
    }

    /// Sets a gauge.
    pub fn set(&self, name: &'static str, help: &'static str, labels: &[(&str, &str)], to: f64) {
        self.sample(name, "gauge", help, labels, |_| to);
    }

    /// Forgets the samples of a metric that carry this label.
    pub fn forget(&self, name: &'static str, label: (&str, &str)) {
        let part = format!("{}=\"{}\"", label.0, escape(label.1));
        let mut families = self.families.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(family) = families.get_mut(name) {
            family.samples.retain(|labels, _| !labels.split(',').any(|l| l == part));
        }
    }

    /// The text format.
    pub fn render(&self) -> String {
        let families = self.families.lock().unwrap_or_else(PoisonError::into_inner);
        let mut out = String::new();
        for (name, family) in families.iter() {
            // Writing to a String cannot fail.
            let _ = writeln!(out, "# HELP {name} {}\n# TYPE {name} {}", family.help, family.kind);
            for (labels, value) in &family.samples {
                let braces =
                    if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
                let _ = writeln!(out, "{name}{braces} {value}");
            }
        }
        out
    }

    fn sample(
        &self,
        name: &'static str,
        kind: &'static str,
        help: &'static str,
        labels: &[(&str, &str)],
        change: impl Fn(f64) -> f64,
    ) {
        let labels: Vec<String> =
            labels.iter().map(|(k, v)| format!("{k}=\"{}\"", escape(v))).collect();
        let mut families = self.families.lock().unwrap_or_else(PoisonError::into_inner);
        let family = families.entry(name).or_insert(Family { kind, help, ..Family::default() });
        let value = family.samples.entry(labels.join(",")).or_insert(0.0);
        *value = change(*value);
    }
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_format() {
        let metrics = Metrics::default();
        metrics.count("runs_total", "Runs.", &[("of", "a\"b")], 1.0);
        metrics.count("runs_total", "Runs.", &[("of", "a\"b")], 2.0);
        metrics.set("up", "Whether.", &[], 1.0);
        assert_eq!(
            metrics.render(),
            "# HELP runs_total Runs.\n# TYPE runs_total counter\nruns_total{of=\"a\\\"b\"} 3\n\
             # HELP up Whether.\n# TYPE up gauge\nup 1\n"
        );
        metrics.forget("runs_total", ("of", "a\"b"));
        assert!(!metrics.render().contains("runs_total{"));
    }
}
