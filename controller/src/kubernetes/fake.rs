//! An API server in memory that carries out changes as the real one does, as far as plans can tell.

use std::collections::BTreeMap;
use std::sync::Arc;

use kube::Resource;
use kube::api::DynamicObject;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::change::{Change, Verb};

/// Kind, namespace, name.
type Key = (String, String, String);

/// Objects by kind, namespace and name.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fake {
    objects: BTreeMap<Key, Value>,
    version: u64,
}

impl Fake {
    /// Stores an object as somebody else would.
    pub(crate) fn put<K: Resource<DynamicType = ()> + Serialize>(&mut self, object: &K) {
        let change = Change::apply(object);
        let status = serde_json::to_value(object).unwrap()["status"].clone();
        let key = key(&change);
        self.carry_out(&change).unwrap();
        if !status.is_null() {
            self.objects.get_mut(&key).unwrap()["status"] = status;
        }
    }

    /// An object in its typed form.
    pub(crate) fn get<K>(&self, namespace: &str, name: &str) -> Option<Arc<K>>
    where
        K: Resource<DynamicType = ()> + DeserializeOwned,
    {
        let key = (K::kind(&()).into_owned(), namespace.to_owned(), name.to_owned());
        self.objects.get(&key).map(|v| Arc::new(serde_json::from_value(v.clone()).unwrap()))
    }

    /// Changes the status of an object, as whoever reports would.
    pub(crate) fn report<K: Resource<DynamicType = ()>>(
        &mut self,
        namespace: &str,
        name: &str,
        status: &impl Serialize,
    ) {
        let key = (K::kind(&()).into_owned(), namespace.to_owned(), name.to_owned());
        let version = self.next();
        let object = self.objects.get_mut(&key).unwrap();
        object["status"] = serde_json::to_value(status).unwrap();
        object["metadata"]["resourceVersion"] = json!(version);
    }

    /// Deletes as `kubectl delete` would.
    pub(crate) fn delete<K: Resource<DynamicType = ()>>(&mut self, namespace: &str, name: &str) {
        self.remove(&(K::kind(&()).into_owned(), namespace.to_owned(), name.to_owned()));
    }

    /// Every object, for a cache.
    pub(crate) fn all(&self) -> Vec<DynamicObject> {
        self.objects.values().map(|v| serde_json::from_value(v.clone()).unwrap()).collect()
    }

    /// What is stored, without what changes at every write.
    pub(crate) fn state(&self) -> BTreeMap<Key, Value> {
        let mut objects = self.objects.clone();
        for object in objects.values_mut() {
            object["metadata"]["resourceVersion"] = Value::Null;
            object["metadata"]["generation"] = Value::Null;
        }
        objects
    }

    /// Carries out a change; a conflict is an error.
    pub(crate) fn carry_out(&mut self, change: &Change) -> Result<(), String> {
        let key = key(change);
        match &change.verb {
            Verb::Apply(body) => self.apply(&key, body),
            Verb::Create(body) => {
                if self.objects.contains_key(&key) {
                    return Err(format!("{key:?} is there"));
                }
                self.apply(&key, body);
            }
            Verb::Merge(patch) | Verb::MergeStatus(patch) => return self.merge(&key, patch),
            Verb::Delete => self.remove(&key),
        }
        Ok(())
    }

    fn apply(&mut self, key: &Key, body: &Value) {
        let version = self.next();
        let object = self
            .objects
            .entry(key.clone())
            .or_insert_with(|| json!({"metadata": {"generation": 1, "uid": format!("{key:?}")}}));
        if object.get("spec") != body.get("spec") && object.get("spec").is_some() {
            let generation = object["metadata"]["generation"].as_i64().unwrap_or(0);
            object["metadata"]["generation"] = json!(generation + 1);
        }
        for (field, value) in body.as_object().unwrap() {
            if field == "metadata" {
                for (field, value) in value.as_object().unwrap() {
                    object["metadata"][field] = value.clone();
                }
            } else if field != "status" {
                object[field] = value.clone();
            }
        }
        object["metadata"]["resourceVersion"] = json!(version);
    }

    fn merge(&mut self, key: &Key, patch: &Value) -> Result<(), String> {
        let version = self.next();
        let Some(object) = self.objects.get_mut(key) else { return Ok(()) };
        let expected = &patch["metadata"]["resourceVersion"];
        if !expected.is_null() && *expected != object["metadata"]["resourceVersion"] {
            return Err(format!("{key:?} was written by somebody else"));
        }
        merge(object, patch);
        object["metadata"]["resourceVersion"] = json!(version);
        let held = object["metadata"]["finalizers"].as_array().is_some_and(|f| !f.is_empty());
        if object["metadata"].get("deletionTimestamp").is_some_and(|t| !t.is_null()) && !held {
            self.objects.remove(key);
        }
        Ok(())
    }

    fn remove(&mut self, key: &Key) {
        let version = self.next();
        let Some(object) = self.objects.get_mut(key) else { return };
        if object["metadata"]["finalizers"].as_array().is_some_and(|f| !f.is_empty()) {
            object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            object["metadata"]["resourceVersion"] = json!(version);
        } else {
            self.objects.remove(key);
        }
    }

    fn next(&mut self) -> String {
        self.version += 1;
        self.version.to_string()
    }
}

fn key(change: &Change) -> Key {
    let namespace = change.namespace.clone().unwrap_or_default();
    (change.resource.kind.clone(), namespace, change.name.clone())
}

/// RFC 7396.
fn merge(target: &mut Value, patch: &Value) {
    let Some(patch) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    let target = target.as_object_mut().unwrap();
    for (field, value) in patch {
        if value.is_null() {
            target.remove(field);
        } else {
            merge(target.entry(field.clone()).or_insert(Value::Null), value);
        }
    }
}
