//! What a user asks for: a named testbed of clusters, each of some nodes.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Clusters in one testbed: each has its own 256 addresses of the WAN's 4096,
/// and the last 256 belong to the WAN itself.
pub const MAX_CLUSTERS: usize = 15;

/// Nodes in one cluster: a pod prefix of 256 addresses each, and one WAN
/// address each next to the control plane's.
pub const MAX_NODES: u16 = 250;

/// The longest testbed name: the host's link is called `swtb-<name>`.
const MAX_NAME: usize = 10;

/// The longest cluster name: a node's port is called `o-<cluster>-<number>`.
const MAX_CLUSTER: usize = 9;

/// One cluster: a control plane, and `nodes` workers (none for a hub).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterSpec {
    /// Lower-case letters, digits and dashes, at most nine.
    pub name: String,
    /// Worker nodes, 0 to [`MAX_NODES`].
    pub nodes: u16,
}

/// A whole testbed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// Keeps several testbeds on one machine apart.
    pub name: String,
    /// The clusters, in the order their addresses are given out.
    pub clusters: Vec<ClusterSpec>,
}

impl Spec {
    /// A hub without nodes, and two worker clusters of two nodes.
    pub fn standard(name: &str) -> Self {
        let cluster = |name: &str, nodes| ClusterSpec { name: name.to_owned(), nodes };
        Self {
            name: name.to_owned(),
            clusters: vec![cluster("hub", 0), cluster("east", 2), cluster("west", 2)],
        }
    }

    /// Every fault of the specification, each saying what would be accepted;
    /// empty when it can be brought up.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        faults.extend(testbed_name_fault(&self.name));
        if self.clusters.is_empty() || self.clusters.len() > MAX_CLUSTERS {
            let count = self.clusters.len();
            faults.push(format!("{count} clusters asked for: 1 to {MAX_CLUSTERS} are possible"));
        }
        let mut seen = BTreeSet::new();
        for cluster in &self.clusters {
            faults.extend(name_fault("cluster", &cluster.name, MAX_CLUSTER));
            if !seen.insert(&cluster.name) {
                faults.push(format!("cluster '{}' is named twice: names are unique", cluster.name));
            }
            if cluster.nodes > MAX_NODES {
                faults.push(format!(
                    "cluster '{}' asks for {} nodes: at most {MAX_NODES} are possible",
                    cluster.name, cluster.nodes
                ));
            }
        }
        faults
    }
}

impl FromStr for ClusterSpec {
    type Err = String;

    /// Reads `name:nodes`, or `name` alone for a control plane without nodes.
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, nodes) = text.split_once(':').unwrap_or((text, "0"));
        let nodes = nodes
            .parse()
            .map_err(|_| format!("'{text}' is not a cluster: write name:nodes, as in east:2"))?;
        Ok(Self { name: name.to_owned(), nodes })
    }
}

impl fmt::Display for ClusterSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, self.nodes)
    }
}

/// What is wrong with a testbed's name, if anything: it names files and devices.
pub fn testbed_name_fault(name: &str) -> Option<String> {
    name_fault("testbed", name, MAX_NAME)
}

fn name_fault(kind: &str, name: &str, longest: usize) -> Option<String> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let fine = !name.is_empty()
        && name.len() <= longest
        && name.chars().all(allowed)
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && !name.ends_with('-');
    (!fine).then(|| {
        format!(
            "{kind} name '{name}' cannot be used: 1 to {longest} lower-case letters, digits and \
             dashes, starting with a letter"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clusters_are_read_as_written() {
        assert_eq!("east:2".parse(), Ok(ClusterSpec { name: "east".into(), nodes: 2 }));
        assert_eq!("hub".parse(), Ok(ClusterSpec { name: "hub".into(), nodes: 0 }));
        assert!("east:two".parse::<ClusterSpec>().unwrap_err().contains("name:nodes"));
    }

    #[test]
    fn the_standard_testbed_is_valid() {
        assert_eq!(Spec::standard("main").faults(), Vec::<String>::new());
    }

    #[test]
    fn all_faults_are_reported_at_once() {
        let spec = Spec {
            name: "Upper".into(),
            clusters: vec![
                ClusterSpec { name: "east".into(), nodes: 251 },
                ClusterSpec { name: "east".into(), nodes: 1 },
                ClusterSpec { name: "much-too-long".into(), nodes: 1 },
            ],
        };
        let faults = spec.faults().join("\n");
        for part in ["'Upper'", "251 nodes", "named twice", "'much-too-long'"] {
            assert!(faults.contains(part), "{part} missing in:\n{faults}");
        }
    }
}
