//! Kubernetes and what belongs to it, built from Go modules into the cache.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::paths::Paths;
use crate::process::{self, run};
use crate::progress::Progress;
use crate::testbed::lock_file;

/// The version of Kubernetes, without the leading `v`; `go/kubernetes/go.mod` names it, too.
pub const KUBERNETES: &str = "1.36.3";

/// One thing to build: the programs of one Go module.
struct Component {
    name: &'static str,
    source: Source,
    /// Names the first program is found under, too.
    links: &'static [&'static str],
    /// Whether the programs need the C library of the machine they run on.
    cgo: bool,
}

enum Source {
    /// A module of our own: its files, and extra linker flags.
    Own(&'static [(&'static str, &'static str)], &'static str),
    /// Programs of somebody else's module: module, version, packages in it.
    Published(&'static str, &'static str, &'static [&'static str]),
}

macro_rules! own {
    ($directory:literal, [$($file:literal),+]) => {
        &[$(($file, include_str!(concat!("../go/", $directory, "/", $file)))),+]
    };
}

const COMPONENTS: &[Component] = &[
    Component {
        name: "kubernetes",
        source: Source::Own(
            own!("kubernetes", ["main.go", "go.mod", "go.sum"]),
            "-X k8s.io/component-base/version.gitVersion=v1.36.3 \
             -X k8s.io/component-base/version.gitMajor=1 \
             -X k8s.io/component-base/version.gitMinor=36",
        ),
        links: &[
            "kube-apiserver",
            "kube-controller-manager",
            "kube-scheduler",
            "kubelet",
            "kube-proxy",
            "kubectl",
        ],
        cgo: true,
    },
    Component {
        name: "etcd",
        source: Source::Own(own!("etcd", ["main.go", "go.mod", "go.sum"]), ""),
        links: &[],
        cgo: true,
    },
    Component {
        name: "containerd",
        source: Source::Published(
            "github.com/containerd/containerd/v2/cmd",
            "v2.2.9",
            &["containerd", "containerd-shim-runc-v2", "ctr"],
        ),
        links: &[],
        cgo: true,
    },
    Component {
        name: "cni",
        source: Source::Published(
            "github.com/containernetworking/plugins/plugins",
            "v1.9.1",
            &["main/ptp", "main/bridge", "main/loopback", "ipam/host-local", "meta/portmap"],
        ),
        links: &[],
        cgo: true,
    },
    Component {
        name: "tools",
        source: Source::Own(own!("tools", ["main.go", "go.mod"]), ""),
        links: &["pause", "echo-http"],
        // Alone in its image.
        cgo: false,
    },
    Component {
        name: "coredns",
        source: Source::Own(own!("coredns", ["main.go", "go.mod", "go.sum"]), ""),
        links: &[],
        // Shares the compiled Kubernetes client libraries with the others.
        cgo: true,
    },
    Component {
        name: "helm",
        source: Source::Own(own!("helm", ["main.go", "go.mod", "go.sum"]), ""),
        links: &[],
        cgo: true,
    },
];

/// Where the programs of one version of all components are.
#[derive(Debug, Clone)]
pub struct Toolset {
    /// Holds links to all programs, relative to the cache's `bin`.
    pub directory: PathBuf,
    /// Names every input of the builds.
    pub hash: String,
}

impl Toolset {
    /// One of the programs.
    pub fn program(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// The programs as far as their inputs tell, built or not.
    pub fn planned(paths: &Paths) -> Result<Self> {
        let go = go_version()?;
        let mut hasher = Sha256::new();
        COMPONENTS.iter().for_each(|component| hasher.update(component.hash(&go)));
        let hash = short(hasher);
        Ok(Self { directory: paths.bin().join(format!("set-{hash}")), hash })
    }

    /// Builds what is missing.
    pub fn ensure(paths: &Paths, progress: &Progress) -> Result<Self> {
        let planned = Self::planned(paths)?;
        if planned.directory.exists() {
            return Ok(planned);
        }
        let go = go_version()?;
        let _lock = lock_file(&paths.bin().join("lock"))?;
        remove_unfinished(&paths.bin())?;
        let unfinished = paths.bin().join(format!("set-{}.{}", planned.hash, std::process::id()));
        fs::create_dir_all(&unfinished)?;
        for component in COMPONENTS {
            let built = component.ensure(&paths.bin(), &go, progress)?;
            for entry in fs::read_dir(paths.bin().join(&built))? {
                let name = entry?.file_name();
                symlink(Path::new("..").join(&built).join(&name), unfinished.join(&name))?;
            }
        }
        // Someone else may have been at it before: theirs is the same.
        if fs::rename(&unfinished, &planned.directory).is_err() {
            fs::remove_dir_all(&unfinished)?;
        }
        Ok(planned)
    }
}

/// Removes what interrupted builds left: `<name>-<hash>.<process>`.
fn remove_unfinished(bin: &Path) -> Result<()> {
    for entry in fs::read_dir(bin)? {
        let path = entry?.path();
        if path.is_dir() && path.extension().is_some() {
            fs::remove_dir_all(path)?;
        }
    }
    Ok(())
}

impl Component {
    fn hash(&self, go: &str) -> String {
        let mut hasher = Sha256::new();
        hasher.update(format!("{go}\0{}\0{:?}\0{}\0", self.name, self.links, self.cgo));
        match &self.source {
            Source::Own(files, flags) => {
                hasher.update(flags);
                files.iter().for_each(|(name, text)| hasher.update(format!("\0{name}\0{text}")));
            }
            Source::Published(module, version, packages) => {
                hasher.update(format!("{module}\0{version}\0{packages:?}"));
            }
        }
        short(hasher)
    }

