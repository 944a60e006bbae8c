//! Breaking things on purpose, and mending them.
//!
//! Each fault lasts until it is taken back, [`Testbed::clear_faults`] is called,
//! or the testbed is brought up again. Those of links and paths are in
//! [`crate::link`].

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cgroup;
use crate::init::DOWN;
use crate::link;
use crate::plan::Machine;
use crate::power;
use crate::process::{self, wait_for, write_whole};
use crate::testbed::Testbed;

impl Testbed {
    /// Pulls a machine's plug: all of its processes end at once.
    ///
    /// # Errors
    /// When there is no such machine, or something of it is left running.
    pub fn power_off(&self, machine: &str) -> Result<()> {
        let _lock = self.lock()?;
        power::off(self, self.machine(machine)?)
    }

    /// Switches a machine on, its disk as it was.
    ///
    /// # Errors
    /// When there is no such machine or it does not start.
    pub fn power_on(&self, machine: &str) -> Result<()> {
        let _lock = self.lock()?;
        power::on(self, self.machine(machine)?)
    }

    /// Sends a signal to all processes of a machine, its containers' included,
    /// whose program has this name; how many there were.
    ///
    /// # Errors
    /// When the machine is off or runs no such program.
    pub fn kill(&self, machine: &str, program: &str, signal: Signal) -> Result<usize> {
        let machine = self.running(machine)?;
        let init = self.init(machine).map(|init| init.pid);
        let chosen: Vec<i32> = processes(self, machine)?
            .into_iter()
            .filter(|pid| Some(*pid) != init && runs(*pid, program))
            .collect();
        if chosen.is_empty() {
            bail!("{} runs no '{program}'", machine.name);
        }
        for pid in &chosen {
            // One that has just ended on its own needs no signal.
            let _ = kill(Pid::from_raw(*pid), signal);
        }
        Ok(chosen.len())
    }

    /// Stops one of a machine's daemons (kubelet, etcd, ...) and keeps it stopped.
    ///
    /// # Errors
    /// When the machine has no such daemon, or it does not end.
    pub fn stop_daemon(&self, machine: &str, daemon: &str) -> Result<()> {
        let marker = self.stop_marker(machine, daemon)?;
        let machine = self.machine(machine)?;
        write_whole(&marker, b"")?;
        // Only the machine's init knows: to others a daemon is gone while init is
        // still about to collect it, or to start it again.
        wait_for(&format!("end of {daemon} on {}", machine.name), Duration::from_secs(10), || {
            self.init(machine).is_none() || fs::read(&marker).is_ok_and(|said| said == DOWN)
        })
    }

    /// Starts a stopped daemon again.
    ///
    /// # Errors
    /// When the machine has no such daemon.
    pub fn start_daemon(&self, machine: &str, daemon: &str) -> Result<()> {
        remove_file(&self.stop_marker(machine, daemon)?)
    }

    /// Stops a cluster's API server and keeps it stopped.
    ///
    /// # Errors
    /// When there is no such cluster, or the server does not end.
    pub fn stop_api_server(&self, cluster: &str) -> Result<()> {
        self.stop_daemon(&self.cluster(cluster)?.control.name, "kube-apiserver")
    }

    /// Starts a cluster's API server and waits until it is ready.
    ///
    /// # Errors
    /// When there is no such cluster, or the server does not get ready.
    pub fn start_api_server(&self, cluster: &str) -> Result<()> {
        let cluster = self.cluster(cluster)?;
        self.start_daemon(&cluster.control.name, "kube-apiserver")?;
        wait_for(&format!("API server of {} ready", cluster.name), Duration::from_secs(120), || {
            power::api_ready(self, cluster)
        })
    }

    /// Mends everything: machines on, links whole, daemons running, paths clear.
    ///
    /// # Errors
    /// When something cannot be mended.
    pub fn clear_faults(&self) -> Result<()> {
        let _lock = self.lock()?;
        self.plan.machines().try_for_each(|machine| mend(self, machine))
    }

