//! Pods that are started one after the other, watched from the runtime's side.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{DeleteParams, ListParams, PostParams};
use slicewire_runtime_api::nri::PodSandbox;
use slicewire_tests::World;
use slicewire_tests::bench;
use slicewire_tests::bench::netns::{Netns, addresses, inside};
use slicewire_tests::bench::nri::Plugin;
use slicewire_tests::bench::ping::Pinger;
use slicewire_tests::story::say;
use tokio::runtime::Runtime;

use crate::pods::{self, CLUSTER, NAMESPACE, NODE};

/// The daemon registers with 90.
const BEFORE: &str = "89";
const AFTER: &str = "91";
const SOCKET: &str = "/run/nri/nri.sock";
/// How long a pod may take from its making to its NIC.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long an answer is waited for before the next ping.
const ANSWER: Duration = Duration::from_millis(2);
/// So many pings without an answer, and the NIC is not usable.
const PINGS: usize = 500;

/// Watches the node's sandboxes, and starts pods.
pub(crate) struct Ours {
    _before: Plugin,
    _after: Plugin,
    seen: Receiver<Seen>,
    runtime: Runtime,
    api: Api<Pod>,
    made: usize,
}

/// What was seen of a pod.
struct Seen {
    pod: String,
    /// Milliseconds until the NIC was there, and until a ping was answered.
    times: Result<(f64, f64)>,
}

type Ready = Arc<Mutex<BTreeMap<String, Instant>>>;

impl Ours {
    /// Takes a place before and after the daemon; `target` is the pod that is pinged.
    pub(crate) fn start(world: &World, target: Ipv4Addr) -> Result<Self> {
        let socket = inside(world, NODE, SOCKET)?;
        let root = inside(world, NODE, "")?;
        let ready: Ready = Arc::default();
        let (tell, seen) = mpsc::channel();
        let noted = ready.clone();
        let before = Plugin::register(&socket, BEFORE, "bench-before", move |pod| {
            let mut noted = noted.lock().unwrap_or_else(PoisonError::into_inner);
            noted.insert(pod.id.clone(), Instant::now());
        })?;
        let after = Plugin::register(&socket, AFTER, "bench-after", move |pod| {
            let now = Instant::now();
            let since = ready.lock().unwrap_or_else(PoisonError::into_inner).remove(&pod.id);
            if pod.namespace == NAMESPACE {
                let times = since
                    .context("the sandbox was not seen before")
                    .and_then(|since| look(&root, pod, target, since, now));
                // Nobody listens at the end.
                let _ = tell.send(Seen { pod: pod.name.clone(), times });
            }
        })?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let client = runtime.block_on(bench::client(&world.kubeconfig(CLUSTER)))?;
        let api = Api::namespaced(client, NAMESPACE);
        Ok(Self { _before: before, _after: after, seen, runtime, api, made: 0 })
    }

    /// Starts so many pods, one after the other, and removes them; the milliseconds of each.
    pub(crate) fn round(&mut self, each: usize) -> Result<(Vec<f64>, Vec<f64>)> {
        let mut times = Vec::new();
        for _ in 0..each {
            self.made += 1;
            let name = format!("measured-{}", self.made);
            let pod = serde_json::from_value(pods::pod(&name))?;
            self.runtime.block_on(self.api.create(&PostParams::default(), &pod))?;
            times.push(self.wait(&name)?);
        }
        self.clear()?;
        Ok(times.into_iter().unzip())
    }

    fn wait(&self, name: &str) -> Result<(f64, f64)> {
        let until = Instant::now() + PATIENCE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let seen = self.seen.recv_timeout(left);
            let seen = seen.with_context(|| format!("{name} has no sandbox within 30 s"))?;
            if seen.pod == name {
                return seen.times.with_context(|| format!("{name} cannot use its NIC"));
            }
        }
    }

    /// Removes the pods and waits until the node is quiet again.
    fn clear(&self) -> Result<()> {
        let ours = ListParams::default().labels("app=measured");
        let now = DeleteParams::default().grace_period(0);
        self.runtime.block_on(async {
            self.api.delete_collection(&now, &ours).await?;
            for _ in 0..300 {
                if self.api.list_metadata(&ours).await?.items.is_empty() {
                    tokio::time::sleep(Duration::from_secs(2)).await;
                    return Ok(());
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            bail!("measured pods are still there after a minute")
        })
    }
}

/// Uses the NIC of a pod whose first container has not been started yet.
fn look(
    root: &Path,
    pod: &PodSandbox,
    target: Ipv4Addr,
    since: Instant,
    now: Instant,
) -> Result<(f64, f64)> {
    let namespaces = pod.linux.iter().flat_map(|l| &l.namespaces);
    let network = namespaces.into_iter().find(|n| n.r#type == "network");
    let path = network.map(|n| n.path.as_str()).context("the sandbox shares the node's network")?;
    // /var/run is a link to /run, which would be followed to this process's own.
    let path = path.strip_prefix("/var").filter(|p| p.starts_with("/run/")).unwrap_or(path);
    let netns = Netns::open(&PathBuf::from(format!("{}{path}", root.display())))?;
    let (answered, tries) = netns.run(|| use_nic(target))??;
    let ms = |until: Instant| until.duration_since(since).as_secs_f64() * 1e3;
    if tries > 1 {
        say(&format!("{}: the first {} pings were lost", pod.name, tries - 1));
    }
    Ok((ms(now), ms(answered)))
}

/// Pings the target from the calling thread's namespace until it answers, and sends a packet of
/// IPv6; when the answer came, and to how many pings.
fn use_nic(target: Ipv4Addr) -> Result<(Instant, usize)> {
    let mut pinger = Pinger::new(ANSWER)?;
    let tries = (1..=PINGS).find(|_| pinger.ping(target));
    let answered = Instant::now();
    let tries = tries.with_context(|| format!("no answer to {PINGS} pings"))?;
    let nic = addresses().into_iter().filter(|(device, _)| device == "slice0");
    let global = |ip: &IpAddr| matches!(ip, IpAddr::V6(v6) if !v6.is_unicast_link_local());
    let v6 = nic.map(|(_, ip)| ip).find(global).context("no IPv6 address")?;
    // Fails while the address is not to be used yet.
    let socket = UdpSocket::bind((v6, 0)).context("the IPv6 address cannot be used")?;
    socket.send_to(&[0], "[fd92::1]:9").context("no packet of IPv6 can be sent")?;
    Ok((answered, tries))
}
