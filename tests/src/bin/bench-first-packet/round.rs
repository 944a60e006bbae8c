//! One slice: applied, used, deleted.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{OnceLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;
use slicewire_api::SliceConfig;
use slicewire_tests::World;
use slicewire_tests::bench;
use slicewire_tests::bench::netns::{Netns, addresses};
use slicewire_tests::bench::ping::Pinger;
use slicewire_tests::world::{PROJECT_NS, WORKERS, not_yet};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::observe::{self, SYSTEM};
use crate::timeline::Timeline;
use crate::{NAMESPACE, POD, logs};

/// How often a pod is looked into.
const LOOK: Duration = Duration::from_millis(5);
/// How long an answer is waited for before the next request: longer than any round trip here.
const ANSWER: Duration = Duration::from_millis(10);
/// After this a slice does not work.
const PATIENCE: Duration = Duration::from_secs(60);
/// What happens after the first answer and is still of interest.
const LATER: Duration = Duration::from_secs(2);

/// One round.
pub(crate) struct Round<'a> {
    pub(crate) world: &'a World,
    pub(crate) runtime: &'a Runtime,
    pub(crate) number: usize,
}

impl Round<'_> {
    /// Seconds from the SliceConfig to the first answer, and what happened when.
    pub(crate) fn measure(&self) -> Result<(f64, Timeline)> {
        let pod = |cluster| Netns::of_pod(self.world, cluster, NAMESPACE, POD);
        let [from, to] = [pod(WORKERS[0])?, pod(WORKERS[1])?];
        for pod in [&from, &to] {
            let there = pod.run(slice_address)?;
            if let Some(address) = there {
                bail!("a pod still has {address}: the slice before is not gone");
            }
        }
        let hub = self.runtime.block_on(bench::client(&self.world.kubeconfig("hub")))?;
        let line = Timeline::new();
        let mut watches = self.watch(&hub, &line)?;
        line.begin();
        let stop = AtomicBool::new(false);
        let target = OnceLock::new();
        let (answered, answer) = mpsc::channel();
        let begun = Instant::now();
        let first = thread::scope(|scope| {
            scope.spawn(|| look(&to, WORKERS[1], &target, &line, &stop));
            scope.spawn(|| ping(&from, WORKERS[0], &target, &line, &stop, &answered));
            let applied = self.runtime.block_on(self.apply(&hub));
            line.mark("applied: the hub's API server has answered");
            let first = applied.and_then(|()| {
                answer.recv_timeout(PATIENCE).context("no answer to any ping within 60 s")
            });
            stop.store(true, Ordering::Relaxed);
            first
        });
        let seconds = first.map(|at: Instant| at.duration_since(begun).as_secs_f64());
        thread::sleep(LATER);
        self.runtime.block_on(watches.shutdown());
        for cluster in WORKERS {
            logs::mark(self.world, cluster, &self.slice(), &line);
        }
        Ok((seconds?, line))
    }

    /// Deletes the slice and waits until nothing of it is left.
    pub(crate) fn clear(&self) -> Result<()> {
        self.world.delete_slice(&self.slice())?;
        for cluster in WORKERS {
            let pod = Netns::of_pod(self.world, cluster, NAMESPACE, POD)?;
            World::wait(&format!("nothing of the slice is left in {cluster}"), 60, || {
                let left = self.world.k(cluster, &format!("-n {SYSTEM} get pods -o name"))?;
                match pod.run(slice_address)? {
                    None if !left.contains(&self.slice()) => Ok(()),
                    _ => not_yet("there still is"),
                }
            })?;
        }
        Ok(())
    }

    fn slice(&self) -> String {
        format!("first{:02}", self.number)
    }

    fn watch(&self, hub: &Client, line: &Timeline) -> Result<JoinSet<()>> {
        self.runtime.block_on(async {
            let mut tasks = JoinSet::new();
            observe::hub(&mut tasks, hub, &self.slice(), line);
            for cluster in WORKERS {
                let client = bench::client(&self.world.kubeconfig(cluster)).await?;
                observe::worker(&mut tasks, &client, cluster, &self.slice(), line);
            }
            // The watches are open when nothing comes any more.
            tokio::time::sleep(Duration::from_secs(1)).await;
            Ok(tasks)
        })
    }

    async fn apply(&self, hub: &Client) -> Result<()> {
        let object = json!({
            "apiVersion": "slicewire.dev/v1alpha1",
            "kind": "SliceConfig",
            "metadata": {"name": self.slice(), "namespace": PROJECT_NS},
            "spec": {
                "prefixes": ["10.91.0.0/16", "fd91::/48"],
                "clusters": WORKERS.map(|name| json!({"name": name})),
                "namespaces": [{"names": [NAMESPACE]}],
            },
        });
        let api = Api::<SliceConfig>::namespaced(hub.clone(), PROJECT_NS);
        let how = PatchParams::apply("bench").force();
        api.patch(&self.slice(), &how, &Patch::Apply(object)).await?;
        Ok(())
    }
}

/// The IPv4 address of the slice's NIC in the calling thread's namespace.
fn slice_address() -> Option<Ipv4Addr> {
    addresses().into_iter().find_map(|(device, address)| match address {
        IpAddr::V4(address) if device == "slice0" => Some(address),
        _ => None,
    })
}

/// Waits until the pod has its address, and tells it.
fn look(
    pod: &Netns,
    cluster: &str,
    target: &OnceLock<Ipv4Addr>,
    line: &Timeline,
    stop: &AtomicBool,
) -> Result<()> {
    pod.run(|| {
        while !stop.load(Ordering::Relaxed) {
            if let Some(address) = slice_address() {
                line.mark(&format!("{cluster}: NIC in the pod"));
                // Nobody else sets it.
                let _ = target.set(address);
                return;
            }
            thread::sleep(LOOK);
        }
    })
}

/// Waits for the pod's own NIC and the other pod's address, and pings that until it answers.
fn ping(
    pod: &Netns,
    cluster: &str,
    target: &OnceLock<Ipv4Addr>,
    line: &Timeline,
    stop: &AtomicBool,
    answered: &mpsc::Sender<Instant>,
) -> Result<()> {
    pod.run(|| -> Result<()> {
        let mut pinger = Pinger::new(ANSWER)?;
        while !stop.load(Ordering::Relaxed) {
            let Some(address) = slice_address().and(target.get()) else {
                thread::sleep(LOOK);
                continue;
            };
            line.mark(&format!("{cluster}: NIC in the pod, first ping sent"));
            if pinger.ping(*address) {
                line.mark("first ping answered");
                // The round may have given up.
                let _ = answered.send(Instant::now());
                return Ok(());
            }
            // A request that could not be sent has not waited.
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    })?
}