    fn running(&self, name: &str) -> Result<&Machine> {
        let machine = self.machine(name)?;
        if self.init(machine).is_none() {
            bail!("{name} is off: switch it on with `testbed fault power-on {name}`");
        }
        Ok(machine)
    }

    fn stop_marker(&self, machine: &str, daemon: &str) -> Result<PathBuf> {
        let machine = self.machine(machine)?;
        let known = crate::units::units(self.cluster(&machine.cluster)?, machine);
        if !known.iter().any(|unit| unit.name == daemon) {
            let names: Vec<&str> = known.iter().map(|unit| unit.name.as_str()).collect();
            bail!("{} has no daemon '{daemon}': it has {}", machine.name, names.join(", "));
        }
        Ok(self.paths.machine(&machine.name).join("stopped").join(daemon))
    }
}

/// Takes all faults of a machine back, and switches it on if it is off.
pub(crate) fn mend(testbed: &Testbed, machine: &Machine) -> Result<()> {
    for daemon in stopped(testbed, machine) {
        remove_file(&testbed.paths.machine(&machine.name).join("stopped").join(daemon))?;
    }
    link::forget(testbed, machine)?;
    let Some(init) = testbed.init(machine) else { return power::on(testbed, machine) };
    for pid in processes(testbed, machine)? {
        if process::state(pid) == Some('T') {
            // One that has ended since needs no signal.
            let _ = kill(Pid::from_raw(pid), Signal::SIGCONT);
        }
    }
    link::apply(testbed, machine, init.pid)
}

/// All processes of a machine that is on: those in its cgroup, its containers'
/// included, and those that [`Testbed::exec`] and the like have brought in.
fn processes(testbed: &Testbed, machine: &Machine) -> Result<BTreeSet<i32>> {
    let mut found = cgroup::processes(&testbed.machine_cgroup(machine))?;
    let namespace = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    if let Some(own) = testbed.init(machine).and_then(|init| namespace(init.pid)) {
        let all = fs::read_dir("/proc")?.flatten();
        let all = all.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        found.extend(all.filter(|pid| namespace(*pid).as_ref() == Some(&own)));
    }
    Ok(found)
}

/// The daemons that are kept stopped on a machine.
pub(crate) fn stopped(testbed: &Testbed, machine: &Machine) -> Vec<String> {
    let markers = fs::read_dir(testbed.paths.machine(&machine.name).join("stopped"));
    let names = markers.into_iter().flatten().flatten().map(|entry| entry.file_name());
    let mut names: Vec<String> = names.map(|name| name.to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Whether a process runs the program of this name, however it was called.
fn runs(pid: i32, program: &str) -> bool {
    let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let cmdline = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    named(program, comm.trim_end(), &cmdline)
}

/// Whether a program's name is that of its first argument or, where a process
/// changed that, the kernel's, which is cut off at 15 bytes.
fn named(program: &str, comm: &str, cmdline: &[u8]) -> bool {
    let first = cmdline.split(|byte| *byte == 0).next().unwrap_or_default();
    let first = String::from_utf8_lossy(first);
    let base = first.rsplit('/').next().unwrap_or_default();
    base == program || (program.len() <= 15 && comm == program)
}

/// Removes a file unless there is none.
pub(crate) fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::named;

    #[test]
    fn programs_are_known_by_either_name() {
        assert!(named(
            "kube-controller-manager",
            "kube-controller",
            b"/opt/kube-controller-manager\0-v"
        ));
        assert!(named("iperf3", "iperf3", b"iperf3\0-s"));
        assert!(named("nginx", "nginx", b"nginx: worker process\0"));
        assert!(!named("kube", "kubelet", b"/opt/kubelet\0"));
        assert!(!named("sleep", "sh", b"sh\0-c\0sleep 1"));
    }
}
