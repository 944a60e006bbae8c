//! Keeping a slice's namespaces to themselves on the clusters' own pod networks.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use slicewire_core::isolation::{Place, in_cluster};

use crate::{NamespaceRule, SliceConfigSpec};

/// On the clusters' own pod networks, the slice's namespaces accept connections from each other and
/// from the allowed namespaces, and from nobody else. It is carried out by NetworkPolicies that the
/// workers write and keep; so the clusters' CNI has to enforce those.
///
/// ```yaml
/// namespaceIsolationProfile:
///   isolationEnabled: true
///   applicationNamespaces: [{namespace: shop, clusters: ["*"]}]
///   allowedNamespaces: [{namespace: ingress-nginx, clusters: [east]}]
/// ```
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NamespaceIsolationProfile {
    /// Whether the slice's namespaces are isolated.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub isolation_enabled: bool,
    /// Namespaces that are on the slice, besides those of `spec.namespaces`; isolated or not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub application_namespaces: Vec<NamespacePlace>,
    /// Namespaces that are not on the slice and may reach those that are, on the pod network of the
    /// cluster they are both in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub allowed_namespaces: Vec<NamespacePlace>,
}

/// A namespace in some clusters of a slice.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NamespacePlace {
    /// Its name.
    #[schemars(length(min = 1, max = 63))]
    pub namespace: String,
    /// The clusters in which it is meant; none, or `*`: all of the slice's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1024), inner(length(max = 30)))]
    pub clusters: Vec<String>,
}

/// What isolates the slice's namespaces in one cluster.
#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SliceIsolation {
    /// Namespaces off the slice that may reach those on it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(max = 63)))]
    pub allowed_namespaces: Vec<String>,
}

/// A list for `slicewire_core::isolation`.
pub fn places(from: &[NamespacePlace]) -> Vec<Place> {
    let place =
        |p: &NamespacePlace| Place { namespace: p.namespace.clone(), clusters: p.clusters.clone() };
    from.iter().map(place).collect()
}

impl SliceConfigSpec {
    /// Every rule that puts namespaces on the slice.
    pub fn member_rules(&self) -> Vec<NamespaceRule> {
        let profile = self.namespace_isolation_profile.iter();
        let more = profile.flat_map(|p| places(&p.application_namespaces));
        let more = more.map(|place| NamespaceRule {
            clusters: place.named(),
            names: vec![place.namespace],
            ..NamespaceRule::default()
        });
        self.namespaces.iter().cloned().chain(more).collect()
    }

    /// What isolates the slice's namespaces in a cluster.
    pub fn isolation_in(&self, cluster: &str) -> Option<SliceIsolation> {
        let profile = self.namespace_isolation_profile.as_ref().filter(|p| p.isolation_enabled)?;
        let allowed_namespaces = in_cluster(&places(&profile.allowed_namespaces), cluster);
        Some(SliceIsolation { allowed_namespaces })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kubeslice_profile_is_read_as_it_is() {
        let spec: SliceConfigSpec = serde_json::from_value(serde_json::json!({
            "prefixes": ["10.77.0.0/16"],
            "clusters": [{"name": "east"}, {"name": "west"}],
            "namespaceIsolationProfile": {
                "isolationEnabled": true,
                "applicationNamespaces": [
                    {"namespace": "iperf", "clusters": ["*"]},
                    {"namespace": "bookinfo", "clusters": ["west"]},
                ],
                "allowedNamespaces": [{"namespace": "monitoring", "clusters": ["east"]}],
            },
        }))
        .unwrap();
        let rules = spec.member_rules();
        assert_eq!((rules[0].names[0].as_str(), rules[0].clusters.len()), ("iperf", 0));
        assert_eq!(
            (rules[1].names[0].as_str(), rules[1].clusters.as_slice()),
            ("bookinfo", &["west".to_owned()][..])
        );
        assert_eq!(spec.isolation_in("east").unwrap().allowed_namespaces, ["monitoring"]);
        assert!(spec.isolation_in("west").unwrap().allowed_namespaces.is_empty());
    }
}
