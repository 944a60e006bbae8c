use std::collections::BTreeMap;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::CustomResourceExt;
use serde_json::{Value, json};

use super::*;
use crate::kind::{from_kubernetes, to_kubernetes};
use crate::shape::{Content, Field, fields_of};

/// Every difference between a CRD's schema and the message of the same kind.
fn drift<K: Kind>() -> Vec<String>
where
    K::Object: CustomResourceExt,
{
    let crd = K::Object::crd();
    let schema = crd.spec.versions[0].schema.clone().unwrap().open_api_v3_schema.unwrap();
    let mut found = Vec::new();
    for part in ["spec", "status"] {
        let Some(schema) = schema.properties.as_ref().unwrap().get(part) else {
            // A kind without status has none in its message either.
            assert!(!fields_of(K::MESSAGE).unwrap().contains_key(part), "{}", K::MESSAGE);
            continue;
        };
        let message = format!("{}{}", K::MESSAGE, if part == "spec" { "Spec" } else { "Status" });
        compare(&format!("{}.{part}", K::MESSAGE), schema, &message, &mut found);
    }
    found
}

fn compare(at: &str, schema: &JSONSchemaProps, message: &str, found: &mut Vec<String>) {
    let Some(fields) = fields_of(message) else {
        return found.push(format!("{at}: there is no message {message}"));
    };
    let by_json: BTreeMap<&str, &Field> = fields.values().map(|f| (f.json.as_str(), f)).collect();
    let properties = schema.properties.clone().unwrap_or_default();
    for name in by_json.keys().filter(|n| !properties.contains_key(**n)) {
        found.push(format!("{at}.{name}: is in the message and not in the CRD"));
    }
    for (name, property) in &properties {
        let at = format!("{at}.{name}");
        let Some(field) = by_json.get(name.as_str()) else {
            found.push(format!("{at}: is in the CRD and not in the message"));
            continue;
        };
        let item = match &property.items {
            Some(JSONSchemaPropsOrArray::Schema(item)) => Some((**item).clone()),
            _ => None,
        };
        if item.is_some() != field.repeated {
            found.push(format!("{at}: is a list in one and not in the other"));
        }
        let inner = item.unwrap_or_else(|| property.clone());
        let is_map = matches!(inner.additional_properties, Some(JSONSchemaPropsOrBool::Schema(_)));
        match &field.content {
            Content::Message(message) => compare(&at, &inner, message, found),
            Content::Map if is_map => {}
            Content::Value if inner.properties.is_none() && !is_map => {}
            other => found.push(format!("{at}: is {other:?} in the message")),
        }
    }
}

#[test]
fn the_api_and_the_crds_have_the_same_fields() {
    let all = [
        drift::<Project>(),
        drift::<Cluster>(),
        drift::<Slice>(),
        drift::<QosProfile>(),
        drift::<SlicePolicy>(),
        drift::<JoinToken>(),
    ];
    assert_eq!(all.concat(), Vec::<String>::new());
}

fn there_and_back<K: Kind>(object: Value) -> Value {
    let message = from_kubernetes::<K>(object).unwrap();
    to_kubernetes::<K>(&message, "slicewire-demo", None).unwrap()
}

#[test]
fn a_spec_comes_back_as_it_was() {
    let spec = json!({
        "prefixes": ["10.77.0.0/16", "fd77::/48"],
        "clusters": [{"name": "east"}, {"name": "west"}],
        "namespaces": [
            {"names": ["shop"], "clusters": ["east"]},
            {"selector": {"matchLabels": {"a": "b"}, "matchExpressions": [
                {"key": "k", "operator": "In", "values": ["v"]}]}, "podSelector": {"matchLabels": {}}},
        ],
        "gateways": {"replicas": 2},
        "mtu": 1400,
    });
    let object = there_and_back::<Slice>(json!({
        "metadata": {"name": "blue", "namespace": "slicewire-demo", "labels": {"team": "a"}, "uid": "u"},
        "spec": spec,
    }));
    assert_eq!(object["spec"], spec);
    assert_eq!(object["kind"], "SliceConfig");
    let metadata = json!({"name": "blue", "namespace": "slicewire-demo", "labels": {"team": "a"}});
    assert_eq!(object["metadata"], metadata);
    let spec = json!({"description": "d", "gateways": {"nodeAddress": "ExternalIP", "addresses": ["192.0.2.1"]}});
    let object = there_and_back::<Cluster>(json!({
        "metadata": {"name": "east", "namespace": "slicewire-demo"}, "spec": spec,
    }));
    assert_eq!(object["spec"], spec);
}

#[test]
fn a_policy_that_lists_nothing_is_not_one_that_says_nothing() {
    let spec = json!({
        "slice": "blue",
        "namespace": "shop",
        "subject": {"podSelector": {"matchLabels": {"app": "ledger"}}},
        "ingress": [],
        "egress": [{"peers": [{"slice": true}, {"cidr": "10.77.0.0/16", "except": ["10.77.1.0/24"]}],
            "ports": [{"port": 80, "endPort": 90}, {"port": "http"}, {"protocol": "ICMP"}]}],
    });
    for absent in [None, Some("ingress"), Some("egress")] {
        let mut spec = spec.clone();
        absent.map(|name| spec.as_object_mut().unwrap().remove(name));
        let object = there_and_back::<SlicePolicy>(json!({
            "metadata": {"name": "p", "namespace": "slicewire-demo"}, "spec": spec,
        }));
        assert_eq!(object["spec"], spec);
    }
}

#[test]
fn what_was_not_said_is_left_out() {
    // The API server's rules ask whether a field is there.
    let rule = rpc::NamespaceRule { names: vec!["shop".into()], ..Default::default() };
    let spec = rpc::SliceSpec { namespaces: vec![rule], ..Default::default() };
    let slice = rpc::Slice { spec: Some(spec), ..Default::default() };
    let object = to_kubernetes::<Slice>(&slice, "slicewire-demo", None).unwrap();
    assert_eq!(object["spec"], json!({"namespaces": [{"names": ["shop"]}]}));
    let empty = to_kubernetes::<Cluster>(&rpc::Cluster::default(), "slicewire-demo", None).unwrap();
    assert_eq!(empty["spec"], json!({}));
}

#[test]
fn times_and_words_are_understood_and_strange_ones_survived() {
    let cluster = from_kubernetes::<Cluster>(json!({
        "metadata": {"name": "east", "namespace": "slicewire-demo",
            "creationTimestamp": "2026-01-01T00:00:00Z", "generation": 3},
        "spec": {"gateways": {"nodeAddress": "SomethingNew"}},
        "status": {"nodes": 2, "conditions": [{"type": "Ready", "status": "True", "reason": "R",
            "message": "m", "lastTransitionTime": "no time"}]},
    }))
    .unwrap();
    let metadata = cluster.metadata.unwrap();
    assert_eq!((metadata.project.as_str(), metadata.generation), ("demo", 3));
    assert_eq!(metadata.create_time.unwrap().seconds, 1_767_225_600);
    assert_eq!(cluster.spec.unwrap().gateways.unwrap().node_address, 0);
    assert_eq!(cluster.status.unwrap().conditions[0].last_transition_time, None);
}
