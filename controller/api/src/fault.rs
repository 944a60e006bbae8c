//! Why a call is refused, in the form of `google.rpc` details.

use std::time::Duration;

use slicewire_core::violation::{Violation, summary};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

/// `ErrorInfo.domain`.
const DOMAIN: &str = "slicewire.dev";

/// A refusal.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct Fault {
    /// The gRPC status.
    pub code: Code,
    /// One `CamelCase` word, stable: `ErrorInfo.reason`.
    pub reason: String,
    /// What is wrong and what to do.
    pub message: String,
    /// Every field that is at fault: where, which word, what.
    pub fields: Vec<(String, String, String)>,
    /// When to try again.
    pub retry: Option<Duration>,
}

impl Fault {
    /// A refusal without fields.
    pub fn new(code: Code, reason: &str, message: impl Into<String>) -> Self {
        let (reason, message) = (reason.to_owned(), message.into());
        Self { code, reason, message, fields: Vec::new(), retry: None }
    }

    /// Fields at fault, all of them.
    pub fn fields(faults: Vec<Violation>) -> Self {
        let message = summary(&faults);
        let fields = faults.into_iter().map(|v| (v.field, v.reason.to_owned(), v.message));
        let fields = fields.collect();
        Self { fields, ..Self::new(Code::InvalidArgument, "Invalid", message) }
    }

    /// Too much was asked.
    pub fn limited(reason: &str, message: impl Into<String>, retry: Duration) -> Self {
        Self { retry: Some(retry), ..Self::new(Code::ResourceExhausted, reason, message) }
    }

    /// The API server cannot be asked now.
    pub fn unavailable(message: impl Into<String>) -> Self {
        let retry = Some(Duration::from_secs(1));
        Self { retry, ..Self::new(Code::Unavailable, "ApiServerUnavailable", message) }
    }

    /// What the API server's refusal means.
    pub fn of(error: &kube::Error) -> Self {
        let kube::Error::Api(status) = error else {
            tracing::debug!(%error, "the API server was not reached");
            return Self::unavailable("the hub's API server cannot be reached; try again");
        };
        let code = match (status.code, status.reason.as_str()) {
            (400, _) | (422, _) => Code::InvalidArgument,
            (401, _) => Code::Unauthenticated,
            (403, _) => Code::PermissionDenied,
            (404, _) => Code::NotFound,
            (409, "AlreadyExists") => Code::AlreadyExists,
            (409, _) => Code::Aborted,
            (410, _) => Code::OutOfRange,
            (413, _) | (429, _) => Code::ResourceExhausted,
            (504, _) => Code::DeadlineExceeded,
            (500.., _) => Code::Unavailable,
            _ => Code::Unknown,
        };
        let reason = if status.reason.is_empty() { "Refused" } else { &status.reason };
        let details = status.details.as_ref();
        let causes = details.iter().flat_map(|d| &d.causes).filter(|c| !c.field.is_empty());
        let fields =
            causes.map(|c| (c.field.clone(), c.reason.clone(), c.message.clone())).collect();
        let busy = matches!(code, Code::ResourceExhausted | Code::Unavailable);
        let seconds = u64::from(details.map_or(1, |d| d.retry_after_seconds.max(1)));
        let retry = busy.then(|| Duration::from_secs(seconds));
        Self { fields, retry, ..Self::new(code, reason, status.message.clone()) }
    }

    /// The status to send, with the request's id for who asks about it.
    pub fn status(self, request: &str) -> Status {
        let mut details = ErrorDetails::new();
        details.set_error_info(self.reason, DOMAIN, std::collections::HashMap::new());
        details.set_request_info(request, "");
        if !self.fields.is_empty() {
            let fields = self.fields.into_iter().map(|(field, reason, message)| {
                // Our own admission says it in its message already.
                let told = message.ends_with(&format!("({reason})"));
                let said = if told { message } else { format!("{message} ({reason})") };
                FieldViolation::new(field, said)
            });
            details.set_bad_request(fields.collect::<Vec<_>>());
        }
        if self.retry.is_some() {
            details.set_retry_info(self.retry);
        }
        Status::with_error_details(self.code, self.message, details)
    }
}

/// What became of a call.
pub type Outcome<T> = Result<T, Fault>;

#[cfg(test)]
mod tests {
    use kube::core::Status as ApiStatus;
    use serde_json::json;

    use super::*;

    fn api(status: serde_json::Value) -> Fault {
        let status: ApiStatus = serde_json::from_value(status).unwrap();
        Fault::of(&kube::Error::Api(status.boxed()))
    }

    #[test]
    fn every_cause_of_the_api_server_is_told() {
        let fault = api(json!({"code": 422, "reason": "Invalid", "message": "no", "details": {
            "causes": [
                {"field": "spec.prefixes", "reason": "FieldValueRequired", "message": "Required value"},
                {"field": "spec.mtu", "reason": "FieldValueInvalid", "message": "too small"},
            ],
        }}));
        let status = fault.status("r-1");
        let details = status.get_error_details();
        let fields = &details.bad_request().unwrap().field_violations;
        let names: Vec<&str> = fields.iter().map(|f| f.field.as_str()).collect();
        assert_eq!(names, ["spec.prefixes", "spec.mtu"]);
        assert_eq!(details.request_info().unwrap().request_id, "r-1");
        assert_eq!(details.error_info().unwrap().reason, "Invalid");
        assert_eq!(status.code(), Code::InvalidArgument);
    }

    #[test]
    fn both_conflicts_are_told_apart() {
        let code = |reason| api(json!({"code": 409, "reason": reason, "message": ""})).code;
        assert_eq!(code("AlreadyExists"), Code::AlreadyExists);
        assert_eq!(code("Conflict"), Code::Aborted);
    }

    #[test]
    fn who_is_limited_is_told_when_to_come_back() {
        let status = Fault::limited("Calls", "too many", Duration::from_millis(250)).status("r");
        let details = status.get_error_details();
        assert_eq!(details.retry_info().unwrap().retry_delay, Some(Duration::from_millis(250)));
        let busy = api(json!({"code": 429, "details": {"retryAfterSeconds": 3}}));
        assert_eq!(busy.retry, Some(Duration::from_secs(3)));
    }
}
