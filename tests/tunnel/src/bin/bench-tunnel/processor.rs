//! Processor time and memory, as the kernel counts them.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use nix::unistd::{SysconfVar, sysconf};

/// Processor time used up to now, in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Used {
    /// By the whole machine, the kernel's work for packets included.
    pub(crate) machine: f64,
    /// By the gateways' processes.
    pub(crate) gateways: f64,
}

impl Used {
    /// Reads the counters.
    pub(crate) fn now(pids: &[u32]) -> Result<Self> {
        let ticks = sysconf(SysconfVar::CLK_TCK)?.context("no clock tick")? as f64;
        let stat = fs::read_to_string("/proc/stat")?;
        let machine = busy(&stat).context("/proc/stat has no processor line")?;
        let mut gateways = 0;
        for pid in pids {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat"))
                .with_context(|| format!("gateway process {pid} is gone"))?;
            gateways += process(&stat).context("unknown form of /proc/…/stat")?;
        }
        Ok(Self { machine: machine as f64 / ticks, gateways: gateways as f64 / ticks })
    }

    /// What was used since `earlier`.
    pub(crate) fn since(self, earlier: Self) -> Self {
        Self { machine: self.machine - earlier.machine, gateways: self.gateways - earlier.gateways }
    }
}

/// Share of the machine that others use now, from 0 to 1, watched for a third of a second.
pub(crate) fn foreign_load() -> Result<f64> {
    let (before, started) = (Used::now(&[])?, Instant::now());
    thread::sleep(Duration::from_millis(333));
    let processors = thread::available_parallelism()?.get() as f64;
    let used = Used::now(&[])?.since(before).machine;
    Ok(used / started.elapsed().as_secs_f64() / processors)
}

/// The larger one of the processes' peak resident sizes, in MB.
pub(crate) fn peak_memory(pids: &[u32]) -> Result<f64> {
    let mut peak = 0.0_f64;
    for pid in pids {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|rest| rest.trim().split(' ').next()?.parse::<f64>().ok());
        peak = peak.max(kib.context("no VmHWM")? * 1024.0 / 1e6);
    }
    Ok(peak)
}

/// Everything but idle and waiting for disks, in ticks.
fn busy(stat: &str) -> Option<u64> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let fields: Vec<u64> = line.split_whitespace().filter_map(|field| field.parse().ok()).collect();
    let [user, nice, system, _idle, _wait, irq, softirq, ..] = fields[..] else { return None };
    Some(user + nice + system + irq + softirq)
}

/// utime and stime, in ticks: the 14th and 15th field; the second one may hold spaces.
fn process(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read() {
        assert_eq!(busy("cpu  10 1 20 900 50 3 4 0 0 0\ncpu0 1 1"), Some(38));
        let stat = "7 (a b) c) S 1 7 7 0 -1 4194304 1 0 0 0 25 17 0 0 20 0 1 0 1 1 1";
        assert_eq!(process(stat), Some(42));
        assert!(peak_memory(&[std::process::id()]).unwrap() > 0.5);
        assert!(Used::now(&[std::process::id()]).unwrap().machine > 0.0);
        assert!((0.0..1.5).contains(&foreign_load().unwrap()));
    }
}
