//! Bringing a testbed up and taking it down.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::build::Toolset;
use crate::cgroup;
use crate::fault;
use crate::images;
use crate::load;
use crate::packages;
use crate::paths::Paths;
use crate::pki::Pki;
use crate::plan::{Cluster, MAX_INDEX, Plan};
use crate::power;
use crate::process::{run, wait_for, write_whole};
use crate::progress::Progress;
use crate::spec::Spec;
use crate::testbed::{Remembered, Testbed, lock_all, lock_one, remember, remembered};
use crate::tuning;
use crate::wan;

/// How long any one thing may take until ready, on a slow and busy machine.
const PATIENCE: Duration = Duration::from_secs(180);

impl Testbed {
    /// Brings a testbed up, or completes one that is there: builds what is
    /// missing, switches on what is off, and waits until all nodes are ready.
    ///
    /// # Errors
    /// When the specification has faults (all are named), another one is
    /// already up under its name, or something does not start.
    pub fn up(spec: &Spec, progress: &Progress) -> Result<Self> {
        let faults = spec.faults();
        if !faults.is_empty() {
            bail!("the testbed cannot be brought up:\n  {}", faults.join("\n  "));
        }
        if !nix::unistd::geteuid().is_root() {
            bail!("only root can make namespaces and cgroups: run it as root");
        }
        packages::ensure(progress)?;
        let paths = Paths::new(&spec.name)?;
        let tools = Toolset::ensure(&paths, progress)?;
        let archives = images::ensure(&paths, &tools, progress)?;
        let own = lock_one(&paths)?;
        let all = lock_all(&paths)?;
        let index = index(&paths, spec)?;
        let testbed = Self { plan: Plan::new(spec, index), paths, tools };
        remember(&testbed.paths, &Remembered { spec: spec.clone(), index })?;
        tuning::apply(&testbed.paths)?;
        let new = wan::ensure(&testbed.plan)?;
        drop(all);
        testbed.switch_on(new, progress)?;
        drop(own);
        testbed.complete_all(&archives, progress)?;
        progress.step(&format!("testbed {} is up", spec.name));
        Ok(testbed)
    }

    /// Switches all machines on that are off, and takes all faults back. Into a
    /// new WAN none is plugged in that was on before: those start anew.
    fn switch_on(&self, new_wan: bool, progress: &Progress) -> Result<()> {
        // Control planes first: everything else waits for them.
        let controls = self.plan.clusters.iter().map(|cluster| &cluster.control);
        let workers = self.plan.clusters.iter().flat_map(|cluster| &cluster.workers);
        for machine in controls.chain(workers) {
            let cluster = self.cluster(&machine.cluster)?;
            let pki = Pki::ensure(&self.paths.pki(&cluster.name), cluster)?;
            let kubeconfig = fs::read(pki.admin_kubeconfig())?;
            write_whole(&self.paths.kubeconfig(&cluster.name), &kubeconfig)?;
            if new_wan {
                power::off(self, machine)?;
            }
            let off = self.init(machine).is_none();
            fault::mend(self, machine)?;
            if off {
                progress.step(&format!("{} is on", machine.name));
            }
        }
        Ok(())
    }

    /// Gives all clusters what is still missing, and waits for them.
    fn complete_all(&self, archives: &[PathBuf], progress: &Progress) -> Result<()> {
        thread::scope(|scope| {
            let clusters = self.plan.clusters.iter();
            let tasks: Vec<_> = clusters
                .map(|cluster| scope.spawn(|| self.complete(cluster, archives, progress)))
                .collect();
            all(tasks.into_iter().map(thread::ScopedJoinHandle::join))
        })
    }

    /// Gives a cluster whose machines are on its objects and images.
    fn complete(&self, cluster: &Cluster, archives: &[PathBuf], progress: &Progress) -> Result<()> {
        let name = &cluster.name;
        thread::scope(|scope| {
            let loading = scope.spawn(|| load::into_cluster(self, cluster, archives));
            wait_for(&format!("API server of {name} ready"), PATIENCE, || {
                power::api_ready(self, cluster)
            })?;
            progress.step(&format!("{name}: API server ready"));
            if cluster.workers.is_empty() {
                return Ok(());
            }
            // Given once: what its users have made of it since is theirs.
            let corefile =
                ["-n", "kube-system", "get", "configmap", "coredns", "--ignore-not-found"];
            if self.kubectl(name, &corefile)?.trim().is_empty() {
                self.apply(name, &crate::config::corefile().to_string())?;
            }
            self.apply(name, &crate::config::manifests(cluster).to_string())?;
            all([loading.join()])?;
            progress.step(&format!("{name}: images loaded"));
            let timeout = format!("--timeout={}s", PATIENCE.as_secs());
            self.kubectl(name, &["wait", "--for=condition=Ready", "nodes", "--all", &timeout])
                .with_context(|| format!("not all nodes of {name} are ready"))?;
            progress.step(&format!("{name}: nodes ready"));
            let dns = ["-n", "kube-system", "rollout", "status", "deployment/coredns", &timeout];
            self.kubectl(name, &dns).with_context(|| format!("no cluster DNS in {name}"))?;
            progress.step(&format!("{name}: cluster DNS ready"));
            Ok(())
        })
    }

