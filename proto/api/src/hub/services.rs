//! How a slice's virtual addresses choose among clusters.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use slicewire_core::name::ClusterName;
use slicewire_core::service::balance::Spread;
use slicewire_core::service::spec::MAX_WEIGHT;
use slicewire_core::violation::Violation;

/// How connections to the slice's services are spread over clusters.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct SliceServices {
    /// `LocalFirst` (default): to the client's own cluster as long as enough of its endpoints are
    /// ready, and what it is short of to the others. `Even`: to all clusters alike.
    #[serde(default)]
    pub spread: ServiceSpread,
    /// How much clusters count. Those that are not listed count 100.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1024))]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub clusters: Vec<ClusterWeight>,
}

/// Over which clusters connections are spread.
#[derive(Serialize, Deserialize, Debug, Clone, Copy, Default, PartialEq, Eq, JsonSchema)]
pub enum ServiceSpread {
    /// The client's own cluster first.
    #[default]
    LocalFirst,
    /// All of them.
    Even,
}

/// How much a cluster counts.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ClusterWeight {
    /// Name of a cluster of the slice.
    #[schemars(length(min = 1, max = 30))]
    pub name: String,
    /// How much each of its endpoints counts against those of other clusters. With 0 it gets no new
    /// connection, from its own clients neither: so a cluster is emptied before work on it. A
    /// ServiceExport in the cluster says another number for its Service with the annotation
    /// `slicewire.dev/weight`, unless this one is 0.
    #[schemars(range(min = 0, max = 1000))]
    pub weight: i32,
}

impl SliceServices {
    /// Whether nothing is said.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The weights by cluster.
    ///
    /// # Errors
    /// Every weight that is none, and every name that is not of the slice's `clusters`, where they
    /// are given.
    pub fn weights(
        &self,
        field: &str,
        clusters: Option<&[String]>,
    ) -> Result<BTreeMap<ClusterName, u16>, Vec<Violation>> {
        let (mut weights, mut faults) = (BTreeMap::new(), Vec::new());
        for (i, entry) in self.clusters.iter().enumerate() {
            let field = format!("{field}.clusters[{i}]");
            let known = clusters.is_none_or(|all| all.contains(&entry.name));
            match ClusterName::parse(&entry.name) {
                Ok(name) if known => {
                    if let Some(weight) = weight(entry.weight) {
                        weights.insert(name, weight);
                    } else {
                        let (value, what) = (entry.weight, format!("must be 0 to {MAX_WEIGHT}"));
                        let field = format!("{field}.weight");
                        faults.push(Violation::new(field, value.to_string(), "WeightRange", what));
                    }
                }
                _ => {
                    let what = "is not one of the slice's clusters; spec.clusters lists them";
                    let field = format!("{field}.name");
                    faults.push(Violation::new(field, &entry.name, "UnknownCluster", what));
                }
            }
        }
        if faults.is_empty() { Ok(weights) } else { Err(faults) }
    }
}

fn weight(number: i32) -> Option<u16> {
    u16::try_from(number).ok().filter(|number| *number <= MAX_WEIGHT)
}

impl From<ServiceSpread> for Spread {
    fn from(spread: ServiceSpread) -> Self {
        match spread {
            ServiceSpread::LocalFirst => Self::LocalFirst,
            ServiceSpread::Even => Self::Even,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_read_or_every_fault_is_told() {
        let entry = |name: &str, weight| ClusterWeight { name: name.into(), weight };
        let of = |clusters| SliceServices { clusters, ..SliceServices::default() };
        let slice = ["east".to_owned(), "west".to_owned()];
        let good = of(vec![entry("east", 0), entry("west", 1000)]);
        let weights = good.weights("spec.services", Some(&slice)).unwrap();
        assert_eq!(weights.values().copied().collect::<Vec<_>>(), [0, 1000]);
        let bad = of(vec![entry("east", -1), entry("north", 5), entry("west", 1001)]);
        let faults = bad.weights("spec.services", Some(&slice)).unwrap_err();
        let told: Vec<_> = faults.iter().map(|f| (f.field.as_str(), f.reason)).collect();
        assert_eq!(
            told,
            [
                ("spec.services.clusters[0].weight", "WeightRange"),
                ("spec.services.clusters[1].name", "UnknownCluster"),
                ("spec.services.clusters[2].weight", "WeightRange"),
            ]
        );
        assert!(of(vec![entry("north", 5)]).weights("spec.services", None).is_ok());
    }
}
