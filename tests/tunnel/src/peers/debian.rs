//! Debian packages, unpacked and not installed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use crate::{peers::Program, process::output};

/// Unsandboxed, because the cache is root's; unlocked, because nothing is installed.
const QUIETLY: [&str; 4] = ["-o", "APT::Sandbox::User=root", "-o", "Debug::NoLocking=1"];

/// A directory with unpacked packages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unpacked {
    root: PathBuf,
}

impl Unpacked {
    /// Packages that were unpacked below `root` before.
    #[must_use]
    pub fn at(root: PathBuf) -> Self {
        Self { root }
    }

    /// A file or directory of the packages; `path` relative to `/`.
    #[must_use]
    pub fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// A program of the packages.
    #[must_use]
    pub fn program(&self, path: &str) -> Program {
        let libraries = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"];
        let libraries = libraries.iter().map(|directory| self.path(directory));
        Program { path: self.path(path), libraries: libraries.filter(|d| d.is_dir()).collect() }
    }
}

/// Unpacks `package` below `root`.
pub(crate) fn unpack(package: &str, root: &Path) -> Result<Unpacked> {
    let archives = fresh(root)?;
    let download = || apt(&["download", package], &archives);
    if download().is_err() {
        apt(&["update"], &archives)?;
        download()?;
    }
    extract(&archives, root)
}

/// Unpacks `package` below `root` with whatever of its dependencies this machine lacks.
pub(crate) fn unpack_with_dependencies(package: &str, root: &Path) -> Result<Unpacked> {
    unpack(package, root)?;
    let archives = fresh(root)?;
    fs::create_dir_all(archives.join("partial"))?;
    let into = format!("Dir::Cache::archives={}/", archives.display());
    let install = ["install", "-y", "--download-only", "--no-install-recommends", "-o", &into];
    apt(&[&install[..], &[package]].concat(), &archives)?;
    extract(&archives, root)
}

/// The package a metapackage stands for: its first dependency.
pub(crate) fn first_dependency(package: &str) -> Result<String> {
    let text = output(Command::new("apt-cache").args(["depends", "--important", package]))?;
    let first = text.lines().find_map(|line| line.trim().strip_prefix("Depends: "));
    Ok(first.with_context(|| format!("{package} depends on nothing"))?.to_owned())
}

fn apt(arguments: &[&str], directory: &Path) -> Result<String> {
    output(Command::new("apt-get").args(QUIETLY).args(arguments).current_dir(directory))
}

fn fresh(root: &Path) -> Result<PathBuf> {
    let archives = root.join("archives");
    if archives.exists() {
        fs::remove_dir_all(&archives)?;
    }
    fs::create_dir_all(&archives)?;
    Ok(archives)
}

fn extract(archives: &Path, root: &Path) -> Result<Unpacked> {
    let mut found = 0;
    for entry in fs::read_dir(archives)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            output(Command::new("dpkg").arg("-x").arg(&path).arg(root))?;
            found += 1;
        }
    }
    fs::remove_dir_all(archives)?;
    ensure!(found > 0 || root.join("usr").exists(), "apt-get downloaded no package");
    Ok(Unpacked::at(root.to_owned()))
}
