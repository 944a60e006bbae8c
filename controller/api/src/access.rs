//! What callers may see: asked at the API server as the caller (SubjectAccessReview).
//!
//! Only what is answered from memory is asked about. What is written goes to the API server with the
//! caller's own token, so there it is Kubernetes itself that decides, and its audit that names the
//! person.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use kube::api::PostParams;
use kube::{Api, Client, Resource};
use tokio::sync::Semaphore;
use tonic::Code;

use crate::fault::{Fault, Outcome};
use crate::identity::Caller;

/// How long a yes is taken for true.
const YES_KEPT: Duration = Duration::from_secs(5);
/// How long a no is.
const NO_KEPT: Duration = Duration::from_secs(1);
/// Most answers kept.
const MOST: usize = 32_768;
/// Questions under way at a time.
const QUESTIONS: usize = 16;

/// Something to do.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Deed {
    /// As Kubernetes calls it: `get`, `list`, `watch`.
    pub verb: &'static str,
    /// Its API group.
    pub group: String,
    /// The version that it is asked for in.
    pub version: String,
    /// The resource.
    pub resource: String,
    /// The part of it; empty: the whole.
    pub part: &'static str,
    /// Where; empty: everywhere, or a kind without namespaces.
    pub namespace: String,
    /// Of which object; empty: any.
    pub name: String,
}

impl Deed {
    /// Something to do with objects of a kind.
    pub fn with<O: Resource<DynamicType = ()>>(
        verb: &'static str,
        namespace: &str,
        name: &str,
    ) -> Self {
        Self {
            verb,
            group: O::group(&()).into_owned(),
            version: O::version(&()).into_owned(),
            resource: O::plural(&()).into_owned(),
            part: "",
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }

    /// The same with a part of them.
    #[must_use]
    pub fn part(self, part: &'static str) -> Self {
        Self { part, ..self }
    }
}

type Question = (Arc<str>, u64, Deed);

/// Asks what callers may do.
pub struct Access {
    reviews: Api<SubjectAccessReview>,
    answers: Mutex<HashMap<Question, (Instant, bool)>>,
    questions: Semaphore,
}

impl Access {
    /// Asks with the hub's own client.
    pub fn new(client: Client) -> Self {
        Self {
            reviews: Api::all(client),
            answers: Mutex::default(),
            questions: Semaphore::new(QUESTIONS),
        }
    }

    /// Lets who may do it pass.
    ///
    /// # Errors
    /// The caller may not, or nobody can be asked.
    pub async fn require(&self, caller: &Caller, deed: Deed) -> Outcome<()> {
        if self.allows(caller, &deed).await? {
            return Ok(());
        }
        let of = match deed.name.as_str() {
            "" => String::new(),
            name => format!(" {name:?}"),
        };
        let place = match deed.namespace.as_str() {
            "" => "at the cluster scope".to_owned(),
            namespace => format!("in the namespace {namespace:?}"),
        };
        let (user, verb, group) = (&caller.user, deed.verb, &deed.group);
        let resource = match deed.part {
            "" => deed.resource.clone(),
            part => format!("{}/{part}", deed.resource),
        };
        let message = format!(
            "{user} may not {verb} {resource}{of} in the API group {group:?} {place}; \
             an RBAC rule on the hub can allow it"
        );
        Err(Fault::new(Code::PermissionDenied, "Forbidden", message))
    }

    /// Whether the caller may do it.
    ///
    /// # Errors
    /// Nobody can be asked.
    pub async fn allows(&self, caller: &Caller, deed: &Deed) -> Outcome<bool> {
        let question = (caller.user.clone(), standing(caller), deed.clone());
        if let Some(known) = self.known(&question) {
            return Ok(known);
        }
        let permit = self.questions.acquire().await;
        // Many watchers of one person ask the same at once: the first answer does for all.
        if let Some(known) = self.known(&question) {
            return Ok(known);
        }
        let review = SubjectAccessReview { spec: spec(caller, deed), ..Default::default() };
        let answer = self.reviews.create(&PostParams::default(), &review).await.map_err(|e| {
            tracing::warn!(error = %e, "the API server does not say what a caller may do");
            Fault::unavailable("the hub's API server does not check rights now; try again")
        })?;
        let yes = answer.status.is_some_and(|s| s.allowed && s.denied != Some(true));
        self.keep(question, yes);
        drop(permit);
        Ok(yes)
    }

