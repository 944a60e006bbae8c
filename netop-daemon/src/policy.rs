//! Who may talk to whom on this node: what each slice router's packet rules are to be, and what
//! keeps them so.
//!
//! A router's rules are loaded before anything of it is made, and a pod's before its NIC is
//! announced. A process that starts replaces the rules it finds by its own in one transaction, so
//! that no packet meets none.

mod counts;
mod keeper;
mod want;

use std::collections::BTreeMap;

use slicewire_api::{NodePolicy, PodIdentity};
use slicewire_kernel::{Network, Ns};

pub(crate) use counts::DefaultHits;
use keeper::Keeper;
pub(crate) use want::{PolicyWant, want};

use crate::world::World;

/// The packet rules of all slice routers of the node.
#[derive(Default)]
pub(crate) struct Policies {
    keepers: BTreeMap<String, Keeper>,
}

impl Policies {
    /// Brings a router's rules to what they should be. `before` is what was counted before this
    /// process began.
    ///
    /// # Errors
    /// What the kernel said; then the rules are those of the last time that it went well.
    pub(crate) async fn sync(
        &mut self,
        network: &dyn Network,
        slice: &str,
        ns: &Ns,
        want: PolicyWant,
        before: &[NodePolicy],
    ) -> Result<(), slicewire_kernel::Error> {
        if let Some(keeper) = self.keepers.get_mut(slice).filter(|k| k.is_of(ns)) {
            return keeper.sync(want).await;
        }
        let keeper = Keeper::load(network, ns, want, before).await?;
        tracing::debug!(slice, "packet rules loaded");
        self.keepers.insert(slice.to_owned(), keeper);
        Ok(())
    }

    /// Forgets routers that are gone.
    pub(crate) fn retain(&mut self, there: impl Fn(&str) -> bool) {
        self.keepers.retain(|slice, _| there(slice));
    }

    /// Reads all counters; finds out whether somebody took rules away.
    pub(crate) async fn count(&mut self) {
        for (slice, keeper) in &mut self.keepers {
            if let Err(error) = keeper.count().await {
                tracing::warn!(slice, %error, "cannot read the counters of packet rules");
            }
        }
    }

    /// What is in force, and what it has decided about, by slice.
    pub(crate) fn report(&self) -> BTreeMap<String, Vec<NodePolicy>> {
        self.keepers.iter().map(|(slice, keeper)| (slice.clone(), keeper.report())).collect()
    }

    /// What slices' defaults have decided about.
    pub(crate) fn defaults(&self) -> BTreeMap<String, DefaultHits> {
        self.keepers.iter().map(|(slice, keeper)| (slice.clone(), keeper.defaults())).collect()
    }

    /// What is to be told of this node's pods, by slice and pod UID.
    pub(crate) fn identities(&self, world: &World) -> BTreeMap<(String, String), PodIdentity> {
        let mut all = BTreeMap::new();
        for (slice, keeper) in &self.keepers {
            let entry = world.slices.get(slice).and_then(|entry| entry.valid.as_ref());
            let Some(keys) = entry.and_then(|slice| slice.policy.keys.as_ref()) else { continue };
            for (uid, endpoint) in keeper.local() {
                let told = PodIdentity::told(endpoint, keys);
                all.insert((slice.clone(), uid.to_owned()), told);
            }
        }
        all
    }
}
