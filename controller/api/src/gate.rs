//! What every call passes: who calls, how often, how long it may take; and what is told about it.

use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use tokio::time::{Instant, timeout_at};
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Response, Status};
use tracing::Instrument;

use crate::Portal;
use crate::fault::{Fault, Outcome};
use crate::identity::Caller;

/// Metadata with the request's id, both ways.
const REQUEST_ID: &str = "x-request-id";
/// Longest time a call may take that is no stream.
const LONGEST: Duration = Duration::from_secs(30);
/// How much earlier than the caller we give up, so that it is we who say why.
const MARGIN: Duration = Duration::from_millis(20);

/// A call that was let in.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    /// Who calls.
    pub(crate) caller: Arc<Caller>,
    /// The request's id.
    pub(crate) id: Arc<str>,
    /// When the caller gives up; never, if it did not say.
    pub(crate) deadline: Option<Instant>,
    /// Which method.
    pub(crate) method: &'static str,
}

impl Portal {
    /// Answers a call by `answer`.
    pub(crate) async fn answer<Q, A, F>(
        self: Arc<Self>,
        method: &'static str,
        request: Request<Q>,
        answer: impl FnOnce(Arc<Self>, Call, Q) -> F,
    ) -> Result<Response<A>, Status>
    where
        F: Future<Output = Outcome<A>>,
    {
        let begun = Instant::now();
        let (metadata, _, message) = request.into_parts();
        let id = request_id(&metadata);
        let span = tracing::info_span!("call", method, request = %id, user = tracing::field::Empty);
        let outcome = async {
            let deadline = grpc_timeout(&metadata).map(|t| begun + t);
            let longest = begun + LONGEST;
            let end = deadline.map_or(longest, |d| d.min(longest));
            let portal = self.clone();
            let work = async {
                let caller = self.identities.caller(&metadata).await?;
                tracing::Span::current().record("user", &*caller.user);
                if let Err(fault) = self.limits.call(&caller.user, method) {
                    self.limits.hold(end.checked_sub(2 * MARGIN).unwrap_or(begun)).await;
                    return Err(fault);
                }
                let call = Call { caller, id: id.clone(), deadline, method };
                answer(portal, call, message).await
            };
            match timeout_at(end.checked_sub(MARGIN).unwrap_or(end), work).await {
                Ok(outcome) => outcome,
                Err(_) => Err(Fault::new(
                    Code::DeadlineExceeded,
                    "Deadline",
                    "the deadline passed before there was an answer; it may still have been done",
                )),
            }
        }
        .instrument(span.clone())
        .await;
        let code = outcome.as_ref().map_or_else(|f| f.code, |_| Code::Ok);
        span.in_scope(|| self.told(method, code, begun.elapsed(), outcome.as_ref().err()));
        let id_value = id.parse().ok();
        match outcome {
            Ok(message) => {
                let mut response = Response::new(message);
                response.metadata_mut().extend_id(id_value);
                Ok(response)
            }
            Err(fault) => {
                let mut status = fault.status(&id);
                status.metadata_mut().extend_id(id_value);
                Err(status)
            }
        }
    }

    /// Whether a stream goes on.
    pub(crate) fn goes_on(&self, call: &Call) -> Outcome<()> {
        if call.deadline.is_some_and(|d| d <= Instant::now()) {
            let what = "the deadline passed; watch on from the last resume_token";
            return Err(Fault::new(Code::DeadlineExceeded, "Deadline", what));
        }
        if self.stop.is_cancelled() {
            let what = "the hub restarts; watch on from the last resume_token";
            return Err(Fault::unavailable(what));
        }
        Ok(())
    }

    fn told(&self, method: &'static str, code: Code, took: Duration, fault: Option<&Fault>) {
        let labels = [("method", method), ("code", word(code))];
        self.metrics.count("slicewire_api_calls_total", "Calls of the API.", &labels, 1.0);
        self.metrics.count(
            "slicewire_api_call_seconds_total",
            "Time until calls of the API were answered, of streams until they began.",
            &[("method", method)],
            took.as_secs_f64(),
        );
        let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        match fault {
            None => tracing::debug!(millis, "answered"),
            Some(f) => tracing::debug!(millis, reason = %f.reason, message = %f.message, "refused"),
        }
    }
}

/// Adds the request's id to what is sent back.
trait ExtendId {
    fn extend_id(&mut self, id: Option<tonic::metadata::AsciiMetadataValue>);
}

impl ExtendId for MetadataMap {
    fn extend_id(&mut self, id: Option<tonic::metadata::AsciiMetadataValue>) {
        if let Some(id) = id {
            self.insert(REQUEST_ID, id);
        }
    }
}

/// The caller's id for the request where it is a fit one, else a new one.
fn request_id(metadata: &MetadataMap) -> Arc<str> {
    let said = metadata.get(REQUEST_ID).and_then(|v| v.to_str().ok());
    match said.filter(|id| is_id(id)) {
        Some(id) => id.into(),
        None => format!("{:016x}", rand::rng().random::<u64>()).into(),
    }
}

/// Whether a request's id can be taken.
pub(crate) fn is_id(id: &str) -> bool {
    (1..=64).contains(&id.len())
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

/// The metadata `grpc-timeout`, as gRPC's protocol over HTTP/2 defines it.
fn grpc_timeout(metadata: &MetadataMap) -> Option<Duration> {
    let text = metadata.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

/// A status code's name for metrics.
pub(crate) fn word(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_are_read_as_grpc_writes_them() {
        let read = |text: &str| {
            let mut metadata = MetadataMap::new();
            metadata.insert("grpc-timeout", text.parse().unwrap());
            grpc_timeout(&metadata)
        };
        assert_eq!(read("5S"), Some(Duration::from_secs(5)));
        assert_eq!(read("250m"), Some(Duration::from_millis(250)));
        assert_eq!(read("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        for none in ["", "S", "5", "5s", "-5S", "999999999S", "5é"] {
            let mut metadata = MetadataMap::new();
            let Ok(value) = none.parse() else { continue };
            metadata.insert("grpc-timeout", value);
            assert_eq!(grpc_timeout(&metadata), None, "{none}");
        }
    }

    #[test]
    fn a_strange_request_id_is_replaced() {
        let id = |said: &str| {
            let mut metadata = MetadataMap::new();
            metadata.insert(REQUEST_ID, said.parse().unwrap());
            request_id(&metadata)
        };
        assert_eq!(&*id("a-1.b_2"), "a-1.b_2");
        for strange in ["", "a b", "{}", &"x".repeat(65)] {
            assert_ne!(&*id(strange), strange);
            assert_eq!(id(strange).len(), 16);
        }
    }
}
