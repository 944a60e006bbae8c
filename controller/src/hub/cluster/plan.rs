//! What has to be done for a cluster.

use std::collections::BTreeMap;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Namespace, ResourceQuota, ResourceQuotaSpec, ServiceAccount};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::ResourceExt;
use kube::api::ObjectMeta;
use serde_json::json;
use slicewire_api::Cluster;
use slicewire_api::labels::{
    ABANDON, CLUSTER, HUB_FINALIZER, HUB_MANAGER, MANAGED_BY, PROJECT, WORKER_ACCOUNT,
};
use slicewire_core::name::cluster_namespace;
use slicewire_core::violation::Violation;

use super::observe::{Observed, QUOTA, ROLE};
use super::validate::ValidatedCluster;
use crate::hub::rights;
use crate::kubernetes::change::{Change, Steps};

/// Most of each kind in a cluster's namespace. A worker may create none of them: this holds where
/// somebody grants one more than we do.
const LIMITS: [(&str, &str); 4] = [
    ("pods", "0"),
    ("count/secrets", "0"),
    ("count/leases.coordination.k8s.io", "4"),
    ("count/events.events.k8s.io", "256"),
];

/// A cluster's next steps, and what still stands in the way.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Plan {
    pub(super) steps: Steps,
    /// What a deletion waits for: a reason and a sentence.
    pub(super) waiting: Option<(&'static str, String)>,
}

/// Decides.
pub(super) fn plan(
    observed: &Observed,
    validated: &Result<ValidatedCluster, Vec<Violation>>,
) -> Plan {
    if observed.deleting() {
        return if given_up(&observed.cluster) { cut_off(observed) } else { leave(observed) };
    }
    if observed.leaves() {
        return dismiss(observed);
    }
    let Ok(place) = validated else { return Plan { steps: Vec::new(), waiting: None } };
    let hold = Change::hold(&*observed.cluster, HUB_FINALIZER);
    let meta = Meta::new(place);
    let namespace = meta.namespace();
    let namespace = match &observed.namespace {
        None => Some(Change::create(&namespace)),
        Some(there) => Change::converge(&namespace, Some(&**there)),
    };
    let copy = meta.copy(&observed.cluster);
    let inside = [
        Change::converge(&meta.account(), observed.account.as_deref()),
        Change::converge(&meta.role(), observed.role.as_deref()),
        Change::converge(&meta.binding(), observed.binding.as_deref()),
        Change::converge(&copy, observed.copy.as_deref()),
    ];
    // Made here, so that the worker needs no right to create anything.
    let heartbeat = observed.heartbeat.is_none().then(|| Change::apply(&meta.heartbeat()));
    let quota = Change::converge(&meta.quota(), observed.quota.as_deref());
    let steps = vec![
        hold.into_iter().chain(namespace).collect(),
        inside.into_iter().chain([heartbeat]).flatten().collect(),
        quota.into_iter().collect(),
    ];
    Plan { steps, waiting: None }
}

/// Whether the cluster is to go without its worker's word.
pub(in crate::hub) fn given_up(cluster: &Cluster) -> bool {
    cluster.annotations().get(ABANDON).is_some_and(|v| v == "true")
}

/// A worker that leaves for good takes its Cluster along; what it has, it cleans up itself.
fn dismiss(observed: &Observed) -> Plan {
    let abandon = json!({ "metadata": { "annotations": { ABANDON: "true" } } });
    let steps = vec![
        vec![Change::merge(&*observed.cluster, abandon)],
        Change::delete(&*observed.cluster).into_iter().collect(),
    ];
    let what = "its worker leaves for good".to_owned();
    Plan { steps, waiting: Some(("Leaving", what)) }
}

/// Cuts a cluster off, whatever its worker does: first its credential and the tokens whose secret it
/// knows, then everything it was told. The slices' own reconcilers drop its tunnels meanwhile.
fn cut_off(observed: &Observed) -> Plan {
    let dead = [
        observed.binding.as_deref().and_then(Change::delete),
        observed.account.as_deref().and_then(Change::delete),
        observed.role.as_deref().and_then(Change::delete),
    ];
    let tokens = observed.tokens.iter().filter_map(|t| Change::delete(&**t));
    let dead = dead.into_iter().flatten().chain(tokens).collect();
    let Some(namespace) = &observed.namespace else {
        let release = Change::release(&*observed.cluster, HUB_FINALIZER).into_iter().collect();
        return Plan { steps: vec![dead, release], waiting: None };
    };
    // A finalizer on the heartbeat, which the worker could write, would keep the namespace for ever.
    let held = observed.heartbeat.iter().filter(|lease| !lease.finalizers().is_empty());
    let free = held.map(|lease| Change::merge(lease, json!({"metadata": {"finalizers": null}})));
    let slices = observed.slices.iter().filter_map(|s| Change::release(&**s, HUB_FINALIZER));
    let steps = vec![
        dead,
        free.chain(slices).collect(),
        observed.slices.iter().filter_map(|s| Change::delete(&**s)).collect(),
        Change::delete(&**namespace).into_iter().collect(),
    ];
    let what = format!("waiting for namespace {} to be gone", namespace.name_any());
    Plan { steps, waiting: Some(("CutOff", what)) }
}

