//! The admission request and its answer, as Kubernetes spells them (`admission.k8s.io/v1`).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use slicewire_core::admission::{Candidate, Leave, SliceRules, Verdict, WAIT_CONTAINER, decide};
use slicewire_core::onboarding::PodFacts;
use slicewire_core::selector::Labels;

/// User and group the waiting container gets where the pod would make it root.
const NOBODY: i64 = 65532;

/// What the API server sends; only what is needed is read.
#[derive(Deserialize)]
pub(crate) struct Review {
    request: Request,
}

#[derive(Deserialize)]
struct Request {
    uid: String,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    object: Option<Pod>,
}

/// What the API server gets back.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Answer {
    api_version: &'static str,
    kind: &'static str,
    response: Response,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Response {
    uid: String,
    allowed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch_type: Option<&'static str>,
    /// Base64 of a JSON patch (RFC 6902).
    #[serde(skip_serializing_if = "Option::is_none")]
    patch: Option<k8s_openapi::ByteString>,
}

/// Which image waits, and for how long.
#[derive(Debug, Clone)]
pub(crate) struct WaitImage {
    /// Image reference.
    pub(crate) image: String,
    /// `Always`, `IfNotPresent` or `Never`.
    pub(crate) pull_policy: String,
    /// Seconds after which the container gives up and says why.
    pub(crate) timeout_seconds: u32,
}

impl Review {
    /// The namespace the pod is created in.
    pub(crate) fn namespace(&self) -> &str {
        &self.request.namespace
    }

    /// Decides, and makes the answer. A request without a pod is answered, too: unchanged.
    pub(crate) fn answer(
        self,
        namespace_labels: &Labels,
        slices: &[SliceRules],
        image: &WaitImage,
    ) -> (Verdict, Answer) {
        let Request { uid, namespace, object } = self.request;
        let verdict = object.as_ref().map_or(Verdict::Leave(Leave::NotMember), |pod| {
            verdict(pod, &namespace, namespace_labels, slices)
        });
        let patch = match (&verdict, &object) {
            (Verdict::Wait(slices), Some(pod)) => Some(patch(pod, slices, image)),
            _ => None,
        };
        let response = Response {
            uid,
            allowed: true,
            patch_type: patch.is_some().then_some("JSONPatch"),
            patch: patch.map(|p| k8s_openapi::ByteString(p.to_string().into_bytes())),
        };
        (verdict, Answer { api_version: "admission.k8s.io/v1", kind: "AdmissionReview", response })
    }
}

fn verdict(
    pod: &Pod,
    namespace: &str,
    namespace_labels: &Labels,
    slices: &[SliceRules],
) -> Verdict {
    let none = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&none);
    let labels = pod.metadata.labels.clone().unwrap_or_default();
    let tolerated: Vec<&str> =
        spec.tolerations.iter().flatten().filter_map(|t| t.key.as_deref()).collect();
    let init_containers: Vec<&str> =
        spec.init_containers.iter().flatten().map(|c| c.name.as_str()).collect();
    let candidate = Candidate {
        facts: PodFacts {
            namespace,
            namespace_labels,
            labels: &labels,
            host_network: spec.host_network.unwrap_or(false),
        },
        node_name: spec.node_name.as_deref(),
        node_labels: &required_node_labels(spec),
        tolerated: &tolerated,
        init_containers: &init_containers,
        os: spec.os.as_ref().map(|os| os.name.as_str()),
    };
    decide(&candidate, slices)
}

/// Labels the pod's node must have, as far as the pod names single values.
fn required_node_labels(spec: &PodSpec) -> Vec<(&str, &str)> {
    let selected =
        spec.node_selector.iter().flatten().map(|(key, value)| (key.as_str(), value.as_str()));
    let affinity = spec
        .affinity
        .iter()
        .filter_map(|a| a.node_affinity.as_ref())
        .filter_map(|n| n.required_during_scheduling_ignored_during_execution.as_ref())
        .flat_map(|required| &required.node_selector_terms)
        .flat_map(|term| term.match_expressions.iter().flatten())
        .filter(|e| e.operator == "In")
        .flat_map(|e| e.values.iter().flatten().map(|value| (e.key.as_str(), value.as_str())));
    selected.chain(affinity).collect()
}

/// Puts the waiting container before all others, so that no init container runs without the NIC.
fn patch(pod: &Pod, slices: &[String], image: &WaitImage) -> Value {
    let container = wait_container(pod, slices, image);
    let has_some = pod.spec.as_ref().is_some_and(|s| s.init_containers.is_some());
    if has_some {
        json!([{ "op": "add", "path": "/spec/initContainers/0", "value": container }])
    } else {
        json!([{ "op": "add", "path": "/spec/initContainers", "value": [container] }])
    }
}

/// A container that passes the `restricted` Pod Security Standard.
fn wait_container(pod: &Pod, slices: &[String], image: &WaitImage) -> Value {
    let mut command = vec!["/usr/bin/wait-for-nic".to_owned()];
    for slice in slices {
        command.extend(["--slice".to_owned(), slice.clone()]);
    }
    command.extend(["--timeout".to_owned(), format!("{}s", image.timeout_seconds)]);
    let mut security = json!({
        "allowPrivilegeEscalation": false,
        "capabilities": { "drop": ["ALL"] },
        "privileged": false,
        "readOnlyRootFilesystem": true,
        "runAsNonRoot": true,
        "seccompProfile": { "type": "RuntimeDefault" },
    });
    if runs_as_root(pod) {
        // The image's own user is not root, but the pod's wish would override it.
        security["runAsUser"] = json!(NOBODY);
        security["runAsGroup"] = json!(NOBODY);
    }
    json!({
        "name": WAIT_CONTAINER,
        "image": image.image,
        "imagePullPolicy": image.pull_policy,
        "command": command,
        "resources": resources(pod),
        "securityContext": security,
        "terminationMessagePolicy": "FallbackToLogsOnError",
    })
}

/// What the pod's first container asks for, processor and memory. A pod reserves the larger of what
/// its init containers and what its containers ask for, so this never makes it any larger, it keeps
/// the pod's quality-of-service class (`BestEffort` included), and it satisfies a quota that the
/// pod itself satisfies.
fn resources(pod: &Pod) -> Value {
    let first = pod.spec.as_ref().and_then(|s| s.containers.first());
    let asked = first.and_then(|c| c.resources.as_ref());
    let kept = |list: Option<&BTreeMap<String, Quantity>>| {
        let known = |(name, _): &(&String, &Quantity)| matches!(name.as_str(), "cpu" | "memory");
        let kept: BTreeMap<_, _> = list.into_iter().flatten().filter(known).collect();
        json!(kept)
    };
    json!({
        "requests": kept(asked.and_then(|r| r.requests.as_ref())),
        "limits": kept(asked.and_then(|r| r.limits.as_ref())),
    })
}

fn runs_as_root(pod: &Pod) -> bool {
    let context = pod.spec.as_ref().and_then(|s| s.security_context.as_ref());
    context.is_some_and(|c| c.run_as_user == Some(0))
}

#[cfg(test)]
#[path = "review_tests.rs"]
mod tests;
