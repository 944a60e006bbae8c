//! Telling a person what is going on, with times.

use std::io::Write;
use std::time::Instant;

/// Writes lines with the seconds since its making to standard error.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    begin: Instant,
    quiet: bool,
}

impl Progress {
    /// Starts counting.
    pub fn new() -> Self {
        Self { begin: Instant::now(), quiet: false }
    }

    /// Says nothing.
    pub fn quiet() -> Self {
        Self { quiet: true, ..Self::new() }
    }

    /// One line.
    pub fn step(&self, text: &str) {
        if !self.quiet {
            let seconds = self.begin.elapsed().as_secs_f64();
            // Nobody listening is no reason to stop.
            let _ = writeln!(std::io::stderr(), "[{seconds:6.1} s] {text}");
        }
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}
