//! Which namespaces a slice's namespaces accept traffic from on the clusters' own pod networks.

use std::collections::BTreeSet;

use crate::name::check_label;
use crate::violation::Violation;

/// Stands for every cluster of the slice.
pub const ALL_CLUSTERS: &str = "*";
/// Longest name of a namespace, in bytes.
const MAX_NAMESPACE: usize = 63;

/// A namespace in some clusters of a slice, as it was written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    /// `namespace`.
    pub namespace: String,
    /// `clusters`; none, or `*`: all of the slice's.
    pub clusters: Vec<String>,
}

impl Place {
    /// The clusters it names; none: all of them.
    pub fn named(&self) -> Vec<String> {
        if self.clusters.iter().any(|c| c == ALL_CLUSTERS) {
            return Vec::new();
        }
        self.clusters.clone()
    }

    fn is_in(&self, cluster: &str) -> bool {
        let named = self.named();
        named.is_empty() || named.iter().any(|c| c == cluster)
    }
}

/// Faults of such a list; `clusters` are the slice's.
pub fn validate(field: &str, places: &[Place], clusters: &[String]) -> Vec<Violation> {
    let mut faults = Vec::new();
    for (i, place) in places.iter().enumerate() {
        let at = format!("{field}[{i}].namespace");
        faults.extend(check_label(&at, &place.namespace, MAX_NAMESPACE));
        for (j, cluster) in place.clusters.iter().enumerate() {
            if cluster != ALL_CLUSTERS && !clusters.contains(cluster) {
                let help = format!(
                    "is not a cluster of this slice; {} are, and '{ALL_CLUSTERS}' means all of them",
                    clusters.join(", ")
                );
                let at = format!("{field}[{i}].clusters[{j}]");
                faults.push(Violation::new(at, cluster, "UnknownCluster", help));
            }
        }
    }
    faults
}

/// The namespaces that are meant in one cluster, in order, each once.
pub fn in_cluster(places: &[Place], cluster: &str) -> Vec<String> {
    let meant = places.iter().filter(|place| place.is_in(cluster));
    let names: BTreeSet<&String> = meant.map(|place| &place.namespace).collect();
    names.into_iter().cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(namespace: &str, clusters: &[&str]) -> Place {
        let clusters = clusters.iter().map(|c| (*c).to_owned()).collect();
        Place { namespace: namespace.into(), clusters }
    }

    #[test]
    fn none_and_the_star_mean_every_cluster() {
        let places = [
            place("web", &["*"]),
            place("tools", &[]),
            place("logs", &["west"]),
            place("web", &[]),
        ];
        assert_eq!(in_cluster(&places, "east"), ["tools", "web"]);
        assert_eq!(in_cluster(&places, "west"), ["logs", "tools", "web"]);
    }

    #[test]
    fn every_fault_is_told() {
        let places = [place("Shop", &["east", "north"]), place("a--b", &["*"]), place("", &[])];
        let faults = validate("spec.x", &places, &["east".to_owned()]);
        let told: Vec<_> = faults.iter().map(|f| f.field.as_str()).collect();
        assert!(told.contains(&"spec.x[0].namespace"), "{told:?}");
        assert!(told.contains(&"spec.x[0].clusters[1]"), "{told:?}");
        assert!(!told.contains(&"spec.x[1].namespace"), "{told:?}");
        assert!(told.contains(&"spec.x[2].namespace"), "{told:?}");
    }
}
