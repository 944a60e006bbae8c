//! What the webhook does with a pod that is about to be created.
//!
//! A pod that will be on a slice gets an init container that waits for its NIC, so that its own
//! containers find it when they start. Everything here errs on the side of leaving a pod alone: a
//! pod that does not wait is still attached, a pod that waits in vain does not start.

use crate::onboarding::{PodFacts, Rule, SYSTEM_NAMESPACE, pod_member};
use crate::selector::Labels;

/// Name of the init container that waits; a pod that has one has been here before.
pub const WAIT_CONTAINER: &str = "slicewire-wait";

/// Node labels, asked for by a pod, that mean a virtual node: there is no kernel of ours there.
const VIRTUAL_NODE_LABELS: [(&str, &str); 4] = [
    ("type", "virtual-kubelet"),
    ("eks.amazonaws.com/compute-type", "fargate"),
    ("liqo.io/type", "virtual-node"),
    ("alibabacloud.com/eci", "true"),
];

/// Taints of virtual nodes. Tolerating one is enough to be left alone, as the pod may end up there.
const VIRTUAL_NODE_TAINTS: [&str; 4] = [
    "virtual-kubelet.io/provider",
    "azure.com/aci",
    "eks.amazonaws.com/compute-type",
    "virtual-node.liqo.io/not-allowed",
];

/// How names of virtual nodes begin.
const VIRTUAL_NODE_NAMES: [&str; 3] = ["virtual-kubelet", "virtual-node", "fargate-"];

/// Label by which a pod is given to Fargate.
const FARGATE_LABEL: &str = "eks.amazonaws.com/fargate-profile";

/// A slice of this cluster and its onboarding rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SliceRules {
    /// The slice's name.
    pub name: String,
    /// Its rules for this cluster.
    pub rules: Vec<Rule>,
}

/// What is asked about a pod at admission.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    /// Where it lives and what it is labelled with.
    pub facts: PodFacts<'a>,
    /// The node it asks for by name.
    pub node_name: Option<&'a str>,
    /// Node labels it requires, from its node selector and its required node affinity.
    pub node_labels: &'a [(&'a str, &'a str)],
    /// Keys of the taints it tolerates.
    pub tolerated: &'a [&'a str],
    /// Names of its init containers.
    pub init_containers: &'a [&'a str],
    /// The operating system it asks for.
    pub os: Option<&'a str>,
}

/// Why a pod is left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Leave {
    /// It has the init container already.
    AlreadyWaiting,
    /// It shares the node's network.
    HostNetwork,
    /// It is one of our own.
    OwnNamespace,
    /// It is for another operating system than Linux.
    NotLinux,
    /// It is, or may be, for a virtual node.
    VirtualNode,
    /// It is on no slice of this cluster, or excluded.
    NotMember,
}

impl Leave {
    /// A short stable word for logs and metrics.
    pub fn reason(self) -> &'static str {
        match self {
            Self::AlreadyWaiting => "AlreadyWaiting",
            Self::HostNetwork => "HostNetwork",
            Self::OwnNamespace => "OwnNamespace",
            Self::NotLinux => "NotLinux",
            Self::VirtualNode => "VirtualNode",
            Self::NotMember => "NotMember",
        }
    }
}

/// What to do with a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Leave(Leave),
    /// Make it wait for its NICs on these slices, in the order of their names. Never empty.
    Wait(Vec<String>),
}

/// Decides about a pod, given the slices of this cluster.
pub fn decide(pod: &Candidate<'_>, slices: &[SliceRules]) -> Verdict {
    if let Some(reason) = left_alone(pod) {
        return Verdict::Leave(reason);
    }
    let mut member: Vec<String> = slices
        .iter()
        .filter(|slice| pod_member(&slice.name, &slice.rules, &pod.facts))
        .map(|slice| slice.name.clone())
        .collect();
    member.sort();
    member.dedup();
    if member.is_empty() { Verdict::Leave(Leave::NotMember) } else { Verdict::Wait(member) }
}

/// Namespaces in which some pod would have to wait, in order; our own is never among them.
pub fn onboarded<'a>(
    namespaces: impl IntoIterator<Item = (&'a str, &'a Labels)>,
    slices: &[SliceRules],
) -> Vec<String> {
    let mut names: Vec<String> = namespaces
        .into_iter()
        .filter(|(name, _)| *name != SYSTEM_NAMESPACE)
        .filter(|(name, labels)| {
            slices
                .iter()
                .any(|s| crate::onboarding::namespace_member(&s.name, &s.rules, name, labels))
        })
        .map(|(name, _)| name.to_owned())
        .collect();
    names.sort();
    names
}

fn left_alone(pod: &Candidate<'_>) -> Option<Leave> {
    if pod.init_containers.contains(&WAIT_CONTAINER) {
        return Some(Leave::AlreadyWaiting);
    }
    if pod.facts.host_network {
        return Some(Leave::HostNetwork);
    }
    if pod.facts.namespace == SYSTEM_NAMESPACE {
        return Some(Leave::OwnNamespace);
    }
    if pod.os.is_some_and(|os| os != "linux") {
        return Some(Leave::NotLinux);
    }
    for_virtual_node(pod).then_some(Leave::VirtualNode)
}

