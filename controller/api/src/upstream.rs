//! The API server, asked with the caller's own token: it decides, admits and audits as if the caller
//! had used kubectl.

use std::time::Duration;

use http::{Method, Request};
use kube::{Client, Config, Resource};
use serde_json::Value;
use tonic::Code;

use crate::fault::{Fault, Outcome};
use crate::identity::Caller;
use crate::kind::Kind;

/// Longest wait for an answer.
const TIMEOUT: Duration = Duration::from_secs(15);
/// Whom the API server holds the written fields to be managed by.
const FIELD_MANAGER: &str = "slicewire-api";

/// The API server without any credential of the hub's.
#[derive(Clone)]
pub struct Upstream {
    client: Client,
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Ask {
    /// The HTTP method.
    pub method: Method,
    /// Path and query. Whatever of it callers say has been checked to be a name.
    pub path: String,
    /// What is sent.
    pub body: Option<Value>,
}

impl Upstream {
    /// Talks to the same API server as the hub, with no credential of its own.
    ///
    /// # Errors
    /// The configuration is of no use.
    pub fn new(mut config: Config) -> Result<Self, kube::Error> {
        config.auth_info = kube::config::AuthInfo::default();
        Ok(Self { client: Client::try_from(config)? })
    }

    /// Asks as the caller.
    ///
    /// # Errors
    /// What the API server refuses, and why.
    pub async fn ask(&self, caller: &Caller, ask: Ask) -> Outcome<Value> {
        let body = ask.body.map(|b| serde_json::to_vec(&b)).transpose();
        let request = Request::builder()
            .method(ask.method)
            .uri(ask.path)
            .header(http::header::AUTHORIZATION, format!("Bearer {}", caller.token))
            .header(http::header::CONTENT_TYPE, "application/json");
        let request = body.ok().and_then(|b| request.body(b.unwrap_or_default()).ok());
        let Some(request) = request else {
            return Err(Fault::new(Code::InvalidArgument, "Invalid", "this cannot be sent on"));
        };
        match tokio::time::timeout(TIMEOUT, self.client.request::<Value>(request)).await {
            Ok(answer) => answer.map_err(|e| Fault::of(&e)),
            Err(_) => Err(Fault::unavailable("the hub's API server does not answer; try again")),
        }
    }
}

/// Where the objects of a kind are.
pub fn collection<K: Kind>(namespace: &str) -> String {
    let (group, version) = (K::Object::group(&()), K::Object::version(&()));
    let place = match namespace {
        "" => String::new(),
        namespace => format!("/namespaces/{namespace}"),
    };
    format!("/apis/{group}/{version}{place}/{}", K::resource())
}

/// The query of a write.
pub fn how(validate_only: bool) -> String {
    let dry = if validate_only { "&dryRun=All" } else { "" };
    format!("?fieldManager={FIELD_MANAGER}&fieldValidation=Strict{dry}")
}
