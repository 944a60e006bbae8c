//! One round over everything: what is not as it should be is brought there, and all is reported.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use slicewire_kernel::State;

use super::{Engine, Failing, LINGER, PATIENCE};
use crate::apply::{ApplyError, ROUTER_PREFIX};
use crate::decide::{Desired, Failure};
use crate::plan::{NicWant, RouterWant};
use crate::report::{Notice, Report, RouterReport};
use crate::world::World;

enum Round {
    /// A pod that is being started came in between: begin anew.
    Interrupted,
    /// Whether a gateway was attached.
    Done { gateway: bool },
}

impl Engine {
    /// One round over everything. Returns whether another should follow at once.
    pub(super) async fn round(&mut self) -> bool {
        let begun = Instant::now();
        let world = self.shared.snapshot();
        let desired = self.decide(&world);
        self.save();
        let mut report = Report::default();
        if let Err(error) = self.applier.forget_lost().await {
            tracing::warn!(%error, "cannot list network namespaces");
        }
        let lingering = self.leave(&world, &desired).await;
        self.policies
            .retain(|slice| lingering.contains(slice) || desired.routers.contains_key(slice));
        self.translations
            .retain(|slice| lingering.contains(slice) || desired.routers.contains_key(slice));
        let mut failures = desired.failures.clone();
        let mut again = false;
        self.clean.retain(|slice, _| desired.routers.contains_key(slice));
        for (slice, want) in &desired.routers {
            if let Err(error) = self.rule(&world, &desired, slice).await {
                self.ready.remove(slice);
                self.metrics.failed(error.reason());
                tracing::warn!(slice, %error, "the packet rules are not as they should be; nothing is attached");
                report.routers.insert(slice.clone(), RouterReport::new(Some(&error)));
                continue;
            }
            if self.is_clean(slice, want, &desired) {
                report.routers.insert(slice.clone(), RouterReport::new(None));
                continue;
            }
            let before = failures.len();
            let (state, error) = match self.applier.converge_router(want).await {
                Ok((state, error)) => (Some(state), error),
                Err(error) => (None, Some(error)),
            };
            if let Some(error) = &error {
                self.ready.remove(slice);
                self.metrics.failed(error.reason());
                tracing::warn!(slice, %error, "the slice router is not as it should be");
            } else {
                self.ready.insert(slice.clone());
            }
            report.routers.insert(slice.clone(), RouterReport::new(error.as_ref()));
            let Some(state) = state else { continue };
            match self.nics(slice, want, &desired, &state, &mut failures).await {
                Round::Interrupted => return true,
                Round::Done { gateway: true } => {
                    again = true;
                    continue;
                }
                Round::Done { gateway: false } => {}
            }
            if error.is_none() && failures.len() == before {
                self.clean.insert(slice.clone(), want.clone());
            }
        }
        self.metrics.round(begun.elapsed());
        self.report(report, &world, &desired, failures, lingering);
        again
    }

    /// Whether all that is wanted of a slice has been seen in the kernel since the last tick.
    fn is_clean(&self, slice: &str, want: &RouterWant, desired: &Desired) -> bool {
        let mut nics = desired.nics.iter().filter(|((s, _), _)| s == slice);
        self.clean.get(slice) == Some(want)
            && nics.all(|(key, nic)| self.done.get(key) == Some(nic))
    }

    /// Attaches the pods of one slice that are not yet, or no longer, as they should be.
    async fn nics(
        &mut self,
        slice: &str,
        router: &RouterWant,
        desired: &Desired,
        state: &State,
        failures: &mut Vec<Failure>,
    ) -> Round {
        let mut gateway = false;
        for (key, want) in desired.nics.iter().filter(|((s, _), _)| s == slice) {
            let there = state.link(&want.port.device).is_some();
            if there && self.done.get(key) == Some(want) {
                continue;
            }
            match self.attach(want, &router.netns, state).await {
                Ok(fresh) => {
                    // Routes to a gateway need its port; they come with the next round.
                    gateway |= want.gateway && !there;
                    if fresh {
                        self.announce(want);
                    }
                }
                Err(error) => {
                    self.done.remove(key);
                    if error.reason() == "NotFound" {
                        self.lost(want);
                    }
                    failures.push(failure(want, &error));
                    self.metrics.failed(error.reason());
                    tracing::debug!(slice, pod = ?want.pod, %error, "attaching failed");
                }
            }
            if let Ok(request) = self.requests.try_recv() {
                self.serve(request).await;
                return Round::Interrupted;
            }
        }
        Round::Done { gateway }
    }

