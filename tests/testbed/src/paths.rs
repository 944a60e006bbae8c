//! Where things are kept on the host.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::spec::testbed_name_fault;

/// Directories a node gets its own of: nothing a node must see may be in them.
pub const HIDDEN_IN_NODES: [&str; 7] =
    ["/run", "/var/run", "/var/lib", "/var/log", "/etc", "/opt", "/sys"];

/// The directories of the cache and of one testbed.
#[derive(Debug, Clone)]
pub struct Paths {
    cache: PathBuf,
    testbed: String,
}

impl Paths {
    /// Below `$SLICEWIRE_CACHE`, or `slicewire` in the user's cache directory.
    ///
    /// # Errors
    /// When neither is known, nodes could not see the place, or the testbed's
    /// name is none.
    pub fn new(testbed: &str) -> Result<Self> {
        // It becomes a path that is removed one day.
        if let Some(fault) = testbed_name_fault(testbed) {
            bail!(fault);
        }
        let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
        let cache = absolute("SLICEWIRE_CACHE")
            .or_else(|| Some(absolute("XDG_CACHE_HOME")?.join("slicewire")))
            .or_else(|| Some(absolute("HOME")?.join(".cache/slicewire")))
            .context("no cache directory: set SLICEWIRE_CACHE to an absolute path")?;
        if let Some(hidden) = hiding(&cache) {
            bail!(
                "the cache {} cannot be used: nodes have a {hidden} of their own and would not see \
                 it; set SLICEWIRE_CACHE to a directory elsewhere",
                cache.display()
            );
        }
        Ok(Self { cache, testbed: testbed.to_owned() })
    }

    /// Built programs, one directory for each state of their sources.
    pub fn bin(&self) -> PathBuf {
        self.cache.join("bin")
    }

    /// Image archives made here.
    pub fn images(&self) -> PathBuf {
        self.cache.join("images")
    }

    /// All testbeds of this user.
    pub fn testbeds(&self) -> PathBuf {
        self.cache.join("testbed")
    }

    /// Everything of this testbed.
    pub fn state(&self) -> PathBuf {
        self.testbeds().join(&self.testbed)
    }

    /// Held by whoever changes this testbed.
    pub(crate) fn lock(&self) -> PathBuf {
        self.testbeds().join(format!("{}.lock", self.testbed))
    }

    /// A cluster's keys.
    pub fn pki(&self, cluster: &str) -> PathBuf {
        self.state().join("pki").join(cluster)
    }

    /// Everything of one machine.
    pub fn machine(&self, name: &str) -> PathBuf {
        self.state().join("machines").join(name)
    }

    /// The administrator's kubeconfig of a cluster, where users look for it.
    pub fn kubeconfig(&self, cluster: &str) -> PathBuf {
        self.kubeconfigs().join(format!("{cluster}.kubeconfig"))
    }

    /// Where this testbed's kubeconfigs are, perhaps beside directories of others'.
    pub(crate) fn kubeconfigs(&self) -> PathBuf {
        match self.testbed.as_str() {
            "main" => kubeconfigs(),
            other => kubeconfigs().join(other),
        }
    }
}

/// `target/testbed` of the workspace this program was built in.
pub fn kubeconfigs() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let workspace = workspace.canonicalize().unwrap_or(workspace);
    target.filter(|t| t.is_absolute()).unwrap_or_else(|| workspace.join("target")).join("testbed")
}

fn hiding(path: &Path) -> Option<&'static str> {
    HIDDEN_IN_NODES.into_iter().find(|hidden| path.starts_with(hidden))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_lead_elsewhere() {
        for name in ["", "..", "../main", "/", "a/b"] {
            assert!(Paths::new(name).is_err(), "{name}");
        }
    }

    #[test]
    fn places_that_nodes_cannot_see_are_refused() {
        assert_eq!(hiding(Path::new("/var/lib/cache")), Some("/var/lib"));
        assert_eq!(hiding(Path::new("/runner/cache")), None);
        assert_eq!(hiding(Path::new("/home/me/.cache/slicewire")), None);
    }
}
