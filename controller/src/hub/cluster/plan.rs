//! What has to be done for a cluster.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::api::rbac::v1::{PolicyRule, Role, RoleBinding, RoleRef, Subject};
use kube::ResourceExt;
use kube::api::ObjectMeta;
use slicewire_api::labels::{
    CLUSTER, HUB_FINALIZER, HUB_MANAGER, MANAGED_BY, PROJECT, WORKER_ACCOUNT,
};
use slicewire_api::{Cluster, GROUP};
use slicewire_core::name::cluster_namespace;
use slicewire_core::violation::Violation;

use super::observe::Observed;
use super::validate::ValidatedCluster;
use crate::kubernetes::change::{Change, Steps};

/// Name of the worker's Role and RoleBinding.
pub(super) const ROLE: &str = "slicewire-worker";

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
        return leave(observed);
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
    let steps =
        vec![hold.into_iter().chain(namespace).collect(), inside.into_iter().flatten().collect()];
    Plan { steps, waiting: None }
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
        let rule = |group: &str, resources: &[&str], verbs: &[&str], names: &[&str]| PolicyRule {
            api_groups: Some(vec![group.to_owned()]),
            resources: Some(owned(resources)),
            resource_names: (!names.is_empty()).then(|| owned(names)),
            verbs: owned(verbs),
            ..PolicyRule::default()
        };
        let kinds = ["workerslices", "workergateways", "clusters"];
        let statuses = ["workerslices/status", "workergateways/status", "clusters/status"];
        let lease = "coordination.k8s.io";
        let rules = vec![
            rule(GROUP, &kinds, &["get", "list", "watch"], &[]),
            rule(GROUP, &statuses, &["get", "patch", "update"], &[]),
            rule(lease, &["leases"], &["create"], &[]),
            rule(lease, &["leases"], &["get", "patch", "update"], &[WORKER_ACCOUNT]),
            rule("", &["serviceaccounts/token"], &["create"], &[WORKER_ACCOUNT]),
            rule("events.k8s.io", &["events"], &["create", "patch"], &[]),
        ];
        Role { metadata: self.named(ROLE), rules: Some(rules) }
    }

    fn binding(&self) -> RoleBinding {
        RoleBinding {
            metadata: self.named(ROLE),
            role_ref: RoleRef {
                api_group: "rbac.authorization.k8s.io".to_owned(),
                kind: "Role".to_owned(),
                name: ROLE.to_owned(),
            },
            subjects: Some(vec![Subject {
                kind: "ServiceAccount".to_owned(),
                name: WORKER_ACCOUNT.to_owned(),
                namespace: Some(self.namespace.clone()),
                ..Subject::default()
            }]),
        }
    }

    fn copy(&self, cluster: &Cluster) -> Cluster {
        let mut copy = Cluster::new(&self.cluster, cluster.spec.clone());
        copy.metadata = self.named(&self.cluster);
        copy
    }
}

fn owned(list: &[&str]) -> Vec<String> {
    list.iter().map(|s| (*s).to_owned()).collect()
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
            copy: None,
            heartbeat: None,
            slices: vec![],
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
        observed.copy = Some(Arc::new(meta.copy(&observed.cluster)));
        assert_eq!(changes(&observed), []);
    }

    #[test]
    fn the_workers_role_opens_nothing_but_statuses_for_writing() {
        let role = Meta::new(&validate(&observed()).unwrap()).role();
        for rule in role.rules.unwrap() {
            let writes = rule.verbs.iter().any(|v| !["get", "list", "watch"].contains(&v.as_str()));
            let ours = rule.api_groups == Some(vec![GROUP.to_owned()]);
            let statuses = rule.resources.unwrap().iter().all(|r| r.ends_with("/status"));
            assert!(!(writes && ours) || statuses);
        }
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

    #[test]
    fn a_cluster_outside_a_project_is_refused() {
        let mut observed = observed();
        Arc::make_mut(&mut observed.cluster).metadata.namespace = Some("default".into());
        assert_eq!(validate(&observed).unwrap_err()[0].reason, "NotAProject");
        assert_eq!(changes(&observed), []);
    }
}
