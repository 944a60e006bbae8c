//! What happened before this process: how a watch goes on that began at another one.
//!
//! What was made and changed since is told by the objects themselves, which carry the version of their
//! last write. What is gone since nobody here has seen; the API server's own history tells it, for
//! as long as that reaches (minutes).

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::{Api, Client, Resource, ResourceExt};

use crate::feed::{Feed, Gone, Item};
use crate::kind::{Kind, message};

/// Seconds the API server is asked to tell its history. Two seconds before the end it says how far it
/// has told, if nothing that happened says so.
const TELLING: u32 = 4;
/// Longest wait for the whole of it.
const LONGEST: Duration = Duration::from_secs(8);
/// How often it is asked, of each kind: who comes with a still older place starts over.
const TRIES: u8 = 3;

/// Objects of one kind that are gone, as far as somebody has asked.
pub(crate) struct Past<M> {
    /// From this version on, what is gone is known.
    from: Option<u64>,
    /// From this step on, the feed knows it itself.
    until: u64,
    gone: Vec<Arc<Item<M>>>,
    tries: u8,
}

impl<M> Default for Past<M> {
    fn default() -> Self {
        Self { from: None, until: 0, gone: Vec::new(), tries: 0 }
    }
}

impl<K: Kind> Feed<K> {
    /// What is gone that was there at `version`, in whatever process that was told.
    ///
    /// # Errors
    /// It is not known any more.
    pub(crate) async fn gone_since(
        &self,
        client: &Client,
        version: u64,
    ) -> Result<Items<K::Message>, Gone> {
        // One asks, the others wait for the answer: after a restart all come at once.
        let mut past = self.past.lock().await;
        if past.from.is_none_or(|from| version < from) {
            if past.tries >= TRIES {
                return Err(Gone);
            }
            past.tries += 1;
            let until = self.snapshot(None).1;
            let gone = tokio::time::timeout(LONGEST, read::<K>(client, version)).await;
            past.gone = gone.map_err(|_| Gone)?.ok_or(Gone)?;
            (past.from, past.until) = (Some(version), until);
        }
        let mut gone = self.steps(past.until, usize::MAX)?;
        gone.retain(|step| step.after.is_none());
        let later = gone.iter().filter_map(|step| step.before.clone());
        Ok(past.gone.iter().filter(|i| i.version > version).cloned().chain(later).collect())
    }
}

/// What the API server remembers to be gone since `version`; nothing when it does not remember all.
async fn read<K: Kind>(client: &Client, version: u64) -> Option<Items<K::Message>> {
    let api: Api<K::Object> = Api::all(client.clone());
    // As of now: what is told up to here is enough.
    let now = api.list(&ListParams::default().limit(1)).await.ok()?;
    let now: u64 = now.metadata.resource_version?.parse().ok()?;
    let mut gone = Vec::new();
    if now <= version {
        return Some(gone);
    }
    let how = WatchParams { timeout: Some(TELLING), bookmarks: true, ..WatchParams::default() };
    let mut events = pin!(api.watch(&how, &version.to_string()).await.ok()?);
    while let Some(event) = events.next().await {
        let at = match event.ok()? {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => version_of(&object),
            WatchEvent::Deleted(object) => {
                let at = version_of(&object);
                let key = (object.namespace().unwrap_or_default(), object.name_any());
                gone.extend(message::<K>(&object).map(|m| Arc::new(Item::new(key, at, m))));
                at
            }
            WatchEvent::Bookmark(mark) => mark.metadata.resource_version.parse().unwrap_or(0),
            WatchEvent::Error(_) => return None,
        };
        if at >= now {
            return Some(gone);
        }
    }
    None
}

fn version_of<K: Resource>(object: &K) -> u64 {
    object.resource_version().and_then(|v| v.parse().ok()).unwrap_or(0)
}

/// Objects at their versions.
type Items<M> = Vec<Arc<Item<M>>>;

/// What a watch that goes on from `version` has missed: what is gone, then what was written, in the
/// order of writing.
pub(crate) fn missed<M>(
    items: &[Arc<Item<M>>],
    gone: Items<M>,
    version: u64,
) -> (Items<M>, Items<M>) {
    let there: BTreeSet<_> = items.iter().map(|i| &i.key).collect();
    let mut told = BTreeSet::new();
    let mut removed: Vec<_> = gone.into_iter().filter(|i| !there.contains(&i.key)).collect();
    removed.retain(|i| told.insert(i.key.clone()));
    let mut written: Vec<_> = items.iter().filter(|i| i.version > version).cloned().collect();
    written.sort_by_key(|i| i.version);
    (removed, written)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(name: &str, version: u64) -> Arc<Item<String>> {
        Arc::new(Item::new(("ns".to_owned(), name.to_owned()), version, name.to_owned()))
    }

    fn names(items: &[Arc<Item<String>>]) -> Vec<&str> {
        items.iter().map(|i| i.key.1.as_str()).collect()
    }

    #[test]
    fn what_is_there_again_is_not_told_as_gone_and_the_rest_once() {
        let items = [item("back", 40), item("old", 10), item("new", 30)];
        let gone = vec![item("back", 35), item("lost", 36), item("lost", 20)];
        let (removed, written) = missed(&items, gone, 15);
        assert_eq!(names(&removed), ["lost"]);
        assert_eq!(names(&written), ["new", "back"]);
    }
}
