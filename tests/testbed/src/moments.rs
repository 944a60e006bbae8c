//! When something happened, seen from here and from inside of pods alike.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};

/// Seconds since 1970.
pub fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// When an answer came that a line of `ping -D` tells of, in seconds since 1970.
pub fn answered(line: &str) -> Option<f64> {
    let (stamp, rest) = line.strip_prefix('[')?.split_once(']')?;
    rest.contains("bytes from").then(|| stamp.parse().ok())?
}

/// Seconds since the machine started: the same in every pod of it, and a shell can read it as
/// `read now rest </proc/uptime`.
///
/// # Errors
/// The kernel does not tell.
pub fn uptime() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/uptime")?;
    text.split(' ').next().context("no uptime")?.parse().context("no number")
}

/// A line of shell that asks a URL over and over for so many seconds, and tells of each request when
/// it began and how it ended.
pub fn requests(url: &str, seconds: u32) -> String {
    format!(
        "read now rest </proc/uptime; end=$((${{now%.*}} + {seconds})); \
         while [ ${{now%.*}} -lt $end ]; do read now rest </proc/uptime; \
         curl -s -m 2 -o /dev/null {url} && echo $now ok || echo $now failed; sleep 0.02; done"
    )
}

/// What [`requests`] tell: when each began, by [`uptime`], and whether it was answered.
pub fn outcomes(told: &str) -> Vec<(f64, bool)> {
    let one = |line: &str| {
        let (at, end) = line.split_once(' ')?;
        Some((at.parse().ok()?, end == "ok"))
    };
    told.lines().filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_programs_print_is_read() {
        assert_eq!(answered("[12.5] 64 bytes from 10.77.0.2: icmp_seq=1"), Some(12.5));
        assert_eq!(answered("[12.5] From 10.77.0.2 icmp_seq=1 Unreachable"), None);
        assert_eq!(outcomes("7.25 ok\nnoise\n8.5 failed\n"), [(7.25, true), (8.5, false)]);
        assert!(uptime().unwrap() > 0.0);
    }
}
