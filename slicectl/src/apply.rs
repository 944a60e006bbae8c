//! Putting objects into a cluster, and taking them out.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::core::{DynamicObject, GroupVersionKind, TypeMeta};
use kube::discovery::{ApiResource, Scope, pinned_kind};
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use crate::manifests::kind;
use crate::progress::{State, done, line, wait};

/// Field manager of what this program applies.
pub(crate) const MANAGER: &str = "slicectl";

/// What Helm writes on objects: the release that they are of.
const HELM_RELEASE: &str = "meta.helm.sh/release-name";

/// An API for objects of this type, and in its namespace where it has one.
async fn api_of(client: &Client, object: &DynamicObject) -> kube::Result<Api<DynamicObject>> {
    let types = object.types.clone().unwrap_or_default();
    let (resource, capabilities) = pinned_kind(client, &gvk(&types)).await?;
    Ok(match (capabilities.scope, object.namespace()) {
        (Scope::Namespaced, Some(namespace)) => {
            Api::namespaced_with(client.clone(), &namespace, &resource)
        }
        _ => Api::all_with(client.clone(), &resource),
    })
}

fn gvk(types: &TypeMeta) -> GroupVersionKind {
    let (group, version) = types.api_version.split_once('/').unwrap_or(("", &types.api_version));
    GroupVersionKind::gvk(group, version, &types.kind)
}

/// How an object is called in messages.
pub(crate) fn spell(object: &DynamicObject) -> String {
    match object.namespace() {
        Some(namespace) => format!("{} {namespace}/{}", kind(object), object.name_any()),
        None => format!("{} {}", kind(object), object.name_any()),
    }
}

/// Applies objects in their order, waiting for definitions to be served before the rest.
///
/// # Errors
/// The first object the cluster refuses, with its reason.
pub(crate) async fn apply(client: &Client, objects: &[DynamicObject]) -> Result<()> {
    if objects.is_empty() {
        return Ok(());
    }
    let begin = Instant::now();
    let parameters = PatchParams::apply(MANAGER).force();
    let mut awaited = Vec::new();
    for object in objects {
        let is_definition = kind(object) == "CustomResourceDefinition";
        if !is_definition && !awaited.is_empty() {
            established(client, &std::mem::take(&mut awaited)).await?;
        }
        let applied = async {
            let api = api_of(client, object).await?;
            api.patch(&object.name_any(), &parameters, &Patch::Apply(object)).await
        };
        applied.await.with_context(|| format!("the cluster refuses {}", spell(object)))?;
        if is_definition {
            awaited.push(object.name_any());
        }
    }
    done(&format!("{} objects applied", objects.len()), begin);
    Ok(())
}

/// Leaves out definitions of other groups than ours that somebody else has put there: they are
/// theirs, as they are.
///
/// # Errors
/// The cluster cannot be asked.
pub(crate) async fn without_others(
    client: &Client,
    objects: Vec<DynamicObject>,
) -> Result<Vec<DynamicObject>> {
    let mut kept = Vec::new();
    for object in objects {
        let standard = kind(&object) == "CustomResourceDefinition"
            && !object.name_any().ends_with(&format!(".{}", slicewire_api::GROUP));
        if standard {
            let there = api_of(client, &object).await?.get_opt(&object.name_any()).await?;
            let ours = |o: &DynamicObject| {
                o.labels().get("app.kubernetes.io/managed-by").is_some_and(|by| by == MANAGER)
            };
            if there.is_some_and(|there| !ours(&there)) {
                line(&format!("{} is there already, and left as it is", spell(&object)));
                continue;
            }
        }
        kept.push(object);
    }
    Ok(kept)
}

/// Leaves out what a Helm release has put there: that stays the release's, with its values.
///
/// # Errors
/// The cluster cannot be asked.
pub(crate) async fn without_releases(
    client: &Client,
    objects: Vec<DynamicObject>,
) -> Result<Vec<DynamicObject>> {
    let mut kept = Vec::new();
    let mut left: BTreeMap<String, usize> = BTreeMap::new();
    for object in objects {
        let there = async { api_of(client, &object).await?.get_opt(&object.name_any()).await };
        let there = match there.await {
            Ok(there) => there,
            Err(error) if is_gone(&error) => None,
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", spell(&object)));
            }
        };
        match there.as_ref().and_then(|o| o.annotations().get(HELM_RELEASE)) {
            Some(release) => *left.entry(release.clone()).or_default() += 1,
            None => kept.push(object),
        }
    }
    for (release, number) in left {
        line(&format!("{number} objects are the Helm release {release}'s, and left to it"));
    }
    Ok(kept)
}

