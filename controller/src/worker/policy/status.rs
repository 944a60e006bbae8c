//! How a policy is carried out in this cluster, as a pure function of what its nodes say.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use slicewire_api::condition::{self, PROGRAMMED};
use slicewire_api::{NodePolicy, RuleHits, SliceNode, WorkerPolicy, WorkerPolicyStatus};

/// What the hub is told of a policy.
pub(super) fn status(
    nodes: &[Arc<SliceNode>],
    policy: &WorkerPolicy,
    now: Timestamp,
) -> WorkerPolicyStatus {
    let mut behind = Vec::new();
    let mut sums: BTreeMap<(String, Option<i32>), (i64, i64)> = BTreeMap::new();
    for node in nodes {
        let Some(status) = &node.status else { continue };
        let own: Option<&NodePolicy> =
            status.policies.iter().find(|p| p.policy == policy.spec.policy);
        // A node without a NIC of the slice has nothing to carry out.
        let current = own.is_some_and(|p| p.revision == Some(policy.spec.revision));
        if !current && !status.nics.is_empty() {
            behind.push(node.spec.node.as_str());
        }
        for hits in own.iter().flat_map(|p| &p.hits) {
            let sum = sums.entry((hits.direction.clone(), hits.rule)).or_default();
            sum.0 = sum.0.saturating_add(hits.hits);
            sum.1 = sum.1.saturating_add(hits.would_drop);
        }
    }
    let hits = sums.into_iter().map(|((direction, rule), (hits, would_drop))| RuleHits {
        direction,
        rule,
        hits,
        would_drop,
    });
    let (reason, message) = if behind.is_empty() {
        ("Programmed", "Every node of the slice carries it out.".to_owned())
    } else {
        ("Pending", format!("waiting for netop-daemon on {}", behind.join(", ")))
    };
    let mut conditions = policy.status.as_ref().map(|s| s.conditions.clone()).unwrap_or_default();
    let generation = policy.metadata.generation;
    let one =
        condition::condition(PROGRAMMED, behind.is_empty(), reason, message, generation, Time(now));
    condition::set(&mut conditions, one);
    WorkerPolicyStatus { revision: Some(policy.spec.revision), hits: hits.collect(), conditions }
}

#[cfg(test)]
mod tests {
    use slicewire_api::condition::is_true;
    use slicewire_api::{Nic, SliceNodeSpec, SliceNodeStatus, WorkerPolicySpec};

    use super::*;

    fn node(name: &str, pods: usize, revision: Option<i64>) -> Arc<SliceNode> {
        let spec = SliceNodeSpec { slice: "blue".into(), node: name.into(), blocks: vec![] };
        let mut node = SliceNode::new(name, spec);
        let hits = RuleHits { direction: "egress".into(), rule: Some(0), hits: 2, would_drop: 1 };
        let policies = revision.map(|revision| NodePolicy {
            policy: "cut".into(),
            revision: Some(revision),
            hits: vec![hits],
        });
        node.status = Some(SliceNodeStatus {
            nics: vec![Nic::default(); pods],
            policies: policies.into_iter().collect(),
            ..SliceNodeStatus::default()
        });
        Arc::new(node)
    }

    fn told(nodes: &[Arc<SliceNode>]) -> WorkerPolicyStatus {
        let spec =
            WorkerPolicySpec { policy: "cut".into(), revision: 2, ..WorkerPolicySpec::default() };
        status(nodes, &WorkerPolicy::new("blue.cut", spec), Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn every_node_with_a_nic_counts_and_no_other() {
        let all = told(&[node("a", 1, Some(2)), node("b", 0, None)]);
        assert!(is_true(&all.conditions, PROGRAMMED));
        let old = told(&[node("a", 1, Some(2)), node("b", 3, Some(1)), node("c", 1, None)]);
        assert!(!is_true(&old.conditions, PROGRAMMED));
        assert!(old.conditions[0].message.ends_with("on b, c"), "{}", old.conditions[0].message);
        assert_eq!((old.hits[0].hits, old.hits[0].would_drop), (4, 2));
    }
}