    fn known(&self, question: &Question) -> Option<bool> {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, yes) = answers.get(question)?;
        fresh(*at, *yes).then_some(*yes)
    }

    fn keep(&self, question: Question, yes: bool) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if answers.len() >= MOST {
            answers.retain(|_, (at, yes)| fresh(*at, *yes));
        }
        if answers.len() < MOST {
            answers.insert(question, (Instant::now(), yes));
        }
    }
}

fn fresh(at: Instant, yes: bool) -> bool {
    at.elapsed() < if yes { YES_KEPT } else { NO_KEPT }
}

/// What rights can hang on besides the name: two tokens of one user may differ in it.
fn standing(caller: &Caller) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    (&caller.uid, &caller.groups, &caller.extra).hash(&mut hasher);
    hasher.finish()
}

fn spec(caller: &Caller, deed: &Deed) -> SubjectAccessReviewSpec {
    let said = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    SubjectAccessReviewSpec {
        user: Some(caller.user.to_string()),
        uid: caller.uid.clone(),
        groups: Some(caller.groups.clone()),
        extra: Some(caller.extra.clone()),
        resource_attributes: Some(ResourceAttributes {
            group: Some(deed.group.clone()),
            version: Some(deed.version.clone()),
            resource: Some(deed.resource.clone()),
            subresource: said(deed.part),
            verb: Some(deed.verb.to_owned()),
            namespace: said(&deed.namespace),
            name: said(&deed.name),
            ..ResourceAttributes::default()
        }),
        ..SubjectAccessReviewSpec::default()
    }
}

#[cfg(test)]
mod tests {
    use slicewire_api::{JoinToken, SliceConfig};

    use super::*;

    #[test]
    fn tokens_of_one_user_with_other_groups_are_asked_about_apart() {
        let caller = |groups: &[&str]| Caller {
            user: "eve".into(),
            uid: None,
            groups: groups.iter().map(|g| (*g).to_owned()).collect(),
            extra: Default::default(),
            token: "t".into(),
        };
        assert_ne!(standing(&caller(&["a"])), standing(&caller(&["a", "b"])));
        assert_eq!(standing(&caller(&["a"])), standing(&caller(&["a"])));
    }

    fn caller_of() -> Caller {
        Caller {
            user: "eve".into(),
            uid: Some("7".into()),
            groups: vec!["g".into()],
            extra: [("k".to_owned(), vec!["v".to_owned()])].into(),
            token: "t".into(),
        }
    }

    #[test]
    fn the_caller_is_asked_about_and_nobody_else() {
        let caller = caller_of();
        let deed = Deed::with::<SliceConfig>("list", "", "");
        let asked = spec(&caller, &deed);
        assert_eq!(asked.user.as_deref(), Some("eve"));
        assert_eq!(asked.groups, Some(caller.groups));
        assert_eq!(asked.extra, Some(caller.extra));
        let what = asked.resource_attributes.unwrap();
        assert_eq!((what.namespace, what.name), (None, None));
        assert_eq!(what.group.as_deref(), Some("slicewire.dev"));
        assert_eq!(what.version.as_deref(), Some("v1alpha1"));
        assert_eq!(what.resource.as_deref(), Some("sliceconfigs"));
        assert_eq!(what.subresource, None);
        let part = Deed::with::<JoinToken>("create", "ns", "").part("secret");
        let what = spec(&caller_of(), &part).resource_attributes.unwrap();
        assert_eq!(what.resource.as_deref(), Some("jointokens"));
        assert_eq!(what.subresource.as_deref(), Some("secret"));
    }
}