    /// Takes the testbed of that name down, in whatever state it is, and
    /// leaves nothing of it. Built programs and images stay cached.
    ///
    /// # Errors
    /// When something cannot be removed; all else is.
    pub fn down(name: &str, progress: &Progress) -> Result<()> {
        let paths = Paths::new(name)?;
        let _own = lock_one(&paths)?;
        let _all = lock_all(&paths)?;
        cgroup::destroy(&crate::plan::cgroup(name))?;
        // Without clusters, as only its names are needed.
        let spec = Spec { name: name.to_owned(), clusters: Vec::new() };
        wan::remove(&Plan::new(&spec, 0))?;
        remove_kubeconfigs(&paths)?;
        let state = paths.state();
        if state.exists() {
            run(Command::new("rm").args(["-rf", "--one-file-system"]).arg(&state))?;
        }
        tuning::restore(&paths)?;
        // Those who wait for it look whether it is still there.
        fs::remove_file(paths.lock())?;
        progress.step(&format!("testbed {name} is down"));
        Ok(())
    }
}

/// Removes the testbed's kubeconfigs, remembered or not, and their directory.
fn remove_kubeconfigs(paths: &Paths) -> Result<()> {
    let directory = paths.kubeconfigs();
    for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
        if entry.path().extension().is_some_and(|extension| extension == "kubeconfig") {
            fs::remove_file(entry.path())?;
        }
    }
    // It may hold other testbeds' or be missing.
    let _ = fs::remove_dir(directory);
    Ok(())
}

/// The WAN block of a testbed: the one it has, or one that nobody uses.
fn index(paths: &Paths, spec: &Spec) -> Result<u8> {
    if let Some(old) = remembered(paths)? {
        if old.spec != *spec {
            let list = |spec: &Spec| {
                spec.clusters.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
            };
            bail!(
                "testbed {} is up with {}, not {}: take it down first, or choose another --name",
                spec.name,
                list(&old.spec),
                list(spec)
            );
        }
        return Ok(old.index);
    }
    let mut taken = Vec::new();
    for name in names(paths) {
        taken.extend(remembered(&Paths::new(&name)?)?.map(|other| other.index));
    }
    let routes = run(Command::new("ip").args(["route", "show"]))?;
    free_index(&taken, &routes)
}

fn free_index(taken: &[u8], routes: &str) -> Result<u8> {
    let used = |index: &u8| {
        let gateway = Plan::new(&Spec::standard("any"), *index).gateway().0;
        let network = u32::from(gateway) & !0xfff;
        routes.contains(&format!("{}/20", std::net::Ipv4Addr::from(network)))
    };
    (0..=MAX_INDEX)
        .find(|index| !taken.contains(index) && !used(index))
        .context("all of 198.18.0.0/15 is in use: take other testbeds down")
}

/// All results of threads, or the first error.
fn all<T>(results: impl IntoIterator<Item = thread::Result<Result<T>>>) -> Result<()> {
    results.into_iter().try_for_each(|result| match result {
        Ok(result) => result.map(drop),
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// Names of all testbeds of this machine.
pub fn names(paths: &Paths) -> Vec<String> {
    let known = |path: &Path| path.join("testbed.json").exists();
    let entries = fs::read_dir(paths.testbeds()).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter(|entry| known(&entry.path()))
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_in_use_is_not_given_out() {
        assert_eq!(free_index(&[], "").unwrap(), 0);
        assert_eq!(free_index(&[0, 1], "").unwrap(), 2);
        assert_eq!(free_index(&[0], "198.18.16.0/20 dev swtb-other scope link").unwrap(), 2);
        let all: Vec<u8> = (0..=MAX_INDEX).collect();
        assert!(free_index(&all, "").unwrap_err().to_string().contains("down"));
    }
}
