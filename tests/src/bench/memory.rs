//! Sizes of processes, as the kernel tells them.

use std::fs;

use anyhow::{Context, Result};

/// A process's resident size in MB (a million bytes).
///
/// # Errors
/// It has ended.
pub fn resident(pid: u32) -> Result<f64> {
    megabytes(&fs::read_to_string(format!("/proc/{pid}/status"))?, "VmRSS")
}

/// A field of `/proc/<pid>/status`, which counts in units of 1024 bytes, in MB.
///
/// # Errors
/// There is no such field, or it is no size.
pub fn megabytes(status: &str, field: &str) -> Result<f64> {
    let line = status.lines().find_map(|l| l.strip_prefix(field)?.strip_prefix(':'));
    let size = line.with_context(|| format!("no {field}"))?.trim().strip_suffix("kB");
    let units: f64 = size.with_context(|| format!("{field} has no unit"))?.trim().parse()?;
    Ok(units * 1024.0 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_millions_of_bytes() {
        let status = "Name:\tx\nVmHWM:\t    2000 kB\nVmRSS:\t    1000 kB\n";
        assert!(megabytes(status, "VmRSS").is_ok_and(|mb| (mb - 1.024).abs() < 1e-9));
        assert!(megabytes(status, "VmHWM").is_ok_and(|mb| (mb - 2.048).abs() < 1e-9));
        assert!(megabytes(status, "VmSwap").is_err());
    }
}
