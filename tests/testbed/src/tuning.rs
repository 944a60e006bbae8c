//! Settings of the whole machine that kubelets change or that many of them
//! need, put back when the last testbed is gone.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::lifecycle::names;
use crate::paths::Paths;
use crate::process::write_whole;

/// Changed by every kubelet as it starts.
const SAVED: &[&str] = &[
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
];

/// Raised to at least this: every node watches files.
const RAISED: &[(&str, u64)] =
    &[("fs/inotify/max_user_instances", 2048), ("fs/inotify/max_user_watches", 524_288)];

fn file(paths: &Paths) -> PathBuf {
    paths.testbeds().join("sysctls.json")
}

/// Remembers the settings, once, and raises what needs raising.
pub fn apply(paths: &Paths) -> Result<()> {
    if !file(paths).exists() {
        let names = SAVED.iter().copied().chain(RAISED.iter().map(|(name, _)| *name));
        let saved: BTreeMap<&str, String> =
            names.filter_map(|name| Some((name, fs::read_to_string(sysctl(name)).ok()?))).collect();
        write_whole(&file(paths), &serde_json::to_vec_pretty(&saved)?)?;
    }
    for (name, least) in RAISED {
        let current = fs::read_to_string(sysctl(name)).unwrap_or_default();
        if current.trim().parse().is_ok_and(|current: u64| current < *least) {
            fs::write(sysctl(name), least.to_string())?;
        }
    }
    Ok(())
}

/// Puts the settings back if no testbed is left.
pub fn restore(paths: &Paths) -> Result<()> {
    if !file(paths).exists() || !names(paths).is_empty() {
        return Ok(());
    }
    let saved: BTreeMap<String, String> = serde_json::from_slice(&fs::read(file(paths))?)?;
    for (name, value) in saved {
        if fs::read_to_string(sysctl(&name)).is_ok_and(|current| current != value) {
            fs::write(sysctl(&name), value)?;
        }
    }
    Ok(fs::remove_file(file(paths))?)
}

fn sysctl(name: &str) -> PathBuf {
    Path::new("/proc/sys").join(name)
}