async fn established(client: &Client, names: &[String]) -> Result<()> {
    use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    wait("resource definitions served", Duration::from_secs(30), async || {
        let list = definitions.list(&ListParams::default()).await?;
        let served = |name: &String| {
            list.items.iter().any(|d| {
                let conditions = d.status.as_ref().and_then(|s| s.conditions.as_ref());
                d.name_any() == *name
                    && conditions.is_some_and(|c| {
                        c.iter().any(|c| c.type_ == "Established" && c.status == "True")
                    })
            })
        };
        let missing: Vec<_> = names.iter().filter(|n| !served(n)).cloned().collect();
        Ok(if missing.is_empty() { State::Done } else { State::Waiting(missing.join(", ")) })
    })
    .await
}

/// Whether the error says that there is no such object, or no such kind of object.
pub(crate) fn is_gone(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) => status.code == 404,
        kube::Error::Discovery(_) => true,
        _ => false,
    }
}

/// Deletes objects, last first, and waits until none is left. What is gone already is no error.
///
/// # Errors
/// The cluster refuses, or an object stays; told with what holds it.
pub(crate) async fn delete(
    client: &Client,
    objects: &[DynamicObject],
    limit: Duration,
) -> Result<()> {
    let mut left = Vec::new();
    for object in objects.iter().rev() {
        let deleted = async {
            let api = api_of(client, object).await?;
            api.delete(&object.name_any(), &DeleteParams::background()).await?;
            Ok::<_, kube::Error>(api)
        };
        match deleted.await {
            Ok(api) => left.push((api, object)),
            Err(error) if is_gone(&error) => {}
            Err(error) => {
                return Err(error).with_context(|| format!("cannot delete {}", spell(object)));
            }
        }
    }
    let what = format!("{} objects removed", left.len());
    wait(&what, limit, async || {
        let mut still = Vec::new();
        for (api, object) in std::mem::take(&mut left) {
            match api.get_opt(&object.name_any()).await {
                Ok(None) => {}
                Err(error) if is_gone(&error) => {}
                Ok(Some(_)) => still.push((api, object)),
                Err(error) => return Err(error.into()),
            }
        }
        left = still;
        let names: Vec<_> = left.iter().map(|(_, object)| spell(object)).collect();
        Ok(if names.is_empty() { State::Done } else { State::Waiting(names.join(", ")) })
    })
    .await
}

/// Objects of one of our kinds, in all namespaces; none where the kind is not known any more.
pub(crate) async fn all_of(client: &Client, resource: &ApiResource) -> Result<Vec<DynamicObject>> {
    let api: Api<DynamicObject> = Api::all_with(client.clone(), resource);
    match api.list(&ListParams::default()).await {
        Ok(list) => Ok(list.items),
        Err(error) if is_gone(&error) => Ok(Vec::new()),
        Err(error) => Err(error).with_context(|| format!("cannot list {}", resource.plural)),
    }
}

/// Deletes all objects of a kind and waits until they are gone; what is left when time is up.
///
/// # Errors
/// The cluster refuses.
pub(crate) async fn delete_all(
    client: &Client,
    resource: &ApiResource,
    limit: Duration,
) -> Result<Vec<DynamicObject>> {
    for object in all_of(client, resource).await? {
        let api = api_in(client, resource, &object);
        match api.delete(&object.name_any(), &DeleteParams::background()).await {
            Ok(_) => {}
            Err(error) if is_gone(&error) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let what = format!("{} gone", resource.plural);
    let waited = wait(&what, limit, async || {
        let left = all_of(client, resource).await?;
        let held: Vec<_> = left
            .iter()
            .map(|o| format!("{} is held by {}", o.name_any(), o.finalizers().join(", ")))
            .collect();
        Ok(if held.is_empty() { State::Done } else { State::Waiting(held.join("; ")) })
    });
    match waited.await {
        Ok(()) => Ok(Vec::new()),
        Err(error) => {
            let left = all_of(client, resource).await?;
            if left.is_empty() { Ok(left) } else { report(error, left) }
        }
    }
}

fn report(error: anyhow::Error, left: Vec<DynamicObject>) -> Result<Vec<DynamicObject>> {
    crate::progress::line(&format!("! {error:#}"));
    Ok(left)
}

/// Takes the finalizers off all objects of a kind, so that nothing holds them any more.
///
/// # Errors
/// The cluster refuses.
pub(crate) async fn release_all(client: &Client, resource: &ApiResource) -> Result<()> {
    for object in all_of(client, resource).await? {
        let api = api_in(client, resource, &object);
        let free = Patch::Merge(json!({ "metadata": { "finalizers": null } }));
        match api.patch(&object.name_any(), &PatchParams::default(), &free).await {
            Ok(_) => {}
            Err(error) if is_gone(&error) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// An API for objects of a kind in the namespace of one of them.
pub(crate) fn api_in(
    client: &Client,
    resource: &ApiResource,
    object: &DynamicObject,
) -> Api<DynamicObject> {
    match object.namespace() {
        Some(namespace) => Api::namespaced_with(client.clone(), &namespace, resource),
        None => Api::all_with(client.clone(), resource),
    }
}
