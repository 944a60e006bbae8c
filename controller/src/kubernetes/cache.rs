//! Objects as a watch saw them last, and as we wrote them since.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use kube::runtime::watcher::Event;
use kube::{Resource, ResourceExt};
use tokio::sync::watch;

/// Namespace (empty for cluster-scoped objects) and name.
pub(crate) type Key = (String, String);

/// How many deletions are remembered, so that an answer to a write that crosses the object's
/// deletion does not bring it back.
const TOMBSTONES: usize = 256;

/// What the watch says of an object: where it is, its version (of a deletion that of the deletion, 0
/// where it is not known), and its new form, if it is still there.
pub(crate) type Seen<K> = (Key, u64, Option<Arc<K>>);

/// Is called with what the watch says, and whether it is a whole list.
type Listener<K> = Box<dyn Fn(Vec<Seen<K>>, bool) + Send + Sync>;

/// Objects of one kind. Clones share the same objects.
pub(crate) struct Cache<K> {
    state: Arc<RwLock<State<K>>>,
    synced: watch::Sender<bool>,
    listener: Arc<OnceLock<Listener<K>>>,
}

struct State<K> {
    objects: BTreeMap<Key, Arc<K>>,
    /// The objects of a list under way.
    listed: Option<BTreeMap<Key, Arc<K>>>,
    gone: VecDeque<(Key, u64)>,
}

impl<K> Clone for Cache<K> {
    fn clone(&self) -> Self {
        Self {
            state: self.state.clone(),
            synced: self.synced.clone(),
            listener: self.listener.clone(),
        }
    }
}

impl<K> Default for Cache<K> {
    fn default() -> Self {
        let state = State { objects: BTreeMap::new(), listed: None, gone: VecDeque::new() };
        Self {
            state: Arc::new(RwLock::new(state)),
            synced: watch::Sender::new(false),
            listener: Arc::default(),
        }
    }
}

impl<K: Resource> Cache<K> {
    /// The object of this name.
    pub(crate) fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.read().objects.get(&(namespace.to_owned(), name.to_owned())).cloned()
    }

    /// All objects, in the order of namespaces and names.
    pub(crate) fn list(&self) -> Vec<Arc<K>> {
        self.read().objects.values().cloned().collect()
    }

    /// All objects of a namespace, in the order of names.
    pub(crate) fn list_in(&self, namespace: &str) -> Vec<Arc<K>> {
        let from = (namespace.to_owned(), String::new());
        self.read()
            .objects
            .range(from..)
            .take_while(|((ns, _), _)| ns == namespace)
            .map(|(_, object)| object.clone())
            .collect()
    }

    /// All objects of this name, in the order of namespaces.
    pub(crate) fn list_named(&self, name: &str) -> Vec<Arc<K>> {
        let all = self.read();
        let named = all.objects.iter().filter(|((_, other), _)| other == name);
        named.map(|(_, object)| object.clone()).collect()
    }

    /// Whether the first list has come in whole.
    pub(crate) fn is_synced(&self) -> bool {
        *self.synced.borrow()
    }

    /// Waits until the first list has come in whole.
    pub(crate) async fn wait_synced(&self) {
        // The sender lives in `self`, so waiting cannot fail.
        let _ = self.synced.subscribe().wait_for(|synced| *synced).await;
    }

    /// Lets somebody hear what the watch says, in its order; what [`Cache::note`] takes in comes by
    /// the watch, too. There is one listener, set before the watch starts.
    pub(crate) fn listen(&self, hear: impl Fn(Vec<Seen<K>>, bool) + Send + Sync + 'static) {
        // A second one would be a fault in the program: it hears nothing.
        let _ = self.listener.set(Box::new(hear));
    }

    fn tell(&self, seen: impl FnOnce() -> Vec<Seen<K>>, whole: bool) {
        if let Some(hear) = self.listener.get() {
            hear(seen(), whole);
        }
    }

    /// Takes in the answer to a write of ours, so that the next decision knows it even when the
    /// watch is late.
    pub(crate) fn note(&self, object: K) {
        let key = key_of(&object);
        let version = version_of(&object);
        let mut state = self.write();
        let buried = state.gone.iter().any(|(k, v)| *k == key && *v >= version);
        let older = state.objects.get(&key).is_some_and(|old| version_of(&**old) >= version);
        if !buried && !older {
            state.objects.insert(key, Arc::new(object));
        }
    }

    /// Takes in a watch event; returns what changed, old and new.
    pub(crate) fn observe(&self, event: Event<K>) -> Vec<Arc<K>> {
        let mut state = self.write();
        match event {
            Event::Init => {
                state.listed = Some(BTreeMap::new());
                Vec::new()
            }
            Event::InitApply(object) => {
                if let Some(listed) = &mut state.listed {
                    listed.insert(key_of(&object), Arc::new(object));
                }
                Vec::new()
            }
            Event::InitDone => self.listed(state),
            Event::Apply(object) => {
                let key = key_of(&object);
                let old = state.objects.get(&key).cloned();
                if old.as_ref().is_some_and(|old| version_of(&**old) > version_of(&object)) {
                    return Vec::new();
                }
                let object = Arc::new(object);
                state.objects.insert(key.clone(), object.clone());
                drop(state);
                self.tell(|| vec![(key, version_of(&*object), Some(object.clone()))], false);
                old.into_iter().chain([object]).collect()
            }
            Event::Delete(object) => {
                let key = key_of(&object);
                let version = version_of(&object);
                state.objects.remove(&key);
                state.gone.push_back((key.clone(), version));
                if state.gone.len() > TOMBSTONES {
                    state.gone.pop_front();
                }
                drop(state);
                self.tell(|| vec![(key, version, None)], false);
                vec![Arc::new(object)]
            }
        }
    }

    /// The list has come in whole: it is what there is.
    fn listed(&self, mut state: RwLockWriteGuard<'_, State<K>>) -> Vec<Arc<K>> {
        let there = state.listed.take().unwrap_or_default();
        let before = std::mem::replace(&mut state.objects, there.clone());
        drop(state);
        let gone: BTreeMap<Key, Arc<K>> =
            before.into_iter().filter(|(key, _)| !there.contains_key(key)).collect();
        let seen = || {
            let gone = gone.keys().map(|key| (key.clone(), 0, None));
            there
                .iter()
                .map(|(k, o)| (k.clone(), version_of(&**o), Some(o.clone())))
                .chain(gone)
                .collect()
        };
        self.tell(seen, true);
        self.synced.send_replace(true);
        there.values().cloned().chain(gone.into_values()).collect()
    }

    fn read(&self) -> RwLockReadGuard<'_, State<K>> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State<K>> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key_of<K: Resource>(object: &K) -> Key {
    (object.namespace().unwrap_or_default(), object.name_any())
}

