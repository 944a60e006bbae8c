//! Services over slices on this node: virtual addresses in slice routers, names in the DNS server.
//!
//! Both follow from the SliceServices and from what the gateways say of other clusters: a cluster to
//! which no tunnel works gets no new connections, and its pods have no names.

pub(crate) mod names;

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use slicewire_api::PlannedService;
use slicewire_core::name::ClusterName;
use slicewire_core::service::balance::{Here, Reach, Spread};
use slicewire_core::service::translate::{Parts, Translation, TranslationDelta};
use slicewire_kernel::{Network, Ns, Rules};

use crate::world::{GatewayPod, Slice, World};

/// How long what a gateway said last is believed after it fell silent.
const GRACE: Duration = Duration::from_secs(5);

/// A SliceService.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ServiceEntry {
    pub(crate) slice: String,
    pub(crate) planned: PlannedService,
}

impl ServiceEntry {
    /// Whether all its addresses are the slice's: nothing else is ever translated or named.
    fn fits(&self, prefixes: &[IpNet]) -> bool {
        let inside = |a: &IpAddr| prefixes.iter().any(|p| p.contains(a));
        let endpoints = self.planned.endpoints.values().flatten();
        self.planned.addresses.iter().all(inside)
            && endpoints.flat_map(|e| &e.addresses).all(inside)
    }
}

/// What is known of clusters: which can be reached, by what the gateways say, and how much each
/// counts. Nothing of those nobody speaks of.
pub(crate) fn reach(world: &World, slice: &Slice, now: Instant) -> BTreeMap<ClusterName, Reach> {
    let mut all: BTreeMap<ClusterName, Reach> = BTreeMap::new();
    let own = |gateway: &GatewayPod| gateway.slice == slice.name.as_str() && !gateway.deleting;
    let said = world.gateways.iter().filter(|(_, gateway)| own(gateway));
    let said = said.filter_map(|(uid, _)| world.routes.get(uid));
    let heard = said.filter(|s| s.lost.is_none_or(|lost| now.duration_since(lost) < GRACE));
    for tunnel in heard.flat_map(|s| &s.tunnels) {
        let Ok(cluster) = ClusterName::parse(&tunnel.cluster) else { continue };
        let reach = all.entry(cluster).or_insert(Reach { up: false, ..Reach::default() });
        reach.up |= tunnel.up;
    }
    for (cluster, weight) in &slice.balancing.weights {
        all.entry(cluster.clone()).or_default().weight = *weight;
    }
    all
}

/// A slice's services by the names of their objects, whether they fit it or not.
fn of_slice<'w>(
    world: &'w World,
    slice: &str,
) -> impl Iterator<Item = (&'w str, &'w Arc<ServiceEntry>)> {
    let all = world.services.iter().map(|(name, entry)| (name.as_str(), entry));
    all.filter(move |(_, entry)| entry.slice == slice)
}

/// Those of them that fit it.
pub(crate) fn fitting<'w>(
    world: &'w World,
    slice: &'w Slice,
) -> impl Iterator<Item = (&'w str, &'w Arc<ServiceEntry>)> {
    of_slice(world, slice.name.as_str()).filter(|(_, entry)| entry.fits(&slice.prefixes))
}

/// What virtual addresses in a slice's router are to do.
pub(crate) struct Want<'w> {
    frame: Frame,
    /// In the order of names; they may not fit the slice.
    services: Vec<(&'w str, &'w Arc<ServiceEntry>)>,
    own: BTreeSet<IpAddr>,
}

/// What every service's part follows from, besides the service.
#[derive(PartialEq)]
struct Frame {
    cluster: ClusterName,
    node: String,
    zone: Option<String>,
    prefixes: Vec<IpNet>,
    reach: BTreeMap<ClusterName, Reach>,
    spread: Spread,
}

/// Says what virtual addresses in a slice's router are to do; `own` are its pods' addresses.
pub(crate) fn want<'w>(
    world: &'w World,
    slice: &Slice,
    node: &str,
    own: BTreeSet<IpAddr>,
    now: Instant,
) -> Want<'w> {
    Want {
        frame: Frame {
            cluster: slice.cluster.clone(),
            node: node.to_owned(),
            zone: world.zone.clone(),
            prefixes: slice.prefixes.clone(),
            reach: reach(world, slice, now),
            spread: slice.balancing.spread,
        },
        services: of_slice(world, slice.name.as_str()).collect(),
        own,
    }
}

