//! Keeps the DNS server's knowledge equal to the services.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use slicewire_core::dns::{Service, View};
use slicewire_core::name::{ClusterName, SliceName};
use slicewire_core::service::balance::{Here, Reach, Spread};
use slicewire_dns::{Known, Names};
use tokio_util::sync::CancellationToken;

use super::{ServiceEntry, fitting, reach};
use crate::decide::Node;
use crate::world::{Shared, World};

/// Changes that come together are dealt with together.
const SETTLE: Duration = Duration::from_millis(5);
/// A look without any change: what a gateway said last grows old.
const TICK: Duration = Duration::from_secs(1);

/// Keeps the names until `stop`, from the first time that everything has been listed.
pub(crate) async fn keep(shared: Shared, node: Node, names: Names, stop: CancellationToken) {
    let mut changes = shared.changes();
    changes.mark_changed();
    let mut before: Option<Told> = None;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            changed = changes.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(TICK) => {}
        }
        tokio::time::sleep(SETTLE).await;
        let now = shared.read(|world| {
            let ready = world.missing().is_empty();
            ready.then(|| Told::of(world, Instant::now()))
        });
        let Some(now) = now else { continue };
        match &before {
            None => {
                let mut view = View::default();
                view.set_servers(node.underlay.clone());
                now.change(&Told::default(), &node.name, &mut view);
                names.publish(Known { view, askers: BTreeMap::new() });
            }
            Some(before) if *before == now => continue,
            Some(before) => {
                let change = now.prepared(before, &node.name);
                names.change(|known| change.into_iter().for_each(|one| one(&mut known.view)));
            }
        }
        before = Some(now);
    }
}

/// What a view is made of.
#[derive(Default)]
struct Told {
    slices: BTreeMap<SliceName, SliceTold>,
}

/// What a slice's names are made of.
struct SliceTold {
    cluster: ClusterName,
    prefixes: Vec<IpNet>,
    reach: BTreeMap<ClusterName, Reach>,
    spread: Spread,
    services: BTreeMap<String, Arc<ServiceEntry>>,
}

impl PartialEq for Told {
    fn eq(&self, other: &Self) -> bool {
        let alike = |a: &SliceTold, b: &SliceTold| {
            a.frame() == b.frame()
                && a.services.len() == b.services.len()
                && a.services.iter().zip(&b.services).all(|(x, y)| Arc::ptr_eq(x.1, y.1))
        };
        self.slices.len() == other.slices.len()
            && self.slices.iter().zip(&other.slices).all(|(a, b)| a.0 == b.0 && alike(a.1, b.1))
    }
}

impl SliceTold {
    fn frame(&self) -> (&ClusterName, &Vec<IpNet>, &BTreeMap<ClusterName, Reach>, Spread) {
        (&self.cluster, &self.prefixes, &self.reach, self.spread)
    }

    fn named(&self, entry: &ServiceEntry, node: &str) -> Service {
        let (cluster, reach, spread) = (&self.cluster, &self.reach, self.spread);
        // A name means the same in every zone.
        let here = Here { cluster, node, zone: None, reach, spread };
        let planned = &entry.planned;
        Service::of(&planned.import, planned.exported, &planned.addresses, &planned.endpoints, here)
    }
}

/// A change of a view, worked out before anybody has to wait for it.
type Change = Box<dyn FnOnce(&mut View)>;

impl Told {
    fn of(world: &World, now: Instant) -> Self {
        let valid = world.slices.values().filter(|e| !e.deleting);
        let valid = valid.filter_map(|entry| entry.valid.as_ref());
        let told = valid.map(|slice| {
            let told = SliceTold {
                cluster: slice.cluster.clone(),
                prefixes: slice.prefixes.clone(),
                reach: reach(world, slice, now),
                spread: slice.balancing.spread,
                services: fitting(world, slice).map(|(n, e)| (n.to_owned(), e.clone())).collect(),
            };
            (slice.name.clone(), told)
        });
        Self { slices: told.collect() }
    }

    fn change(&self, before: &Self, node: &str, view: &mut View) {
        self.prepared(before, node).into_iter().for_each(|one| one(view));
    }

    /// What makes a view of `before` one of this.
    fn prepared(&self, before: &Self, node: &str) -> Vec<Change> {
        let mut all: Vec<Change> = Vec::new();
        for name in before.slices.keys().filter(|name| !self.slices.contains_key(*name)) {
            let name = name.clone();
            all.push(Box::new(move |view| view.remove_slice(&name)));
        }
        for (name, told) in &self.slices {
            let old = before.slices.get(name);
            if old.is_none_or(|old| old.prefixes != told.prefixes) {
                let (name, prefixes) = (name.clone(), told.prefixes.clone());
                all.push(Box::new(move |view| view.set_slice(&name, &prefixes)));
            }
            let same = old.is_some_and(|old| old.frame() == told.frame());
            let nothing = BTreeMap::new();
            let services = old.map_or(&nothing, |old| &old.services);
            // First what goes: two objects may be about one service for a moment.
            for (object, gone) in services {
                if !told.services.contains_key(object) {
                    let (slice, service) = (name.clone(), gone.planned.name.clone());
                    all.push(Box::new(move |view| view.set(&slice, &service, None)));
                }
            }
            for (object, entry) in &told.services {
                if same && services.get(object).is_some_and(|old| Arc::ptr_eq(old, entry)) {
                    continue;
                }
                let (slice, service) = (name.clone(), entry.planned.name.clone());
                let named = told.named(entry, node);
                all.push(Box::new(move |view| view.set(&slice, &service, Some(named))));
            }
        }
        all
    }
}

/// Where names are served, besides what was asked for: on every address of the node, at one port.
pub(crate) fn addresses(
    asked: &[std::net::SocketAddr],
    node: &[IpAddr],
    port: u16,
) -> Vec<std::net::SocketAddr> {
    let mut all = asked.to_vec();
    if port > 0 {
        all.extend(node.iter().map(|ip| std::net::SocketAddr::new(*ip, port)));
    }
    all.sort();
    all.dedup();
    all
}

#[cfg(test)]
pub(super) mod tests;
