//! Faults of a machine's link into the WAN and of the paths that begin there.
//!
//! They are the WAN's, not the machine's: one that is switched off and on
//! again finds its link as bad as before.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::detour;
use crate::fault::remove_file;
use crate::impair::Impairment;
use crate::plan::Machine;
use crate::process::{Identity, run, run_with_input, write_whole};
use crate::relay::Rules;
use crate::testbed::Testbed;
use crate::wan;

/// How a link is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cut {
    /// The machine's device loses its carrier, as with a pulled cable.
    Carrier,
    /// Packets vanish and nobody notices, as with a fault further away.
    Silent,
}

/// What is wrong with a machine's link; by default nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Link {
    pub cut: Option<Cut>,
    pub limit: Option<Limit>,
}

/// A limit of a link, in each direction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Limit {
    /// As `tc` takes it.
    pub rate: String,
    /// The longest a packet may queue.
    pub queue: Duration,
}

impl Testbed {
    /// Cuts a machine off the WAN.
    ///
    /// # Errors
    /// When there is no such machine, or the kernel refuses.
    pub fn cut(&self, machine: &str, how: Cut) -> Result<()> {
        self.change(machine, |link| link.cut = Some(how))
    }

    /// Takes a cut back, whichever it was.
    ///
    /// # Errors
    /// When there is no such machine, or the kernel refuses.
    pub fn restore(&self, machine: &str) -> Result<()> {
        self.change(machine, |link| link.cut = None)
    }

    /// Limits a machine's link in both directions, to a rate as `tc` takes it
    /// (`10mbit`), with a queue of `queue`; no rate takes the limit back.
    ///
    /// # Errors
    /// When there is no such machine, or `tc` refuses the rate.
    pub fn shape(&self, machine: &str, rate: Option<&str>, queue: Duration) -> Result<()> {
        let limit = rate.map(|rate| Limit { rate: rate.to_owned(), queue });
        self.change(machine, |link| link.limit = limit)
    }

    /// Impairs the path between two machines, or all machines of two clusters,
    /// in both directions. Replaces what was set for the same machines before;
    /// no impairment takes it back.
    ///
    /// # Errors
    /// When a value is impossible, a name is unknown, or a relay does not start.
    pub fn delay(&self, a: &str, b: &str, what: Impairment, seed: u64) -> Result<()> {
        let faults = what.faults();
        if !faults.is_empty() {
            bail!("the path cannot be impaired:\n  {}", faults.join("\n  "));
        }
        let (first, second) = (self.named(a)?, self.named(b)?);
        let pairs: Vec<_> = first
            .iter()
            .flat_map(|a| second.iter().map(move |b| (*a, *b)))
            // Once, whichever of the two is named first.
            .map(|(a, b)| if a.name < b.name { (a, b) } else { (b, a) })
            .filter(|(a, b)| a.name != b.name)
            .collect();
        if pairs.is_empty() {
            bail!("{a} and {b} are the same machine: a path is between two");
        }
        let _lock = self.lock()?;
        for (owner, peer) in pairs {
            let mut rules = Rules::load(&self.rules_file(owner))?;
            rules.set(&peer.name, peer.mac(), what, seed);
            write_whole(&self.rules_file(owner), &serde_json::to_vec_pretty(&rules)?)?;
            if self.init(owner).is_some() {
                self.apply_rules(owner)?;
            }
        }
        Ok(())
    }

    /// One machine, or all of a cluster.
    fn named(&self, name: &str) -> Result<Vec<&Machine>> {
        if let Some(cluster) = self.plan.cluster(name) {
            return Ok(cluster.machines().collect());
        }
        if let Some(machine) = self.plan.machine(name) {
            return Ok(vec![machine]);
        }
        let clusters = self.plan.clusters.iter().map(|cluster| cluster.name.as_str());
        let machines = self.plan.machines().map(|machine| machine.name.as_str());
        let known: Vec<&str> = clusters.chain(machines).collect();
        bail!("no cluster or machine '{name}': there are {}", known.join(", "))
    }

    fn change(&self, machine: &str, change: impl FnOnce(&mut Link)) -> Result<()> {
        let machine = self.machine(machine)?;
        let _lock = self.lock()?;
        let old = self.link(machine)?;
        let mut new = old.clone();
        change(&mut new);
        self.save_link(machine, &new)?;
        let Some(init) = self.init(machine) else { return Ok(()) };
        // What the kernel refuses must not break the next power-on.
        apply(self, machine, init.pid).inspect_err(|_| drop(self.save_link(machine, &old)))
    }

