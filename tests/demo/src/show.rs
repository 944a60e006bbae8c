//! What the person watching sees.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use anyhow::Result;

/// The demo's screen: numbered steps with times, evidence below them, a table at the end.
pub(crate) struct Show {
    begin: Instant,
    rows: Vec<Row>,
}

struct Row {
    what: String,
    outcome: std::result::Result<String, String>,
    took: Duration,
}

impl Show {
    /// An empty screen.
    pub(crate) fn new() -> Self {
        Self { begin: Instant::now(), rows: Vec::new() }
    }

    /// Does a step, tells how it went and how long it took, and remembers it for the table.
    ///
    /// # Errors
    /// What the step failed with.
    pub(crate) fn step<T>(
        &mut self,
        what: &str,
        act: impl FnOnce(&mut Evidence) -> Result<(T, String)>,
    ) -> Result<T> {
        print(&format!("\n[{:6.1} s] {what}", self.begin.elapsed().as_secs_f64()));
        let begin = Instant::now();
        let outcome = act(&mut Evidence(()));
        let took = begin.elapsed();
        let (mark, said) = match &outcome {
            Ok((_, said)) => ("✓", said.clone()),
            Err(error) => ("✗", format!("{error:#}")),
        };
        print(&format!("           {mark} {said} ({:.1} s)", took.as_secs_f64()));
        let row = match &outcome {
            Ok(_) => Ok(said),
            Err(_) => Err(said),
        };
        self.rows.push(Row { what: what.to_owned(), outcome: row, took });
        outcome.map(|(value, _)| value)
    }

    /// The table of all steps, and whether all of them worked.
    pub(crate) fn summary(&self) -> bool {
        let width = self.rows.iter().map(|r| r.what.chars().count()).max().unwrap_or(0);
        print("\nSummary");
        for row in &self.rows {
            let (mark, text) = match &row.outcome {
                Ok(text) => ("✓", text),
                Err(text) => ("✗", text),
            };
            let first = text.lines().next().unwrap_or_default();
            print(&format!(
                "  {mark} {:width$}  {:6.1} s  {first}",
                row.what,
                row.took.as_secs_f64()
            ));
        }
        print(&format!("  in all: {:.1} s", self.begin.elapsed().as_secs_f64()));
        self.rows.iter().all(|row| row.outcome.is_ok())
    }
}

/// Shows what a step saw.
pub(crate) struct Evidence(());

impl Evidence {
    /// Lines as a program printed them.
    pub(crate) fn quote(&self, text: &str) {
        for line in text.lines().filter(|l| !l.trim().is_empty()) {
            print(&format!("           │ {line}"));
        }
    }
}

/// A line on standard output. A reader that went away does not stop the demo.
pub(crate) fn print(line: &str) {
    let mut out = io::stdout();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}
