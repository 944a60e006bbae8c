//! Processor time of processes, as the kernel counts it.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::unistd::{SysconfVar, sysconf};

/// What a process has used up to now, the kernel's work for it included.
///
/// # Errors
/// It has ended.
pub fn used(pid: u32) -> Result<Duration> {
    let second = sysconf(SysconfVar::CLK_TCK)?.context("no clock tick")?;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let ticks = ticks(&stat).with_context(|| format!("unknown form of /proc/{pid}/stat"))?;
    Ok(Duration::from_secs_f64(ticks as f64 / second as f64))
}

/// The 14th and 15th field, utime and stime; the second one may hold spaces.
fn ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_stand_behind_the_name() {
        let stat = "7 (a (b) c) S 1 7 7 0 -1 4194560 1 0 0 0 30 12 5 5 20 0 1 0 100";
        assert_eq!(ticks(stat), Some(42));
        assert_eq!(ticks("7 (a) S 1"), None);
    }
}
