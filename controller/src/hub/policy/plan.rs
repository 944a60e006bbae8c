//! What has to be done for the policies of a slice.

use std::collections::BTreeMap;

use kube::ResourceExt;
use kube::api::ObjectMeta;
use slicewire_api::labels::{CLUSTER, HUB_MANAGER, MANAGED_BY, OF_SLICE, PROJECT};
use slicewire_api::{
    SlicePolicy, WorkerEndpoints, WorkerEndpointsSpec, WorkerPolicy, WorkerPolicySpec, WorkerSlice,
};
use slicewire_core::member;
use slicewire_core::name::{ClusterName, endpoints_object, policy_object};
use slicewire_core::policy::parts::parts_for;

use super::observe::Observed;
use super::validate::Validated;
use crate::kubernetes::change::{Change, Steps, owned_by};

/// Decides.
pub(super) fn plan(observed: &Observed, validated: &Validated) -> Steps {
    let mut step = Vec::new();
    for (cluster, slice) in &observed.slices {
        if slice.metadata.deletion_timestamp.is_some() {
            continue;
        }
        for (name, policy) in &observed.policies {
            let there = observed.told.get(&(cluster.clone(), name.clone()));
            // One that is not accepted is left as it was.
            if matches!(validated.get(name), Some(Ok(_))) {
                let wanted = worker_policy(slice, cluster, name, policy);
                step.extend(Change::converge(&wanted, there.map(|p| &**p)));
            }
        }
        for number in 0..parts(slice) {
            let there = observed.reports.get(&(cluster.clone(), number));
            let wanted = report_object(slice, cluster, number);
            step.extend(Change::converge(&wanted, there.map(|e| &**e)));
        }
    }
    let gone = observed.told.iter().filter(|((cluster, policy), _)| {
        !observed.slices.contains_key(cluster) || !observed.policies.contains_key(policy)
    });
    step.extend(gone.filter_map(|(_, told)| Change::delete(&**told)));
    let idle = observed.reports.iter().filter(|((cluster, number), _)| {
        observed.slices.get(cluster).is_none_or(|slice| *number >= parts(slice))
    });
    step.extend(idle.filter_map(|(_, report)| Change::delete(&**report)));
    vec![step]
}

/// In how many objects a cluster reports its pods.
fn parts(slice: &WorkerSlice) -> usize {
    if slice.spec.policy_keys.is_none() {
        return 0;
    }
    let pods = slice.status.as_ref().map_or(0, |s| member::pods(s.attached_pods));
    parts_for(usize::try_from(pods).unwrap_or_default())
}

fn worker_policy(
    slice: &WorkerSlice,
    cluster: &ClusterName,
    name: &str,
    policy: &SlicePolicy,
) -> WorkerPolicy {
    let spec = WorkerPolicySpec {
        slice: slice.name_any(),
        cluster: cluster.to_string(),
        policy: name.to_owned(),
        revision: policy.metadata.generation.unwrap_or_default(),
        rules: policy.spec.clone(),
    };
    let object = policy_object(&slice.name_any(), name);
    let mut told = WorkerPolicy::new(&object, spec);
    told.metadata = meta(slice, cluster, object);
    told
}

fn report_object(slice: &WorkerSlice, cluster: &ClusterName, number: usize) -> WorkerEndpoints {
    let spec = WorkerEndpointsSpec {
        slice: slice.name_any(),
        cluster: cluster.to_string(),
        number: i32::try_from(number).unwrap_or(i32::MAX),
        endpoints: Vec::new(),
    };
    let object = endpoints_object(&slice.name_any(), cluster.as_str(), number);
    let mut report = WorkerEndpoints::new(&object, spec);
    report.metadata = meta(slice, cluster, object);
    report
}

/// Name, place and marks of something that a cluster is told with a slice, and that goes with it.
pub(in crate::hub) fn meta(slice: &WorkerSlice, cluster: &ClusterName, name: String) -> ObjectMeta {
    let labels = BTreeMap::from([
        (MANAGED_BY.to_owned(), HUB_MANAGER.to_owned()),
        (PROJECT.to_owned(), slice.spec.project.clone()),
        (CLUSTER.to_owned(), cluster.to_string()),
        (OF_SLICE.to_owned(), slice.name_any()),
    ]);
    ObjectMeta {
        name: Some(name),
        namespace: slice.namespace(),
        labels: Some(labels),
        owner_references: owned_by(slice).map(|owner| vec![owner]),
        ..ObjectMeta::default()
    }
}
