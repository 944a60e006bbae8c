//! What runs and what does not, for people.

use std::fmt::Write as _;

use crate::cgroup;
use crate::plan::Role;
use crate::power;
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
            }
        }
        text
    }
}
