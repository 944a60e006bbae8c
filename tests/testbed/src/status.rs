//! What runs and what does not, for people.

use std::fmt::Write as _;

use crate::cgroup;
use crate::fault;
use crate::link::Cut;
use crate::plan::{Machine, Role};
use crate::power;
use crate::relay::Rules;
use crate::testbed::Testbed;

impl Testbed {
    /// A table of all machines, and how the clusters do.
    pub fn status(&self) -> String {
        let mut text = format!(
            "testbed {} (WAN {}, namespace {})\n",
            self.plan.name,
            self.plan.gateway().0,
            self.plan.wan_netns()
        );
        // Writing to a String cannot fail.
        for cluster in &self.plan.clusters {
            let ready = if power::api_ready(self, cluster) { "ready" } else { "NOT ready" };
            let kubeconfig = self.kubeconfig(&cluster.name);
            let _ =
                writeln!(text, "\n{}: API server {ready}, {}", cluster.name, kubeconfig.display());
            for machine in cluster.machines() {
                let role = match machine.role {
                    Role::ControlPlane => "control plane",
                    Role::Worker { .. } => "node",
                };
                let state = self.init(machine).map_or("OFF".to_owned(), |init| {
                    let count =
                        cgroup::processes(&self.machine_cgroup(machine)).unwrap_or_default();
                    format!("on, first process {}, {} processes", init.pid, count.len())
                });
                let (name, v4, v6) = (&machine.name, machine.wan4, machine.wan6);
                let _ = writeln!(text, "  {name:<13} {role:<14} {v4:<15} {v6:<22} {state}");
                let faults = faults(self, machine);
                if !faults.is_empty() {
                    let _ = writeln!(text, "  {:<13} faults: {}", "", faults.join("; "));
                }
            }
        }
        text
    }
}

/// What was broken on purpose and not mended yet, for people.
fn faults(testbed: &Testbed, machine: &Machine) -> Vec<String> {
    let mut faults = Vec::new();
    match testbed.link(machine) {
        Err(error) => faults.push(format!("{error:#}")),
        Ok(link) => {
            faults.extend(link.cut.map(|cut| match cut {
                Cut::Carrier => "cut off".to_owned(),
                Cut::Silent => "cut off silently".to_owned(),
            }));
            faults.extend(link.limit.map(|limit| format!("link limited to {}", limit.rate)));
        }
    }
    let rules = Rules::load(&testbed.rules_file(machine)).unwrap_or_default();
    faults.extend(rules.peers.iter().map(|(peer, rule)| format!("{} to {peer}", rule.impairment)));
    let stopped = fault::stopped(testbed, machine);
    faults.extend(stopped.iter().map(|daemon| format!("{daemon} stopped")));
    faults
}
