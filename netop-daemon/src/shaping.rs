//! Keeps slices within their limits, and divides the node's uplink among them.
//!
//! A task of its own beside the converging loop: shaping follows what is attached, and neither holds
//! the other up. What should be is decided in [`plan`]; here it is brought about, and what the
//! shapers count is told. Ending the process leaves the shapers as they are.

mod delivered;
mod plan;
mod uplink;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kube::Client;
use slicewire_core::name::VXLAN_DEVICE;
use slicewire_core::qos::Dscp;
use slicewire_core::qos::shape::Limit;
use slicewire_core::qos::share::{Sample, Sharer};
use slicewire_core::qos::{Meter, Rate};
use slicewire_kernel::{Error, Filter, Marked, NsId, Shaper};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::apply::ApplyError;
use crate::decide::Node;
use crate::report::Report;
use crate::world::Shared;

pub(crate) use delivered::{Shaped, ShapedSlice};
use plan::{Plan, Want};
use uplink::Uplink;

/// How often the uplink is divided anew while slices send.
const DIVIDE: Duration = Duration::from_millis(25);
/// The same while nobody wants more than there is.
const DIVIDE_LAZILY: Duration = Duration::from_millis(200);
/// How often counters are read for people.
const COUNT: Duration = Duration::from_secs(5);
/// How often what was delivered is told to the API server.
const TELL: Duration = Duration::from_secs(15);
/// How often the kernel is compared although nothing changed.
const RESYNC: Duration = Duration::from_secs(30);
/// Changes that come together are dealt with together.
const SETTLE: Duration = Duration::from_millis(50);
/// How soon a failed attempt is repeated.
const RETRY: Duration = Duration::from_secs(2);
/// A limit that changes by less, in thousandths, stays.
const SAME: u64 = 10;

/// The task's state.
pub(crate) struct Shaping {
    node: Node,
    shared: Shared,
    uplink: Uplink,
    tell: watch::Sender<Shaped>,
    routers: BTreeMap<String, Router>,
    plan: Plan,
    leaving: Sharer,
    arriving: Sharer,
    epoch: Instant,
    /// Until when the kernel is taken to hold the plan; none after a failure.
    holds: Option<Instant>,
    /// When what was delivered is told next.
    tell_at: Instant,
}

/// A slice's router, as far as it is shaped.
struct Router {
    shaper: Shaper,
    filter: Filter,
    /// Which namespace of this name it is.
    number: Option<u64>,
    want: Want,
    meter: Meter,
    limits: (Rate, Rate),
    fault: Option<(&'static str, String)>,
}

impl Shaping {
    /// A task that has not looked at anything yet.
    ///
    /// # Errors
    /// The node's own network namespace cannot be opened.
    pub(crate) async fn new(
        client: Client,
        node: Node,
        shared: Shared,
        tell: watch::Sender<Shaped>,
    ) -> Result<Self, ApplyError> {
        let uplink = Uplink::new(client, &node).await?;
        Ok(Self {
            node,
            shared,
            uplink,
            tell,
            routers: BTreeMap::new(),
            plan: Plan::default(),
            leaving: Sharer::default(),
            arriving: Sharer::default(),
            epoch: Instant::now(),
            holds: None,
            tell_at: Instant::now(),
        })
    }

    /// Shapes what is attached until `stop`.
    pub(crate) async fn run(
        mut self,
        mut reports: watch::Receiver<Arc<Report>>,
        stop: CancellationToken,
    ) {
        let mut changes = self.shared.changes();
        let mut count = tokio::time::interval(COUNT);
        let (mut due, mut divide) = (Instant::now(), DIVIDE_LAZILY);
        loop {
            let sharing = self.plan.sharing.is_some();
            tokio::select! {
                () = stop.cancelled() => return,
                changed = reports.changed() => {
                    if changed.is_err() { return }
                    due = due.min(Instant::now() + SETTLE);
                }
                changed = changes.changed() => {
                    if changed.is_err() { return }
                    due = due.min(Instant::now() + SETTLE);
                }
                () = tokio::time::sleep_until(due.into()) => {}
                () = tokio::time::sleep(divide), if sharing => divide = self.divide().await,
                _ = count.tick() => self.count().await,
            }
            if Instant::now() >= due {
                changes.mark_unchanged();
                let done = reports.borrow().valid && self.converge(&mut reports).await;
                due = Instant::now() + if done { RESYNC } else { RETRY };
            }
        }
    }

    /// Makes every router's shaping what it should be; whether all are.
    async fn converge(&mut self, reports: &mut watch::Receiver<Arc<Report>>) -> bool {
        let uplink = self.uplink.capacity().await;
        let plan =
            self.shared.read(|world| plan::plan(&reports.borrow_and_update(), world, uplink));
        if self.still_holds(&plan) {
            self.plan = plan;
            self.publish();
            return true;
        }
        self.holds = None;
        let there: BTreeSet<&String> = plan.wants.keys().collect();
        self.routers.retain(|slice, _| there.contains(slice));
        let mut right = true;
        for (slice, want) in &plan.wants {
            match self.router(slice, want, &plan).await {
                Ok(()) => {}
                // Where nothing is asked for, a kernel that lacks it all is as good.
                Err(error) if want.qos.is_none() && want.shape.is_none() => {
                    tracing::debug!(slice, %error, "nothing to shape, and no way to");
                }
                Err(error) => {
                    right = false;
                    tracing::warn!(slice, %error, "the slice is not shaped as it should be; trying again");
                    if let Some(router) = self.routers.get_mut(slice) {
                        router.fault = Some((error.reason(), error.to_string()));
                    }
                }
            }
        }
        self.plan = plan;
        self.holds = right.then(|| Instant::now() + RESYNC);
        self.publish();
        right
    }

