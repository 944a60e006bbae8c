//! Processor time and memory of a measurement.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use slicewire_bench_report::used;

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
        let mut gateways = Duration::ZERO;
        for &pid in pids {
            gateways += used::process(pid).with_context(|| format!("gateway process {pid}"))?;
        }
        Ok(Self { machine: used::machine()?.as_secs_f64(), gateways: gateways.as_secs_f64() })
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
    for &pid in pids {
        peak = peak.max(used::peak(pid)?);
    }
    Ok(peak)
}