/// Resource versions of one kind are integers that grow (KEP-5504).
fn version_of<K: Resource>(object: &K) -> u64 {
    object.meta().resource_version.as_deref().and_then(|v| v.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;

    use super::*;

    fn object(name: &str, version: u64) -> ConfigMap {
        let mut object = ConfigMap::default();
        object.metadata.namespace = Some("ns".into());
        object.metadata.name = Some(name.into());
        object.metadata.resource_version = Some(version.to_string());
        object
    }

    fn version(cache: &Cache<ConfigMap>, name: &str) -> Option<u64> {
        cache.get("ns", name).map(|o| version_of(&*o))
    }

    #[test]
    fn a_list_replaces_everything_and_tells_what_vanished() {
        let cache = Cache::default();
        cache.observe(Event::Apply(object("old", 1)));
        for event in [Event::Init, Event::InitApply(object("new", 2))] {
            assert!(cache.observe(event).is_empty());
        }
        assert!(!cache.is_synced());
        let touched = cache.observe(Event::InitDone);
        let names: Vec<_> = touched.iter().map(|o| o.name_any()).collect();
        assert_eq!(names, ["new", "old"]);
        assert!(cache.is_synced());
        assert_eq!((version(&cache, "old"), version(&cache, "new")), (None, Some(2)));
    }

    #[test]
    fn what_we_wrote_is_known_before_the_watch_tells_it_and_old_news_are_dropped() {
        let cache = Cache::default();
        cache.note(object("a", 5));
        assert_eq!(version(&cache, "a"), Some(5));
        assert!(cache.observe(Event::Apply(object("a", 4))).is_empty());
        assert_eq!(version(&cache, "a"), Some(5));
        cache.note(object("a", 4));
        assert_eq!(version(&cache, "a"), Some(5));
    }

    #[test]
    fn a_late_answer_does_not_bring_a_deleted_object_back() {
        let cache = Cache::default();
        cache.observe(Event::Apply(object("a", 5)));
        cache.observe(Event::Delete(object("a", 7)));
        cache.note(object("a", 6));
        assert_eq!(version(&cache, "a"), None);
        cache.note(object("a", 8));
        assert_eq!(version(&cache, "a"), Some(8));
    }

    #[test]
    fn who_listens_hears_the_watch_in_its_order_and_nothing_else() {
        use std::sync::Mutex;
        let cache = Cache::default();
        let heard: Arc<Mutex<Vec<String>>> = Arc::default();
        let ears = heard.clone();
        cache.listen(move |seen: Vec<Seen<_>>, whole| {
            let told = seen.iter().map(|((_, name), version, object)| {
                format!("{name}:{version}:{}", if object.is_some() { "there" } else { "gone" })
            });
            let told: Vec<String> = told.collect();
            ears.lock().unwrap().push(format!("{whole} {}", told.join(" ")));
        });
        cache.observe(Event::Init);
        cache.observe(Event::InitApply(object("a", 1)));
        cache.observe(Event::InitDone);
        cache.note(object("b", 9));
        cache.observe(Event::Apply(object("a", 5)));
        cache.observe(Event::Apply(object("b", 9)));
        cache.observe(Event::Delete(object("a", 11)));
        cache.observe(Event::Init);
        cache.observe(Event::InitApply(object("c", 12)));
        cache.observe(Event::InitDone);
        let expected = [
            "true a:1:there",
            "false a:5:there",
            "false b:9:there",
            "false a:11:gone",
            "true c:12:there b:0:gone",
        ];
        assert_eq!(*heard.lock().unwrap(), expected);
    }

    #[test]
    fn a_namespaces_objects_are_listed_alone() {
        let cache = Cache::default();
        let mut other = object("b", 1);
        other.metadata.namespace = Some("ns2".into());
        cache.note(other);
        cache.note(object("a", 1));
        assert_eq!(cache.list_in("ns").len(), 1);
        assert_eq!(cache.list().len(), 2);
    }
}
