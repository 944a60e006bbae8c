//! The hub's API for portals, called as a portal would call it.

use std::time::Duration;

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use tokio::runtime::Runtime;
use tonic::Request;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

use crate::world::World;

/// The name the hub's certificate is made out for.
pub const NAME: &str = "slicewire-hub.slicewire-system.svc";
/// The Service by which the tests reach it.
const SERVICE: &str = "portal-test";
/// Namespace of the callers' accounts.
pub const CALLERS: &str = "portal-test";

/// The way to the API.
pub struct Portal {
    endpoint: Endpoint,
    /// Where calls run.
    pub runtime: Runtime,
    /// Address and port.
    pub address: String,
    /// The certificate that vouches for it, PEM.
    pub authority: String,
}

impl World {
    /// Makes the API reachable from here.
    ///
    /// # Errors
    /// The hub does not serve it.
    pub fn portal(&self) -> Result<Portal> {
        self.apply(
            "hub",
            &format!(
                r#"{{"apiVersion": "v1", "kind": "List", "items": [
                {{"apiVersion": "v1", "kind": "Namespace", "metadata": {{"name": "{CALLERS}"}}}},
                {{"apiVersion": "v1", "kind": "Service",
                "metadata": {{"name": "{SERVICE}", "namespace": "slicewire-system"}},
                "spec": {{"type": "NodePort", "ports": [{{"port": 9443, "targetPort": "api"}}],
                "selector": {{"app.kubernetes.io/name": "slicewire-hub"}}}}}}]}}"#
            ),
        )?;
        let service = self.get("hub", &format!("-n slicewire-system service {SERVICE}"))?;
        let port = service["spec"]["ports"][0]["nodePort"].as_u64().context("no NodePort")?;
        let hub = self.testbed.cluster("hub")?;
        let node = hub.workers.first().context("the hub has no node")?;
        let secret = self.get("hub", "-n slicewire-system secret slicewire-hub-webhook")?;
        let authority = secret["data"]["ca.crt"].as_str().context("no authority")?;
        let authority = String::from_utf8(STANDARD.decode(authority)?)?;
        let portal = Portal::new(format!("{}:{port}", node.wan4), authority)?;
        // kube-proxy takes a while to learn of the Service.
        World::wait("the API answers", 60, || portal.runtime.block_on(portal.connect()).map(drop))?;
        Ok(portal)
    }

    /// Takes away what [`World::portal`] and [`World::caller`] made.
    pub fn remove_portal(&self) {
        let _ = self.k("hub", &format!("-n slicewire-system delete service {SERVICE}"));
        let _ = self.k("hub", &format!("delete namespace {CALLERS} --timeout=60s"));
        let _ = self.k("hub", "delete clusterrole,clusterrolebinding -l portal-test");
        let _ = self.k("hub", "-n slicewire-demo delete role,rolebinding -l portal-test");
    }

    /// Makes an account with these rights; its token. `everywhere`, or in the project `demo` only.
    ///
    /// # Errors
    /// The API server refuses.
    pub fn caller(&self, name: &str, everywhere: bool, rules: &Value) -> Result<String> {
        let (kind, place) = match everywhere {
            true => ("ClusterRole", String::new()),
            false => ("Role", r#""namespace": "slicewire-demo", "#.to_owned()),
        };
        let meta =
            format!(r#"{{{place}"name": "portal-{name}", "labels": {{"portal-test": ""}}}}"#);
        self.apply(
            "hub",
            &format!(
                r#"{{"apiVersion": "v1", "kind": "List", "items": [
                {{"apiVersion": "v1", "kind": "ServiceAccount",
                "metadata": {{"name": "{name}", "namespace": "{CALLERS}"}}}},
                {{"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "{kind}",
                "metadata": {meta}, "rules": {rules}}},
                {{"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "{kind}Binding",
                "metadata": {meta}, "roleRef": {{"apiGroup": "rbac.authorization.k8s.io",
                "kind": "{kind}", "name": "portal-{name}"}}, "subjects": [{{"kind": "ServiceAccount",
                "name": "{name}", "namespace": "{CALLERS}"}}]}}]}}"#
            ),
        )?;
        let token = self.k("hub", &format!("-n {CALLERS} create token {name} --duration=2h"))?;
        Ok(token.trim().to_owned())
    }
}

impl Portal {
    /// An API at an address, vouched for by a certificate.
    ///
    /// # Errors
    /// The address is none.
    pub fn new(address: String, authority: String) -> Result<Self> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(&authority))
            .domain_name(NAME);
        let endpoint = Endpoint::from_shared(format!("https://{address}"))?
            .tls_config(tls)?
            // A reader that reads nothing is soon noticed.
            .initial_stream_window_size(65_535)
            .initial_connection_window_size(1 << 20)
            .connect_timeout(Duration::from_secs(5));
        Ok(Self { endpoint, runtime, address, authority })
    }

    /// A new connection.
    ///
    /// # Errors
    /// Nobody answers, or it is not the hub.
    pub async fn connect(&self) -> Result<Channel> {
        Ok(self.endpoint.connect().await?)
    }

    /// A connection that is made when it is used, and again when it breaks.
    pub fn channel(&self) -> Channel {
        let _inside = self.runtime.enter();
        self.endpoint.connect_lazy()
    }
}

/// A request with somebody's token.
pub fn with_token<T>(token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    if let Ok(value) = format!("Bearer {token}").parse() {
        request.metadata_mut().insert("authorization", value);
    }
    request
}
