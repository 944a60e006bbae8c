//! Our processes in a testbed's machines.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use slicewire_bench_report::used;
use slicewire_testbed::cgroup;
use slicewire_tests::World;

const PROGRAMS: [&str; 5] =
    ["netop-daemon", "slice-gateway", "router-sidecar", "nsm-injector", "controller"];

/// A process of ours.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Process {
    /// The program, and of the controller which one.
    pub(crate) kind: String,
    pub(crate) machine: String,
    /// MB (a million bytes).
    pub(crate) resident: f64,
    /// The largest resident size since it was started, in MB.
    pub(crate) peak: f64,
}

/// All of them, by kind and machine.
pub(crate) fn processes(world: &World) -> Result<Vec<Process>> {
    let mut found = Vec::new();
    for machine in world.testbed.plan.machines() {
        for pid in cgroup::processes(&world.testbed.machine_cgroup(machine))? {
            let directory = Path::new("/proc").join(pid.to_string());
            // Processes that have ended since, and those of the kernel, have no program.
            let Ok(program) = fs::read_link(directory.join("exe")) else { continue };
            let program = program.file_name().map(|n| n.to_string_lossy().into_owned());
            let Some(program) = program.filter(|p| PROGRAMS.contains(&p.as_str())) else {
                continue;
            };
            let pid = u32::try_from(pid)?;
            let command = fs::read_to_string(directory.join("cmdline")).unwrap_or_default();
            found.push(Process {
                kind: kind(&program, &command),
                machine: machine.name.clone(),
                resident: used::resident(pid).with_context(|| program.clone())?,
                peak: used::peak(pid).with_context(|| program.clone())?,
            });
        }
    }
    found.sort_by(|a, b| (&a.kind, &a.machine).cmp(&(&b.kind, &b.machine)));
    Ok(found)
}

/// The controller is told apart by its first word.
fn kind(program: &str, command: &str) -> String {
    let first = command.split('\0').skip(1).find(|word| !word.starts_with('-'));
    match (program, first) {
        ("controller", Some(role)) => format!("{program} {role}"),
        _ => program.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controllers_are_told_apart() {
        assert_eq!(kind("controller", "/controller\0hub\0--x\0"), "controller hub");
        assert_eq!(kind("netop-daemon", "/netop-daemon\0run\0"), "netop-daemon");
    }
}