    /// Builds the component unless it is there; its directory's name in `bin`.
    fn ensure(&self, bin: &Path, go: &str, progress: &Progress) -> Result<String> {
        let name = format!("{}-{}", self.name, self.hash(go));
        let finished = bin.join(&name);
        if finished.exists() {
            return Ok(name);
        }
        let begin = Instant::now();
        progress.step(&format!("building {} (once; kept in {})", self.name, bin.display()));
        let work = bin.join(format!("{name}.{}", std::process::id()));
        let output = work.join("bin");
        fs::create_dir_all(&output)?;
        self.build(&work, &output).with_context(|| format!("cannot build {}", self.name))?;
        if let Some(first) = self.links.first() {
            fs::rename(output.join(self.name), output.join(first))?;
            for link in self.links.iter().skip(1) {
                symlink(first, output.join(link))?;
            }
        }
        if fs::rename(&output, &finished).is_err() && !finished.exists() {
            bail!("cannot move {} to {}", output.display(), finished.display());
        }
        fs::remove_dir_all(&work)?;
        progress.step(&format!("built {} in {} s", self.name, begin.elapsed().as_secs()));
        Ok(name)
    }

    fn build(&self, work: &Path, output: &Path) -> Result<()> {
        let mut command = Command::new("go");
        command
            .current_dir(work)
            .env("CGO_ENABLED", if self.cgo { "1" } else { "0" })
            .env("GOFLAGS", "-buildvcs=false");
        match &self.source {
            Source::Own(files, flags) => {
                for (name, text) in *files {
                    fs::write(work.join(name), text)?;
                }
                let flags = format!("-ldflags=-s -w {flags}");
                command.args(["build", "-trimpath", &flags, "-o"]).arg(output.join(self.name));
                command.arg(".");
            }
            Source::Published(module, version, packages) => {
                command.env("GOBIN", output).args(["install", "-trimpath", "-ldflags=-s -w"]);
                command
                    .args(packages.iter().map(|package| format!("{module}/{package}@{version}")));
            }
        }
        // The compiler's own messages go to the user as they come.
        let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status()?;
        if !status.success() {
            bail!("{} failed ({status}); see above", process::describe(&command));
        }
        Ok(())
    }
}

fn go_version() -> Result<String> {
    run(Command::new("go").args(["env", "GOVERSION", "GOARCH"]))
        .context("Go is needed to build Kubernetes: install Go 1.26 or later (https://go.dev/dl)")
}

fn short(hasher: Sha256) -> String {
    hasher.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_input_changes_the_place() {
        let component = |links, cgo| Component {
            name: "x",
            source: Source::Published("m", "v1", &["p"]),
            links,
            cgo,
        };
        let base = component(&[], true).hash("go1");
        assert_eq!(base, component(&[], true).hash("go1"));
        assert_ne!(base, component(&[], true).hash("go2"));
        assert_ne!(base, component(&[], false).hash("go1"));
        assert_ne!(base, component(&["l"], true).hash("go1"));
    }

    #[test]
    fn the_version_told_is_the_version_built() {
        let module = include_str!("../go/kubernetes/go.mod");
        assert!(module.contains(&format!("k8s.io/kubernetes v{KUBERNETES}\n")));
        let Source::Own(_, flags) = &COMPONENTS[0].source else { unreachable!() };
        assert!(flags.contains(&format!("gitVersion=v{KUBERNETES} ")));
    }
}