    /// Whether the kernel was made to be so lately: most of what changes on a node is nothing to
    /// shapers.
    fn still_holds(&self, plan: &Plan) -> bool {
        self.holds.is_some_and(|until| Instant::now() < until)
            && (&plan.wants, plan.sharing) == (&self.plan.wants, self.plan.sharing)
            && self.routers.len() == plan.wants.len()
            && self.routers.values().all(|r| r.number == NsId::named(&r.want.netns).number())
    }

    async fn router(&mut self, slice: &str, want: &Want, plan: &Plan) -> Result<(), Error> {
        let netns = NsId::named(&want.netns);
        // Opened anew every time: the namespace of this name may be another one.
        let number = netns.number();
        let (shaper, filter) = (Shaper::open(&netns).await?, Filter::open(&netns).await?);
        let old = self.routers.remove(slice);
        let mut router = Router {
            meter: old.as_ref().map(|o| o.meter.clone()).unwrap_or_default(),
            limits: old.as_ref().map_or_else(|| plan.limits(want), |o| o.limits),
            want: want.clone(),
            fault: None,
            shaper,
            filter,
            number,
        };
        let news = old.as_ref().is_none_or(|o| o.want.dscp != want.dscp || o.fault.is_some());
        if plan.sharing.is_none() || old.is_none_or(|o| o.want.shape != want.shape) {
            router.limits = within(router.limits, plan.limits(want), plan.sharing.is_some());
        }
        let done = router.realise(news).await;
        self.routers.insert(slice.to_owned(), router);
        done
    }

    /// Divides the uplink; how long until it is to be divided again.
    async fn divide(&mut self) -> Duration {
        let Some(link) = self.plan.sharing else { return DIVIDE_LAZILY };
        let now = self.now();
        let (mut leaving, mut arriving) = (BTreeMap::new(), BTreeMap::new());
        for (slice, router) in &self.routers {
            let Ok(Some(counted)) = router.shaper.counters().await else { continue };
            let terms = router.want.terms;
            for (direction, all) in
                [(counted.leaving, &mut leaving), (counted.arriving, &mut arriving)]
            {
                let sample = Sample { bytes: direction.bytes, backlog: direction.backlog };
                all.insert(slice.clone(), (terms, sample));
            }
        }
        let out = self.leaving.step(link, now, &leaving);
        let into = self.arriving.step(link, now, &arriving);
        for (slice, router) in &mut self.routers {
            let (Some(out), Some(into)) = (out.get(slice), into.get(slice)) else { continue };
            if same(router.limits.0, *out) && same(router.limits.1, *into) {
                continue;
            }
            let limit = |rate| Limit { rate, burst: router.want.burst() };
            match router.shaper.set_limits(limit(*out), limit(*into)).await {
                Ok(()) => router.limits = (*out, *into),
                Err(error) => tracing::debug!(slice, %error, "a share is not set"),
            }
        }
        let busy = self.leaving.contended(now) || self.arriving.contended(now);
        if busy { DIVIDE } else { DIVIDE_LAZILY }
    }

    /// Reads the counters for people.
    async fn count(&mut self) {
        let now = self.now();
        for router in self.routers.values_mut() {
            if let Ok(Some(counted)) = router.shaper.counters().await {
                router.meter.record(now, delivered::totals(&counted));
            }
        }
        self.publish();
    }

    fn publish(&mut self) {
        let now = self.now();
        let due = Instant::now() >= self.tell_at;
        if due {
            self.tell_at = Instant::now() + TELL;
        }
        let last = self.tell.borrow().clone();
        let one = |(slice, router): (&String, &Router)| {
            let fault = router.fault.as_ref();
            let traffic = router.want.shape.is_some().then_some(&router.meter);
            let of = delivered::of_slice(slice, &self.node.name, &self.plan, fault, traffic, now);
            let told = last.slices.get(slice).filter(|_| !due);
            (slice.clone(), of.limited(router.limits).with_traffic_of(told))
        };
        let new =
            Shaped { uplink: self.plan.uplink, slices: self.routers.iter().map(one).collect() };
        self.tell.send_if_modified(|old| {
            let changed = *old != new;
            *old = new;
            changed
        });
    }

    fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Router {
    /// Makes the kernel what is wanted; marks only where they are `news`.
    async fn realise(&self, news: bool) -> Result<(), Error> {
        match &self.want.shape {
            None => self.shaper.remove().await?,
            Some(shape) => {
                let mut shape = shape.clone();
                shape.leaving.rate = self.limits.0;
                shape.arriving.rate = self.limits.1;
                self.shaper.apply(&shape).await?;
            }
        }
        if news {
            let dscp: Option<Dscp> = self.want.dscp;
            self.shaper.set_vxlan_dscp(VXLAN_DEVICE, dscp).await?;
            self.filter.mark(dscp, Marked::Forwarded).await?;
        }
        Ok(())
    }
}

/// Whether a change of a limit is too small to be made.
fn same(old: Rate, new: Rate) -> bool {
    old.0.abs_diff(new.0) <= old.permille(SAME).0
}

/// The limits to begin with: those there are, as far as they are within what holds now.
fn within(old: (Rate, Rate), most: (Rate, Rate), sharing: bool) -> (Rate, Rate) {
    if sharing { (old.0.min(most.0), old.1.min(most.1)) } else { most }
}
