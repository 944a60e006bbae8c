//! Changes to Kubernetes objects as plain values: what plans are made of.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::core::ApiResource;
use kube::{Resource, ResourceExt};
use serde::Serialize;
use serde_json::{Value, json};

/// One request to the API server.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Change {
    /// What kind of object.
    pub(crate) resource: ApiResource,
    /// Its namespace; none for cluster-scoped ones.
    pub(crate) namespace: Option<String>,
    /// Its name.
    pub(crate) name: String,
    /// What is done to it.
    pub(crate) verb: Verb,
}

/// What is done to an object.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Verb {
    /// Server-side apply of the fields we own.
    Apply(Value),
    /// Creation; it is an error when somebody else made it before.
    Create(Value),
    /// Merge patch; nothing happens when the object is gone.
    Merge(Value),
    /// Merge patch of the status; nothing happens when the object is gone.
    MergeStatus(Value),
    /// Deletion; nothing happens when it is gone already.
    Delete,
}

/// Changes in steps: those of a step run side by side, a step runs when the one before went well.
pub(crate) type Steps = Vec<Vec<Change>>;

impl Change {
    fn of<K: Resource<DynamicType = ()>>(object: &K, verb: Verb) -> Self {
        Self {
            resource: ApiResource::erase::<K>(&()),
            namespace: object.namespace(),
            name: object.name_any(),
            verb,
        }
    }

    /// Makes the object, or makes what of it we own so.
    pub(crate) fn apply<K: Resource<DynamicType = ()> + Serialize>(desired: &K) -> Self {
        Self::of(desired, Verb::Apply(to_value(desired)))
    }

    /// Makes the object, or makes it so when it is not; `None` when there is nothing to do.
    pub(crate) fn converge<K: Resource<DynamicType = ()> + Serialize>(
        desired: &K,
        observed: Option<&K>,
    ) -> Option<Self> {
        let settled = observed.is_some_and(|observed| {
            let (desired_value, observed_value) = (to_value(desired), to_value(observed));
            // Nobody but us writes the specs of our kinds: what is too much there is wrong, too.
            let exact = K::group(&()) == slicewire_api::GROUP;
            covers(&observed_value, &desired_value)
                && (!exact || observed_value.get("spec") == desired_value.get("spec"))
        });
        (!settled).then(|| Self::apply(desired))
    }

    /// Makes the object; an object of that name that we do not know is somebody else's.
    pub(crate) fn create<K: Resource<DynamicType = ()> + Serialize>(desired: &K) -> Self {
        Self::of(desired, Verb::Create(to_value(desired)))
    }

    /// Deletes the object unless it is on its way out.
    pub(crate) fn delete<K: Resource<DynamicType = ()>>(observed: &K) -> Option<Self> {
        observed.meta().deletion_timestamp.is_none().then(|| Self::of(observed, Verb::Delete))
    }

    /// Writes part of a spec.
    pub(crate) fn merge<K: Resource<DynamicType = ()>>(observed: &K, patch: Value) -> Self {
        Self::of(observed, Verb::Merge(patch))
    }

    /// Writes the status, provided that nobody wrote the object since it was observed.
    pub(crate) fn status<K: Resource<DynamicType = ()> + Serialize, S: Serialize>(
        observed: &K,
        status: &S,
    ) -> Self {
        let version = observed.resource_version();
        let before = to_value(observed);
        let status = whole(to_value(status), before.get("status").unwrap_or(&Value::Null));
        let patch = json!({"metadata": {"resourceVersion": version}, "status": status});
        Self::of(observed, Verb::MergeStatus(patch))
    }

    /// Adds a finalizer, if it is not there and the object is not on its way out.
    pub(crate) fn hold<K: Resource<DynamicType = ()>>(
        observed: &K,
        finalizer: &str,
    ) -> Option<Self> {
        if observed.finalizers().iter().any(|f| f == finalizer)
            || observed.meta().deletion_timestamp.is_some()
        {
            return None;
        }
        let list = observed.finalizers().iter().map(String::as_str).chain([finalizer]);
        Some(Self::finalizers(observed, list.collect()))
    }

    /// Removes a finalizer, if it is there.
    pub(crate) fn release<K: Resource<DynamicType = ()>>(
        observed: &K,
        finalizer: &str,
    ) -> Option<Self> {
        if !observed.finalizers().iter().any(|f| f == finalizer) {
            return None;
        }
        let rest = observed.finalizers().iter().map(String::as_str).filter(|f| *f != finalizer);
        Some(Self::finalizers(observed, rest.collect()))
    }

