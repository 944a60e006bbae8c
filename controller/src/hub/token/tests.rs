//! A token's life against an API server in memory.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use slicewire_api::condition::{ADMITTED, condition, is_true};
use slicewire_api::labels::WORKER_ACCOUNT;
use slicewire_api::{
    Cluster, ClusterStatus, JOIN_ACCOUNT, JoinRequest, JoinRequestSpec, JoinRequestStatus,
    JoinToken, JoinTokenSpec,
};
use slicewire_core::name::ProjectName;

use super::observe::{Observed, ROLE};
use super::plan::{Plan, plan};
use super::report::status;
use super::validate::validate;
use crate::kubernetes::fake::Fake;

const PROJECT: &str = "slicewire-demo";
const OWN: &str = "slicewire-demo--join--t-1";
/// Any public key that is one: RFC 7748, section 6.1.
const KEY: &str = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";

struct Hub {
    api: Fake,
    now: Timestamp,
    /// Requests that were given a credential, in order.
    answered: Vec<String>,
    /// Accounts of workers made so far.
    accounts: usize,
}

impl Hub {
    fn new(clusters: &str, uses: i32) -> Self {
        let spec = JoinTokenSpec { clusters: clusters.into(), uses, expiration_seconds: 3600 };
        let mut token = JoinToken::new("t-1", spec);
        token.metadata.namespace = Some(PROJECT.into());
        let mut api = Fake::default();
        api.put(&token);
        Self { api, now: Timestamp::from_second(1_000).unwrap(), answered: Vec::new(), accounts: 0 }
    }

    fn ask(&mut self, request: &str, cluster: &str, number: u32) {
        let mut object = JoinRequest::new(
            request,
            JoinRequestSpec {
                cluster: cluster.into(),
                cluster_uid: format!("0b1e4f5a-0000-4000-8000-{number:012}"),
                public_key: KEY.into(),
            },
        );
        object.metadata.namespace = Some(OWN.into());
        self.api.put(&object);
    }

    fn token(&self) -> Option<Arc<JoinToken>> {
        self.api.get(PROJECT, "t-1")
    }

    fn all<K>(&self, kind: &str, namespace: &str) -> Vec<Arc<K>>
    where
        K: kube::Resource<DynamicType = ()> + serde::de::DeserializeOwned,
    {
        let keys = self.api.state().into_keys();
        keys.filter(|(k, ns, _)| k == kind && ns == namespace)
            .filter_map(|(_, ns, name)| self.api.get(&ns, &name))
            .collect()
    }

    fn observe(&self) -> Option<Observed> {
        let clusters: Vec<Arc<Cluster>> = self.all("Cluster", PROJECT);
        let worker = |c: &Arc<Cluster>| {
            let namespace = c.status.as_ref()?.namespace.clone()?;
            let account = self.api.get::<ServiceAccount>(&namespace, WORKER_ACCOUNT)?;
            Some((c.name_any(), account))
        };
        Some(Observed {
            token: self.token()?,
            project: Some(ProjectName::parse("demo").unwrap()),
            namespace: self.api.get::<Namespace>("", OWN),
            account: self.api.get::<ServiceAccount>(OWN, JOIN_ACCOUNT),
            role: self.api.get::<Role>(OWN, ROLE),
            binding: self.api.get::<RoleBinding>(OWN, ROLE),
            requests: self.all("JoinRequest", OWN),
            workers: clusters.iter().filter_map(worker).collect(),
            clusters,
        })
    }

    /// One round; of its changes only the first `most` are made, as if the hub had died then.
    fn round(&mut self, most: usize) -> Option<Plan> {
        let observed = self.observe()?;
        let plan = plan(&observed, &validate(&observed), self.now);
        for change in plan.steps.concat().iter().take(most) {
            self.api.carry_out(change).unwrap();
        }
        if let Some(answer) = plan.answer.as_ref().filter(|_| most == usize::MAX) {
            let name = answer.request.name_any();
            let now = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(self.now);
            let yes = condition(ADMITTED, true, "Admitted", "", None, now);
            let status = JoinRequestStatus { credential: None, conditions: vec![yes] };
            self.api.report::<JoinRequest>(OWN, &name, &status);
            self.answered.push(name);
        }
        self.prepare();
        Some(plan)
    }

