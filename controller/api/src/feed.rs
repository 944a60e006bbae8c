//! Objects of one kind as they are, and what became of them lately.
//!
//! One watch of the API server fills a feed; every list and every watcher of the API reads it. A
//! watcher holds nothing but its place in the history, so none can slow another or make the hub
//! keep more: who is further behind than the history reaches starts over.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;

use crate::kind::{Kind, message};
use crate::past::Past;

/// Namespace (empty for kinds without) and name.
pub type Key = (String, String);

/// Steps of a kind's history that are kept: how far a slow watcher may fall behind.
const HISTORY: usize = 1024;
/// How long a read waits to see what was written before.
const LONGEST_WAIT: Duration = Duration::from_millis(500);

/// An object at one of its versions.
#[derive(Debug)]
pub struct Item<M> {
    /// Where it is.
    pub key: Key,
    /// Its resource version.
    pub version: u64,
    /// What is sent.
    pub message: M,
    json: OnceLock<Value>,
}

impl<M: serde::Serialize> Item<M> {
    pub(crate) fn new(key: Key, version: u64, message: M) -> Self {
        Self { key, version, message, json: OnceLock::new() }
    }

    /// The message as filters see it.
    pub fn json(&self) -> &Value {
        self.json.get_or_init(|| serde_json::to_value(&self.message).unwrap_or(Value::Null))
    }
}

/// A change of one object. At least one of its forms is there.
#[derive(Debug)]
pub struct Step<M> {
    /// Before; nothing: it was made.
    pub before: Option<Arc<Item<M>>>,
    /// After; nothing: it is gone.
    pub after: Option<Arc<Item<M>>>,
    /// Everything up to this version is told when this is told.
    pub version: u64,
}

/// What the API server's watch says of an object.
#[derive(Debug, Clone)]
pub struct Seen<K> {
    /// Where it is.
    pub key: Key,
    /// Its resource version, of a deletion that of the deletion; 0 when it is not known.
    pub version: u64,
    /// Its new form; nothing: it is gone.
    pub object: Option<Arc<K>>,
}

/// Objects of one kind and their history.
pub struct Feed<K: Kind> {
    state: RwLock<State<K::Message>>,
    moved: watch::Sender<u64>,
    /// The newest version that was written through the API.
    written: AtomicU64,
    pub(crate) past: tokio::sync::Mutex<Past<K::Message>>,
    /// Names this history: the versions of another say nothing here.
    pub history: u64,
}

struct State<M> {
    items: BTreeMap<Key, Arc<Item<M>>>,
    steps: VecDeque<Arc<Step<M>>>,
    /// Number of the step behind the last.
    next: u64,
    /// Everything up to here is in `items`.
    version: u64,
    synced: bool,
}

/// A place in a feed's history is gone, or was never there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gone;

impl<K: Kind> Feed<K> {
    /// An empty feed; `history` is a number no other feed has or had.
    pub fn new(history: u64) -> Self {
        let state = State {
            items: BTreeMap::new(),
            steps: VecDeque::new(),
            next: 0,
            version: 0,
            synced: false,
        };
        Self {
            state: RwLock::new(state),
            moved: watch::Sender::new(0),
            written: AtomicU64::new(0),
            past: tokio::sync::Mutex::default(),
            history,
        }
    }

    /// Takes in what changed at once: one change, or all differences after a list.
    pub fn observe(&self, seen: Vec<Seen<K::Object>>, whole: bool) {
        let mut changes: Vec<(Key, u64, Option<K::Message>)> = seen
            .into_iter()
            .map(|s| (s.key, s.version, s.object.and_then(|o| message::<K>(&o))))
            .collect();
        // Gone ones first, told under the version before, then the others as they were written: so
        // a place between two of them stands for all that was written up to it.
        changes.sort_by_key(|(_, version, message)| (message.is_some(), *version));
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let first = whole && !state.synced;
        for (key, version, message) in changes {
            state.take_in(key, version, message, first);
        }
        state.synced |= whole;
        let next = state.next;
        drop(state);
        self.moved.send_replace(next);
    }

    /// Whether the first list has come in.
    pub fn is_synced(&self) -> bool {
        self.read().synced
    }

