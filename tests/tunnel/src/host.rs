//! Where one end of a tunnel lives.

use anyhow::Result;

use crate::{guest::Guest, netns::Netns};

/// A network namespace of this machine, or a virtual machine with a kernel of its own.
#[derive(Debug)]
pub enum Host {
    /// A namespace here.
    Namespace(Netns),
    /// A guest that has WireGuard in its kernel.
    Guest(Guest),
}

impl Host {
    /// Runs a shell script there and returns its standard output.
    ///
    /// # Errors
    /// When a command of the script fails.
    pub fn sh(&self, script: &str) -> Result<String> {
        match self {
            Self::Namespace(namespace) => namespace.sh(script),
            Self::Guest(guest) => guest.sh(script),
        }
    }

    /// The namespace, if it is one.
    #[must_use]
    pub fn namespace(&self) -> Option<&Netns> {
        match self {
            Self::Namespace(namespace) => Some(namespace),
            Self::Guest(_) => None,
        }
    }
}