    /// What the clusters' own reconciler does: a namespace and an account for each.
    fn prepare(&mut self) {
        for cluster in self.all::<Cluster>("Cluster", PROJECT) {
            let name = cluster.name_any();
            let namespace = format!("{PROJECT}--{name}");
            if self.api.get::<ServiceAccount>(&namespace, WORKER_ACCOUNT).is_some() {
                continue;
            }
            let mut account = ServiceAccount::default();
            account.metadata.name = Some(WORKER_ACCOUNT.into());
            account.metadata.namespace = Some(namespace.clone());
            self.accounts += 1;
            account.metadata.uid = Some(self.accounts.to_string());
            self.api.put(&account);
            let status = ClusterStatus {
                namespace: Some(namespace),
                ..cluster.status.clone().unwrap_or_default()
            };
            self.api.report::<Cluster>(PROJECT, &name, &status);
        }
    }

    fn settle(&mut self) {
        for _ in 0..60 {
            self.round(usize::MAX);
        }
    }

    fn told(&self, request: &str) -> Option<(bool, String)> {
        let request = self.api.get::<JoinRequest>(OWN, request)?;
        let conditions = request.status.clone()?.conditions;
        let told = conditions.iter().find(|c| c.type_ == ADMITTED)?;
        Some((is_true(&conditions, ADMITTED), told.reason.clone()))
    }

    fn used(&self) -> usize {
        self.token().and_then(|t| t.status.clone()).map_or(0, |s| s.joined.len())
    }
}

#[test]
fn of_many_who_ask_at_once_as_many_are_let_in_as_may() {
    let mut hub = Hub::new("edge-*", 2);
    for i in 0..6 {
        hub.ask(&format!("join-{i}"), &format!("edge-{i}"), i);
    }
    hub.settle();
    assert_eq!((hub.used(), hub.answered.len()), (2, 2));
    let refused = (0..6).filter_map(|i| hub.told(&format!("join-{i}")));
    let refused: Vec<String> = refused.filter(|(yes, _)| !yes).map(|(_, r)| r).collect();
    assert_eq!(refused, ["TokenUsedUp"; 4]);
    assert_eq!(hub.all::<Cluster>("Cluster", PROJECT).len(), 2);
}

#[test]
fn a_hub_that_dies_anywhere_counts_each_use_once() {
    for most in 0..4 {
        let mut hub = Hub::new("*", 1);
        hub.ask("join-a", "a", 1);
        hub.ask("join-b", "b", 2);
        for _ in 0..12 {
            hub.round(most);
        }
        hub.settle();
        assert_eq!((hub.used(), hub.answered.len()), (1, 1), "died after {most} changes");
        assert_eq!(hub.told("join-a"), Some((true, "Admitted".into())));
        assert_eq!(hub.told("join-b").map(|t| t.1), Some("TokenUsedUp".into()));
    }
}

#[test]
fn who_comes_in_between_does_not_leave_a_cluster_behind() {
    let mut hub = Hub::new("*", 1);
    hub.ask("join-5", "e5", 5);
    while hub.all::<Cluster>("Cluster", PROJECT).is_empty() {
        hub.round(usize::MAX);
    }
    // It comes first in the order of names.
    hub.ask("join-0", "e0", 0);
    hub.settle();
    assert_eq!(hub.told("join-5"), Some((true, "Admitted".into())));
    assert_eq!(hub.told("join-0").map(|t| t.1), Some("TokenUsedUp".into()));
    assert_eq!(hub.all::<Cluster>("Cluster", PROJECT).len(), 1);
}

#[test]
fn what_was_registered_for_somebody_who_is_refused_after_all_goes_again() {
    let mut hub = Hub::new("*", 1);
    hub.ask("join-5", "e5", 5);
    while hub.all::<Cluster>("Cluster", PROJECT).is_empty() {
        hub.round(usize::MAX);
    }
    // Meanwhile the same cluster has joined under another name, with another token.
    let uid = "0b1e4f5a-0000-4000-8000-000000000005".to_owned();
    let mut other = Cluster::new("other", slicewire_api::ClusterSpec::default());
    other.metadata.namespace = Some(PROJECT.into());
    other.status = Some(ClusterStatus { cluster_uid: Some(uid), ..ClusterStatus::default() });
    hub.api.put(&other);
    hub.settle();
    assert_eq!(hub.told("join-5").map(|t| t.1), Some("MemberAs".into()));
    let left = hub.all::<Cluster>("Cluster", PROJECT);
    assert_eq!(left.iter().map(|c| c.name_any()).collect::<Vec<_>>(), ["other"]);
}

