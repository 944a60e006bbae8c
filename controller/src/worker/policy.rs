//! WorkerPolicies → SliceRules in this cluster, and back: which nodes carry them out, and what they
//! have decided about.

mod status;

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::api::ObjectMeta;
use slicewire_api::labels::{MANAGED_BY, OF_SLICE, WORKER_MANAGER};
use slicewire_api::{Slice, SliceNode, SliceRules, SliceRulesSpec, WorkerPolicy};
use slicewire_runtime::reconcile::Next;

use super::Worker;
use crate::kubernetes::change::{Change, Steps, owned_by};
use crate::kubernetes::write::next;

/// One round for the policies of one slice.
pub(super) async fn reconcile(worker: &Worker, slice: &str) -> Next {
    let observed = observe(worker, slice);
    let outcome = worker.writer.run(plan(&observed), |object| worker.note(object)).await;
    let Some(session) = worker.hub.session() else { return next(&outcome, Next::Wait) };
    let now = Timestamp::now();
    let statuses = observed.told.iter().flat_map(|told| told.values()).filter_map(|policy| {
        let new = status::status(&observed.nodes, policy, now);
        (policy.status.as_ref() != Some(&new)).then(|| Change::status(&**policy, &new))
    });
    let reported = session.tell(vec![statuses.collect()], |object| worker.note(object)).await;
    next(&outcome, next(&reported, Next::Wait))
}

/// Policies of a slice, as told and as they are here.
#[derive(Debug, Default)]
struct Observed {
    /// Where our components run.
    namespace: String,
    slice: Option<Arc<Slice>>,
    /// What the hub says, by object; `None` while it has not been heard: what is, stays.
    told: Option<BTreeMap<String, Arc<WorkerPolicy>>>,
    /// The mirrors, by object.
    rules: BTreeMap<String, Arc<SliceRules>>,
    nodes: Vec<Arc<SliceNode>>,
}

fn observe(worker: &Worker, slice: &str) -> Observed {
    let local = &worker.local;
    let told = worker.hub.session().filter(|_| worker.told.policies.is_synced()).map(|session| {
        let all = worker.told.policies.list_in(&session.namespace).into_iter();
        let ours = all.filter(|p| p.spec.slice == slice && p.spec.cluster == session.cluster);
        ours.filter(|p| p.metadata.deletion_timestamp.is_none())
            .map(|p| (p.name_any(), p))
            .collect()
    });
    let rules = local.rules.list_in(&worker.namespace).into_iter();
    let nodes = local.slice_nodes.list_in(&worker.namespace).into_iter();
    Observed {
        namespace: worker.namespace.clone(),
        slice: local.slices.get("", slice),
        told,
        rules: rules.filter(|r| r.spec.slice == slice).map(|r| (r.name_any(), r)).collect(),
        nodes: nodes.filter(|n| n.spec.slice == slice).collect(),
    }
}

/// Decides. What does not parse is not taken over: nodes keep what they have.
fn plan(observed: &Observed) -> Steps {
    let (Some(told), Some(slice)) = (&observed.told, &observed.slice) else { return Vec::new() };
    if slice.metadata.deletion_timestamp.is_some() {
        return Vec::new();
    }
    let mut step = Vec::new();
    for (name, policy) in told {
        if let Err(faults) = policy.spec.rules.parse_alone() {
            let faults = slicewire_core::violation::summary(&faults);
            tracing::warn!(policy = name, faults, "kept as it was");
            continue;
        }
        let there = observed.rules.get(name);
        step.extend(Change::converge(
            &mirror(&observed.namespace, slice, policy),
            there.map(|r| &**r),
        ));
    }
    let gone = observed.rules.iter().filter(|(name, _)| !told.contains_key(*name));
    step.extend(gone.filter_map(|(_, rules)| Change::delete(&**rules)));
    vec![step]
}

fn mirror(namespace: &str, slice: &Slice, policy: &WorkerPolicy) -> SliceRules {
    let spec = SliceRulesSpec {
        slice: policy.spec.slice.clone(),
        policy: policy.spec.policy.clone(),
        revision: policy.spec.revision,
        rules: policy.spec.rules.clone(),
    };
    let mut rules = SliceRules::new(&policy.name_any(), spec);
    rules.metadata = meta(namespace, slice, policy.name_any());
    rules
}

/// Name, place and marks of something of a slice that goes with the slice.
pub(super) fn meta(namespace: &str, slice: &Slice, name: String) -> ObjectMeta {
    let labels = [(MANAGED_BY, WORKER_MANAGER.to_owned()), (OF_SLICE, slice.name_any())];
    ObjectMeta {
        name: Some(name),
        namespace: Some(namespace.to_owned()),
        labels: Some(labels.map(|(k, v)| (k.to_owned(), v)).into()),
        owner_references: owned_by(slice).map(|owner| vec![owner]),
        ..ObjectMeta::default()
    }
}

#[cfg(test)]
mod tests {
    use slicewire_api::{SlicePolicySpec, SliceSpec, WorkerPolicySpec};

    use super::*;
    use crate::kubernetes::change::Verb;
    use crate::kubernetes::fake::Fake;

    fn observed() -> Observed {
        let rules = SlicePolicySpec {
            slice: "blue".into(),
            priority: Some(3),
            egress: Some(Vec::new()),
            ..SlicePolicySpec::default()
        };
        let spec = WorkerPolicySpec {
            slice: "blue".into(),
            cluster: "east".into(),
            policy: "cut".into(),
            revision: 4,
            rules,
        };
        let told = WorkerPolicy::new("blue.cut", spec);
        Observed {
            namespace: "slicewire-system".into(),
            slice: Some(Arc::new(Slice::new("blue", SliceSpec::default()))),
            told: Some([("blue.cut".to_owned(), Arc::new(told))].into()),
            ..Observed::default()
        }
    }

    #[test]
    fn what_is_told_is_mirrored_and_a_silent_hub_changes_nothing() {
        let mut observed = observed();
        let mut fake = Fake::default();
        for change in plan(&observed).concat() {
            fake.carry_out(&change).unwrap();
        }
        let rules = fake.get::<SliceRules>("slicewire-system", "blue.cut").unwrap();
        assert_eq!((rules.spec.policy.as_str(), rules.spec.revision), ("cut", 4));
        observed.rules.insert("blue.cut".into(), rules);
        assert_eq!(plan(&observed).concat(), []);
        let told = observed.told.take();
        assert_eq!(plan(&observed).concat(), []);
        observed.told = told;
        observed.told.as_mut().unwrap().clear();
        assert_eq!(plan(&observed).concat()[0].verb, Verb::Delete);
    }

    #[test]
    fn what_does_not_parse_is_left_as_it_was() {
        let mut observed = observed();
        let told = observed.told.as_mut().unwrap().get_mut("blue.cut").unwrap();
        Arc::make_mut(told).spec.rules.priority = Some(-1);
        assert_eq!(plan(&observed).concat(), []);
    }
}
