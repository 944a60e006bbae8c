//! How the kernel schedules the threads that move packets.

use std::mem::{size_of, zeroed};

/// Asked for instead of the default of about 3 ms. A shorter slice gives no larger share of the
/// processor, but lets a thread that wakes up run before threads with longer slices (Linux 6.12
/// and later); each is then also interrupted more often, so not too short.
const SLICE_NANOSECONDS: u64 = 500_000;

/// `struct sched_attr` of `sched_setattr(2)`.
#[repr(C)]
struct SchedAttr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// Asks for the current thread to run soon after it wakes up and, where CAP_SYS_NICE allows it,
/// with at least the priority `nice`. Kernels that cannot do it, and threads with a real-time
/// policy, stay as they are.
pub(crate) fn prefer_latency(nice: i32) {
    // SAFETY: `SchedAttr` is plain data for which all zeroes is a valid value.
    let mut attr: SchedAttr = unsafe { zeroed() };
    let size = size_of::<SchedAttr>() as u32;
    // SAFETY: the kernel writes at most `size` bytes to `attr`; thread 0 is the calling one.
    let got = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attr, size, 0) };
    if got != 0 || attr.policy != libc::SCHED_OTHER as u32 {
        return;
    }
    let usual = attr.nice;
    attr.size = size;
    attr.runtime = SLICE_NANOSECONDS;
    attr.nice = usual.min(nice);
    let higher = set(&attr);
    attr.nice = usual;
    let accepted = higher || set(&attr);
    tracing::debug!(accepted, higher, "short scheduling slice, higher priority");
}

fn set(attr: &SchedAttr) -> bool {
    // SAFETY: the kernel only reads `attr`; thread 0 is the calling one.
    unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const *attr, 0) == 0 }
}
