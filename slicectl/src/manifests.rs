//! The manifests this program carries: the charts, rendered.

use anyhow::{Context, Result};
use kube::core::DynamicObject;
use serde::Deserialize;
use serde_json::Value;

use crate::ImageArguments;

/// The hub chart with its default values.
const HUB: &str = include_str!("../../deploy/rendered/hub.yaml");
/// The worker chart with its default values.
const WORKER: &str = include_str!("../../deploy/rendered/worker.yaml");

/// A part of Slicewire that can be installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Where slices are declared.
    Hub,
    /// Where their pods run.
    Worker,
}

impl Role {
    /// For messages.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Hub => "hub",
            Self::Worker => "worker",
        }
    }
}

/// The objects of a part, in the order they are to be applied.
///
/// # Errors
/// The carried manifests are damaged.
pub(crate) fn objects(role: Role, images: Option<&ImageArguments>) -> Result<Vec<DynamicObject>> {
    let text = match role {
        Role::Hub => HUB,
        Role::Worker => WORKER,
    };
    let mut objects = Vec::new();
    for document in serde_yaml_ng::Deserializer::from_str(text) {
        let mut value = Value::deserialize(document)
            .with_context(|| format!("the carried manifests of the {} are damaged", role.name()))?;
        if value.is_null() {
            continue;
        }
        if let Some(images) = images {
            set_images(&mut value, images);
        }
        value["metadata"]["labels"]["app.kubernetes.io/managed-by"] = "slicectl".into();
        objects.push(serde_json::from_value::<DynamicObject>(value)?);
    }
    objects.sort_by_key(|o| rank(kind(o)));
    Ok(objects)
}

/// An object's kind.
pub(crate) fn kind(object: &DynamicObject) -> &str {
    object.types.as_ref().map_or("", |t| t.kind.as_str())
}

/// What has to be there before what: definitions, namespaces, accounts, the rest, workloads.
fn rank(kind: &str) -> u8 {
    match kind {
        "CustomResourceDefinition" => 0,
        "Namespace" => 1,
        "ServiceAccount" | "Secret" => 2,
        "ClusterRole" | "Role" => 3,
        "ClusterRoleBinding" | "RoleBinding" => 4,
        "Deployment" | "DaemonSet" => 6,
        _ => 5,
    }
}

/// Sets the images of a workload's containers and what its variables say about images.
fn set_images(object: &mut Value, images: &ImageArguments) {
    let containers = object.pointer_mut("/spec/template/spec/containers");
    for container in containers.and_then(Value::as_array_mut).into_iter().flatten() {
        let reference = container["image"].as_str().unwrap_or_default();
        let component = reference.rsplit('/').next().unwrap_or_default();
        let component = component.split(':').next().unwrap_or_default();
        let image = format!("{}/{component}:{}", images.image_prefix, images.image_tag);
        container["image"] = image.into();
        container["imagePullPolicy"] = images.image_pull_policy.clone().into();
        for variable in container["env"].as_array_mut().into_iter().flatten() {
            let value = match variable["name"].as_str() {
                Some("SLICEWIRE_IMAGE_PREFIX") => &images.image_prefix,
                Some("SLICEWIRE_IMAGE_TAG") => &images.image_tag,
                Some("SLICEWIRE_IMAGE_PULL_POLICY") => &images.image_pull_policy,
                _ => continue,
            };
            variable["value"] = value.clone().into();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn images() -> ImageArguments {
        ImageArguments {
            image_prefix: "registry.example:5000/net".into(),
            image_tag: "7".into(),
            image_pull_policy: "Never".into(),
        }
    }

    #[test]
    fn every_image_is_the_one_asked_for() {
        for role in [Role::Hub, Role::Worker] {
            let text = serde_json::to_string(&objects(role, Some(&images())).unwrap()).unwrap();
            assert!(!text.contains("\"slicewire.dev/controller"), "{role:?}");
            assert!(text.contains("registry.example:5000/net/controller:7"), "{role:?}");
            assert!(!text.contains("IfNotPresent"), "{role:?}");
        }
    }

    #[test]
    fn the_worker_tells_its_images_to_those_who_start_pods() {
        let objects = objects(Role::Worker, Some(&images())).unwrap();
        for name in ["slicewire-worker", "slicewire-nsm-injector"] {
            let is = |o: &&DynamicObject| {
                kind(o) == "Deployment" && o.metadata.name.as_deref() == Some(name)
            };
            let deployment = objects.iter().find(is).unwrap();
            let env = deployment.data["spec"]["template"]["spec"]["containers"][0]["env"].clone();
            let env: Vec<Value> = serde_json::from_value(env).unwrap();
            let value =
                |name: &str| env.iter().find(|v| v["name"] == name).unwrap()["value"].clone();
            assert_eq!(value("SLICEWIRE_IMAGE_PREFIX"), "registry.example:5000/net");
            assert_eq!(value("SLICEWIRE_IMAGE_TAG"), "7");
            assert_eq!(value("SLICEWIRE_IMAGE_PULL_POLICY"), "Never");
        }
    }

    #[test]
    fn definitions_come_first_and_workloads_last() {
        let objects = objects(Role::Worker, None).unwrap();
        assert_eq!(kind(&objects[0]), "CustomResourceDefinition");
        assert!(matches!(kind(objects.last().unwrap()), "Deployment" | "DaemonSet"));
    }

    #[test]
    fn the_carried_definitions_are_those_of_the_api() {
        for role in [Role::Hub, Role::Worker] {
            let carried = objects(role, None).unwrap();
            let definitions = carried.iter().filter(|o| kind(o) == "CustomResourceDefinition");
            let mut carried: Vec<_> = definitions
                .map(|o| (o.metadata.name.clone().unwrap(), o.data["spec"].clone()))
                .collect();
            let mut current: Vec<_> = slicewire_api::crds()
                .into_iter()
                .filter(|(of, _)| *of == role.name())
                .map(|(_, crd)| {
                    (crd.metadata.name.unwrap(), serde_json::to_value(crd.spec).unwrap())
                })
                .collect();
            carried.sort_by(|a, b| a.0.cmp(&b.0));
            current.sort_by(|a, b| a.0.cmp(&b.0));
            let names = |list: &[(String, Value)]| -> Vec<String> {
                list.iter().map(|(name, _)| name.clone()).collect()
            };
            assert_eq!(names(&carried), names(&current));
            for (carried, current) in carried.iter().zip(&current) {
                assert!(carried == current, "{} is not current: run 'make rendered'", current.0);
            }
        }
    }
}