    fn finalizers<K: Resource<DynamicType = ()>>(observed: &K, list: Vec<&str>) -> Self {
        let meta = json!({"finalizers": list, "resourceVersion": observed.resource_version()});
        Self::of(observed, Verb::Merge(json!({"metadata": meta})))
    }
}

/// An owner reference to `owner`, which garbage collection follows.
pub(crate) fn owned_by<K: Resource<DynamicType = ()>>(owner: &K) -> Option<OwnerReference> {
    owner.controller_owner_ref(&())
}

/// Whether everything `desired` says is so in `observed`; what it does not mention may differ.
pub(crate) fn covers(observed: &Value, desired: &Value) -> bool {
    match (observed, desired) {
        (_, Value::Null) => true,
        (Value::Object(observed), Value::Object(desired)) => {
            desired.iter().all(|(key, value)| match observed.get(key) {
                Some(old) => covers(old, value),
                None => is_empty(value),
            })
        }
        (Value::Array(observed), Value::Array(desired)) => {
            observed.len() == desired.len()
                && observed.iter().zip(desired).all(|(old, new)| covers(old, new))
        }
        (observed, desired) => observed == desired,
    }
}

/// API servers leave empty values out.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(map) => map.values().all(is_empty),
        Value::Array(list) => list.is_empty(),
        _ => false,
    }
}

/// A merge patch keeps what it does not mention: fields that were there and are gone have to be said
/// to be null, at every depth.
fn whole(mut status: Value, before: &Value) -> Value {
    if let (Value::Object(now), Value::Object(before)) = (&mut status, before) {
        for (key, before) in before {
            let value = now.remove(key).map_or(Value::Null, |now| whole(now, before));
            now.insert(key.clone(), value);
        }
    }
    status
}

fn to_value(object: &impl Serialize) -> Value {
    // Our types serialise to JSON always: maps have string keys and nothing fails on its own.
    serde_json::to_value(object).unwrap_or(Value::Null)
}

#[cfg(test)]
mod tests {
    use slicewire_api::{Slice, SliceSpec};

    use super::*;

    fn slice(pools: &[&str]) -> Slice {
        let pools = pools.iter().map(|p| (*p).to_owned()).collect();
        Slice::new("blue", SliceSpec { pools, ..SliceSpec::default() })
    }

    #[test]
    fn a_subset_is_covered_and_a_difference_is_not() {
        let observed = json!({"a": {"b": 1, "c": [{"d": 1, "e": 2}]}, "f": "x"});
        for (desired, covered) in [
            (json!({"a": {"c": [{"d": 1}]}}), true),
            (json!({"g": null, "h": [], "i": {"j": {}}}), true),
            (json!({"a": {"b": 2}}), false),
            (json!({"a": {"c": []}}), false),
            (json!({"g": 1}), false),
        ] {
            assert_eq!(covers(&observed, &desired), covered, "{desired}");
        }
    }

    #[test]
    fn a_status_takes_away_what_is_gone() {
        let before = json!({"a": 1, "b": {"c": 2, "d": {"e": 3}}, "f": [{"g": 1}]});
        let now = json!({"b": {"d": {"h": 4}}, "f": [{}]});
        let wanted = json!({"a": null, "b": {"c": null, "d": {"e": null, "h": 4}}, "f": [{}]});
        assert_eq!(whole(now, &before), wanted);
        assert_eq!(whole(json!({"a": 1}), &Value::Null), json!({"a": 1}));
    }

    #[test]
    fn our_own_specs_are_compared_whole() {
        let desired = slice(&["10.0.0.0/24"]);
        let mut observed = desired.clone();
        observed.metadata.labels = Some([("a".to_owned(), "b".to_owned())].into());
        assert_eq!(Change::converge(&desired, Some(&observed)), None);
        observed.spec.remotes.push(slicewire_api::RemoteCluster::default());
        assert!(Change::converge(&desired, Some(&observed)).is_some());
    }

    #[test]
    fn finalizers_are_added_and_removed_once_and_others_are_kept() {
        let mut object = slice(&[]);
        object.metadata.finalizers = Some(vec!["other".into()]);
        let Some(Change { verb: Verb::Merge(patch), .. }) = Change::hold(&object, "ours") else {
            panic!("a merge patch was expected");
        };
        assert_eq!(patch["metadata"]["finalizers"], json!(["other", "ours"]));
        assert_eq!(Change::release(&object, "ours"), None);
        object.metadata.finalizers = Some(vec!["other".into(), "ours".into()]);
        assert_eq!(Change::hold(&object, "ours"), None);
        let Some(Change { verb: Verb::Merge(patch), .. }) = Change::release(&object, "ours") else {
            panic!("a merge patch was expected");
        };
        assert_eq!(patch["metadata"]["finalizers"], json!(["other"]));
    }
}
