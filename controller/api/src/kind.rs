//! What every kind of the API has in common: one Kubernetes kind, one message, and nothing but the
//! JSON of the object in between.

use std::fmt::Debug;

use kube::Resource;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use slicewire_core::name::{HubNamespace, ProjectName, hub_namespace, project_namespace};
use slicewire_core::portal::filter::{Record, Scalar};
use slicewire_core::violation::Violation;
use slicewire_rpc::hub::v1alpha1::Metadata;

use crate::shape::says_something_empty;

/// A kind of the API.
pub trait Kind: Send + Sync + 'static {
    /// The object in Kubernetes.
    type Object: Resource<DynamicType = ()>
        + Clone
        + Debug
        + Serialize
        + DeserializeOwned
        + Send
        + Sync
        + 'static;
    /// The object on the wire.
    type Message: prost::Message + Default + Clone + Serialize + DeserializeOwned + Sync + 'static;

    /// The message's full name.
    const MESSAGE: &'static str;
    /// The field of requests that holds the object.
    const FIELD: &'static str;
    /// Whether objects live in projects.
    const IN_PROJECT: bool;

    /// The message's metadata.
    fn metadata(message: &Self::Message) -> Option<&Metadata>;

    /// The message of an object, out of the JSON of Kubernetes.
    fn read(object: Value) -> Option<Self::Message>
    where
        Self: Sized,
    {
        from_kubernetes::<Self>(object)
    }

    /// The resource as RBAC names it.
    fn resource() -> String {
        Self::Object::plural(&()).into_owned()
    }
}

/// An object of the API out of Kubernetes; `None` for one that is not in a project's namespace and
/// so is none of the API's (clusters have copies elsewhere).
pub fn message<K: Kind>(object: &K::Object) -> Option<K::Message> {
    let namespace = object.meta().namespace.as_deref().unwrap_or_default();
    if K::IN_PROJECT != project_of(namespace).is_some() {
        return None;
    }
    serde_json::to_value(object).ok().and_then(K::read)
}

/// The message of an object whose fields are the message's.
pub fn from_kubernetes<K: Kind>(mut object: Value) -> Option<K::Message> {
    let metadata = object.get_mut("metadata")?;
    *metadata = metadata_from(metadata);
    serde_json::from_value(object).ok()
}

/// An object's metadata, as the JSON of a message.
fn metadata_from(from: &Value) -> Value {
    let text = |name: &str| from.get(name).and_then(Value::as_str).unwrap_or_default();
    let map = |name: &str| from.get(name).filter(|v| v.is_object()).cloned().unwrap_or(json!({}));
    let project = project_of(text("namespace")).map(|p| p.to_string()).unwrap_or_default();
    json!({
        "project": project,
        "name": text("name"),
        "uid": text("uid"),
        "resourceVersion": text("resourceVersion"),
        "generation": from.get("generation").and_then(Value::as_i64).unwrap_or(0),
        "createTime": from.get("creationTimestamp"),
        "deleteTime": from.get("deletionTimestamp"),
        "labels": map("labels"),
        "annotations": map("annotations"),
    })
}

/// The project whose namespace this is.
pub fn project_of(namespace: &str) -> Option<ProjectName> {
    match hub_namespace(namespace)? {
        HubNamespace::Project(project) => Some(project),
        HubNamespace::Cluster(..) => None,
    }
}

/// The namespace of a project; the empty one for kinds that are in none.
///
/// # Errors
/// The project's name is none.
pub fn namespace_of<K: Kind>(field: &str, project: &str) -> Result<String, Vec<Violation>> {
    if !K::IN_PROJECT {
        return Ok(String::new());
    }
    let named = |mut fault: Violation| {
        field.clone_into(&mut fault.field);
        fault
    };
    let project =
        ProjectName::parse(project).map_err(|f| f.into_iter().map(named).collect::<Vec<_>>())?;
    Ok(project_namespace(&project))
}

/// The object to make: what is wanted of it, and nothing that the hub writes.
///
/// # Errors
/// A message that has no JSON.
pub fn to_kubernetes<K: Kind>(
    message: &K::Message,
    namespace: &str,
    annotation: Option<(&str, String)>,
) -> Result<Value, serde_json::Error> {
    let metadata = K::metadata(message).cloned().unwrap_or_default();
    let mut annotations = metadata.annotations;
    annotations.extend(annotation.map(|(key, value)| (key.to_owned(), value)));
    let mut meta = Map::new();
    meta.insert("name".to_owned(), json!(metadata.name));
    if !namespace.is_empty() {
        meta.insert("namespace".to_owned(), json!(namespace));
    }
    for (name, map) in [("labels", metadata.labels), ("annotations", annotations)] {
        if !map.is_empty() {
            meta.insert(name.to_owned(), json!(map));
        }
    }
    Ok(json!({
        "apiVersion": K::Object::api_version(&()),
        "kind": K::Object::kind(&()),
        "metadata": meta,
        "spec": wanted::<K>(message)?.remove("spec").unwrap_or(json!({})),
    }))
}

/// A message as JSON without what was not said: absent fields and empty lists.
///
/// # Errors
/// A message that has no JSON.
pub fn wanted<K: Kind>(message: &K::Message) -> Result<Map<String, Value>, serde_json::Error> {
    let mut value = serde_json::to_value(message)?;
    forget_unsaid(&mut value);
    match value {
        Value::Object(map) => Ok(map),
        _ => Ok(Map::new()),
    }
}

fn forget_unsaid(value: &mut Value) {
    let says_nothing = |key: &str, value: &Value| match value {
        Value::Array(list) => list.is_empty() && !says_something_empty(key),
        value => value.is_null(),
    };
    match value {
        Value::Object(map) => {
            map.retain(|key, value| !says_nothing(key, value));
            map.values_mut().for_each(forget_unsaid);
        }
        Value::Array(list) => list.iter_mut().for_each(forget_unsaid),
        _ => {}
    }
}

/// What a filter looks into.
#[derive(Debug)]
pub struct Json<'a>(pub &'a Value);

impl Record for Json<'_> {
    fn show(&self, path: &[String], see: &mut dyn FnMut(Scalar<'_>)) {
        show(self.0, path, see);
    }
}

fn show(value: &Value, path: &[String], see: &mut dyn FnMut(Scalar<'_>)) {
    match (value, path.split_first()) {
        (Value::Array(list), _) => list.iter().for_each(|v| show(v, path, see)),
        (Value::Object(map), Some((first, rest))) => {
            if let Some(inner) = map.get(first) {
                show(inner, rest, see);
            }
        }
        (Value::String(text), None) => see(Scalar::Text(text)),
        (Value::Bool(value), None) => see(Scalar::Bool(*value)),
        (Value::Number(number), None) => {
            if let Some(number) = number.as_f64() {
                see(Scalar::Number(number));
            }
        }
        (Value::Object(_), None) => see(Scalar::Text("")),
        _ => {}
    }
}