#[test]
fn a_name_belongs_to_the_cluster_that_has_joined_under_it() {
    let mut hub = Hub::new("*", 9);
    hub.ask("join-1", "east", 1);
    hub.settle();
    hub.ask("join-2", "east", 2);
    hub.ask("join-3", "west", 1);
    hub.settle();
    assert_eq!(hub.told("join-2").map(|t| t.1), Some("NameTaken".into()));
    assert_eq!(hub.told("join-3").map(|t| t.1), Some("MemberAs".into()));
    assert_eq!(hub.used(), 1);
}

#[test]
fn the_same_cluster_joins_again_and_its_old_credential_dies_first() {
    let mut hub = Hub::new("*", 9);
    hub.ask("join-1", "east", 1);
    hub.settle();
    let before = hub.accounts;
    hub.ask("join-2", "east", 1);
    while hub.accounts == before {
        hub.round(usize::MAX);
        assert!(hub.answered.len() < 2, "answered before the old credential died");
    }
    hub.settle();
    assert_eq!((hub.answered.len(), hub.accounts), (2, before + 1));
}

#[test]
fn hostile_requests_are_refused_with_every_fault_and_cost_nothing() {
    let mut hub = Hub::new("*", 1);
    let mut object = JoinRequest::new(
        "join-x",
        JoinRequestSpec {
            cluster: "a--b".into(),
            cluster_uid: "\u{1b}[2J".into(),
            public_key: "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=".into(),
        },
    );
    object.metadata.namespace = Some(OWN.into());
    hub.api.put(&object);
    hub.settle();
    let status = hub.api.get::<JoinRequest>(OWN, "join-x").unwrap().status.clone().unwrap();
    let message = &status.conditions[0].message;
    for part in ["spec.cluster", "spec.clusterUid", "spec.publicKey"] {
        assert!(message.contains(part), "{message}");
    }
    assert!(!message.contains('\u{1b}'), "{message}");
    assert_eq!((hub.used(), hub.all::<Cluster>("Cluster", PROJECT).len()), (0, 0));
}

#[test]
fn a_token_asked_too_much_with_is_taken_back_for_ever() {
    let mut hub = Hub::new("*", 1);
    hub.settle();
    for i in 0..70 {
        hub.ask(&format!("join-{i}"), "never", i);
    }
    let observed = hub.observe().unwrap();
    let validated = validate(&observed);
    let plan = plan(&observed, &validated, hub.now);
    assert!(plan.flooded);
    let kinds: Vec<_> = plan.steps.concat().iter().map(|c| c.resource.kind.clone()).collect();
    assert_eq!(kinds, ["ServiceAccount", "RoleBinding", "Namespace"]);
    let failed = Err(Vec::new());
    let new = status(&observed, &validated, &plan, &failed, hub.now);
    hub.api.report::<JoinToken>(PROJECT, "t-1", &new);
    let mut calm = hub.observe().unwrap();
    calm.requests.clear();
    assert!(super::plan::plan(&calm, &validate(&calm), hub.now).flooded);
}

#[test]
fn an_expired_token_loses_its_namespace_and_goes_a_day_later() {
    let mut hub = Hub::new("*", 1);
    hub.settle();
    assert!(hub.observe().unwrap().namespace.is_some());
    hub.now = Timestamp::from_second(3_600).unwrap();
    hub.settle();
    let observed = hub.observe().unwrap();
    assert!(observed.namespace.is_none() && observed.account.is_none());
    hub.now = Timestamp::from_second(3_600 + 24 * 3600).unwrap();
    hub.settle();
    assert!(hub.token().is_none(), "the token is shown for ever");
}

#[test]
fn a_settled_token_needs_nothing() {
    let mut hub = Hub::new("*", 1);
    hub.settle();
    let observed = hub.observe().unwrap();
    let plan = plan(&observed, &validate(&observed), hub.now);
    assert_eq!(plan.steps.concat(), []);
}
