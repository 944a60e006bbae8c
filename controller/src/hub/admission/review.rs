//! AdmissionReview (admission.k8s.io/v1): what is asked and what is answered.

use kube::Resource;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use slicewire_core::violation::{Violation, summary};

/// The part of an AdmissionReview that is read.
#[derive(Debug, Deserialize)]
pub(super) struct Review {
    request: Request,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    uid: String,
    #[serde(default)]
    namespace: Option<String>,
    #[serde(default)]
    object: Option<Value>,
    #[serde(default)]
    old_object: Option<Value>,
}

impl Review {
    /// Answers; `faults` judges an object.
    pub(super) fn answer<K>(&self, faults: impl Fn(K) -> Vec<Violation>) -> Value
    where
        K: Resource<DynamicType = ()> + DeserializeOwned,
    {
        let found = self.object().map(faults).unwrap_or_default();
        let mut response = json!({"uid": self.request.uid, "allowed": found.is_empty()});
        if !found.is_empty() {
            let message = format!("{} fault(s): {}", found.len(), summary(&found));
            // Programs take them one by one, as those that the API server finds itself; kubectl shows
            // field and message of each, and nothing else.
            let causes: Vec<Value> = found
                .iter()
                .map(|v| json!({"field": v.field, "reason": v.reason, "message": v.said()}))
                .collect();
            let details = json!({"causes": causes});
            let status =
                json!({"code": 422, "reason": "Invalid", "message": message, "details": details});
            if let Some(map) = response.as_object_mut() {
                map.insert("status".to_owned(), status);
            }
        }
        json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})
    }

    /// The object to judge; `None` when there is nothing to judge: an object that is on its
    /// way out must stay writable, or it could never go, and so must one whose spec is as it was,
    /// because its labels are nobody's business here.
    fn object<K: Resource<DynamicType = ()> + DeserializeOwned>(&self) -> Option<K> {
        let object = self.request.object.as_ref()?;
        let same =
            self.request.old_object.as_ref().is_some_and(|o| o.get("spec") == object.get("spec"));
        if same {
            return None;
        }
        // What does not parse the API server refuses itself, by the schema.
        let mut judged: K = serde_json::from_value(object.clone()).ok()?;
        let meta = judged.meta_mut();
        if meta.deletion_timestamp.is_some() {
            return None;
        }
        if meta.namespace.is_none() {
            meta.namespace.clone_from(&self.request.namespace);
        }
        Some(judged)
    }
}

#[cfg(test)]
mod tests {
    use slicewire_api::SliceConfig;

    use super::*;

    fn review(old: Option<Value>, object: &Value) -> Review {
        let request = json!({
            "uid": "u", "namespace": "slicewire-demo", "object": object, "oldObject": old,
        });
        serde_json::from_value(json!({"request": request})).unwrap()
    }

    fn config(prefix: &str) -> Value {
        json!({
            "apiVersion": "slicewire.dev/v1alpha1", "kind": "SliceConfig",
            "metadata": {"name": "blue"},
            "spec": {"prefixes": [prefix], "clusters": [{"name": "east"}]},
        })
    }

    fn two_faults(_: SliceConfig) -> Vec<Violation> {
        vec![Violation::new("a", "1", "One", "is one"), Violation::new("b", "2", "Two", "is two")]
    }

    #[test]
    fn every_fault_is_in_the_refusal() {
        let answer = review(None, &config("10.0.0.0/8")).answer(two_faults);
        assert_eq!(answer["response"]["allowed"], false);
        let message = answer["response"]["status"]["message"].as_str().unwrap();
        assert!(message.contains("is one (One)") && message.contains("is two (Two)"), "{message}");
        let causes = &answer["response"]["status"]["details"]["causes"];
        assert_eq!(
            causes[1],
            json!({"field": "b", "reason": "Two", "message": r#""2": is two (Two)"#})
        );
    }

    #[test]
    fn no_fault_is_no_refusal() {
        let answer = review(None, &config("10.0.0.0/8")).answer(|config: SliceConfig| {
            assert_eq!(config.metadata.namespace.as_deref(), Some("slicewire-demo"));
            Vec::new()
        });
        assert_eq!(answer["response"], json!({"uid": "u", "allowed": true}));
    }

    #[test]
    fn an_unchanged_spec_and_one_on_its_way_out_are_let_through() {
        let same = review(Some(config("10.0.0.0/8")), &config("10.0.0.0/8"));
        assert_eq!(same.answer(two_faults)["response"]["allowed"], true);
        let mut leaving = config("10.0.0.0/8");
        leaving["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        let leaving = review(Some(config("10.1.0.0/16")), &leaving);
        assert_eq!(leaving.answer(two_faults)["response"]["allowed"], true);
        let changed = review(Some(config("10.1.0.0/16")), &config("10.0.0.0/8"));
        assert_eq!(changed.answer(two_faults)["response"]["allowed"], false);
    }
}
