//! Which pods belong to a slice.
//!
//! One function answers for everybody: the node daemon that attaches, the webhook that makes pods
//! wait and the controller that reports. A pod is a member of a slice when nothing excludes it and
//!
//! - its own label, or else its namespace's, lists the slice, or
//! - a rule of the slice selects its namespace and, where the rule has one, its pod selector
//!   selects the pod.

use crate::selector::{Labels, Selector};

/// Label on namespaces and pods: the slices they want, separated by dots.
pub const SLICE_LABEL: &str = "slicewire.dev/slice";
/// Label on pods (and namespaces) that keeps them off every slice when `"true"`.
pub const EXCLUDE_LABEL: &str = "slicewire.dev/exclude";
/// Label on a gateway pod: the one slice whose gateway it is. Written by the worker controller
/// only; pods elsewhere that carry it gain nothing, because it counts in [`SYSTEM_NAMESPACE`] only.
pub const GATEWAY_LABEL: &str = "slicewire.dev/gateway";
/// The namespace our own components run in, in every worker.
pub const SYSTEM_NAMESPACE: &str = "slicewire-system";

/// A rule of a slice that onboards namespaces of one cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// Namespaces by name.
    pub names: Vec<String>,
    /// Namespaces by label. Selecting everything still leaves out the system's namespaces.
    pub selector: Option<Selector>,
    /// Narrows to some pods of those namespaces.
    pub pod_selector: Option<Selector>,
}

/// What is asked about a pod.
#[derive(Debug, Clone, Copy)]
pub struct PodFacts<'a> {
    /// Its namespace's name.
    pub namespace: &'a str,
    /// Its namespace's labels.
    pub namespace_labels: &'a Labels,
    /// Its own labels.
    pub labels: &'a Labels,
    /// Whether it shares the node's network, where there is no NIC to add.
    pub host_network: bool,
}

/// Whether a namespace belongs to Kubernetes or to us rather than to an application.
pub fn is_system_namespace(name: &str) -> bool {
    name.starts_with("kube-") || name == SYSTEM_NAMESPACE
}

/// Whether the namespace is onboarded to `slice`: some of its pods may be members.
pub fn namespace_member(slice: &str, rules: &[Rule], namespace: &str, labels: &Labels) -> bool {
    if excluded(labels) {
        return false;
    }
    lists(labels, slice) || rules.iter().any(|r| rule_selects(r, namespace, labels))
}

/// Whether the pod is a member of `slice`.
pub fn pod_member(slice: &str, rules: &[Rule], pod: &PodFacts<'_>) -> bool {
    if pod.host_network {
        return false;
    }
    if pod.namespace == SYSTEM_NAMESPACE {
        return pod.labels.get(GATEWAY_LABEL).is_some_and(|s| s == slice);
    }
    if excluded(pod.labels) || excluded(pod.namespace_labels) {
        return false;
    }
    let asked =
        if pod.labels.contains_key(SLICE_LABEL) { pod.labels } else { pod.namespace_labels };
    lists(asked, slice)
        || rules.iter().any(|r| {
            rule_selects(r, pod.namespace, pod.namespace_labels)
                && r.pod_selector.as_ref().is_none_or(|s| s.matches(pod.labels))
        })
}

fn excluded(labels: &Labels) -> bool {
    labels.get(EXCLUDE_LABEL).is_some_and(|v| v == "true")
}

fn lists(labels: &Labels, slice: &str) -> bool {
    labels.get(SLICE_LABEL).is_some_and(|v| v.split('.').any(|s| s == slice))
}

fn rule_selects(rule: &Rule, namespace: &str, labels: &Labels) -> bool {
    if rule.names.iter().any(|n| n == namespace) {
        return true;
    }
    !is_system_namespace(namespace) && rule.selector.as_ref().is_some_and(|s| s.matches(labels))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::selector::{Operator, Requirement};

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn pod<'a>(namespace: &'a str, ns: &'a Labels, own: &'a Labels) -> PodFacts<'a> {
        PodFacts { namespace, namespace_labels: ns, labels: own, host_network: false }
    }

    #[test]
    fn a_label_lists_several_slices() {
        let ns = labels(&[(SLICE_LABEL, "blue.red")]);
        let none = labels(&[]);
        for (slice, member) in [("blue", true), ("red", true), ("green", false), ("re", false)] {
            assert_eq!(pod_member(slice, &[], &pod("shop", &ns, &none)), member, "{slice}");
        }
    }

    #[test]
    fn a_pods_own_label_wins_over_its_namespaces() {
        let ns = labels(&[(SLICE_LABEL, "blue")]);
        let own = labels(&[(SLICE_LABEL, "red")]);
        assert!(pod_member("red", &[], &pod("shop", &ns, &own)));
        assert!(!pod_member("blue", &[], &pod("shop", &ns, &own)));
    }

    #[test]
    fn exclusion_and_host_network_win_over_everything() {
        let ns = labels(&[(SLICE_LABEL, "blue")]);
        let out = labels(&[(EXCLUDE_LABEL, "true"), (SLICE_LABEL, "blue")]);
        assert!(!pod_member("blue", &[], &pod("shop", &ns, &out)));
        let none = labels(&[]);
        let host = PodFacts { host_network: true, ..pod("shop", &ns, &none) };
        assert!(!pod_member("blue", &[], &host));
    }

    #[test]
    fn the_empty_selector_means_all_but_the_systems() {
        let rules = [Rule { selector: Some(Selector::default()), ..Rule::default() }];
        let none = labels(&[]);
        assert!(pod_member("blue", &rules, &pod("shop", &none, &none)));
        assert!(!pod_member("blue", &rules, &pod("kube-system", &none, &none)));
        assert!(!pod_member("blue", &rules, &pod(SYSTEM_NAMESPACE, &none, &none)));
    }

    #[test]
    fn a_pod_selector_narrows() {
        let web =
            Requirement { key: "app".into(), operator: Operator::In, values: vec!["web".into()] };
        let rules = [Rule {
            names: vec!["shop".into()],
            selector: None,
            pod_selector: Some(Selector { requirements: vec![web] }),
        }];
        let none = labels(&[]);
        assert!(pod_member("blue", &rules, &pod("shop", &none, &labels(&[("app", "web")]))));
        assert!(!pod_member("blue", &rules, &pod("shop", &none, &none)));
        assert!(namespace_member("blue", &rules, "shop", &none));
    }

    #[test]
    fn only_our_own_namespace_has_gateways() {
        let gateway = labels(&[(GATEWAY_LABEL, "blue")]);
        let none = labels(&[]);
        assert!(pod_member("blue", &[], &pod(SYSTEM_NAMESPACE, &none, &gateway)));
        assert!(!pod_member("blue", &[], &pod("shop", &none, &gateway)));
    }
}
