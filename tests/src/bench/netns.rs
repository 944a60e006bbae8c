//! Looking at a pod from inside its network namespace, without starting anything in the pod.

use std::fs::{self, File};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context, Result, bail};
use nix::ifaddrs::getifaddrs;
use nix::sched::{CloneFlags, setns};

use crate::world::World;

/// A network namespace, held open.
#[derive(Debug)]
pub struct Netns(File);

impl Netns {
    /// The namespace at a path.
    ///
    /// # Errors
    /// There is none.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        Ok(Self(file))
    }

    /// The namespace of a running pod.
    ///
    /// # Errors
    /// The pod does not run, or its namespace is not found on its node.
    pub fn of_pod(world: &World, cluster: &str, namespace: &str, pod: &str) -> Result<Self> {
        let object = world.get(cluster, &format!("-n {namespace} pod {pod}"))?;
        let node = object["spec"]["nodeName"].as_str().context("the pod is on no node")?;
        let ip: IpAddr = object["status"]["podIP"].as_str().context("no address")?.parse()?;
        for entry in fs::read_dir(inside(world, node, "/run/netns")?)? {
            let Ok(candidate) = Self::open(&entry?.path()) else { continue };
            if candidate.run(addresses)?.iter().any(|(_, address)| *address == ip) {
                return Ok(candidate);
            }
        }
        bail!("{namespace}/{pod}: no network namespace on {node} has {ip}")
    }

    /// Runs something on a thread inside the namespace and waits for it.
    ///
    /// # Errors
    /// The namespace cannot be entered.
    pub fn run<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> Result<T> {
        thread::scope(|scope| {
            let task = scope.spawn(|| -> Result<T> {
                setns(&self.0, CloneFlags::CLONE_NEWNET)
                    .context("cannot enter a network namespace")?;
                Ok(inside())
            });
            task.join().unwrap_or_else(|_| bail!("what ran inside the namespace panicked"))
        })
    }
}

/// A path of a node as this process can open it.
///
/// # Errors
/// The node is unknown or off.
pub fn inside(world: &World, node: &str, path: &str) -> Result<PathBuf> {
    let machine = world.testbed.machine(node)?;
    let init = world.testbed.init(machine).with_context(|| format!("{node} is off"))?;
    Ok(PathBuf::from(format!("/proc/{}/root{path}", init.pid)))
}

/// The devices' addresses in the calling thread's namespace.
pub fn addresses() -> Vec<(String, IpAddr)> {
    let Ok(list) = getifaddrs() else { return Vec::new() };
    list.filter_map(|entry| {
        let address = entry.address?;
        let v4 = address.as_sockaddr_in().map(|a| IpAddr::from(a.ip()));
        let v6 = || address.as_sockaddr_in6().map(|a| IpAddr::from(a.ip()));
        Some((entry.interface_name, v4.or_else(v6)?))
    })
    .collect()
}
