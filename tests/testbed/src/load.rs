//! Importing image archives into nodes.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::config::CONTAINERD_SOCKET;
use crate::oci;
use crate::plan::{Cluster, Machine};
use crate::process::{wait_for, write_whole};
use crate::testbed::Testbed;

impl Testbed {
    /// Imports an OCI or Docker archive into every node of the named clusters,
    /// or of all; nodes that have it already are left alone. Returns how many
    /// nodes took it.
    ///
    /// # Errors
    /// When the archive is none, or a node is off or refuses it.
    pub fn load(&self, archive: &Path, clusters: &[String]) -> Result<usize> {
        let mut taken = 0;
        for name in clusters {
            self.cluster(name)?;
        }
        for cluster in &self.plan.clusters {
            if clusters.is_empty() || clusters.contains(&cluster.name) {
                taken += into_cluster(self, cluster, &[archive.to_owned()])?;
            }
        }
        Ok(taken)
    }
}

/// Imports archives into all nodes of a cluster as soon as they can take them;
/// how many imports were needed.
pub(crate) fn into_cluster(
    testbed: &Testbed,
    cluster: &Cluster,
    archives: &[PathBuf],
) -> Result<usize> {
    thread::scope(|scope| {
        let tasks: Vec<_> = cluster
            .workers
            .iter()
            .map(|node| scope.spawn(move || into_node(testbed, node, archives)))
            .collect();
        tasks.into_iter().try_fold(0, |sum, task| match task.join() {
            Ok(result) => Ok(sum + result?),
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })
}

fn into_node(testbed: &Testbed, node: &Machine, archives: &[PathBuf]) -> Result<usize> {
    let mut imported = 0;
    // What each reference was last loaded from, as long as the disk lives.
    let notes = testbed.paths.machine(&node.name).join("images.json");
    let mut loaded: BTreeMap<String, String> = std::fs::read(&notes)
        .ok()
        .and_then(|t| serde_json::from_slice(&t).ok())
        .unwrap_or_default();
    for archive in archives {
        let images = oci::contents(archive)?;
        if images.iter().all(|(name, digest)| loaded.get(name) == Some(digest)) {
            continue;
        }
        import(testbed, node, archive)
            .with_context(|| format!("cannot load {} into {}", archive.display(), node.name))?;
        imported += 1;
        loaded.extend(images);
        write_whole(&notes, &serde_json::to_vec(&loaded)?)?;
    }
    Ok(imported)
}

fn import(testbed: &Testbed, node: &Machine, archive: &Path) -> Result<()> {
    let mut ready = || {
        let socket = testbed.exec(&node.name, &["ctr", "version"]);
        socket.is_ok_and(|output| output.status.success())
    };
    wait_for(&format!("containerd at {CONTAINERD_SOCKET}"), Duration::from_secs(60), &mut ready)?;
    // Through standard input: the node need not see the file.
    let mut command =
        testbed.exec_command(&node.name, &["ctr", "-n", "k8s.io", "images", "import", "-"])?;
    let output = command.stdin(File::open(archive)?).stdout(Stdio::null()).output()?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim_end());
    }
    Ok(())
}
