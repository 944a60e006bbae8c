//! Looking into the application's pods.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use slicewire_testbed::Testbed;
use slicewire_testbed::process::wait_for;

/// A pod of the application.
#[derive(Debug, Clone)]
pub(crate) struct Pod<'a> {
    testbed: &'a Testbed,
    cluster: &'static str,
    namespace: &'static str,
    name: String,
    uid: String,
    restarts: u64,
}

impl<'a> Pod<'a> {
    /// The pod of a deployment with that name.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn find(
        testbed: &'a Testbed,
        cluster: &'static str,
        namespace: &'static str,
        app: &str,
    ) -> Result<Self> {
        let selector = format!("app={app}");
        let args = ["get", "pods", "-n", namespace, "-l", &selector, "-ojson"];
        let list: Value = serde_json::from_str(&testbed.kubectl(cluster, &args)?)?;
        let pod = list["items"]
            .as_array()
            .and_then(|items| items.iter().find(|p| p["metadata"]["deletionTimestamp"].is_null()))
            .with_context(|| format!("no pod of {namespace}/{app} in {cluster}"))?;
        let text = |key: &str| pod["metadata"][key].as_str().unwrap_or_default().to_owned();
        let statuses = pod["status"]["containerStatuses"].as_array();
        let restarts =
            statuses.into_iter().flatten().filter_map(|s| s["restartCount"].as_u64()).sum();
        Ok(Self { testbed, cluster, namespace, name: text("name"), uid: text("uid"), restarts })
    }

    /// The pod as it is now, under the same name.
    ///
    /// # Errors
    /// It is another pod, or one of its containers was started again.
    pub(crate) fn same_as_ever(&self) -> Result<()> {
        let args = ["get", "pod", "-n", self.namespace, &self.name, "-ojson"];
        let pod: Value = serde_json::from_str(&self.testbed.kubectl(self.cluster, &args)?)?;
        let statuses = pod["status"]["containerStatuses"].as_array();
        let restarts: u64 =
            statuses.into_iter().flatten().filter_map(|s| s["restartCount"].as_u64()).sum();
        if pod["metadata"]["uid"].as_str() != Some(self.uid.as_str()) || restarts != self.restarts {
            bail!("{} in {} was restarted", self.name, self.cluster);
        }
        Ok(())
    }

    /// For messages.
    pub(crate) fn spell(&self) -> String {
        format!("{}/{} in {}", self.namespace, self.name, self.cluster)
    }

    /// Runs a command in the pod's first container; its output.
    ///
    /// # Errors
    /// The command failed; with what it said.
    pub(crate) fn run(&self, command: &[&str]) -> Result<String> {
        let exec = ["exec", "-n", self.namespace, &self.name, "--"];
        self.testbed.kubectl(self.cluster, &[&exec, command].concat())
    }

    /// Waits until the pod has the slice's NIC.
    ///
    /// # Errors
    /// It has not after a minute.
    pub(crate) fn wait_for_nic(&self, slice: &str) -> Result<()> {
        let alias = format!("slicewire/{slice}");
        wait_for(&format!("the NIC of {}", self.spell()), Duration::from_secs(60), || {
            let found = self.run(&["sh", "-c", "cat /sys/class/net/slice*/ifalias"]);
            found.is_ok_and(|text| text.lines().any(|line| line == alias))
        })
    }

    /// The addresses of the pod's first slice NIC.
    ///
    /// # Errors
    /// It has none.
    pub(crate) fn slice_addresses(&self) -> Result<Vec<IpAddr>> {
        let text = self.run(&["ip", "-o", "addr", "show", "dev", "slice0", "scope", "global"])?;
        let found: Vec<IpAddr> = addresses(&text);
        if found.is_empty() {
            bail!("{} has no address on slice0", self.spell());
        }
        Ok(found)
    }
}

/// The addresses in what `ip -o addr` prints.
fn addresses(printed: &str) -> Vec<IpAddr> {
    let words = |line: &str| -> Option<IpAddr> {
        let mut words = line.split_whitespace().skip_while(|w| *w != "inet" && *w != "inet6");
        words.nth(1)?.split('/').next()?.parse().ok()
    };
    printed.lines().filter_map(words).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_both_families_are_found() {
        let printed = "\
            5: slice0    inet 10.77.0.2/32 scope global slice0\\       valid_lft forever\n\
            5: slice0    inet6 fd77:77::2/128 scope global \\       valid_lft forever\n";
        let found: Vec<String> = addresses(printed).iter().map(IpAddr::to_string).collect();
        assert_eq!(found, ["10.77.0.2", "fd77:77::2"]);
    }
}
