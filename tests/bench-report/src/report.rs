//! The report of one benchmark program: a table for people, a file for machines, an exit code.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use crate::{Better, Comparison, Runs, Table, comparison::Subject, median, table::figure};

/// Comparisons of one part (`tunnel`, `pod`, `dns` …), and what could not be measured.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Report {
    part: String,
    comparisons: Vec<Comparison>,
    unmeasured: Vec<Unmeasured>,
}

/// Something that was to be measured and was not.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Unmeasured {
    what: String,
    who: String,
    reason: String,
}

/// What a whole report amounts to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// Goals reached.
    pub met: usize,
    /// Goals missed. A missed goal is a result, not a failure of the benchmark.
    pub missed: usize,
    /// Measurements that did not take place.
    pub unmeasured: usize,
}

impl Outcome {
    /// Zero exactly when everything was measured.
    #[must_use]
    pub fn exit_code(self) -> ExitCode {
        if self.unmeasured == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

impl Report {
    /// An empty report; `part` names the file, `target/bench/<part>.jsonl`.
    pub fn new(part: impl Into<String>) -> Self {
        Self { part: part.into(), ..Self::default() }
    }

    /// Adds `ours` against the candidate `against`, both looked up in `runs` under `what`. `goal`
    /// is the ratio asked for, above 1 meaning better for us in either direction.
    #[expect(clippy::too_many_arguments, reason = "the fields of one line of the report")]
    pub fn compare(
        &mut self,
        runs: &Runs,
        what: &str,
        unit: &str,
        better: Better,
        ours: &str,
        against: &str,
        goal: Option<f64>,
    ) {
        let subject = Subject { what, unit, better, against, goal };
        if let (Some(mine), Some(theirs)) =
            (self.figures(runs, what, ours), self.figures(runs, what, against))
        {
            self.comparisons.extend(Comparison::new(subject, mine, theirs));
        }
    }

    /// Adds `ours` against an absolute bound: at most `limit` where lower is better, at least
    /// `limit` where higher is.
    pub fn limit(
        &mut self,
        runs: &Runs,
        what: &str,
        unit: &str,
        better: Better,
        ours: &str,
        limit: f64,
    ) {
        let subject = Subject { what, unit, better, against: "limit", goal: Some(1.0) };
        if let Some(mine) = self.figures(runs, what, ours) {
            self.comparisons.extend(Comparison::new(subject, mine, &[limit]));
        }
    }

    /// Says that `who` could not be measured in `what`; said once for each pair.
    pub fn cannot(&mut self, what: &str, who: &str, reason: impl Into<String>) {
        if !self.unmeasured.iter().any(|known| known.what == what && known.who == who) {
            let (what, who) = (what.to_owned(), who.to_owned());
            self.unmeasured.push(Unmeasured { what, who, reason: reason.into() });
        }
    }

    /// Takes over every failed run, also of what is compared with nothing.
    pub fn failures(&mut self, runs: &Runs) {
        for (what, who, reason) in runs.failures() {
            self.cannot(what, who, reason);
        }
    }

    /// Every comparison so far.
    #[must_use]
    pub fn comparisons(&self) -> &[Comparison] {
        &self.comparisons
    }

    /// Counts goals reached, goals missed and what was not measured.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        let goals = |wanted| self.comparisons.iter().filter(|c| c.met == Some(wanted)).count();
        Outcome { met: goals(true), missed: goals(false), unmeasured: self.unmeasured.len() }
    }

    /// Prints the comparisons, then whatever was not measured and why.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn print(&self, out: &mut impl Write) -> io::Result<()> {
        let mut table =
            Table::new(["what", "unit", "ours", "against", "theirs", "ratio", "goal", "met"]);
        for comparison in &self.comparisons {
            table.row(cells(comparison));
        }
        table.print(out)?;
        for missing in &self.unmeasured {
            let Unmeasured { what, who, reason } = missing;
            writeln!(out, "NOT MEASURED {what}: {who}: {reason}")?;
        }
        let Outcome { met, missed, unmeasured } = self.outcome();
        writeln!(out, "{}: goals met {met}, missed {missed}, not measured {unmeasured}", self.part)
    }

