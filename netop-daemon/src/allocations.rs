//! Addresses given on this node, in a file that outlives the process but not the node.
//!
//! The kernel shows which pod has which address; the file adds what the kernel forgets: which
//! addresses were given back less than a minute ago.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use slicewire_core::node_addresses::NodeAddresses;

const FILE: &str = "addresses.json";

/// The addresses of every slice on this node.
pub(crate) struct Allocations {
    file: PathBuf,
    slices: BTreeMap<String, NodeAddresses>,
    saved: BTreeMap<String, NodeAddresses>,
}

impl Allocations {
    /// Reads the file; one that is missing or damaged is the same as empty, because what is in use
    /// is taken over from the kernel anyway.
    pub(crate) fn load(directory: &Path) -> Self {
        let file = directory.join(FILE);
        let slices: BTreeMap<String, NodeAddresses> = match std::fs::read(&file) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                tracing::warn!(file = %file.display(), %error, "starting without the state file");
                BTreeMap::new()
            }),
            Err(_) => BTreeMap::new(),
        };
        Self { file, saved: slices.clone(), slices }
    }

    /// A slice's addresses.
    pub(crate) fn slice(&mut self, slice: &str) -> &mut NodeAddresses {
        self.slices.entry(slice.to_owned()).or_default()
    }

    /// Every slice's addresses.
    pub(crate) fn slices(&mut self) -> impl Iterator<Item = (&String, &mut NodeAddresses)> {
        self.slices.iter_mut()
    }

    /// Whether the node holds nothing of the slice any more, so that its blocks can be given back.
    pub(crate) fn is_idle(&self, slice: &str) -> bool {
        self.slices.get(slice).is_none_or(NodeAddresses::is_idle)
    }

    /// Frees what has rested, and writes the file if anything changed since it was last written.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn save(&mut self, now_ms: u64) -> io::Result<()> {
        for addresses in self.slices.values_mut() {
            addresses.expire(now_ms);
        }
        self.slices.retain(|_, a| !a.is_idle() || !a.blocks().is_empty());
        if self.slices == self.saved {
            return Ok(());
        }
        let bytes = serde_json::to_vec(&self.slices)?;
        let new = self.file.with_extension("new");
        std::fs::write(&new, bytes)?;
        std::fs::rename(&new, &self.file)?;
        self.saved = self.slices.clone();
        Ok(())
    }
}

/// Milliseconds since the node was started: never goes back, and the same for every process.
pub(crate) fn uptime_ms() -> u64 {
    let text = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
    let seconds = text.split_whitespace().next().and_then(|s| s.parse::<f64>().ok());
    // Seconds since boot fit a u64 in milliseconds many times over.
    seconds.map_or(0, |s| (s * 1_000.0) as u64)
}

/// Removes the file.
///
/// # Errors
/// It is there and cannot be removed.
pub(crate) fn remove(directory: &Path) -> io::Result<()> {
    match std::fs::remove_file(directory.join(FILE)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use slicewire_core::prefix::Family;

    use super::*;

    #[test]
    fn a_restart_forgets_neither_what_is_held_nor_what_rests() {
        let directory = tempfile::tempdir().unwrap();
        let blocks = ["10.77.3.0/30".parse().unwrap()];
        let v4 = BTreeSet::from([Family::V4]);
        let mut before = Allocations::load(directory.path());
        before.slice("blue").set_blocks(&blocks);
        let gone = before.slice("blue").acquire("p1", &v4, 0).unwrap();
        let held = before.slice("blue").acquire("p2", &v4, 0).unwrap();
        before.slice("blue").release("p1", 1_000);
        before.save(1_000).unwrap();

        let mut after = Allocations::load(directory.path());
        after.slice("blue").set_blocks(&blocks);
        assert_eq!(after.slice("blue").acquire("p2", &v4, 2_000).unwrap(), held);
        let third = after.slice("blue").acquire("p3", &v4, 2_000).unwrap();
        assert!(third != gone && third != held);
        assert!(after.slice("blue").acquire("p4", &v4, 2_000).is_err());
        assert_eq!(after.slice("blue").acquire("p4", &v4, 61_000).unwrap(), gone);
    }

    #[test]
    fn a_damaged_file_is_the_same_as_none() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(FILE), b"{\"blue\": 7").unwrap();
        assert!(Allocations::load(directory.path()).is_idle("blue"));
    }
}
