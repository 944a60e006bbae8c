//! One policy: applied, in force, deleted.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;
use slicewire_api::SlicePolicy;
use slicewire_tests::bench::netns::Netns;
use slicewire_tests::bench::ping::Pinger;
use slicewire_tests::world::{PROJECT_NS, WORKERS};
use tokio::runtime::Runtime;

use crate::SLICE;

/// The policy.
const NAME: &str = "reach";
/// How long an answer is waited for: longer than any round trip here.
const ANSWER: Duration = Duration::from_millis(20);
/// So many requests in a row without an answer are no loss by chance.
const SILENCE: usize = 10;
/// After this a policy has no effect.
const PATIENCE: Duration = Duration::from_secs(30);
/// Lets what the round before started come to rest.
const REST: Duration = Duration::from_millis(500);

/// What every round needs.
pub(crate) struct Round<'a> {
    pub(crate) runtime: &'a Runtime,
    pub(crate) hub: &'a Client,
    /// Where pings come from.
    pub(crate) from: &'a Netns,
    pub(crate) to: Ipv4Addr,
}

impl Round<'_> {
    /// Milliseconds until the policy held, and until it did no more.
    pub(crate) fn measure(&self) -> Result<(f64, f64)> {
        thread::sleep(REST);
        let cut = self.until(false, || self.runtime.block_on(self.apply()))?;
        thread::sleep(REST);
        let free = self.until(true, || self.runtime.block_on(self.delete()))?;
        Ok((cut, free))
    }

    /// Takes the policy away, and waits.
    pub(crate) fn clear(&self) -> Result<()> {
        // It may be gone already.
        drop(self.runtime.block_on(self.delete()));
        thread::sleep(Duration::from_secs(2));
        Ok(())
    }

    /// Pings while something is changed, until pings are answered, or not: the milliseconds since it
    /// began.
    fn until(&self, answered: bool, change: impl FnOnce() -> Result<()>) -> Result<f64> {
        let stop = AtomicBool::new(false);
        let (ready, started) = mpsc::channel();
        let (done, turned) = mpsc::channel();
        thread::scope(|scope| {
            scope.spawn(|| done.send(self.watch(answered, &stop, &ready)));
            let begun = started
                .recv_timeout(PATIENCE)
                .context("pings did not start")
                .map(|()| Instant::now());
            let told = begun.and_then(|begun| {
                change()?;
                let turned = turned.recv_timeout(PATIENCE);
                let at: Instant = turned.context("the change had no effect within 30 s")??;
                ensure!(at >= begun, "pings turned before anything was changed");
                Ok(at.duration_since(begun).as_secs_f64() * 1e3)
            });
            stop.store(true, Ordering::Relaxed);
            told
        })
    }

    /// Pings until it turns; when the request was sent from which on all is different.
    fn watch(
        &self,
        answered: bool,
        stop: &AtomicBool,
        ready: &mpsc::Sender<()>,
    ) -> Result<Instant> {
        self.from.run(|| {
            let mut pinger = Pinger::new(ANSWER)?;
            ensure!(pinger.ping(self.to) != answered, "pings are as they should become already");
            ready.send(()).context("nobody waits any more")?;
            let (mut first, mut row) = (Instant::now(), 0);
            let enough = if answered { 1 } else { SILENCE };
            while !stop.load(Ordering::Relaxed) {
                let sent = Instant::now();
                if pinger.ping(self.to) == answered {
                    first = if row == 0 { sent } else { first };
                    row += 1;
                    if row == enough {
                        return Ok(first);
                    }
                } else {
                    row = 0;
                }
                thread::sleep(Duration::from_millis(1));
            }
            anyhow::bail!("nothing changed")
        })?
    }

    async fn apply(&self) -> Result<()> {
        let [near, far] = WORKERS;
        let object = json!({
            "apiVersion": "slicewire.dev/v1alpha1",
            "kind": "SlicePolicy",
            "metadata": {"name": NAME, "namespace": PROJECT_NS},
            "spec": {
                "slice": SLICE, "priority": 10, "subject": {"clusters": [far]},
                "ingress": [{"action": "Deny", "peers": [{"clusters": [near]}]}],
            },
        });
        let how = PatchParams::apply("bench").force();
        self.policies().patch(NAME, &how, &Patch::Apply(object)).await?;
        Ok(())
    }

    async fn delete(&self) -> Result<()> {
        self.policies().delete(NAME, &DeleteParams::default()).await?;
        Ok(())
    }

    fn policies(&self) -> Api<SlicePolicy> {
        Api::namespaced(self.hub.clone(), PROJECT_NS)
    }
}
