//! Events, for the API alone: what happened elsewhere than in projects is not kept.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::Arc;

use futures::StreamExt;
use k8s_openapi::api::events::v1::Event as Object;
use kube::runtime::watcher::{self, Event as News};
use kube::{Api, Client, ResourceExt};
use slicewire_hub_api::feed::{Feed, Seen};
use slicewire_hub_api::kind::project_of;
use slicewire_hub_api::live::Event;
use tokio_util::sync::CancellationToken;

use crate::kubernetes::watch::Failures;

/// Most Events that are kept. Kubernetes forgets them after an hour; whoever may make some is not to fill
/// the hub.
const MOST: usize = 20_000;

/// Lets the API hear what happens, until `stop`.
pub(super) fn hear(client: &Client, feed: &Arc<Feed<Event>>, stop: &CancellationToken) {
    let (all, feed, stop) = (Api::all(client.clone()), feed.clone(), stop.clone());
    tokio::spawn(async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = run(all, &feed) => {}
        }
    });
}

async fn run(all: Api<Object>, feed: &Feed<Event>) {
    let (mut failures, mut listed) = (Failures::of("Event"), Vec::new());
    let mut news = pin!(watcher::watcher(all, watcher::Config::default()));
    while let Some(event) = news.next().await {
        match event {
            Ok(event) => {
                if matches!(event, News::InitDone | News::Apply(_)) {
                    failures.none();
                }
                take(event, &mut listed, feed, MOST);
            }
            Err(error) => failures.another(&error).await,
        }
    }
}

/// Takes in a word of the watch; `listed` is what has come of a list under way. New Events are left out
/// where there are `most`.
fn take(news: News<Object>, listed: &mut Vec<Seen<Object>>, feed: &Feed<Event>, most: usize) {
    match news {
        News::Init => listed.clear(),
        News::InitApply(object) if listed.len() < most => listed.extend(seen(object, true)),
        News::InitApply(_) => {}
        News::InitDone => {
            let there: BTreeSet<_> = listed.iter().map(|s| s.key.clone()).collect();
            let before = feed.snapshot(None).0.into_iter().map(|item| item.key.clone());
            let gone = before.filter(|key| !there.contains(key));
            let gone = gone.map(|key| Seen { key, version: 0, object: None });
            let all = std::mem::take(listed).into_iter().chain(gone);
            feed.observe(all.collect(), true);
        }
        News::Apply(object) => {
            let room = |s: &Seen<Object>| feed.count() < most || feed.get(&s.key).is_some();
            feed.observe(seen(object, true).into_iter().filter(room).collect(), false);
        }
        News::Delete(object) => feed.observe(seen(object, false).into_iter().collect(), false),
    }
}

/// What is seen of an Event of a project; nothing of others.
fn seen(object: Object, there: bool) -> Option<Seen<Object>> {
    let namespace = object.namespace().unwrap_or_default();
    project_of(&namespace)?;
    let version = object.resource_version().and_then(|v| v.parse().ok()).unwrap_or(0);
    let key = (namespace, object.name_any());
    Some(Seen { key, version, object: there.then(|| Arc::new(object)) })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(namespace: &str, name: &str, version: u64) -> Object {
        let object = json!({
            "metadata": {"namespace": namespace, "name": name, "resourceVersion": version.to_string()},
            "eventTime": null, "reason": "Moved",
        });
        serde_json::from_value(object).unwrap()
    }

    fn told(feed: &Feed<Event>) -> Vec<(String, bool)> {
        let steps = feed.steps(0, 100).unwrap();
        let name = |i: &Arc<slicewire_hub_api::feed::Item<_>>| i.key.1.clone();
        let of =
            |s: &slicewire_hub_api::feed::Step<_>| s.after.as_ref().or(s.before.as_ref()).map(name);
        steps.iter().map(|s| (of(s).unwrap(), s.after.is_some())).collect()
    }

    #[test]
    fn lists_and_changes_are_of_projects_alone_and_a_new_list_tells_what_is_gone() {
        let (feed, mut listed) = (Feed::new(1), Vec::new());
        let mut hear = |news| take(news, &mut listed, &feed, MOST);
        hear(News::Init);
        hear(News::InitApply(object("slicewire-demo", "first", 1)));
        hear(News::InitApply(object("kube-system", "other", 2)));
        assert!(!feed.is_synced());
        hear(News::InitDone);
        hear(News::Apply(object("slicewire-demo", "second", 3)));
        hear(News::Apply(object("kube-system", "other", 4)));
        hear(News::Apply(object("slicewire-demo", "first", 5)));
        hear(News::Delete(object("slicewire-demo", "first", 6)));
        hear(News::Init);
        hear(News::InitApply(object("slicewire-demo", "third", 7)));
        hear(News::InitDone);
        assert!(feed.is_synced());
        let expected = [
            ("second", true),
            ("first", true),
            ("first", false),
            ("second", false),
            ("third", true),
        ];
        assert_eq!(told(&feed), expected.map(|(name, there)| (name.to_owned(), there)));
    }

    #[test]
    fn of_more_than_can_be_kept_the_known_ones_go_on() {
        let (feed, mut listed) = (Feed::new(1), Vec::new());
        let mut hear = |news| take(news, &mut listed, &feed, 2);
        hear(News::Init);
        for name in ["first", "second", "third"] {
            hear(News::InitApply(object("slicewire-demo", name, 1)));
        }
        hear(News::InitDone);
        hear(News::Apply(object("slicewire-demo", "fourth", 2)));
        hear(News::Apply(object("slicewire-demo", "first", 3)));
        hear(News::Delete(object("slicewire-demo", "second", 4)));
        hear(News::Apply(object("slicewire-demo", "fifth", 5)));
        let expected = [("first", true), ("second", false), ("fifth", true)];
        assert_eq!(told(&feed), expected.map(|(name, there)| (name.to_owned(), there)));
        assert_eq!(feed.count(), 2);
    }
}
