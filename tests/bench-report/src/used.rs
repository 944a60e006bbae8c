//! Processor time and memory that somebody has used, as the kernel counts them.

use std::time::Duration;

use procfs::process::{Process, Status};
use procfs::{CurrentSI, KernelStats, ProcError, ProcResult, ticks_per_second};

/// What the machine's processors have done since it was started: everything but idling, waiting for
/// disks and standing still for other virtual machines.
///
/// # Errors
/// There is no `/proc`.
pub fn machine() -> ProcResult<Duration> {
    let all = KernelStats::current()?.total;
    let interrupts = all.irq_duration().into_iter().chain(all.softirq_duration());
    let busy = all.user_duration() + all.nice_duration() + all.system_duration();
    Ok(busy + interrupts.sum::<Duration>())
}

/// What a process has used since it was started, the kernel's work for it included.
///
/// # Errors
/// It has ended.
pub fn process(pid: u32) -> ProcResult<Duration> {
    let stat = of(pid)?.stat()?;
    Ok(ticks(stat.utime + stat.stime))
}

/// What the processes had used that this one has started and seen end.
///
/// # Errors
/// There is no `/proc`.
pub fn ended() -> ProcResult<Duration> {
    let stat = Process::myself()?.stat()?;
    Ok(ticks(stat.cutime.saturating_add(stat.cstime).unsigned_abs()))
}

fn ticks(number: u64) -> Duration {
    Duration::from_secs_f64(number as f64 / ticks_per_second() as f64)
}

/// A process's resident size in MB (a million bytes).
///
/// # Errors
/// It has ended.
pub fn resident(pid: u32) -> ProcResult<f64> {
    megabytes(pid, |status| status.vmrss)
}

/// The largest resident size that a process ever had, in MB (a million bytes).
///
/// # Errors
/// It has ended.
pub fn peak(pid: u32) -> ProcResult<f64> {
    megabytes(pid, |status| status.vmhwm)
}

/// The kernel tells sizes in units of 1024 bytes; its own threads have none.
fn megabytes(pid: u32, size: impl Fn(&Status) -> Option<u64>) -> ProcResult<f64> {
    let size = size(&of(pid)?.status()?);
    let size = size.ok_or_else(|| ProcError::Other(format!("process {pid} has no memory")))?;
    Ok(size as f64 * 1024.0 / 1e6)
}

fn of(pid: u32) -> ProcResult<Process> {
    Process::new(i32::try_from(pid).map_err(|error| ProcError::Other(error.to_string()))?)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn work_is_counted_for_who_does_it() {
        let own = std::process::id();
        let before = (machine().unwrap(), process(own).unwrap());
        let begun = Instant::now();
        // Another thread's time is the process's as well; on a busy machine it takes longer.
        while process(own).unwrap() - before.1 < Duration::from_millis(50) {
            assert!(begun.elapsed() < Duration::from_secs(60), "time does not count");
        }
        assert!(machine().unwrap() - before.0 >= Duration::from_millis(40));
    }

    #[test]
    fn the_work_of_processes_that_have_ended_is_counted() {
        let before = ended().unwrap();
        let work = "n=0; while [ $n -lt 300000 ]; do n=$((n + 1)); done";
        assert!(std::process::Command::new("sh").args(["-c", work]).status().unwrap().success());
        assert!(ended().unwrap() > before);
    }

    #[test]
    fn memory_is_counted_in_millions_of_bytes() {
        let own = std::process::id();
        let before = resident(own).unwrap();
        let block = vec![1_u8; 64_000_000];
        let grown = resident(own).unwrap() - before;
        assert!((60.0..90.0).contains(&grown), "{grown} MB for {} bytes", block.len());
        drop(block);
        assert!(peak(own).unwrap() >= before + 60.0);
    }

    #[test]
    fn a_process_that_is_not_there_is_an_error() {
        assert!(process(u32::MAX).is_err() && resident(u32::MAX).is_err());
    }
}
