//! The testbed's own test, on clusters of its own:
//! `cargo test -p slicewire-testbed --test faults`.
//!
//! Interrupted beginnings first, then every fault with its repair, then the end.
//! All checks are made even if some fail; what each saw is told.

mod bed;
mod lifecycle;
mod links;
mod machines;
mod measure;

use std::io::Write;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;

use crate::bed::Bed;

/// Its name, and what it does; returns what it saw.
type Check = (&'static str, fn(&Bed) -> Result<String>);

/// Those that need the testbed come between its beginning and its end. While
/// the cluster notices that a node is off, the others have their turn.
const CHECKS: &[Check] = &[
    ("a half-made testbed goes down", lifecycle::half_made),
    ("interrupted beginnings are completed", lifecycle::interrupted),
    ("up a second time changes nothing", lifecycle::twice),
    ("power-off", machines::power_off),
    ("kill", machines::kill),
    ("stop and start", machines::stop_and_start),
    ("api-stop and api-start", machines::api_server),
    ("cut with a lost carrier", links::carrier),
    ("cut silently", links::silent),
    ("shape", links::shape),
    ("delay", links::delay),
    ("jitter", links::jitter),
    ("loss", links::loss),
    ("reorder", links::reorder),
    ("a link is as bad after a power cycle", links::power_cycle),
    ("refusals say what is possible", machines::refusals),
    ("power-on", machines::power_on),
    ("clear", lifecycle::clear),
    ("up repairs everything", lifecycle::repair),
    ("down leaves nothing behind", lifecycle::down),
];

fn main() -> ExitCode {
    let bed = Bed::new();
    let mut failed = 0;
    for (name, check) in CHECKS {
        let begin = Instant::now();
        let result = check(&bed);
        let seconds = begin.elapsed().as_secs_f64();
        match result {
            Ok(seen) => say(&format!("ok     {name} ({seconds:.1} s): {seen}")),
            Err(error) => {
                failed += 1;
                say(&format!("FAILED {name} ({seconds:.1} s): {error:#}"));
                // The next one is to begin with whole clusters.
                bed.clear();
            }
        }
    }
    say(&format!("{} passed, {failed} failed", CHECKS.len() - failed));
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn say(line: &str) {
    // Without standard output there is nobody to tell.
    let _ = writeln!(std::io::stdout(), "{line}");
}
