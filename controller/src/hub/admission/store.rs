//! Where the certificate lives, shared by all replicas, and who has to trust it.

use std::time::SystemTime;

use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use slicewire_api::labels::{HUB_MANAGER, MANAGED_BY};

use super::certificate::Material;
use super::serve::Serving;
use crate::kubernetes::write::status_code;
use crate::options::{HubOptions, Identity};

/// The Secret.
const SECRET: &str = "slicewire-hub-webhook";

/// Where everything about the certificate is.
pub(super) struct Place {
    secrets: Api<Secret>,
    configurations: Api<ValidatingWebhookConfiguration>,
    configuration: String,
    names: Vec<String>,
}

impl Place {
    pub(super) fn new(client: Client, options: &HubOptions, identity: &Identity) -> Self {
        let service = format!("{}.{}.svc", options.webhook_service, identity.namespace);
        let mut names = vec![format!("{service}.cluster.local"), service];
        names.extend(options.webhook_extra_names.iter().filter(|n| !n.is_empty()).cloned());
        Self {
            secrets: Api::namespaced(client.clone(), &identity.namespace),
            configurations: Api::all(client),
            configuration: options.webhook_configuration.clone(),
            names,
        }
    }

    /// Makes the certificate good, used, and trusted; `false` when nobody is there to trust it:
    /// then faults are told in conditions only.
    pub(super) async fn keep(&self, serving: &Serving) -> anyhow::Result<bool> {
        let material = self.material().await?;
        serving.replace(&material)?;
        self.trust(&material).await
    }

    /// The Secret's certificate, renewed when it is due. Of several replicas that renew at once
    /// one wins; the others take what it wrote.
    async fn material(&self) -> anyhow::Result<Material> {
        let now = SystemTime::now();
        let stored = self.secrets.get_opt(SECRET).await?;
        let current = stored.as_ref().and_then(|s| s.data.as_ref()).and_then(Material::read);
        if let Some(good) = current.as_ref().filter(|m| m.good(&self.names, now)) {
            return Ok(good.clone());
        }
        let made = Material::make(&self.names, current.as_ref(), now)?;
        let how = PostParams { field_manager: Some(HUB_MANAGER.into()), ..PostParams::default() };
        let written = match stored {
            Some(mut secret) => {
                secret.data = Some(made.write());
                self.secrets.replace(SECRET, &how, &secret).await
            }
            None => self.secrets.create(&how, &secret(&made)).await,
        };
        match written {
            Ok(_) => {
                tracing::info!("made the webhook's certificate");
                Ok(made)
            }
            Err(error) if status_code(&error) == Some(409) => {
                let stored = self.secrets.get(SECRET).await?;
                let theirs = stored.data.as_ref().and_then(Material::read);
                theirs.ok_or_else(|| anyhow::anyhow!("Secret {SECRET} is damaged; delete it"))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Puts the certificate into every webhook of the configuration.
    async fn trust(&self, material: &Material) -> anyhow::Result<bool> {
        let Some(found) = self.configurations.get_opt(&self.configuration).await? else {
            return Ok(false);
        };
        let bundle = ByteString(material.trusted.clone().into_bytes());
        let webhooks = found.webhooks.unwrap_or_default();
        if webhooks.iter().all(|w| w.client_config.ca_bundle.as_ref() == Some(&bundle)) {
            return Ok(true);
        }
        let patch: Vec<_> = webhooks
            .iter()
            .map(|w| json!({"name": w.name, "clientConfig": {"caBundle": bundle}}))
            .collect();
        let how = PatchParams { field_manager: Some(HUB_MANAGER.into()), ..Default::default() };
        let patch = Patch::Strategic(json!({"webhooks": patch}));
        self.configurations.patch(&self.configuration, &how, &patch).await?;
        tracing::info!(configuration = %self.configuration, "the webhook is trusted");
        Ok(true)
    }
}

fn secret(material: &Material) -> Secret {
    Secret {
        metadata: ObjectMeta {
            name: Some(SECRET.to_owned()),
            labels: Some([(MANAGED_BY.to_owned(), HUB_MANAGER.to_owned())].into()),
            ..ObjectMeta::default()
        },
        data: Some(material.write()),
        ..Secret::default()
    }
}
