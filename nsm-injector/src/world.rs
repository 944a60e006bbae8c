//! What the webhook knows about its cluster: slices and namespaces, kept current by watches.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::Namespace;
use kube::core::PartialObjectMeta;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, ResourceExt};
use slicewire_api::{Slice, convert};
use slicewire_core::admission::{SliceRules, onboarded};
use slicewire_core::selector::Labels;
use slicewire_runtime::ReadyGuard;
use tokio::sync::watch;

/// A snapshot that is replaced piece by piece as events come in.
#[derive(Default)]
struct State {
    /// `None` until listed once.
    slices: Option<Vec<SliceRules>>,
    /// `None` until listed once.
    namespaces: Option<BTreeMap<String, Labels>>,
}

/// The cluster as the webhook knows it; cheap to clone.
#[derive(Clone)]
pub(crate) struct World {
    state: Arc<RwLock<State>>,
    onboarded: watch::Sender<Option<Vec<String>>>,
}

impl World {
    /// Knows nothing yet.
    pub(crate) fn new() -> Self {
        Self { state: Arc::default(), onboarded: watch::Sender::new(None) }
    }

    /// The slices, and the labels of one namespace; none for a namespace not heard of yet.
    pub(crate) fn of(&self, namespace: &str) -> (Vec<SliceRules>, Labels) {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let labels = state.namespaces.as_ref().and_then(|n| n.get(namespace)).cloned();
        (state.slices.clone().unwrap_or_default(), labels.unwrap_or_default())
    }

    /// Tells when the onboarded namespaces change; `None` until everything was listed once.
    pub(crate) fn onboarded(&self) -> watch::Receiver<Option<Vec<String>>> {
        self.onboarded.subscribe()
    }

    /// Follows Slices for ever.
    pub(crate) async fn follow_slices(self, client: Client, ready: ReadyGuard) {
        let events = watcher(Api::<Slice>::all(client), watcher::Config::default());
        self.follow(events, ready, slice_rules, |state, slices: &BTreeMap<String, SliceRules>| {
            state.slices = Some(slices.values().cloned().collect());
        })
        .await;
    }

    /// Follows the labels of namespaces for ever.
    pub(crate) async fn follow_namespaces(self, client: Client, ready: ReadyGuard) {
        let events =
            watcher(Api::<PartialObjectMeta<Namespace>>::all(client), watcher::Config::default());
        let labels = |n: &PartialObjectMeta<Namespace>| Some(n.labels().clone());
        self.follow(events, ready, labels, |state, namespaces: &BTreeMap<String, Labels>| {
            state.namespaces = Some(namespaces.clone());
        })
        .await;
    }

    /// Keeps a map of what `keep` makes of the objects, and stores it after each change.
    async fn follow<K, V>(
        &self,
        events: impl Stream<Item = watcher::Result<Event<K>>>,
        ready: ReadyGuard,
        keep: impl Fn(&K) -> Option<V>,
        store: impl Fn(&mut State, &BTreeMap<String, V>),
    ) where
        K: kube::Resource,
    {
        let mut ready = Some(ready);
        let mut known = BTreeMap::new();
        let mut coming = BTreeMap::new();
        let put = |map: &mut BTreeMap<String, V>, object: &K| {
            match keep(object) {
                Some(value) => map.insert(object.name_any(), value),
                None => map.remove(&object.name_any()),
            };
        };
        let mut events = std::pin::pin!(events.default_backoff());
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Init) => {
                    coming.clear();
                    continue;
                }
                Ok(Event::InitApply(object)) => {
                    put(&mut coming, &object);
                    continue;
                }
                Ok(Event::InitDone) => known = std::mem::take(&mut coming),
                Ok(Event::Apply(object)) => put(&mut known, &object),
                Ok(Event::Delete(object)) => {
                    known.remove(&object.name_any());
                }
                Err(error) => {
                    tracing::warn!(%error, "watch failed; trying again");
                    continue;
                }
            }
            self.update(|state| store(state, &known));
            ready = None;
        }
        drop(ready);
    }

    fn update(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        change(&mut state);
        let (Some(slices), Some(namespaces)) = (&state.slices, &state.namespaces) else { return };
        let namespaces = namespaces.iter().map(|(name, labels)| (name.as_str(), labels));
        let new = Some(onboarded(namespaces, slices));
        self.onboarded.send_if_modified(|old| {
            let changed = *old != new;
            *old = new;
            changed
        });
    }
}

/// A slice to wait for; none where it is on its way out, as no NIC would come any more.
fn slice_rules(slice: &Slice) -> Option<SliceRules> {
    if slice.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let name = slice.name_any();
    match convert::rules("spec.namespaces", &slice.spec.namespaces, None) {
        Ok(rules) => Some(SliceRules { name, rules }),
        Err(faults) => {
            let faults = slicewire_core::violation::summary(&faults);
            tracing::warn!(
                slice = name,
                faults,
                "slice's rules cannot be read; pods do not wait for it"
            );
            None
        }
    }
}