/// The cluster leaves when no slice names it and its worker has cleaned up.
fn leave(observed: &Observed) -> Plan {
    let blocked = |reason, message| Plan { steps: Vec::new(), waiting: Some((reason, message)) };
    let users: Vec<String> = observed.users.iter().map(|u| u.name_any()).collect();
    if !users.is_empty() {
        return blocked(
            "InUse",
            format!(
                "slices {} span this cluster; take it out of their spec.clusters",
                users.join(", ")
            ),
        );
    }
    let slices: Vec<String> = observed.slices.iter().map(|s| s.name_any()).collect();
    if !slices.is_empty() {
        return blocked(
            "CleaningUp",
            format!(
                "waiting for the worker to remove slices {}; if it never comes back, annotate this Cluster with slicewire.dev/abandon=true",
                slices.join(", ")
            ),
        );
    }
    if let Some(namespace) = &observed.namespace {
        let steps = vec![Change::delete(&**namespace).into_iter().collect()];
        let what = format!("waiting for namespace {} to be gone", namespace.name_any());
        return Plan { steps, waiting: Some(("Deleting", what)) };
    }
    let steps = vec![Change::release(&*observed.cluster, HUB_FINALIZER).into_iter().collect()];
    Plan { steps, waiting: None }
}

/// Names and labels of everything that belongs to a cluster.
struct Meta {
    namespace: String,
    cluster: String,
    labels: BTreeMap<String, String>,
}

impl Meta {
    fn new(place: &ValidatedCluster) -> Self {
        let labels = BTreeMap::from([
            (MANAGED_BY.to_owned(), HUB_MANAGER.to_owned()),
            (PROJECT.to_owned(), place.project.to_string()),
            (CLUSTER.to_owned(), place.name.to_string()),
        ]);
        let namespace = cluster_namespace(&place.project, &place.name);
        Self { namespace, cluster: place.name.to_string(), labels }
    }

