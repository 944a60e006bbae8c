//! What is in a cluster by the Multi-Cluster Services API: users' objects stay, and with them what
//! defines their kind; ours go.

use anyhow::{Context, Result};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, ListParams};
use kube::core::DynamicObject;
use kube::discovery::ApiResource;
use kube::{Api, Client, ResourceExt};
use slicewire_api::labels::{MANAGED_BY, WORKER_MANAGER};
use slicewire_api::mcs::{SERVICE_NAME, ServiceImport};

use crate::apply::{all_of, api_in, is_gone, spell};
use crate::manifests::kind;
use crate::progress::line;

/// Leaves out definitions of other groups than ours of which there are objects that we have not made:
/// they would go with them.
///
/// # Errors
/// The cluster cannot be asked.
pub(super) async fn without_used(
    client: &Client,
    objects: Vec<DynamicObject>,
) -> Result<Vec<DynamicObject>> {
    let mut kept = Vec::new();
    for object in objects {
        let used = match defined(&object)? {
            Some(resource) => all_of(client, &resource).await?.iter().filter(|o| !ours(o)).count(),
            None => 0,
        };
        if used == 0 {
            kept.push(object);
        } else {
            line(&format!("{} stays: {used} objects of yours are of it", spell(&object)));
        }
    }
    Ok(kept)
}

/// What a definition of another group than ours defines.
fn defined(object: &DynamicObject) -> Result<Option<ApiResource>> {
    if kind(object) != "CustomResourceDefinition" {
        return Ok(None);
    }
    let definition: CustomResourceDefinition =
        object.clone().try_parse().with_context(|| spell(object))?;
    let spec = definition.spec;
    let version = spec.versions.first().filter(|_| spec.group != slicewire_api::GROUP);
    Ok(version.map(|version| ApiResource {
        api_version: format!("{}/{}", spec.group, version.name),
        group: spec.group,
        version: version.name.clone(),
        kind: spec.names.kind,
        plural: spec.names.plural,
    }))
}

fn ours(object: &DynamicObject) -> bool {
    object.labels().get(MANAGED_BY).is_some_and(|by| by == WORKER_MANAGER)
}

/// Deletes what the worker controller made of services for people to see, in all namespaces.
///
/// # Errors
/// The cluster refuses.
pub(super) async fn clear(client: &Client) -> Result<()> {
    let made =
        ListParams::default().labels(&format!("{MANAGED_BY}={WORKER_MANAGER},{SERVICE_NAME}"));
    let slices = ApiResource::erase::<EndpointSlice>(&());
    let slices_made = Api::<DynamicObject>::all_with(client.clone(), &slices).list(&made).await?;
    remove(client, &slices, slices_made.items).await?;
    let imports = ApiResource::erase::<ServiceImport>(&());
    let made = all_of(client, &imports).await?;
    remove(client, &imports, made.into_iter().filter(ours).collect()).await
}

async fn remove(client: &Client, of: &ApiResource, objects: Vec<DynamicObject>) -> Result<()> {
    for object in objects {
        let api = api_in(client, of, &object);
        match api.delete(&object.name_any(), &DeleteParams::background()).await {
            Ok(_) => {}
            Err(error) if is_gone(&error) => {}
            Err(error) => {
                return Err(error).with_context(|| format!("cannot delete {}", spell(&object)));
            }
        }
    }
    Ok(())
}
