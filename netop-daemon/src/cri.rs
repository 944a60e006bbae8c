//! The Container Runtime Interface: which sandboxes run, and where their network namespaces are.
//!
//! The fallback where there is no NRI, and the truth that heals whatever NRI missed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Deserialize;
use slicewire_core::selector::Labels;
use slicewire_runtime_api::cri::runtime_service_client::RuntimeServiceClient;
use slicewire_runtime_api::cri::{
    ListPodSandboxRequest, PodSandboxFilter, PodSandboxState, PodSandboxStateValue,
    PodSandboxStatusRequest,
};
use thiserror::Error;
use tonic::transport::{Channel, Endpoint};

use crate::world::Sandbox;

/// The runtime could not be asked.
#[derive(Debug, Error)]
pub(crate) enum CriError {
    /// The socket's path cannot be used.
    #[error("{0} cannot be used as the CRI socket: {1}")]
    Socket(PathBuf, tonic::transport::Error),
    /// The runtime refused, or is not there.
    #[error("the container runtime did not answer: {0}")]
    Call(#[from] Box<tonic::Status>),
}

/// A connection to the runtime; made when first used, and again after the runtime restarted.
pub(crate) struct Cri {
    client: RuntimeServiceClient<Channel>,
}

impl Cri {
    /// Prepares a connection to a Unix socket.
    ///
    /// # Errors
    /// The path cannot be made an address.
    pub(crate) fn new(socket: &Path) -> Result<Self, CriError> {
        let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display()))
            .map_err(|e| CriError::Socket(socket.to_owned(), e))?
            .connect_timeout(Duration::from_secs(2))
            .timeout(Duration::from_secs(5));
        Ok(Self { client: RuntimeServiceClient::new(endpoint.connect_lazy()) })
    }

    /// All sandboxes that run, by pod UID. `known` ones are not asked about again.
    ///
    /// # Errors
    /// The list could not be had. A single sandbox that cannot be asked about is left out: it is
    /// most likely going.
    pub(crate) async fn sandboxes(
        &self,
        known: &BTreeMap<String, Arc<Sandbox>>,
    ) -> Result<BTreeMap<String, Arc<Sandbox>>, CriError> {
        let mut client = self.client.clone();
        let ready = PodSandboxStateValue { state: PodSandboxState::SandboxReady as i32 };
        let filter = PodSandboxFilter { state: Some(ready), ..Default::default() };
        let list = client
            .list_pod_sandbox(ListPodSandboxRequest { filter: Some(filter) })
            .await
            .map_err(Box::new)?
            .into_inner();
        let mut sandboxes = BTreeMap::new();
        let mut newest: BTreeMap<String, i64> = BTreeMap::new();
        for item in list.items {
            let Some(metadata) = item.metadata else { continue };
            if newest.get(&metadata.uid).is_some_and(|t| *t > item.created_at) {
                continue;
            }
            newest.insert(metadata.uid.clone(), item.created_at);
            let sandbox = match known.get(&metadata.uid) {
                Some(sandbox) if sandbox.id == item.id => sandbox.clone(),
                _ => {
                    let Some(netns) = self.netns(&item.id).await else { continue };
                    Arc::new(Sandbox {
                        id: item.id,
                        namespace: metadata.namespace,
                        name: metadata.name,
                        labels: Labels::new(),
                        netns,
                        seen: Instant::now(),
                    })
                }
            };
            sandboxes.insert(metadata.uid, sandbox);
        }
        Ok(sandboxes)
    }

    /// The sandbox's network namespace; the inner `None` where it shares the node's.
    async fn netns(&self, id: &str) -> Option<Option<PathBuf>> {
        let request = PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: true };
        match self.client.clone().pod_sandbox_status(request).await {
            Ok(status) => Some(status.into_inner().info.get("info").and_then(|i| netns_of_info(i))),
            Err(status) => {
                tracing::debug!(sandbox = id, %status, "cannot ask about a sandbox");
                None
            }
        }
    }
}

/// What containerd and CRI-O say of a sandbox when asked to be verbose.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Info {
    #[serde(default)]
    pid: u32,
    runtime_spec: Option<RuntimeSpec>,
}

#[derive(Deserialize)]
struct RuntimeSpec {
    linux: Option<Linux>,
}

#[derive(Deserialize)]
struct Linux {
    #[serde(default)]
    namespaces: Vec<Namespace>,
}

#[derive(Deserialize)]
struct Namespace {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    path: String,
}

fn netns_of_info(info: &str) -> Option<PathBuf> {
    let info: Info = serde_json::from_str(info).ok()?;
    let namespaces = info.runtime_spec?.linux?.namespaces;
    let network = namespaces.into_iter().find(|n| n.kind == "network")?;
    netns_path(&network.path, info.pid)
}

/// Where the daemon finds a sandbox's network namespace: below `/run/netns`, which it mounts, or
/// through the sandbox's process, whose namespace of process numbers it shares.
pub(crate) fn netns_path(path: &str, pid: u32) -> Option<PathBuf> {
    let path = path.strip_prefix("/var").filter(|p| p.starts_with("/run/")).unwrap_or(path);
    if path.starts_with("/run/netns/") || path.starts_with("/proc/") {
        Some(PathBuf::from(path))
    } else {
        (pid > 0).then(|| PathBuf::from(format!("/proc/{pid}/ns/net")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_namespace_is_found_where_the_daemon_sees_it() {
        let info = |path: &str, pid: u32| {
            format!(
                r#"{{"pid":{pid},"runtimeSpec":{{"linux":{{"namespaces":[{{"type":"pid"}},{{"type":"network","path":"{path}"}}]}}}},"other":1}}"#
            )
        };
        let cases = [
            (info("/var/run/netns/cni-1", 7), Some("/run/netns/cni-1")),
            (info("/run/netns/cni-1", 7), Some("/run/netns/cni-1")),
            (info("/elsewhere/cni-1", 7), Some("/proc/7/ns/net")),
            (info("", 7), Some("/proc/7/ns/net")),
            (r#"{"pid":7,"runtimeSpec":{"linux":{"namespaces":[{"type":"pid"}]}}}"#.into(), None),
            ("not json".into(), None),
        ];
        for (info, want) in cases {
            assert_eq!(netns_of_info(&info), want.map(PathBuf::from), "{info}");
        }
    }
}
