//! What has to be done for a token.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::api::ObjectMeta;
use slicewire_api::condition::{ADMITTED, READY, condition};
use slicewire_api::labels::{
    HUB_FINALIZER, HUB_MANAGER, JOIN_REQUEST, JOIN_TOKEN, MANAGED_BY, PROJECT,
};
use slicewire_api::{Cluster, ClusterSpec, JOIN_ACCOUNT, JoinRequest, JoinRequestStatus, Joined};
use slicewire_core::join::{Admission, Applicant, Refusal, decide};
use slicewire_core::name::token_namespace;
use slicewire_core::violation::{Violation, summary};

use super::observe::{Observed, ROLE};
use super::validate::{ValidatedToken, applicant, registered};
use crate::hub::rights;
use crate::kubernetes::change::{Change, Steps};

/// Reason of a token that was taken back because too much was asked with it.
pub(super) const FLOODED: &str = "Flooded";
/// How long an answered request is kept, for who asked to read it.
const KEPT_SECONDS: i64 = 600;
/// How long a token is shown after its end.
const SHOWN_SECONDS: i64 = 24 * 3600;
/// How soon a request under way is looked at again.
const SOON: Duration = Duration::from_millis(150);

/// A credential that is to be made for who asked.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub(super) request: Arc<JoinRequest>,
    pub(super) project: String,
    /// The cluster's namespace.
    pub(super) namespace: String,
}

/// A token's next steps.
#[derive(Debug, Clone, Default)]
pub(super) struct Plan {
    pub(super) steps: Steps,
    /// Who is to be answered with a credential; at most one a round.
    pub(super) answer: Option<Answer>,
    /// Too much was asked with it.
    pub(super) flooded: bool,
    pub(super) look_again: Option<Duration>,
}

/// Decides.
pub(super) fn plan(
    observed: &Observed,
    validated: &Result<ValidatedToken, Vec<Violation>>,
    now: Timestamp,
) -> Plan {
    if observed.deleting() {
        return end(observed);
    }
    let Ok(valid) = validated else { return Plan::default() };
    let (seconds, ends) = (now.as_second(), valid.token.expires);
    if valid.token.expired(seconds) {
        let mut plan = end_place(observed);
        let left = ends + SHOWN_SECONDS - seconds;
        if left <= 0 {
            plan.steps.push(Change::delete(&*observed.token).into_iter().collect());
        } else {
            plan.look_again = plan.look_again.or_else(|| duration(left));
        }
        return plan;
    }
    if flooded(observed, valid) {
        return Plan { flooded: true, look_again: duration(ends - seconds), ..end_place(observed) };
    }
    let mut plan = Plan { steps: place(observed, valid), ..Plan::default() };
    plan.steps.push(forget(observed, seconds));
    if let Some(request) = turn(observed) {
        plan.look_again = Some(SOON);
        treat(observed, valid, request, now, &mut plan);
    } else {
        let oldest = observed.requests.iter().map(|r| age(r, seconds)).max();
        let forget = oldest.map_or(i64::MAX, |age| KEPT_SECONDS - age);
        plan.look_again = duration(forget.min(ends - seconds));
    }
    plan.steps.retain(|step| !step.is_empty());
    plan
}

fn duration(seconds: i64) -> Option<Duration> {
    u64::try_from(seconds.max(1)).ok().map(Duration::from_secs)
}

/// A deleted token goes when its namespace is gone.
fn end(observed: &Observed) -> Plan {
    let mut plan = end_place(observed);
    if observed.namespace.is_none() {
        plan.steps = vec![Change::release(&*observed.token, HUB_FINALIZER).into_iter().collect()];
        plan.look_again = None;
    }
    plan
}

/// Nobody can ask any more: the account first, so that its tokens die before anything else.
fn end_place(observed: &Observed) -> Plan {
    let account = observed.account.as_deref().and_then(Change::delete);
    let binding = observed.binding.as_deref().and_then(Change::delete);
    let namespace = observed.namespace.as_deref().and_then(Change::delete);
    let dead: Vec<Change> = account.into_iter().chain(binding).collect();
    let steps = [dead, namespace.into_iter().collect()];
    Plan { steps: steps.into_iter().filter(|s| !s.is_empty()).collect(), ..Plan::default() }
}