    /// What is wrong with a machine's link.
    pub(crate) fn link(&self, machine: &Machine) -> Result<Link> {
        let file = self.link_file(machine);
        match fs::read(&file) {
            Ok(text) => serde_json::from_slice(&text)
                .with_context(|| format!("cannot understand {}", file.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Link::default()),
            Err(error) => Err(error.into()),
        }
    }

    fn save_link(&self, machine: &Machine, link: &Link) -> Result<()> {
        write_whole(&self.link_file(machine), &serde_json::to_vec(link)?)
    }

    fn link_file(&self, machine: &Machine) -> PathBuf {
        self.paths.machine(&machine.name).join("link.json")
    }

    /// The rules of the paths from this machine to those later in the alphabet.
    pub(crate) fn rules_file(&self, machine: &Machine) -> PathBuf {
        self.paths.machine(&machine.name).join("delays.json")
    }

    pub(crate) fn relay_file(&self, machine: &Machine) -> PathBuf {
        self.paths.machine(&machine.name).join("relay.json")
    }

    /// Gives a machine the relay that its rules need, or takes it away.
    fn apply_rules(&self, machine: &Machine) -> Result<()> {
        let rules = Rules::load(&self.rules_file(machine))?;
        match (rules.peers.is_empty(), Identity::load(&self.relay_file(machine))) {
            (true, None) => Ok(()),
            (true, Some(relay)) => detour::remove(self, machine, relay),
            (false, None) => detour::insert(self, machine),
            (false, Some(_)) => rules.await_use(&self.rules_file(machine)),
        }
    }
}

/// Forgets all faults of a machine's link and paths; [`apply`] makes it true.
pub(crate) fn forget(testbed: &Testbed, machine: &Machine) -> Result<()> {
    remove_file(&testbed.link_file(machine))?;
    remove_file(&testbed.rules_file(machine))
}

/// Makes the link of a machine with first process `pid` as good or bad as it should be.
pub(crate) fn apply(testbed: &Testbed, machine: &Machine, pid: i32) -> Result<()> {
    let link = testbed.link(machine)?;
    let port = &machine.name;
    let netns = testbed.plan.wan_netns();
    let state = if link.cut == Some(Cut::Carrier) { "down" } else { "up" };
    wan::ip(&testbed.plan, &format!("link set {port} {state}\n"))?;
    let wan = format!("--net=/run/netns/{netns}");
    let rules = silence(port, link.cut == Some(Cut::Silent));
    run_with_input(Command::new("nsenter").args([&wan, "nft", "-f", "-"]), rules.as_bytes())?;
    // What arrives at the machine, and what leaves it.
    for (namespace, device) in [(wan, port.as_str()), (format!("--net=/proc/{pid}/ns/net"), "eth0")]
    {
        limit(&namespace, device, link.limit.as_ref())?;
    }
    testbed.apply_rules(machine)
}

/// Rules for `nft` that lose, or do not lose, all frames of a bridge's port.
fn silence(port: &str, silent: bool) -> String {
    let name = format!("cut-{port}");
    // The first line lets the second succeed where there is no table yet.
    let clean = format!("table bridge {name}\ndelete table bridge {name}\n");
    if !silent {
        return clean;
    }
    format!(
        "{clean}table bridge {name} {{
  chain from {{ type filter hook prerouting priority 0; iifname \"{port}\" drop; }}
  chain to {{ type filter hook postrouting priority 0; oifname \"{port}\" drop; }}
}}
"
    )
}

fn limit(namespace: &str, device: &str, limit: Option<&Limit>) -> Result<()> {
    let mut tc = Command::new("nsenter");
    tc.args([namespace, "tc", "qdisc"]);
    let Some(Limit { rate, queue }) = limit else {
        // There may be none to take back.
        let _ = run(tc.args(["del", "dev", device, "root"]));
        return Ok(());
    };
    let latency = format!("{}ms", queue.as_millis().max(1));
    tc.args(["replace", "dev", device, "root", "tbf", "rate", rate]);
    run(tc.args(["burst", "64kb", "latency", &latency])).map(drop)
}
