//! What every benchmark program of this repository does with its figures.
//!
//! A benchmark measures candidates in interleaved rounds ([`rotation`]), keeps every run
//! ([`Runs`]), turns them into comparisons of medians ([`Comparison`]), prints a table for people
//! and writes `target/bench/<part>.jsonl`, one object a comparison ([`Report`]).
//!
//! The rule behind the shape: a number that was not measured is never written. Whatever could not
//! be measured is named with its reason, and the program's exit code is then not zero.
//!
//! ```
//! use slicewire_bench_report::{Better, Report, Runs, rotation};
//!
//! let candidates = ["ours", "bridge"];
//! let mut runs = Runs::default();
//! for round in 0..5 {
//!     for index in rotation(candidates.len(), round) {
//!         let measured: Result<f64, String> = Ok(3.0 + index as f64); // the real measurement
//!         match measured {
//!             Ok(value) => runs.push("attach p50", candidates[index], value),
//!             Err(reason) => runs.fail("attach p50", candidates[index], reason),
//!         }
//!     }
//! }
//! let mut report = Report::new("pod");
//! report.compare(&runs, "attach p50", "ms", Better::Lower, "ours", "bridge", Some(1.0));
//! report.limit(&runs, "attach p50", "ms", Better::Lower, "ours", 10.0);
//! let mut table = Vec::new();
//! report.print(&mut table)?;
//! // report.finish(&mut std::io::stdout()) prints, writes the file and gives the exit code.
//! # Ok::<(), std::io::Error>(())
//! ```

mod comparison;
mod report;
mod runs;
mod stats;
mod table;
pub mod used;

pub use comparison::{Better, Comparison};
pub use report::{Outcome, Report, output_dir};
pub use runs::Runs;
pub use stats::{median, percentile, rotation};
pub use table::Table;
