//! The machines' cgroups, and others' for a time, in version 1 and version 2 hierarchies.
//!
//! Every process of a machine is in the machine's cgroup, which is how it is
//! found again even when all other traces of the testbed are lost.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const ROOT: &str = "/sys/fs/cgroup";

/// The leaf that daemons are in: version 2 allows no processes beside groups.
const LEAF: &str = "system";

/// Makes a cgroup in every hierarchy.
pub fn create(path: &str) -> Result<()> {
    for hierarchy in hierarchies()? {
        let mut directory = hierarchy.clone();
        for part in Path::new(path) {
            delegate(&directory)?;
            directory.push(part);
            make(&directory)?;
        }
        if is_v2(&hierarchy) {
            delegate(&directory)?;
            make(&directory.join(LEAF))?;
        }
    }
    Ok(())
}

/// Lets a machine's cgroup, and those above it, count as many tasks: without this, all machines
/// together would get no more time than a single process of, say, a compiler beside them.
pub fn weigh(path: &str) -> Result<()> {
    for hierarchy in hierarchies()? {
        let groups = Path::new(path).ancestors().filter(|group| !group.as_os_str().is_empty());
        for group in groups {
            for (file, weight) in [("cpu.shares", "16384"), ("cpu.weight", "1600")] {
                let file = hierarchy.join(group).join(file);
                if file.exists() {
                    fs::write(&file, weight)
                        .with_context(|| format!("cannot set {}", file.display()))?;
                }
            }
        }
    }
    Ok(())
}

/// Moves the calling process into a machine's cgroup.
pub fn join(path: &str) -> Result<()> {
    // Whoever writes it is process 0.
    enter(path, 0)
}

/// Moves a process with all its threads into a cgroup.
pub fn enter(path: &str, pid: u32) -> Result<()> {
    for hierarchy in hierarchies()? {
        let mut directory = hierarchy.join(path);
        if is_v2(&hierarchy) {
            directory.push(LEAF);
        }
        fs::write(directory.join("cgroup.procs"), pid.to_string())
            .with_context(|| format!("cannot join {}", directory.display()))?;
    }
    Ok(())
}

/// Gives a cgroup so many processors, parts of one included, and no more; `None` lifts the limit.
pub fn limit(path: &str, processors: Option<f64>) -> Result<()> {
    // Short, so that it is never without for long.
    let period = 2_000;
    let quota = processors.map(|processors| (processors * f64::from(period)).round());
    for hierarchy in hierarchies()? {
        let directory = hierarchy.join(path);
        let write = |file: &str, text: String| {
            fs::write(directory.join(file), text)
                .with_context(|| format!("cannot write {file} in {}", directory.display()))
        };
        let text = |none: &str| quota.map_or(none.to_owned(), |quota| quota.to_string());
        if directory.join("cpu.max").exists() {
            return write("cpu.max", format!("{} {period}", text("max")));
        }
        if directory.join("cpu.cfs_quota_us").exists() {
            write("cpu.cfs_period_us", period.to_string())?;
            return write("cpu.cfs_quota_us", text("-1"));
        }
    }
    bail!("this kernel limits no cgroup's processor time (CONFIG_CFS_BANDWIDTH)")
}

/// Every process in a cgroup and those below it, in any hierarchy.
pub fn processes(path: &str) -> Result<BTreeSet<i32>> {
    let mut found = BTreeSet::new();
    for hierarchy in hierarchies()? {
        for directory in tree(&hierarchy.join(path)) {
            let listed = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
            found.extend(listed.lines().filter_map(|line| line.parse::<i32>().ok()));
        }
    }
    Ok(found)
}

/// Kills everything in a cgroup and below, and removes it.
pub fn destroy(path: &str) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let running = processes(path)?;
        for pid in running.iter().filter(|pid| **pid > 0) {
            // One that has ended in the meantime is what is wanted.
            let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
        }
        let mut left = false;
        for hierarchy in hierarchies()? {
            for directory in tree(&hierarchy.join(path)).iter().rev() {
                left |= fs::remove_dir(directory).is_err() && directory.exists();
            }
        }
        if running.is_empty() && !left {
            return remove_empty_parents(path);
        }
        if Instant::now() > deadline {
            bail!("processes {running:?} of cgroup {path} do not end");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Removes the cgroups above one that is gone, up to the first still in use.
fn remove_empty_parents(path: &str) -> Result<()> {
    for hierarchy in hierarchies()? {
        let above = Path::new(path).ancestors().skip(1).filter(|p| !p.as_os_str().is_empty());
        for directory in above {
            // The kernel refuses while there is anything in it.
            let _ = fs::remove_dir(hierarchy.join(directory));
        }
    }
    Ok(())
}

/// All mounted hierarchies: one of version 2, or those of version 1 (with,
/// perhaps, an empty one of version 2 beside them).
fn hierarchies() -> Result<Vec<PathBuf>> {
    if is_v2(Path::new(ROOT)) {
        return Ok(vec![PathBuf::from(ROOT)]);
    }
    let mut found: Vec<PathBuf> = fs::read_dir(ROOT)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        // Links like `cpu,cpuacct` lead to hierarchies seen anyway.
        .filter(|path| !path.is_symlink() && path.join("cgroup.procs").exists())
        .collect();
    found.sort();
    if found.is_empty() {
        bail!("no cgroups at {ROOT}: mount them first");
    }
    Ok(found)
}

fn is_v2(hierarchy: &Path) -> bool {
    hierarchy.join("cgroup.controllers").exists()
}

/// Hands a version 2 cgroup's controllers on to those below it.
fn delegate(directory: &Path) -> Result<()> {
    let Ok(controllers) = fs::read_to_string(directory.join("cgroup.controllers")) else {
        return Ok(());
    };
    for controller in controllers.split_whitespace() {
        fs::write(directory.join("cgroup.subtree_control"), format!("+{controller}"))
            .with_context(|| format!("cannot pass {controller} on in {}", directory.display()))?;
    }
    Ok(())
}

fn make(directory: &Path) -> Result<()> {
    if directory.exists() {
        return Ok(());
    }
    fs::create_dir(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    // A version 1 cpuset starts empty, and nothing can run in an empty one.
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let (own, above) = (directory.join(file), directory.with_file_name(file));
        if own.exists() && !is_v2(directory) {
            fs::write(own, fs::read(above)?)?;
        }
    }
    Ok(())
}

/// A directory and all below it, parents first.
fn tree(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    if directory.is_dir() {
        found.push(directory.to_owned());
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        let below = entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path());
        found.extend(below.flat_map(|path| tree(&path)));
    }
    found
}
