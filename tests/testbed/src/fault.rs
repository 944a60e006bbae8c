//! Breaking things on purpose, and mending them.
//!
//! Each fault lasts until it is taken back or [`Testbed::clear_faults`] is
//! called. A power-off takes the faults of the machine's link along.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cgroup;
use crate::impair::Impairment;
use crate::plan::Machine;
use crate::power;
use crate::process::{Identity, run, wait_for, write_whole};
use crate::relay::{Rule, Rules};
use crate::testbed::Testbed;
use crate::wan::{self, BRIDGE};

/// How a link is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// The machine's device loses its carrier, as with a pulled cable.
    Carrier,
    /// Packets vanish and nobody notices, as with a fault further away.
    Silent,
}

impl Testbed {
    /// Pulls a machine's plug: all of its processes end at once.
    ///
    /// # Errors
    /// When there is no such machine, or something of it is left running.
    pub fn power_off(&self, machine: &str) -> Result<()> {
        power::off(self, self.machine(machine)?)
    }

    /// Switches a machine on, its disk as it was.
    ///
    /// # Errors
    /// When there is no such machine or it does not start.
    pub fn power_on(&self, machine: &str) -> Result<()> {
        power::on(self, self.machine(machine)?)
    }

    /// Cuts a machine off the WAN.
    ///
    /// # Errors
    /// When there is no such machine or it is off.
    pub fn cut(&self, machine: &str, how: Cut) -> Result<()> {
        let machine = self.running(machine)?;
        match how {
            Cut::Carrier => wan::ip(&self.plan, &format!("link set {} down\n", machine.name)),
            Cut::Silent => self.bridge_port(machine, "disabled"),
        }
    }

    /// Takes a cut back, whichever it was.
    ///
    /// # Errors
    /// When there is no such machine or it is off.
    pub fn restore(&self, machine: &str) -> Result<()> {
        let machine = self.running(machine)?;
        wan::ip(&self.plan, &format!("link set {} up\n", machine.name))?;
        self.bridge_port(machine, "forwarding")
    }

    /// Limits a machine's link in both directions, to a rate as `tc` takes it
    /// (`10mbit`), with a queue of `queue`; no rate takes the limit back.
    ///
    /// # Errors
    /// When the machine is off, or `tc` refuses the rate.
    pub fn shape(&self, machine: &str, rate: Option<&str>, queue: Duration) -> Result<()> {
        let machine = self.running(machine)?;
        let netns = self.plan.wan_netns();
        let latency = format!("{}ms", queue.as_millis().max(1));
        for (inside, device) in [(false, machine.name.as_str()), (true, "eth0")] {
            let mut words = match rate {
                Some(_) => vec!["tc", "qdisc", "replace", "dev", device, "root", "tbf"],
                None => vec!["tc", "qdisc", "del", "dev", device, "root"],
            };
            words.extend(rate.into_iter().flat_map(|rate| ["rate", rate, "burst", "64kb"]));
            words.extend(rate.into_iter().flat_map(|_| ["latency", latency.as_str()]));
            let mut command = if inside {
                self.exec_command(&machine.name, &words)?
            } else {
                let mut command = Command::new("nsenter");
                command.arg(format!("--net=/run/netns/{netns}")).args(words);
                command
            };
            // Without a limit there is none to take back.
            if let (Err(error), Some(_)) = (run(&mut command), rate) {
                return Err(error);
            }
        }
        Ok(())
    }

