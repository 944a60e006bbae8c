//! Keeps the packet rules of one slice router.

use std::collections::BTreeMap;
use std::sync::Arc;

use slicewire_api::NodePolicy;
use slicewire_core::name::ClusterName;
use slicewire_core::policy::{
    Compiler, Delta, Endpoint, EndpointChange, EndpointId, Identity, PolicySet, Situation,
};
use slicewire_kernel::{Network, Ns, Rules};

use super::counts::{Counts, DefaultHits};
use super::want::{LOCAL, PolicyWant};
use crate::allocations::uptime_ms;
use crate::validate::HERE;
use crate::world::{Pods, PolicyEntry};

/// One router's rules, as they are in the kernel.
pub(super) struct Keeper {
    /// Which router it is: one that was made anew has rules of its own.
    ns: Ns,
    rules: Rules,
    compiler: Compiler,
    policies: BTreeMap<String, Arc<PolicyEntry>>,
    default: (slicewire_core::policy::Default, slicewire_core::policy::Mode),
    local: BTreeMap<EndpointId, Endpoint>,
    elsewhere: BTreeMap<String, Pods>,
    counts: Counts,
    /// The kernel does not have what the compiler thinks it has.
    stale: bool,
}

impl Keeper {
    /// Replaces whatever rules a router has by what they should be.
    pub(super) async fn load(
        network: &dyn Network,
        ns: &Ns,
        want: PolicyWant,
        before: &[NodePolicy],
    ) -> Result<Self, slicewire_kernel::Error> {
        // Connections bear the number of the change after which they were judged. One more each
        // change, and a thousand more each second, has not been used by who was here before.
        let generation = u32::try_from(uptime_ms() & u64::from(u32::MAX)).unwrap_or(1);
        let mut keeper = Self {
            ns: ns.clone(),
            rules: network.rules(ns.id()).await?,
            compiler: Compiler::new(generation),
            policies: BTreeMap::new(),
            default: Default::default(),
            local: BTreeMap::new(),
            elsewhere: BTreeMap::new(),
            counts: Counts::continued(before),
            stale: true,
        };
        keeper.sync(want).await?;
        Ok(keeper)
    }

    /// Whether these are the rules of that router.
    pub(super) fn is_of(&self, ns: &Ns) -> bool {
        Arc::ptr_eq(&self.ns, ns)
    }

    /// Brings the kernel's rules to what they should be.
    pub(super) async fn sync(&mut self, want: PolicyWant) -> Result<(), slicewire_kernel::Error> {
        let deltas = self.compile(want);
        if !self.stale {
            for delta in deltas {
                if let Err(error) = self.rules.apply(delta).await {
                    tracing::warn!(%error, "packet rules are not as they were left; loading them anew");
                    self.stale = true;
                    break;
                }
            }
        }
        if self.stale {
            self.rules.apply(Delta::whole(self.compiler.ruleset())).await?;
            self.counts.restart();
            self.stale = false;
        }
        Ok(())
    }

    /// Pods first: an address that is in no class needs no change, and a port's pod is known when
    /// the port comes.
    fn compile(&mut self, want: PolicyWant) -> Vec<Delta> {
        let changes = self.endpoint_changes(&want);
        let mut deltas = vec![self.compiler.change_endpoints(changes)];
        self.local = want.local;
        self.elsewhere = want.elsewhere;
        if want.policies == self.policies && want.default == self.default {
            deltas.push(self.compiler.set_ports(want.ports, want.far));
        } else {
            let policies = want.policies.iter();
            let policies = policies.map(|(key, e)| (key.as_str().into(), e.policy.clone()));
            let policies = PolicySet {
                default: want.default.0,
                default_mode: want.default.1,
                policies: policies.collect(),
            };
            let situation = Situation { policies, ports: want.ports, far: want.far };
            deltas.push(self.compiler.set_situation(situation));
            self.policies = want.policies;
            self.default = want.default;
        }
        deltas.retain(|delta| !delta.is_empty());
        deltas
    }

    fn endpoint_changes(&self, want: &PolicyWant) -> Vec<EndpointChange> {
        let mut changes = Vec::new();
        let put = |id: &EndpointId, endpoint: &Endpoint| {
            EndpointChange::Put(id.clone(), at_home(endpoint, &want.cluster))
        };
        for (id, endpoint) in &want.local {
            if self.local.get(id) != Some(endpoint) {
                changes.push(put(id, endpoint));
            }
        }
        let gone = self.local.keys().filter(|id| !want.local.contains_key(*id));
        changes.extend(gone.cloned().map(EndpointChange::Gone));
        for (place, pods) in &want.elsewhere {
            let before = self.elsewhere.get(place);
            if before.is_some_and(|before| Arc::ptr_eq(before, pods)) {
                continue;
            }
            let before = before.map(|pods| by_name(pods)).unwrap_or_default();
            let now = by_name(pods);
            let gone = before.keys().filter(|id| !now.contains_key(*id));
            changes.extend(gone.map(|id| EndpointChange::Gone((*id).clone())));
            let fresh = now.iter().filter(|(id, e)| before.get(*id) != Some(*e));
            changes.extend(fresh.map(|(id, endpoint)| put(id, endpoint)));
        }
        let left = self.elsewhere.iter().filter(|(place, _)| !want.elsewhere.contains_key(*place));
        for (_, pods) in left {
            changes.extend(pods.iter().map(|(id, _)| EndpointChange::Gone(id.clone())));
        }
        changes
    }

    /// Reads the counters. There are always some: where there are none, somebody took the rules
    /// away, and they are loaded anew with the next change or round.
    pub(super) async fn count(&mut self) -> Result<(), slicewire_kernel::Error> {
        let counters = self.rules.counters().await?;
        if counters.is_empty() {
            tracing::warn!("the packet rules are gone; loading them anew");
            self.stale = true;
            return Ok(());
        }
        let names = self.compiler.counters();
        self.counts
            .take(&names, &counters, |key| self.policies.get(key).map(|entry| entry.name.clone()));
        Ok(())
    }

    /// What is in force, and what it has decided about.
    pub(super) fn report(&self) -> Vec<NodePolicy> {
        let policies = self.policies.values().map(|entry| NodePolicy {
            policy: entry.name.clone(),
            revision: entry.revision,
            hits: self.counts.of(&entry.name),
        });
        let mut all: Vec<NodePolicy> = policies.collect();
        all.sort_by(|a, b| a.policy.cmp(&b.policy));
        all
    }

    /// What the slice's default has decided about.
    pub(super) fn defaults(&self) -> DefaultHits {
        self.counts.defaults()
    }

    /// Pods of this node, by UID.
    pub(super) fn local(&self) -> impl Iterator<Item = (&str, &Endpoint)> {
        self.local.iter().filter_map(|(id, e)| Some((id.strip_prefix(LOCAL)?, e)))
    }
}

fn by_name(pods: &Pods) -> BTreeMap<&EndpointId, &Endpoint> {
    pods.iter().map(|(id, endpoint)| (id, endpoint)).collect()
}

/// An endpoint with its cluster's name, where it was told without.
fn at_home(endpoint: &Endpoint, cluster: &ClusterName) -> Endpoint {
    if endpoint.identity.cluster.as_str() != HERE {
        return endpoint.clone();
    }
    let identity = Identity { cluster: cluster.clone(), ..(*endpoint.identity).clone() };
    Endpoint { identity: Arc::new(identity), ..endpoint.clone() }
}