    /// An object.
    pub fn get(&self, key: &Key) -> Option<Arc<Item<K::Message>>> {
        self.read().items.get(key).cloned()
    }

    /// How many objects there are.
    pub fn count(&self) -> usize {
        self.read().items.len()
    }

    /// Up to `most` objects behind `after` that are wanted, of one namespace or (`None`) of all.
    pub fn list(
        &self,
        namespace: Option<&str>,
        after: Option<&Key>,
        most: usize,
        wanted: impl Fn(&Item<K::Message>) -> bool,
    ) -> Vec<Arc<Item<K::Message>>> {
        use std::ops::Bound::{Excluded, Included, Unbounded};
        let first = (namespace.unwrap_or_default().to_owned(), String::new());
        let from = match after.filter(|a| **a >= first) {
            Some(after) => Excluded(after.clone()),
            None => Included(first),
        };
        // Cloned out first: a filter takes its time, and nobody waits for it with the lock held.
        let all: Vec<_> = self
            .read()
            .items
            .range((from, Unbounded))
            .take_while(|((ns, _), _)| namespace.is_none_or(|wanted| wanted == ns))
            .map(|(_, item)| item.clone())
            .collect();
        all.into_iter().filter(|i| wanted(i)).take(most).collect()
    }

    /// Everything of a namespace (`None`: of all), the number of the next step, and the version.
    pub fn snapshot(&self, namespace: Option<&str>) -> (Vec<Arc<Item<K::Message>>>, u64, u64) {
        let state = self.read();
        let first = (namespace.unwrap_or_default().to_owned(), String::new());
        let items = state.items.range(first..);
        let items = items.take_while(|((ns, _), _)| namespace.is_none_or(|wanted| wanted == ns));
        (items.map(|(_, i)| i.clone()).collect(), state.next, state.version)
    }

    /// The steps from number `from` on.
    ///
    /// # Errors
    /// They are not kept any more.
    pub fn steps(&self, from: u64, most: usize) -> Result<Vec<Arc<Step<K::Message>>>, Gone> {
        let state = self.read();
        let oldest = state.oldest();
        if from < oldest || from > state.next {
            return Err(Gone);
        }
        let skip = usize::try_from(from - oldest).map_err(|_| Gone)?;
        Ok(state.steps.iter().skip(skip).take(most).cloned().collect())
    }

    /// Tells the number of the next step, whenever it moves.
    pub fn moves(&self) -> watch::Receiver<u64> {
        self.moved.subscribe()
    }

    /// A write of this version was made: reads that follow see it.
    pub fn wrote(&self, version: u64) {
        self.written.fetch_max(version, Ordering::Relaxed);
    }

    /// Waits until everything that was written through the API is in the feed, a little while.
    pub async fn caught_up(&self) {
        let written = self.written.load(Ordering::Relaxed);
        if self.version() >= written {
            return;
        }
        let mut moves = self.moves();
        let caught_up =
            async { while self.version() < written && moves.changed().await.is_ok() {} };
        // Later is better than never: the watch may be down.
        let _ = tokio::time::timeout(LONGEST_WAIT, caught_up).await;
    }

    /// Everything up to here is in the feed.
    pub fn version(&self) -> u64 {
        self.read().version
    }

    fn read(&self) -> RwLockReadGuard<'_, State<K::Message>> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<M: serde::Serialize> State<M> {
    fn oldest(&self) -> u64 {
        self.next - u64::try_from(self.steps.len()).unwrap_or(0)
    }

    fn take_in(&mut self, key: Key, version: u64, message: Option<M>, first: bool) {
        let before = self.items.get(&key).cloned();
        let same = match (&before, &message) {
            (Some(before), Some(_)) => before.version >= version,
            (None, None) => true,
            _ => false,
        };
        if same {
            self.version = self.version.max(version);
            return;
        }
        let after = message.map(|m| Arc::new(Item::new(key.clone(), version, m)));
        match &after {
            Some(item) => self.items.insert(key, item.clone()),
            None => self.items.remove(&key),
        };
        self.version = self.version.max(version);
        if first {
            return;
        }
        self.steps.push_back(Arc::new(Step { before, after, version: self.version }));
        self.next += 1;
        if self.steps.len() > HISTORY {
            self.steps.pop_front();
        }
    }
}

#[cfg(test)]
mod tests;