fn for_virtual_node(pod: &Candidate<'_>) -> bool {
    pod.node_labels.iter().any(|label| VIRTUAL_NODE_LABELS.contains(label))
        || pod.tolerated.iter().any(|key| VIRTUAL_NODE_TAINTS.contains(key))
        || pod.node_name.is_some_and(|n| VIRTUAL_NODE_NAMES.iter().any(|p| n.starts_with(p)))
        || pod.facts.labels.contains_key(FARGATE_LABEL)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onboarding::{EXCLUDE_LABEL, GATEWAY_LABEL, SLICE_LABEL};

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn slices() -> Vec<SliceRules> {
        let named = |name: &str, namespaces: &[&str]| SliceRules {
            name: name.to_owned(),
            rules: vec![Rule {
                names: namespaces.iter().map(|n| (*n).to_owned()).collect(),
                ..Rule::default()
            }],
        };
        vec![named("red", &["shop"]), named("blue", &["shop", "bank"]), named("green", &[])]
    }

    fn with(
        namespace: &str,
        ns: &Labels,
        own: &Labels,
        change: impl for<'a> FnOnce(&mut Candidate<'a>),
    ) -> Verdict {
        let facts = PodFacts { namespace, namespace_labels: ns, labels: own, host_network: false };
        let mut pod = Candidate {
            facts,
            node_name: None,
            node_labels: &[],
            tolerated: &[],
            init_containers: &[],
            os: None,
        };
        change(&mut pod);
        decide(&pod, &slices())
    }

    fn in_shop(change: impl for<'a> FnOnce(&mut Candidate<'a>)) -> Verdict {
        with("shop", &labels(&[]), &labels(&[]), change)
    }

    #[test]
    fn a_member_waits_for_all_its_slices_in_order() {
        let wait = Verdict::Wait(vec!["blue".into(), "red".into()]);
        assert_eq!(in_shop(|_| {}), wait);
        let by_label = with("other", &labels(&[(SLICE_LABEL, "green")]), &labels(&[]), |_| {});
        assert_eq!(by_label, Verdict::Wait(vec!["green".into()]));
    }

    #[test]
    fn a_slice_this_cluster_does_not_have_is_not_waited_for() {
        let ns = labels(&[(SLICE_LABEL, "elsewhere")]);
        assert_eq!(with("a", &ns, &labels(&[]), |_| {}), Verdict::Leave(Leave::NotMember));
    }

    #[test]
    fn excluded_pods_and_namespaces_are_left_alone() {
        let out = labels(&[(EXCLUDE_LABEL, "true")]);
        let none = labels(&[]);
        assert_eq!(with("shop", &none, &out, |_| {}), Verdict::Leave(Leave::NotMember));
        assert_eq!(with("shop", &out, &none, |_| {}), Verdict::Leave(Leave::NotMember));
    }

    #[test]
    fn pods_without_a_nic_to_come_are_left_alone() {
        let left = |reason| Verdict::Leave(reason);
        assert_eq!(in_shop(|p| p.facts.host_network = true), left(Leave::HostNetwork));
        assert_eq!(in_shop(|p| p.os = Some("windows")), left(Leave::NotLinux));
        let virtual_node = left(Leave::VirtualNode);
        assert_eq!(in_shop(|p| p.node_name = Some("virtual-kubelet-a")), virtual_node);
        assert_eq!(in_shop(|p| p.node_labels = &[("type", "virtual-kubelet")]), virtual_node);
        assert_eq!(in_shop(|p| p.tolerated = &["virtual-kubelet.io/provider"]), virtual_node);
        let fargate = labels(&[(FARGATE_LABEL, "default")]);
        assert_eq!(with("shop", &labels(&[]), &fargate, |_| {}), virtual_node);
    }

    #[test]
    fn ordinary_scheduling_wishes_change_nothing() {
        let verdict = in_shop(|p| {
            p.node_name = Some("worker-1");
            p.node_labels = &[("kubernetes.io/os", "linux"), ("type", "large")];
            p.tolerated = &["node.kubernetes.io/not-ready"];
            p.init_containers = &["istio-init"];
            p.os = Some("linux");
        });
        assert_eq!(verdict, Verdict::Wait(vec!["blue".into(), "red".into()]));
    }

    #[test]
    fn deciding_twice_adds_nothing() {
        let again = in_shop(|p| p.init_containers = &["other", WAIT_CONTAINER]);
        assert_eq!(again, Verdict::Leave(Leave::AlreadyWaiting));
    }

    #[test]
    fn gateways_do_not_wait_for_the_slice_they_carry() {
        let gateway = labels(&[(GATEWAY_LABEL, "blue")]);
        let verdict = with(SYSTEM_NAMESPACE, &labels(&[]), &gateway, |_| {});
        assert_eq!(verdict, Verdict::Leave(Leave::OwnNamespace));
    }

    #[test]
    fn onboarded_namespaces_are_those_a_rule_or_label_names() {
        let none = labels(&[]);
        let asks = labels(&[(SLICE_LABEL, "green")]);
        let unknown = labels(&[(SLICE_LABEL, "elsewhere")]);
        let all = [
            ("zoo", &asks),
            ("shop", &none),
            ("plain", &none),
            ("far", &unknown),
            (SYSTEM_NAMESPACE, &asks),
        ];
        assert_eq!(onboarded(all, &slices()), ["shop", "zoo"]);
    }
}