impl Frame {
    /// A service's part; none of one that does not fit the slice.
    fn part(&self, entry: &ServiceEntry) -> Option<Translation> {
        let (cluster, node, spread) = (&self.cluster, self.node.as_str(), self.spread);
        let zone = self.zone.as_deref();
        let here = Here { cluster, node, zone, reach: &self.reach, spread };
        let PlannedService { import, addresses, endpoints, .. } = &entry.planned;
        let part = || Translation::of(import, addresses, endpoints, here);
        entry.fits(&self.prefixes).then(part)
    }
}

/// Virtual addresses in all slice routers of the node.
#[derive(Default)]
pub(crate) struct Translations(BTreeMap<String, Keeper>);

struct Keeper {
    /// Which router it is: one that was made anew has nothing yet.
    ns: Ns,
    rules: Rules,
    /// What the parts are made of.
    frame: Option<Frame>,
    services: BTreeMap<Arc<str>, Arc<ServiceEntry>>,
    parts: Parts,
    /// The parts are what is in the kernel: not at first, nor after it refused something.
    loaded: bool,
}

impl Keeper {
    fn new(ns: Ns, rules: Rules) -> Self {
        let (services, parts) = (BTreeMap::new(), Parts::default());
        Self { ns, rules, frame: None, services, parts, loaded: false }
    }

    /// What makes what is in the kernel what is wanted.
    fn change(&mut self, want: Want<'_>) -> TranslationDelta {
        let same = self.frame.as_ref() == Some(&want.frame);
        let changed: Vec<(Arc<str>, Option<&Arc<ServiceEntry>>)> =
            paired(&self.services, &want.services)
                .filter_map(|(name, was, is)| match (was, is) {
                    (Some((_, was)), Some(is)) if same && Arc::ptr_eq(was, is) => None,
                    (Some((name, _)), is) => Some((name.clone(), is)),
                    (None, is) => Some((name.into(), is)),
                })
                .collect();
        let mut parts = Vec::with_capacity(changed.len());
        for (name, entry) in changed {
            let part = entry.and_then(|entry| want.frame.part(entry));
            match entry {
                Some(entry) => self.services.insert(name.clone(), entry.clone()),
                None => self.services.remove(&name),
            };
            parts.push((name, part));
        }
        self.frame = Some(want.frame);
        let delta = self.parts.change(parts, want.own);
        if self.loaded { delta } else { self.parts.whole() }
    }
}

/// A service's name, what was there of it and what is.
type Pair<'a, 'w> =
    (&'a str, Option<(&'a Arc<str>, &'a Arc<ServiceEntry>)>, Option<&'w Arc<ServiceEntry>>);

/// What was and what is, by name: one walk along both.
fn paired<'a, 'w: 'a>(
    was: &'a BTreeMap<Arc<str>, Arc<ServiceEntry>>,
    is: &'a [(&'w str, &'w Arc<ServiceEntry>)],
) -> impl Iterator<Item = Pair<'a, 'w>> {
    let (mut was, mut is) = (was.iter().peekable(), is.iter().peekable());
    std::iter::from_fn(move || {
        let order = match (was.peek(), is.peek()) {
            (Some((was, _)), Some((is, _))) => str::cmp(was, is),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => return None,
        };
        let old = if order.is_le() { was.next() } else { None };
        let new = if order.is_ge() { is.next() } else { None };
        let name = old.map(|(name, _)| name.as_ref()).or(new.map(|(name, _)| *name))?;
        Some((name, old, new.map(|(_, entry)| *entry)))
    })
}

impl Translations {
    /// Brings a router's virtual addresses to what they should be.
    ///
    /// # Errors
    /// What the kernel said; then all of it is loaded anew the next time.
    pub(crate) async fn sync(
        &mut self,
        network: &dyn Network,
        slice: &str,
        ns: &Ns,
        want: Want<'_>,
    ) -> Result<(), slicewire_kernel::Error> {
        if self.0.get(slice).is_none_or(|keeper| !Arc::ptr_eq(&keeper.ns, ns)) {
            let rules = network.rules(ns.id()).await?;
            self.0.insert(slice.to_owned(), Keeper::new(ns.clone(), rules));
        }
        let Some(keeper) = self.0.get_mut(slice) else { return Ok(()) };
        let delta = keeper.change(want);
        if delta.is_empty() {
            return Ok(());
        }
        let changed = delta.set.len().max(delta.were.len());
        // Whoever is interrupted here knows nothing of what is in the kernel.
        keeper.loaded = false;
        keeper.rules.translate(delta).await?;
        keeper.loaded = true;
        if changed > 0 {
            tracing::debug!(slice, changed, "virtual addresses changed");
        }
        Ok(())
    }

    /// Forgets routers that are gone.
    pub(crate) fn retain(&mut self, there: impl Fn(&str) -> bool) {
        self.0.retain(|slice, _| there(slice));
    }
}

#[cfg(test)]
mod tests;
