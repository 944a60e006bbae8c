//! Watches that fill caches.

use std::fmt::Debug;
use std::pin::pin;

use futures::StreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use slicewire_runtime::reconcile::backoff;
use tokio_util::sync::CancellationToken;

use super::cache::Cache;
use super::write::causes;

/// Where a watch looks and what it does with what it sees.
pub(crate) struct Watch<K> {
    /// The objects.
    pub(crate) api: Api<K>,
    /// Labels or fields that narrow them.
    pub(crate) config: watcher::Config,
    /// Where they are kept.
    pub(crate) cache: Cache<K>,
    /// Drops what nobody reads before an object is kept.
    pub(crate) trim: fn(&mut K),
    /// Ends the watch.
    pub(crate) stop: CancellationToken,
}

impl<K> Watch<K>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    /// A watch of everything the API reaches.
    pub(crate) fn new(api: Api<K>, cache: &Cache<K>, stop: &CancellationToken) -> Self {
        let config = watcher::Config::default().any_semantic();
        Self { api, config, cache: cache.clone(), trim: |_| {}, stop: stop.clone() }
    }

    /// Narrows to objects with these labels.
    pub(crate) fn labels(mut self, labels: &str) -> Self {
        self.config = self.config.labels(labels);
        self
    }

    /// Narrows to objects with these fields.
    pub(crate) fn fields(mut self, fields: &str) -> Self {
        self.config = self.config.fields(fields);
        self
    }

    /// Drops what nobody reads.
    pub(crate) fn trim(mut self, trim: fn(&mut K)) -> Self {
        self.trim = trim;
        self
    }

    /// Watches until stopped; `changed` is called for each object that changed, its old and its
    /// new form, after the cache knows.
    pub(crate) fn spawn(self, changed: impl Fn(&K) + Send + 'static) {
        tokio::spawn(async move {
            let stop = self.stop.clone();
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.run(changed) => {}
            }
        });
    }

    async fn run(self, changed: impl Fn(&K)) {
        let mut failures = Failures::of(&K::kind(&()));
        let mut events = pin!(watcher::watcher(self.api, self.config));
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => {
                    if matches!(event, Event::InitDone | Event::Apply(_)) {
                        failures.none();
                    }
                    for object in self.cache.observe(event.modify(|o| prepare(o, self.trim))) {
                        changed(&object);
                    }
                }
                Err(error) => failures.another(&error).await,
            }
        }
    }
}

/// A server that comes back is noticed within this time.
const LONGEST_WAIT: std::time::Duration = std::time::Duration::from_secs(5);

/// Failures of a watch in a row, told and waited after.
pub(crate) struct Failures {
    kind: String,
    count: u32,
}

impl Failures {
    /// None yet, of a watch of this kind.
    pub(crate) fn of(kind: &str) -> Self {
        Self { kind: kind.to_owned(), count: 0 }
    }

    /// The watch works.
    pub(crate) fn none(&mut self) {
        if self.count > 0 {
            tracing::info!(kind = %self.kind, failures = self.count, "watch works again");
            self.count = 0;
        }
    }

    /// The watch has failed; waits until it may be tried again.
    pub(crate) async fn another(&mut self, error: &watcher::Error) {
        self.count += 1;
        // One warning a failure in a row would drown what matters.
        if self.count.is_power_of_two() {
            let (kind, failures, error) = (&self.kind, self.count, causes(error));
            tracing::warn!(%kind, failures, %error, "watch failed; trying again");
        }
        tokio::time::sleep(backoff(self.count).min(LONGEST_WAIT)).await;
    }
}

fn prepare<K: Resource>(object: &mut K, trim: fn(&mut K)) {
    object.meta_mut().managed_fields = None;
    trim(object);
}
