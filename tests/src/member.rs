//! Credentials of members and tokens, used as somebody who has stolen them would.

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hyper::Request;
use k8s_openapi::api::core::v1::Secret;
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::world::World;

/// A client of the hub's API server with somebody's token, and nothing else.
pub struct Stolen {
    client: Client,
    runtime: Runtime,
}

/// An answer of the API server.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The HTTP status.
    pub code: u16,
    /// What it said.
    pub body: Value,
}

impl Answer {
    /// Whether who asked may not do it, whatever became of it.
    pub fn is_denied(&self) -> bool {
        matches!(self.code, 401 | 403)
    }
}

impl World {
    /// The token a worker holds for the hub, out of its Secret.
    ///
    /// # Errors
    /// It holds none.
    pub fn worker_token(&self, cluster: &str) -> Result<String> {
        let secret = self.get(cluster, "-n slicewire-system secret slicewire-hub")?;
        let secret: Secret = serde_json::from_value(secret)?;
        let data = secret.data.unwrap_or_default();
        let token = data.get("token").context("the Secret holds no token")?;
        Ok(String::from_utf8(token.0.clone())?)
    }

    /// The hub's API server, talked to with a token.
    ///
    /// # Errors
    /// The hub's kubeconfig cannot be read.
    pub fn stolen(&self, token: &str) -> Result<Stolen> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let file = Kubeconfig::read_from(self.testbed.kubeconfig("hub"))?;
        let client = runtime.block_on(async {
            let mut config =
                Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
            config.auth_info = kube::config::AuthInfo {
                token: Some(token.to_owned().into()),
                ..Default::default()
            };
            anyhow::Ok(Client::try_from(config)?)
        })?;
        Ok(Stolen { client, runtime })
    }
}

/// The secret in a join string, which is all behind its third dot.
pub fn secret_of(ticket: &str) -> String {
    ticket.splitn(4, '.').nth(3).unwrap_or_default().to_owned()
}

/// Base64 as it stands in Secrets.
pub fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// What base64url says, as it stands in tokens; nothing where it is none.
pub fn base64url(text: &str) -> Vec<u8> {
    URL_SAFE_NO_PAD.decode(text).unwrap_or_default()
}

impl Stolen {
    /// Sends a request. A body is sent as a merge patch with `PATCH`, as JSON otherwise.
    ///
    /// # Errors
    /// There is no answer.
    pub fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Answer> {
        self.runtime.block_on(self.send(method, path, body))
    }

    /// Sends the same request many times at once.
    ///
    /// # Errors
    /// One gets no answer.
    pub fn ask_all(&self, requests: &[(&str, String, Option<Value>)]) -> Result<Vec<Answer>> {
        let all = requests.iter().map(|(m, path, body)| self.send(m, path, body.as_ref()));
        self.runtime.block_on(futures::future::try_join_all(all))
    }

    async fn send(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Answer> {
        let kind = if method == "PATCH" { "merge-patch+json" } else { "json" };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", format!("application/{kind}"));
        let body = match body {
            Some(body) => Body::from(serde_json::to_vec(body)?),
            None => Body::empty(),
        };
        let answer = self.client.send(request.body(body)?).await.context("no answer")?;
        let code = answer.status().as_u16();
        let bytes = answer.into_body().collect_bytes().await.unwrap_or_default();
        Ok(Answer { code, body: serde_json::from_slice(&bytes).unwrap_or(Value::Null) })
    }
}
