//! Carries out changes: one operation, one request, no policy.

use std::time::Duration;

use futures::future::join_all;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::{Api, Client};

use slicewire_runtime::reconcile::Next;

use super::change::{Change, Steps, Verb};

/// Longest wait for an answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// A change that could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    /// The server refused or could not be reached.
    #[error("{kind} {name}: {}", causes(source))]
    Request { kind: String, name: String, source: Box<kube::Error> },
    /// The server did not answer.
    #[error("{kind} {name}: no answer from the API server within {} s", REQUEST_TIMEOUT.as_secs())]
    Timeout { kind: String, name: String },
}

impl WriteError {
    /// A short stable word for metrics, conditions and Events.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Timeout { .. } => "ApiTimeout",
            Self::Request { source, .. } => match status_code(source) {
                Some(401 | 403) => "ApiForbidden",
                Some(404) => "ApiNotFound",
                Some(409) => "ApiConflict",
                Some(422) => "ApiInvalid",
                Some(_) => "ApiRefused",
                None => "ApiUnreachable",
            },
        }
    }

    /// Whether the server is away: nothing it said, but that it said nothing.
    pub(crate) fn is_unreachable(&self) -> bool {
        matches!(self.reason(), "ApiTimeout" | "ApiUnreachable")
    }

    /// Whether somebody else wrote the object since we looked: looking again settles it.
    pub(crate) fn is_conflict(&self) -> bool {
        self.says(409, "Conflict")
    }

    /// Whether an object of that name is there that we did not make.
    pub(crate) fn is_taken(&self) -> bool {
        self.says(409, "AlreadyExists")
    }

    fn says(&self, code: u16, reason: &str) -> bool {
        let Self::Request { source, .. } = self else { return false };
        matches!(&**source, kube::Error::Api(s) if s.code == code && s.reason == reason)
    }
}

/// The HTTP status of an answer that is an error.
pub(crate) fn status_code(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}

/// Proof that every change of a plan was made: without it nothing is reported as ready.
#[derive(Debug)]
pub(crate) struct Applied(());

/// What became of a plan.
pub(crate) type Outcome = Result<Applied, Vec<WriteError>>;

/// When to look again after a run.
pub(crate) fn next(outcome: &Outcome, otherwise: Next) -> Next {
    match outcome {
        Ok(_) => otherwise,
        Err(errors) if errors.iter().all(WriteError::is_conflict) => {
            Next::After(Duration::from_millis(20))
        }
        Err(errors) => {
            for error in errors.iter().filter(|e| !e.is_conflict()) {
                tracing::warn!(reason = error.reason(), %error, "not written; trying again");
            }
            Next::Retry
        }
    }
}

/// Writes to one API server under one field manager.
#[derive(Clone)]
pub(crate) struct Writer {
    pub(crate) client: Client,
    pub(crate) manager: &'static str,
}

impl Writer {
    /// Carries out the steps in order. Within a step an error stops nobody else; a step with an
    /// error is the last. `note` gets every object as it is afterwards.
    pub(crate) async fn run(&self, steps: Steps, note: impl Fn(DynamicObject)) -> Outcome {
        for step in steps {
            let results = join_all(step.into_iter().map(|change| self.write(change))).await;
            let mut errors = Vec::new();
            for result in results {
                match result {
                    Ok(object) => object.into_iter().for_each(&note),
                    Err(error) => errors.push(error),
                }
            }
            if !errors.is_empty() {
                return Err(errors);
            }
        }
        Ok(Applied(()))
    }

    /// Carries out one change; the object as it is afterwards, when there is one.
    pub(crate) async fn write(&self, change: Change) -> Result<Option<DynamicObject>, WriteError> {
        let kind = change.resource.kind.clone();
        let name = match &change.namespace {
            Some(namespace) => format!("{namespace}/{}", change.name),
            None => change.name.clone(),
        };
        tracing::debug!(%kind, %name, verb = ?change.verb, "write");
        match tokio::time::timeout(REQUEST_TIMEOUT, self.request(change)).await {
            Err(_) => Err(WriteError::Timeout { kind, name }),
            Ok(Ok(object)) => Ok(object),
            Ok(Err(source)) => Err(WriteError::Request { kind, name, source: Box::new(source) }),
        }
    }

    async fn request(&self, change: Change) -> Result<Option<DynamicObject>, kube::Error> {
        let Change { resource, namespace, name, verb } = change;
        let api: Api<DynamicObject> = match &namespace {
            Some(ns) => Api::namespaced_with(self.client.clone(), ns, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        };
        let merging =
            PatchParams { field_manager: Some(self.manager.into()), ..Default::default() };
        match verb {
            Verb::Apply(body) => {
                let how = PatchParams::apply(self.manager).force();
                api.patch(&name, &how, &Patch::Apply(body)).await.map(Some)
            }
            Verb::Create(body) => {
                let how =
                    PostParams { field_manager: Some(self.manager.into()), ..Default::default() };
                let object = serde_json::from_value(body).map_err(kube::Error::SerdeError)?;
                api.create(&how, &object).await.map(Some)
            }
            Verb::Merge(body) => {
                gone_is_fine(api.patch(&name, &merging, &Patch::Merge(body)).await)
            }
            Verb::MergeStatus(body) => {
                gone_is_fine(api.patch_status(&name, &merging, &Patch::Merge(body)).await)
            }
            Verb::Delete => {
                let how = DeleteParams::background();
                gone_is_fine(api.delete(&name, &how).await.map(|_| ())).map(|_| None)
            }
        }
    }
}

fn gone_is_fine<T>(result: Result<T, kube::Error>) -> Result<Option<T>, kube::Error> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if status_code(&error) == Some(404) => Ok(None),
        Err(error) => Err(error),
    }
}

/// An error with everything that led to it: the outermost alone says no more than "failed".
pub(crate) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

/// The most telling reason of several errors, and all of them as one sentence.
pub(crate) fn summary(errors: &[WriteError]) -> (&'static str, String) {
    let reason = errors.first().map_or("ApiRefused", WriteError::reason);
    (reason, errors.iter().map(WriteError::to_string).collect::<Vec<_>>().join("; "))
}