/// Whether more is asked than who wants to join would ask; once is for ever.
fn flooded(observed: &Observed, valid: &ValidatedToken) -> bool {
    let most = usize::try_from(valid.token.uses).unwrap_or(usize::MAX).saturating_mul(2) + 64;
    let conditions = observed.token.status.iter().flat_map(|s| &s.conditions);
    let before = conditions.into_iter().any(|c| c.type_ == READY && c.reason == FLOODED);
    before || observed.requests.len() > most
}

/// The namespace and what is in it.
fn place(observed: &Observed, valid: &ValidatedToken) -> Steps {
    let namespace = token_namespace(&valid.project, &observed.token.name_any());
    let labels = BTreeMap::from([
        (MANAGED_BY.to_owned(), HUB_MANAGER.to_owned()),
        (PROJECT.to_owned(), valid.project.to_string()),
        (JOIN_TOKEN.to_owned(), observed.token.name_any()),
    ]);
    let named = |name: &str| ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(namespace.clone()),
        labels: Some(labels.clone()),
        ..ObjectMeta::default()
    };
    let metadata = ObjectMeta { namespace: None, ..named(&namespace) };
    let wanted = Namespace { metadata, ..Namespace::default() };
    let made = match observed.namespace.as_deref() {
        None => Some(Change::create(&wanted)),
        Some(there) => Change::converge(&wanted, Some(there)),
    };
    let account = ServiceAccount {
        metadata: named(JOIN_ACCOUNT),
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    };
    let role = Role { metadata: named(ROLE), rules: Some(rights::of_joiner()) };
    let binding = RoleBinding {
        metadata: named(ROLE),
        role_ref: rights::role_ref(ROLE),
        subjects: Some(vec![rights::account_of(&namespace, JOIN_ACCOUNT)]),
    };
    let hold = Change::hold(&*observed.token, HUB_FINALIZER);
    let inside = [
        Change::converge(&account, observed.account.as_deref()),
        Change::converge(&role, observed.role.as_deref()),
        Change::converge(&binding, observed.binding.as_deref()),
    ];
    vec![hold.into_iter().chain(made).collect(), inside.into_iter().flatten().collect()]
}

/// Requests that were answered, or given up, long ago.
fn forget(observed: &Observed, now: i64) -> Vec<Change> {
    let old = observed.requests.iter().filter(|r| age(r, now) >= KEPT_SECONDS);
    old.filter_map(|r| Change::delete(&**r)).collect()
}

fn age(request: &JoinRequest, now: i64) -> i64 {
    request.creation_timestamp().map_or(0, |t| now.saturating_sub(t.0.as_second()))
}

/// Whose turn it is: one that has been begun is brought to its end, then the oldest comes.
fn turn(observed: &Observed) -> Option<&Arc<JoinRequest>> {
    let open = || observed.requests.iter().filter(|r| is_open(r));
    open().find(|r| registered_for(observed, r).is_some()).or_else(|| open().next())
}

/// The Cluster that was registered for this request, while nobody has joined as it.
fn registered_for<'a>(observed: &'a Observed, request: &JoinRequest) -> Option<&'a Arc<Cluster>> {
    let uid = request.uid()?;
    let unclaimed = |c: &Cluster| c.status.as_ref().is_none_or(|s| s.cluster_uid.is_none());
    let mut all = observed.clusters.iter().filter(|c| unclaimed(c));
    all.find(|c| c.labels().get(JOIN_REQUEST) == Some(&uid))
}

fn is_open(request: &JoinRequest) -> bool {
    let answered = request.status.as_ref().is_some_and(|s| !s.conditions.is_empty());
    !answered && request.metadata.deletion_timestamp.is_none()
}