    /// A sandbox whose network namespace is gone has ended, whoever forgot to say so.
    fn lost(&self, want: &NicWant) {
        if want.netns.exists() {
            return;
        }
        self.shared.change(|world| {
            let same = world
                .sandboxes
                .get(&want.uid)
                .is_some_and(|s| s.netns.as_deref() == Some(want.netns.as_path()));
            same && world.sandboxes.remove(&want.uid).is_some()
        });
    }

    /// Removes routers that no pod wants. Ports of pods that left a slice that goes on are removed
    /// with the router's own plan.
    /// Returns slices that still have one.
    async fn leave(&mut self, world: &World, desired: &Desired) -> BTreeSet<String> {
        let detached: Vec<(String, String)> =
            self.done.keys().filter(|k| !desired.nics.contains_key(*k)).cloned().collect();
        for key in detached {
            if let Some(nic) = self.done.remove(&key) {
                tracing::info!(slice = key.0, namespace = nic.pod.0, pod = nic.pod.1, "detached");
                // A pod that has ended needs no telling.
                if world.sandboxes.contains_key(&key.1) {
                    self.notify(Notice::detached(&nic));
                }
            }
        }
        for (uid, nics) in &mut self.present {
            nics.retain(|s, _| desired.nics.contains_key(&(s.clone(), uid.clone())));
        }
        self.present.retain(|_, nics| !nics.is_empty());
        let mut left = BTreeSet::new();
        for netns in self.applier.routers().await.unwrap_or_default() {
            let slice = netns.strip_prefix(ROUTER_PREFIX).unwrap_or_default().to_owned();
            if desired.routers.contains_key(&slice) || desired.unknown.contains(&slice) {
                self.idle_since.remove(&slice);
                left.insert(slice);
                continue;
            }
            let stays = world.slices.get(&slice).is_some_and(|s| !s.deleting)
                && world.own_node(&slice, &self.node.name).is_some();
            let since = *self.idle_since.entry(slice.clone()).or_insert_with(Instant::now);
            let done = if stays && since.elapsed() < LINGER {
                left.insert(slice.clone());
                self.applier.remove_ports(&netns).await
            } else {
                self.ready.remove(&slice);
                self.idle_since.remove(&slice);
                tracing::info!(slice, "removing the slice router");
                self.applier.remove_router(&netns).await
            };
            if let Err(error) = done {
                tracing::warn!(slice, %error, "cannot remove a slice router; it is tried again");
                left.insert(slice);
            }
        }
        left
    }

    fn report(
        &mut self,
        mut report: Report,
        world: &World,
        desired: &Desired,
        failures: Vec<Failure>,
        lingering: BTreeSet<String>,
    ) {
        report.failures = self.lasting(failures);
        report.nics = self.done.clone();
        report.wanted = desired.wanted.clone();
        report.lingering = lingering;
        report.policies = self.policies.report();
        report.identities = self.policies.identities(world);
        report.valid = true;
        for (slice, entry) in &world.slices {
            if let Some(valid) = &entry.valid {
                let low = self.allocations.slice(slice).low(&valid.families);
                report.low.insert(slice.clone(), low);
            }
            if self.allocations.is_idle(slice) {
                report.idle.insert(slice.clone());
            }
        }
        self.metrics.nics(&report);
        self.metrics.policies(&report.policies, self.policies.defaults());
        self.reports.send_if_modified(|old| {
            let changed = **old != report;
            *old = Arc::new(report);
            changed
        });
    }

    /// Failures that have lasted; a person is told of each once.
    fn lasting(&mut self, failures: Vec<Failure>) -> Vec<Failure> {
        let now = Instant::now();
        let mut failing = BTreeMap::new();
        let mut lasting = Vec::new();
        for failure in failures {
            let key = (failure.slice.clone(), failure.uid.clone());
            let before = self.failing.remove(&key).filter(|f| f.reason == failure.reason);
            let fresh = Failing { reason: failure.reason, since: now, told: false };
            let mut this = before.unwrap_or(fresh);
            if this.since + PATIENCE <= now || failure.reason == "PrefixConflict" {
                if !this.told {
                    self.notify(Notice::failed(&failure));
                    this.told = true;
                }
                lasting.push(failure);
            }
            failing.insert(key, this);
        }
        self.failing = failing;
        lasting
    }
}

fn failure(want: &NicWant, error: &ApplyError) -> Failure {
    Failure {
        slice: want.slice.clone(),
        uid: want.uid.clone(),
        pod: want.pod.clone(),
        reason: error.reason(),
        message: error.to_string(),
    }
}
