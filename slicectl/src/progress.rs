//! What a person sees while something takes time. Everything goes to standard error, so that
//! standard output holds results only.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How often a wait looks again.
const PAUSE: Duration = Duration::from_millis(250);

/// A line for a person. Nobody is left to tell if standard error is gone.
pub(crate) fn line(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Something is done.
pub(crate) fn done(text: &str, since: Instant) {
    line(&format!("✓ {text} ({:.1} s)", since.elapsed().as_secs_f64()));
}

/// How far something is.
pub(crate) enum State {
    /// It is there.
    Done,
    /// It is not, for this reason.
    Waiting(String),
}

/// Looks until it is done, telling each new reason why it is not.
///
/// # Errors
/// What looking failed with, or, after `limit`, the last reason.
pub(crate) async fn wait<F>(what: &str, limit: Duration, mut look: F) -> Result<()>
where
    F: AsyncFnMut() -> Result<State>,
{
    let begin = Instant::now();
    let mut told = String::new();
    loop {
        let reason = match look().await? {
            State::Done => {
                done(what, begin);
                return Ok(());
            }
            State::Waiting(reason) => reason,
        };
        if begin.elapsed() >= limit {
            bail!("{what}: not after {} s: {reason}", limit.as_secs());
        }
        // A reason that lasts only a moment is no news.
        if reason != told && begin.elapsed() > PAUSE * 3 {
            line(&format!("… {what}: {reason}"));
            told = reason;
        }
        tokio::time::sleep(PAUSE).await;
    }
}