    fn named(&self, name: &str) -> ObjectMeta {
        ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(self.namespace.clone()),
            labels: Some(self.labels.clone()),
            ..ObjectMeta::default()
        }
    }

    fn namespace(&self) -> Namespace {
        let metadata = ObjectMeta { namespace: None, ..self.named(&self.namespace) };
        Namespace { metadata, ..Namespace::default() }
    }

    fn account(&self) -> ServiceAccount {
        ServiceAccount {
            metadata: self.named(WORKER_ACCOUNT),
            automount_service_account_token: Some(false),
            ..ServiceAccount::default()
        }
    }

    fn role(&self) -> Role {
        Role { metadata: self.named(ROLE), rules: Some(rights::of_worker()) }
    }

    fn binding(&self) -> RoleBinding {
        RoleBinding {
            metadata: self.named(ROLE),
            role_ref: rights::role_ref(ROLE),
            subjects: Some(vec![rights::account_of(&self.namespace, WORKER_ACCOUNT)]),
        }
    }

    fn quota(&self) -> ResourceQuota {
        let hard = LIMITS.map(|(what, most)| (what.to_owned(), Quantity(most.to_owned())));
        ResourceQuota {
            metadata: self.named(QUOTA),
            spec: Some(ResourceQuotaSpec {
                hard: Some(hard.into()),
                ..ResourceQuotaSpec::default()
            }),
            ..ResourceQuota::default()
        }
    }

    fn heartbeat(&self) -> Lease {
        Lease { metadata: self.named(WORKER_ACCOUNT), ..Lease::default() }
    }

    fn copy(&self, cluster: &Cluster) -> Cluster {
        let mut copy = Cluster::new(&self.cluster, cluster.spec.clone());
        copy.metadata = self.named(&self.cluster);
        copy
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use k8s_openapi::jiff::Timestamp;
    use slicewire_api::{ClusterSpec, SliceConfig, SliceConfigSpec, WorkerSlice, WorkerSliceSpec};

    use super::super::validate::validate;
    use super::*;
    use crate::kubernetes::change::Verb;

    pub(crate) fn observed() -> Observed {
        let mut cluster = Cluster::new("east", ClusterSpec::default());
        cluster.metadata.namespace = Some("slicewire-demo".into());
        Observed {
            cluster: Arc::new(cluster),
            namespace: None,
            account: None,
            role: None,
            binding: None,
            quota: None,
            copy: None,
            heartbeat: None,
            slices: vec![],
            gateways: vec![],
            endpoints: vec![],
            pods: vec![],
            tokens: vec![],
            users: vec![],
        }
    }

    fn changes(observed: &Observed) -> Vec<Change> {
        plan(observed, &validate(observed)).steps.concat()
    }

    fn deleting() -> Observed {
        let mut observed = observed();
        let cluster = Arc::make_mut(&mut observed.cluster);
        cluster.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
        cluster.metadata.finalizers = Some(vec![HUB_FINALIZER.into()]);
        observed
    }

    #[test]
    fn a_settled_cluster_needs_nothing() {
        let mut observed = observed();
        let meta = Meta::new(&validate(&observed).unwrap());
        Arc::make_mut(&mut observed.cluster).metadata.finalizers = Some(vec![HUB_FINALIZER.into()]);
        observed.namespace = Some(Arc::new(meta.namespace()));
        observed.account = Some(Arc::new(meta.account()));
        observed.role = Some(Arc::new(meta.role()));
        observed.binding = Some(Arc::new(meta.binding()));
        observed.quota = Some(Arc::new(meta.quota()));
        observed.heartbeat = Some(meta.heartbeat());
        observed.copy = Some(Arc::new(meta.copy(&observed.cluster)));
        assert_eq!(changes(&observed), []);
    }

    #[test]
    fn a_cluster_in_use_stays_and_says_of_whom() {
        let mut observed = deleting();
        observed.users.push(Arc::new(SliceConfig::new("blue", SliceConfigSpec::default())));
        let plan = plan(&observed, &validate(&observed));
        assert_eq!((plan.steps.concat(), plan.waiting.unwrap().0), (vec![], "InUse"));
    }

    #[test]
    fn a_leaving_cluster_waits_for_its_worker_then_goes_with_its_namespace() {
        let mut observed = deleting();
        observed.slices.push(Arc::new(WorkerSlice::new("blue", WorkerSliceSpec::default())));
        assert_eq!(plan(&observed, &validate(&observed)).waiting.unwrap().0, "CleaningUp");
        observed.slices.clear();
        observed.namespace = Some(Arc::new(Namespace::default()));
        assert_eq!(changes(&observed)[0].verb, Verb::Delete);
        observed.namespace = None;
        assert!(matches!(changes(&observed)[0].verb, Verb::Merge(_)));
    }

    fn evicted() -> Observed {
        let mut observed = deleting();
        let meta = Meta::new(&validate(&observed).unwrap());
        let abandon = [(ABANDON.to_owned(), "true".to_owned())];
        Arc::make_mut(&mut observed.cluster).metadata.annotations = Some(abandon.into());
        observed.namespace = Some(Arc::new(meta.namespace()));
        observed.account = Some(Arc::new(meta.account()));
        observed.role = Some(Arc::new(meta.role()));
        observed.binding = Some(Arc::new(meta.binding()));
        observed.users.push(Arc::new(SliceConfig::new("blue", SliceConfigSpec::default())));
        let mut slice = WorkerSlice::new("blue", WorkerSliceSpec::default());
        slice.metadata.finalizers = Some(vec![HUB_FINALIZER.into()]);
        observed.slices.push(Arc::new(slice));
        let mut heartbeat = meta.heartbeat();
        heartbeat.metadata.finalizers = Some(vec!["example.org/for-ever".into()]);
        observed.heartbeat = Some(heartbeat);
        let token = slicewire_api::JoinToken::new("t-1", slicewire_api::JoinTokenSpec::default());
        observed.tokens.push(Arc::new(token));
        observed
    }

    #[test]
    fn an_evicted_cluster_loses_its_credential_first_and_waits_for_nobody() {
        let mut observed = evicted();
        let plan = plan(&observed, &validate(&observed));
        let kinds = |step: &[Change]| -> Vec<String> {
            step.iter().map(|c| c.resource.kind.clone()).collect()
        };
        assert_eq!(kinds(&plan.steps[0]), ["RoleBinding", "ServiceAccount", "Role", "JoinToken"]);
        assert!(plan.steps[0].iter().all(|c| c.verb == Verb::Delete));
        assert_eq!(kinds(&plan.steps[1]), ["Lease", "WorkerSlice"]);
        assert_eq!(kinds(&plan.steps[3]), ["Namespace"]);
        observed.namespace = None;
        let last = changes(&observed);
        assert_eq!(last.last().unwrap().resource.kind, "Cluster");
    }

    #[test]
    fn a_worker_that_leaves_for_good_takes_its_cluster_along() {
        let mut observed = evicted();
        Arc::make_mut(&mut observed.cluster).metadata = ObjectMeta {
            name: Some("east".into()),
            namespace: Some("slicewire-demo".into()),
            ..ObjectMeta::default()
        };
        let now = Time(Timestamp::UNIX_EPOCH);
        let leaving = slicewire_api::condition::condition("Leaving", true, "Leaves", "", None, now);
        let mut copy = (*observed.cluster).clone();
        copy.status = Some(slicewire_api::ClusterStatus {
            conditions: vec![leaving],
            ..slicewire_api::ClusterStatus::default()
        });
        observed.copy = Some(Arc::new(copy));
        let all = changes(&observed);
        assert!(matches!(&all[0].verb, Verb::Merge(_)));
        assert_eq!((all[1].verb.clone(), all[1].resource.kind.as_str()), (Verb::Delete, "Cluster"));
    }

    #[test]
    fn a_cluster_outside_a_project_is_refused() {
        let mut observed = observed();
        Arc::make_mut(&mut observed.cluster).metadata.namespace = Some("default".into());
        assert_eq!(validate(&observed).unwrap_err()[0].reason, "NotAProject");
        assert_eq!(changes(&observed), []);
    }
}