    /// Writes `<directory>/<part>.jsonl`, replacing an earlier one, and returns its path.
    ///
    /// # Errors
    /// Those of making the directory and writing the file.
    pub fn write(&self, directory: &Path) -> io::Result<PathBuf> {
        fs::create_dir_all(directory)?;
        let mut text = String::new();
        for comparison in &self.comparisons {
            text.push_str(&serde_json::to_string(comparison)?);
            text.push('\n');
        }
        let path = directory.join(format!("{}.jsonl", self.part));
        fs::write(&path, text)?;
        Ok(path)
    }

    /// Prints to `out`, writes the file below [`output_dir`], and says how it went.
    ///
    /// # Errors
    /// Those of printing and writing.
    pub fn finish(&self, out: &mut impl Write) -> io::Result<Outcome> {
        self.print(out)?;
        let path = self.write(&output_dir()?)?;
        writeln!(out, "written: {}", path.display())?;
        Ok(self.outcome())
    }

    /// The runs, or a note that there are none.
    fn figures<'a>(&mut self, runs: &'a Runs, what: &str, who: &str) -> Option<&'a [f64]> {
        match runs.get(what, who) {
            Ok(values) => Some(values),
            Err(reason) => {
                self.cannot(what, who, reason);
                None
            }
        }
    }
}

/// Where reports go: `$SLICEWIRE_BENCH_DIR`, or `target/bench` in the workspace the program was
/// started in (the nearest directory upwards with a `Cargo.lock`), or in the current directory.
///
/// # Errors
/// When the current directory cannot be found.
pub fn output_dir() -> io::Result<PathBuf> {
    if let Some(directory) = std::env::var_os("SLICEWIRE_BENCH_DIR") {
        return Ok(directory.into());
    }
    let here = std::env::current_dir()?;
    let root = here.ancestors().find(|directory| directory.join("Cargo.lock").is_file());
    Ok(root.unwrap_or(&here).join("target/bench"))
}

fn cells(comparison: &Comparison) -> [String; 8] {
    let or_dash = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), figure);
    let met = match comparison.met {
        Some(true) => "yes",
        Some(false) => "NO",
        None => "-",
    };
    [
        comparison.what.clone(),
        comparison.unit.clone(),
        or_dash(median(&comparison.ours)),
        comparison.against.clone(),
        or_dash(median(&comparison.theirs)),
        or_dash(comparison.ratio),
        or_dash(comparison.goal),
        met.to_owned(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs() -> Runs {
        let mut runs = Runs::default();
        for value in [5.0, 6.0, 5.5] {
            runs.push("tcp", "ours", value);
            runs.push("tcp", "theirs", value / 2.0);
        }
        runs
    }

    #[test]
    fn what_was_measured_is_written_line_by_line() {
        let mut report = Report::new("tunnel");
        report.compare(&runs(), "tcp", "Gbit/s", Better::Higher, "ours", "theirs", Some(1.5));
        report.limit(&runs(), "tcp", "Gbit/s", Better::Higher, "ours", 9.0);
        let directory = tempfile::tempdir().unwrap();
        let path = report.write(directory.path()).unwrap();
        assert!(path.ends_with("tunnel.jsonl"));
        let text = fs::read_to_string(path).unwrap();
        let lines: Vec<Comparison> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines, report.comparisons());
        assert_eq!(lines[1].against, "limit");
        assert_eq!(report.outcome(), Outcome { met: 1, missed: 1, unmeasured: 0 });
    }

    #[test]
    fn what_was_not_measured_is_named_and_not_written() {
        let mut report = Report::new("tunnel");
        for _ in 0..2 {
            report.compare(&runs(), "tcp", "Gbit/s", Better::Higher, "ours", "openvpn", None);
        }
        report.limit(&runs(), "rss", "MB", Better::Lower, "ours", 20.0);
        assert!(report.comparisons().is_empty());
        assert_eq!(report.outcome(), Outcome { met: 0, missed: 0, unmeasured: 2 });
        assert_eq!(report.outcome().exit_code(), ExitCode::FAILURE);
        let mut failed = runs();
        failed.fail("rtt", "theirs", "no answer");
        report.failures(&failed);
        assert_eq!(report.outcome().unmeasured, 3);
        let mut out = Vec::new();
        report.print(&mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("NOT MEASURED tcp: openvpn: was never run"), "{text}");
    }
}
