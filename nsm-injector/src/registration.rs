//! The webhook's registration with the API server, kept current by the webhook itself.
//!
//! The chart makes an empty MutatingWebhookConfiguration, so that uninstalling removes it; its
//! webhooks are applied from here, as only we know the authority and the onboarded namespaces. No
//! label is put on anyone's namespace: namespaces are selected by the name label Kubernetes gives.

use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use slicewire_api::labels::{EXCLUDE_LABEL, INJECTOR_MANAGER, SLICE_LABEL, SYSTEM_NAMESPACE};

/// Label Kubernetes puts on every namespace: its name.
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";
/// Seconds the API server waits for an answer before the pod is created unchanged.
const TIMEOUT_SECONDS: i32 = 3;

/// Where the webhook is reached.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    /// Name of the MutatingWebhookConfiguration.
    pub(crate) configuration: String,
    /// Service and its namespace.
    pub(crate) service: String,
    /// The Service's namespace.
    pub(crate) namespace: String,
}

impl Endpoint {
    /// Names the certificate has to hold.
    pub(crate) fn names(&self) -> Vec<String> {
        let Self { service, namespace, .. } = self;
        vec![
            format!("{service}.{namespace}.svc"),
            format!("{service}.{namespace}.svc.cluster.local"),
        ]
    }
}

/// Applies the registration for these namespaces, trusting these authorities (PEM).
///
/// # Errors
/// What the API server said.
pub(crate) async fn apply(
    configurations: &Api<MutatingWebhookConfiguration>,
    endpoint: &Endpoint,
    authorities: &str,
    namespaces: &[String],
) -> kube::Result<()> {
    let patch = configuration(endpoint, authorities, namespaces);
    let parameters = PatchParams::apply(INJECTOR_MANAGER).force();
    configurations.patch(&endpoint.configuration, &parameters, &Patch::Apply(&patch)).await?;
    Ok(())
}

/// The registration: one webhook for onboarded namespaces, one for pods that ask for a slice
/// themselves, wherever they are.
fn configuration(endpoint: &Endpoint, authorities: &str, namespaces: &[String]) -> Value {
    let of_namespaces = if namespaces.is_empty() {
        // An empty list is not allowed; this selects nothing, as every namespace has the label.
        json!({ "key": NAMESPACE_NAME, "operator": "DoesNotExist" })
    } else {
        json!({ "key": NAMESPACE_NAME, "operator": "In", "values": namespaces })
    };
    let elsewhere: Vec<&str> = [SYSTEM_NAMESPACE, "kube-system"]
        .into_iter()
        .chain(namespaces.iter().map(String::as_str))
        .collect();
    let not_these = json!({ "key": NAMESPACE_NAME, "operator": "NotIn", "values": elsewhere });
    let not_excluded = json!({ "key": EXCLUDE_LABEL, "operator": "NotIn", "values": ["true"] });
    let asks = json!({ "key": SLICE_LABEL, "operator": "Exists" });
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": { "name": endpoint.configuration },
        "webhooks": [
            webhook("namespaces", endpoint, authorities, &[of_namespaces], &[&not_excluded]),
            webhook("pods", endpoint, authorities, &[not_these], &[&not_excluded, &asks]),
        ],
    })
}

fn webhook(
    name: &str,
    endpoint: &Endpoint,
    authorities: &str,
    namespaces: &[Value],
    pods: &[&Value],
) -> Value {
    json!({
        "name": format!("{name}.injector.slicewire.dev"),
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        "failurePolicy": "Ignore",
        "matchPolicy": "Equivalent",
        "reinvocationPolicy": "Never",
        "timeoutSeconds": TIMEOUT_SECONDS,
        "namespaceSelector": { "matchExpressions": namespaces },
        "objectSelector": { "matchExpressions": pods },
        "rules": [{
            "apiGroups": [""],
            "apiVersions": ["v1"],
            "resources": ["pods"],
            "operations": ["CREATE"],
            "scope": "Namespaced",
        }],
        "clientConfig": {
            "caBundle": k8s_openapi::ByteString(authorities.as_bytes().to_vec()),
            "service": {
                "name": endpoint.service,
                "namespace": endpoint.namespace,
                "path": crate::serve::PATH,
                "port": 443,
            },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(namespaces: &[&str]) -> Value {
        let endpoint = Endpoint {
            configuration: "conf".into(),
            service: "svc".into(),
            namespace: SYSTEM_NAMESPACE.into(),
        };
        let namespaces: Vec<String> = namespaces.iter().map(|n| (*n).to_owned()).collect();
        configuration(&endpoint, "PEM", &namespaces)
    }

    #[test]
    fn it_is_a_valid_configuration_that_never_stops_a_pod() {
        let typed: MutatingWebhookConfiguration = serde_json::from_value(made(&["shop"])).unwrap();
        for webhook in typed.webhooks.unwrap() {
            assert_eq!(webhook.failure_policy.as_deref(), Some("Ignore"));
            assert_eq!(webhook.side_effects, "None");
            assert_eq!(webhook.client_config.ca_bundle.unwrap().0, b"PEM");
            assert_eq!(webhook.client_config.service.unwrap().port, Some(443));
        }
    }

    #[test]
    fn each_namespace_is_seen_by_one_webhook_only() {
        let made = made(&["bank", "shop"]);
        let rule =
            |i: usize| made["webhooks"][i]["namespaceSelector"]["matchExpressions"][0].clone();
        assert_eq!(rule(0)["operator"], "In");
        assert_eq!(rule(0)["values"], json!(["bank", "shop"]));
        assert_eq!(rule(1)["operator"], "NotIn");
        assert_eq!(rule(1)["values"], json!([SYSTEM_NAMESPACE, "kube-system", "bank", "shop"]));
    }

    #[test]
    fn nothing_onboarded_selects_no_namespace() {
        let made = made(&[]);
        let rule = &made["webhooks"][0]["namespaceSelector"]["matchExpressions"][0];
        assert_eq!(rule["operator"], "DoesNotExist");
        assert!(rule.get("values").is_none());
    }
}