    /// Sends a signal to all processes of a machine, its containers' included,
    /// whose program has this name; how many there were.
    ///
    /// # Errors
    /// When the machine is off or runs no such program.
    pub fn kill(&self, machine: &str, program: &str, signal: Signal) -> Result<usize> {
        let machine = self.running(machine)?;
        let all = cgroup::processes(&self.machine_cgroup(machine))?;
        let init = self.init(machine).map(|init| init.pid);
        let chosen: Vec<i32> =
            all.into_iter().filter(|pid| Some(*pid) != init && runs(*pid, program)).collect();
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
        wait_for(&format!("end of {daemon} on {}", machine.name), Duration::from_secs(10), || {
            let all = cgroup::processes(&self.machine_cgroup(machine)).unwrap_or_default();
            !all.into_iter().any(|pid| runs(pid, daemon))
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

    /// Impairs the path between two machines, or all machines of two clusters,
    /// in both directions. Replaces what was set for the same machines before.
    ///
    /// # Errors
    /// When a value is impossible, a name is unknown or a machine is off.
    pub fn delay(&self, a: &str, b: &str, what: Impairment, seed: u64) -> Result<()> {
        let faults = what.faults();
        if !faults.is_empty() {
            bail!("the path cannot be impaired:\n  {}", faults.join("\n  "));
        }
        for first in self.named(a)? {
            for second in self.named(b)? {
                if first.name != second.name {
                    self.impair(first, second, what, seed)?;
                }
            }
        }
        Ok(())
    }

    /// Mends everything: machines on, links whole, daemons running, paths clear.
    ///
    /// # Errors
    /// When something cannot be mended.
    pub fn clear_faults(&self) -> Result<()> {
        for machine in self.plan.machines() {
            let stopped = self.paths.machine(&machine.name).join("stopped");
            for entry in fs::read_dir(stopped).into_iter().flatten().flatten() {
                remove_file(&entry.path())?;
            }
            power::on(self, machine)?;
            self.remove_relay(machine)?;
            self.restore(&machine.name)?;
            self.shape(&machine.name, None, Duration::ZERO)?;
        }
        Ok(())
    }

    /// One machine, or all of a cluster.
    fn named(&self, name: &str) -> Result<Vec<&Machine>> {
        if let Some(cluster) = self.plan.cluster(name) {
            return Ok(cluster.machines().collect());
        }
        let clusters = self.plan.clusters.iter().map(|c| c.name.as_str()).collect::<Vec<_>>();
        let machine = self.machine(name);
        Ok(vec![machine.with_context(|| format!("no cluster either: {}", clusters.join(", ")))?])
    }

    fn running(&self, name: &str) -> Result<&Machine> {
        let machine = self.machine(name)?;
        if self.init(machine).is_none() {
            bail!("{name} is off: switch it on with `testbed fault power-on {name}`");
        }
        Ok(machine)
    }

    fn bridge_port(&self, machine: &Machine, state: &str) -> Result<()> {
        let number = if state == "disabled" { "0" } else { "3" };
        run(Command::new("bridge")
            .args(["-n", &self.plan.wan_netns(), "link", "set", "dev", &machine.name])
            .args(["state", number]))
        .map(drop)
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

    /// Writes the rule for two machines to the relay of the one that comes first by name.
    fn impair(&self, a: &Machine, b: &Machine, what: Impairment, seed: u64) -> Result<()> {
        let (owner, peer) = if a.name < b.name { (a, b) } else { (b, a) };
        self.running(&owner.name)?;
        let file = self.rules_file(owner);
        let mut rules = Rules::load(&file)?;
        let rule = Rule { mac: peer.mac(), impairment: what, seed };
        rules.peers.insert(peer.name.clone(), rule);
        write_whole(&file, &serde_json::to_vec_pretty(&rules)?)?;
        if Identity::load(&self.relay_file(owner)).is_none() {
            self.insert_relay(owner)?;
        }
        Ok(())
    }

    fn rules_file(&self, machine: &Machine) -> PathBuf {
        self.paths.machine(&machine.name).join("delays.json")
    }

    fn relay_file(&self, machine: &Machine) -> PathBuf {
        self.paths.machine(&machine.name).join("relay.json")
    }

    /// Starts a relay and moves the machine's port behind it.
    fn insert_relay(&self, machine: &Machine) -> Result<()> {
        let port = &machine.name;
        let (bridge, inner, outer) =
            (wan::relay_bridge(machine), format!("i-{port}"), format!("o-{port}"));
        let mut relay = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{}", self.plan.wan_netns()))
            .arg(power::program()?)
            .arg("relay")
            .arg(self.rules_file(machine))
            .args([&self.machine_cgroup(machine), &inner, &outer])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(self.paths.machine(port).join("log/relay.log"))?)
            .spawn()?;
        let mut ready = [0u8; 5];
        relay.stdout.take().context("no pipe")?.read_exact(&mut ready).with_context(|| {
            format!("the relay of {port} does not start; see its log/relay.log")
        })?;
        Identity::of(i32::try_from(relay.id())?)
            .context("the relay ended at once")?
            .save(&self.relay_file(machine))?;
        wan::ip(
            &self.plan,
            &format!(
                "link add {bridge} type bridge stp_state 0 mcast_snooping 0
                 link set {bridge} addrgenmode none
                 link set {inner} addrgenmode none
                 link set {outer} addrgenmode none
                 link set {inner} master {bridge}
                 link set {outer} master {BRIDGE}
                 link set {bridge} up
                 link set {inner} up
                 link set {outer} up
                 link set {port} master {bridge}
                "
            ),
        )
    }

    /// Moves the machine's port back and ends its relay, if it has one.
    fn remove_relay(&self, machine: &Machine) -> Result<()> {
        remove_file(&self.rules_file(machine))?;
        let port = &machine.name;
        wan::ip(&self.plan, &format!("link set {port} master {BRIDGE}\n"))?;
        if let Some(relay) = Identity::load(&self.relay_file(machine)) {
            relay.kill()?;
        }
        // There may never have been one.
        let _ = wan::ip(&self.plan, &format!("link del {}\n", wan::relay_bridge(machine)));
        remove_file(&self.relay_file(machine))
    }
}

/// Forgets the faults of a link that is gone.
pub(crate) fn forget(testbed: &Testbed, machine: &Machine) -> Result<()> {
    remove_file(&testbed.rules_file(machine))?;
    remove_file(&testbed.relay_file(machine))
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

fn remove_file(path: &Path) -> Result<()> {
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
