//! Waits until this pod's slice NICs are there; runs as the pod's first init container.
//!
//! The node's daemon gives a NIC the alias `slicewire/<slice>` last of all, when addresses, routes
//! and neighbours are in place, so the alias is the sign to wait for. Reading it needs no privilege
//! and no volume. Nothing but the standard library: the container has a few MB.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Where the kernel lists this network namespace's interfaces.
const INTERFACES: &str = "/sys/class/net";
/// Where Kubernetes reads why a container ended.
const TERMINATION_LOG: &str = "/dev/termination-log";
/// How an alias of ours begins; the slice's name follows.
const ALIAS_PREFIX: &str = "slicewire/";
/// How long to wait unless told.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(120);

const USAGE: &str = "usage: wait-for-nic --slice NAME [--slice NAME]... [--timeout 120s]";

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    slices: BTreeSet<String>,
    timeout: Duration,
}

fn main() -> ExitCode {
    match parse(std::env::args().skip(1)) {
        Err(fault) => {
            say(&format!("{fault}; {USAGE}"));
            ExitCode::from(2)
        }
        Ok(wanted) => wait(Path::new(INTERFACES), &wanted),
    }
}

/// Waits for all slices' NICs: often at first, as they usually are there within milliseconds.
fn wait(interfaces: &Path, wanted: &Wanted) -> ExitCode {
    let begin = Instant::now();
    let mut pause = Duration::from_millis(2);
    loop {
        let missing = missing(interfaces, &wanted.slices);
        if missing.is_empty() {
            return ExitCode::SUCCESS;
        }
        if begin.elapsed() >= wanted.timeout {
            say(&explain(&missing, wanted.timeout));
            return ExitCode::FAILURE;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}

/// The slices without a ready NIC. Interfaces that vanish while being read count as not there.
fn missing(interfaces: &Path, slices: &BTreeSet<String>) -> BTreeSet<String> {
    let entries = fs::read_dir(interfaces).into_iter().flatten().flatten();
    let ready: BTreeSet<String> = entries
        .filter(|e| e.file_name().to_string_lossy().starts_with("slice"))
        .filter_map(|e| fs::read_to_string(e.path().join("ifalias")).ok())
        .filter_map(|alias| alias.trim().strip_prefix(ALIAS_PREFIX).map(str::to_owned))
        .collect();
    slices.difference(&ready).cloned().collect()
}

fn explain(missing: &BTreeSet<String>, timeout: Duration) -> String {
    let list: Vec<_> = missing.iter().map(String::as_str).collect();
    let first = list.first().copied().unwrap_or_default();
    format!(
        "no NIC on slice {} after {} s. Ask `kubectl get slicenodes -n slicewire-system` and \
         `kubectl describe slice {first}` what is wrong on this pod's node; check that netop-daemon \
         runs there. To start the pod without the slice, label it slicewire.dev/exclude=true.",
        list.join(", "),
        timeout.as_secs()
    )
}

/// Tells people (standard error, for `kubectl logs`) and Kubernetes (for `kubectl describe pod`).
fn say(message: &str) {
    // Nobody is left to tell if these fail; the exit status still says that it did.
    let _ = writeln!(io::stderr(), "{message}");
    let _ = fs::write(TERMINATION_LOG, message);
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Wanted, String> {
    let mut slices = BTreeSet::new();
    let mut timeout = DEFAULT_TIMEOUT;
    while let Some(name) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{name} needs a value"));
        match name.as_str() {
            "--slice" => {
                slices.insert(value()?);
            }
            "--timeout" => timeout = seconds(&value()?)?,
            _ => return Err(format!("{name:?} is not known here")),
        }
    }
    if slices.is_empty() {
        Err("no --slice is named".to_owned())
    } else {
        Ok(Wanted { slices, timeout })
    }
}

fn seconds(value: &str) -> Result<Duration, String> {
    let number = value.strip_suffix('s').unwrap_or(value);
    number
        .parse()
        .map(Duration::from_secs)
        .map_err(|_| format!("--timeout {value:?} is no number of seconds such as 120s"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|n| (*n).to_owned()).collect()
    }

    fn parsed(line: &str) -> Result<Wanted, String> {
        parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn the_command_line() {
        let wanted = parsed("--slice blue --timeout 7s --slice red").unwrap();
        let timeout = Duration::from_secs(7);
        assert_eq!(wanted, Wanted { slices: set(&["blue", "red"]), timeout });
        assert_eq!(parsed("--slice blue").unwrap().timeout, DEFAULT_TIMEOUT);
        for wrong in ["", "--slice", "--slice a --timeout soon", "--slices a"] {
            assert!(parsed(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_an_alias_of_ours_on_a_slice_nic_counts() {
        let net = tempfile::tempdir().unwrap();
        let nic = |name: &str, alias: &str| {
            fs::create_dir(net.path().join(name)).unwrap();
            fs::write(net.path().join(name).join("ifalias"), alias).unwrap();
        };
        nic("slice0", "slicewire/blue\n");
        nic("slice1", "\n");
        nic("eth0", "slicewire/red\n");
        let wanted = set(&["blue", "red"]);
        assert_eq!(missing(net.path(), &wanted), set(&["red"]));
        fs::write(net.path().join("slice1/ifalias"), "slicewire/red\n").unwrap();
        assert_eq!(missing(net.path(), &wanted), set(&[]));
    }

    #[test]
    fn a_timeout_names_every_missing_slice_and_what_to_do() {
        let text = explain(&set(&["blue", "red"]), Duration::from_secs(120));
        for part in ["blue, red", "120 s", "describe slice blue", "slicewire.dev/exclude=true"] {
            assert!(text.contains(part), "{part} not in {text}");
        }
    }
}
