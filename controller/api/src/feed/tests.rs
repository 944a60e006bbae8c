use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::kinds::Slice;

const NS: &str = "slicewire-demo";

fn seen(name: &str, version: u64, there: bool) -> Seen<slicewire_api::SliceConfig> {
    let object = there.then(|| {
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": NS, "resourceVersion": version.to_string()},
            "spec": {"prefixes": [], "clusters": []},
        }))
        .unwrap()
    });
    Seen { key: (NS.to_owned(), name.to_owned()), version, object: object.map(Arc::new) }
}

fn feed() -> Feed<Slice> {
    let feed = Feed::new(1);
    feed.observe(vec![seen("b", 20, true), seen("a", 30, true)], true);
    feed
}

fn names(feed: &Feed<Slice>) -> Vec<String> {
    feed.snapshot(None).0.iter().map(|i| i.key.1.clone()).collect()
}

/// What the steps from a number on say: name, version after, version told.
fn told(feed: &Feed<Slice>, from: u64) -> Vec<(String, Option<u64>, u64)> {
    let steps = feed.steps(from, 100).unwrap();
    let name = |s: &Step<_>| s.after.as_ref().or(s.before.as_ref()).map(|i| i.key.1.clone());
    steps
        .iter()
        .map(|s| (name(s).unwrap(), s.after.as_ref().map(|i| i.version), s.version))
        .collect()
}

#[test]
fn the_first_list_is_no_history() {
    let feed = feed();
    assert!(feed.is_synced());
    assert_eq!((names(&feed), feed.version()), (vec!["a".to_owned(), "b".to_owned()], 30));
    assert_eq!(told(&feed, 0), []);
}

#[test]
fn changes_are_steps() {
    let feed = feed();
    feed.observe(vec![seen("c", 40, true)], false);
    feed.observe(vec![seen("b", 41, false)], false);
    feed.observe(vec![seen("c", 40, true)], false);
    let (c, b) = (("c".to_owned(), Some(40), 40), ("b".to_owned(), None, 41));
    assert_eq!(told(&feed, 0), [c, b.clone()]);
    assert_eq!(told(&feed, 1), [b]);
    assert_eq!(names(&feed), ["a", "c"]);
}

#[test]
fn a_list_tells_what_was_missed_in_the_order_it_was_written() {
    let feed = feed();
    feed.observe(vec![seen("z", 60, true), seen("a", 50, true), seen("b", 0, false)], true);
    let expected = [
        ("b".to_owned(), None, 30),
        ("a".to_owned(), Some(50), 50),
        ("z".to_owned(), Some(60), 60),
    ];
    assert_eq!(told(&feed, 0), expected);
}

#[test]
fn copies_in_other_namespaces_are_not_the_apis() {
    let feed = feed();
    let mut copy = seen("x", 70, true);
    let mut object = (*copy.object.take().unwrap()).clone();
    object.metadata.namespace = Some("slicewire-demo--east".into());
    copy.key.0 = "slicewire-demo--east".into();
    copy.object = Some(Arc::new(object));
    feed.observe(vec![copy], false);
    assert_eq!(names(&feed), ["a", "b"]);
    assert_eq!(told(&feed, 0), []);
}

#[test]
fn who_is_too_far_behind_is_told_so() {
    let feed = feed();
    let history = u64::try_from(HISTORY).unwrap();
    for i in 0..history {
        feed.observe(vec![seen("a", 100 + i, true)], false);
    }
    assert!(feed.steps(0, 1).is_ok());
    feed.observe(vec![seen("a", 100 + history, true)], false);
    assert!(matches!(feed.steps(0, 1), Err(Gone)));
    assert!(feed.steps(1, 1).is_ok());
    assert!(matches!(feed.steps(history + 2, 1), Err(Gone)), "the future is not known");
}

#[test]
fn pages_follow_each_other() {
    let feed = feed();
    let page = |after: Option<&str>| -> Vec<String> {
        let after = after.map(|a| (NS.to_owned(), a.to_owned()));
        let items = feed.list(Some(NS), after.as_ref(), 1, |_| true);
        items.iter().map(|i| i.key.1.clone()).collect()
    };
    assert_eq!(page(None), ["a"]);
    assert_eq!(page(Some("a")), ["b"]);
    assert!(page(Some("b")).is_empty());
    assert!(feed.list(Some("slicewire-d"), None, 9, |_| true).is_empty());
    // A token of the place before says nothing here.
    let before = ("a".to_owned(), "z".to_owned());
    assert_eq!(feed.list(Some(NS), Some(&before), 9, |_| true).len(), 2);
}

#[tokio::test]
async fn a_read_waits_for_what_was_written() {
    let feed = Arc::new(feed());
    feed.wrote(90);
    let late = feed.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(50)).await;
        late.observe(vec![seen("c", 90, true)], false);
    });
    feed.caught_up().await;
    assert_eq!(names(&feed), ["a", "b", "c"]);
}

proptest! {
    /// Who takes a snapshot at any time and follows the steps knows what the feed knows.
    #[test]
    fn a_snapshot_and_its_steps_are_the_state(
        ops in prop::collection::vec((0..5u8, any::<bool>(), any::<bool>()), 1..60),
        at in 0..60usize,
    ) {
        let feed = feed();
        let mut known = None;
        for (version, (i, (name, there, relist))) in (101..).zip(ops.iter().enumerate()) {
            if i == at.min(ops.len() - 1) {
                let (items, next, _) = feed.snapshot(None);
                let items: BTreeMap<Key, u64> = items.iter().map(|i| (i.key.clone(), i.version)).collect();
                known = Some((items, next));
            }
            let change = seen(&name.to_string(), if *there || !*relist { version } else { 0 }, *there);
            feed.observe(vec![change], *relist);
        }
        let (mut items, next) = known.unwrap();
        let mut last = 0;
        for step in feed.steps(next, 1000).unwrap() {
            prop_assert!(step.version >= last, "versions told only grow");
            last = step.version;
            match (&step.after, &step.before) {
                (Some(item), _) => items.insert(item.key.clone(), item.version),
                (None, Some(item)) => items.remove(&item.key),
                (None, None) => None,
            };
        }
        let now: BTreeMap<Key, u64> =
            feed.snapshot(None).0.iter().map(|i| (i.key.clone(), i.version)).collect();
        prop_assert_eq!(items, now);
    }
}