/// The next step for one who asks.
fn treat(
    observed: &Observed,
    valid: &ValidatedToken,
    request: &Arc<JoinRequest>,
    now: Timestamp,
    plan: &mut Plan,
) {
    let who = match applicant(request) {
        Ok(who) => who,
        Err(faults) => {
            let reason = faults.first().map_or("Invalid", |f| f.reason);
            return plan.steps.push(vec![refusal(request, reason, summary(&faults), now)]);
        }
    };
    let uid = request.uid().unwrap_or_default();
    let status = observed.token.status.as_ref();
    if let Some(joined) = status.iter().flat_map(|s| &s.joined).find(|j| j.request == uid) {
        return let_in(observed, valid, request, joined, now, plan);
    }
    match decide(&valid.token, &who, &registered(observed), now.as_second()) {
        Ok(admission) => admit(observed, &who, admission, &uid, plan),
        Err(refusals) => {
            let reason = refusals.first().map_or("Refused", Refusal::reason);
            let told: Vec<String> = refusals.iter().map(Refusal::to_string).collect();
            let vain = registered_for(observed, request).and_then(|c| Change::delete(&**c));
            plan.steps.push(vain.into_iter().collect());
            plan.steps.push(vec![refusal(request, reason, told.join("; "), now)]);
        }
    }
}

/// Claims the name, then counts the use; the answer follows when both are written.
fn admit(
    observed: &Observed,
    who: &Applicant,
    admission: Admission,
    request: &str,
    plan: &mut Plan,
) {
    let name = who.cluster.as_str();
    let Some(cluster) = observed.clusters.iter().find(|c| c.name_any() == name) else {
        let mut cluster = Cluster::new(name, ClusterSpec::default());
        cluster.metadata.namespace = observed.token.namespace();
        cluster.metadata.labels = Some(BTreeMap::from([
            (MANAGED_BY.to_owned(), HUB_MANAGER.to_owned()),
            (JOIN_REQUEST.to_owned(), request.to_owned()),
        ]));
        return plan.steps.push(vec![Change::create(&cluster)]);
    };
    let mut claimed = cluster.status.clone().unwrap_or_default();
    if claimed.cluster_uid.as_ref() != Some(&who.uid) {
        claimed.cluster_uid = Some(who.uid.clone());
        plan.steps.push(vec![Change::status(&**cluster, &claimed)]);
    }
    let account = observed.workers.get(name).and_then(|a| a.uid());
    let replaces = account.filter(|_| admission == Admission::Again);
    let mut booked = observed.token.status.clone().unwrap_or_default();
    booked.joined.push(Joined { cluster: name.to_owned(), request: request.to_owned(), replaces });
    booked.used = i32::try_from(booked.joined.len()).unwrap_or(i32::MAX);
    plan.steps.push(vec![Change::status(&*observed.token, &booked)]);
}

/// Who has been counted gets its credential, as soon as the cluster's account is there; that of the
/// time before dies first.
fn let_in(
    observed: &Observed,
    valid: &ValidatedToken,
    request: &Arc<JoinRequest>,
    joined: &Joined,
    now: Timestamp,
    plan: &mut Plan,
) {
    let same = |c: &&Arc<Cluster>| {
        let uid = c.status.as_ref().and_then(|s| s.cluster_uid.as_ref());
        c.name_any() == joined.cluster && uid == Some(&request.spec.cluster_uid)
    };
    let member = observed.clusters.iter().find(same);
    let Some(member) = member.filter(|c| c.metadata.deletion_timestamp.is_none()) else {
        let what = "the cluster was removed from the hub while it joined; try again with a new token: slicectl token create";
        return plan.steps.push(vec![refusal(request, "Removed", what.to_owned(), now)]);
    };
    let Some(account) = observed.workers.get(&joined.cluster) else { return };
    if joined.replaces.is_some() && account.uid() == joined.replaces {
        return plan.steps.push(Change::delete(&**account).into_iter().collect());
    }
    let namespace = member.status.as_ref().and_then(|s| s.namespace.clone());
    plan.answer = namespace.map(|namespace| Answer {
        request: request.clone(),
        project: valid.project.to_string(),
        namespace,
    });
}

fn refusal(request: &JoinRequest, reason: &str, message: String, now: Timestamp) -> Change {
    let generation = request.metadata.generation;
    let no = condition(ADMITTED, false, reason, message, generation, Time(now));
    Change::status(request, &JoinRequestStatus { credential: None, conditions: vec![no] })
}
