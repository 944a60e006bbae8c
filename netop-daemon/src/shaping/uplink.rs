//! What the node's uplink carries: as the Node's annotation says, or as its network device does.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1 as core;
use kube::{Api, Client, ResourceExt as _};
use slicewire_api::labels::UPLINK;
use slicewire_core::qos::Rate;
use slicewire_kernel::{Kernel, Network as _, Ns, NsId};

use crate::decide::Node;

/// How long an answer is used.
const FRESH: Duration = Duration::from_secs(20);

/// Finds out what the uplink carries.
pub(super) struct Uplink {
    client: Client,
    node: Node,
    host: Ns,
    known: Option<(Instant, Option<Rate>)>,
}

impl Uplink {
    /// Nothing is known yet.
    ///
    /// # Errors
    /// The node's own network namespace cannot be opened.
    pub(super) async fn new(client: Client, node: &Node) -> Result<Self, slicewire_kernel::Error> {
        let host = Kernel::new().open(&NsId::Current).await?;
        Ok(Self { client, node: node.clone(), host, known: None })
    }

    /// Bits a second in each direction; `None` where nobody says.
    pub(super) async fn capacity(&mut self) -> Option<Rate> {
        let fresh = self.known.filter(|(at, _)| at.elapsed() < FRESH);
        if let Some((_, rate)) = fresh {
            return rate;
        }
        let rate = match self.annotated().await {
            // What was said goes on while the API server is silent.
            Err(error) => {
                tracing::debug!(%error, "cannot read the node's annotations");
                match self.known {
                    Some((_, rate)) => rate,
                    None => self.told_by_device().await,
                }
            }
            Ok(Some(rate)) => Some(rate),
            Ok(None) => self.told_by_device().await,
        };
        if self.known.map(|(_, old)| old) != Some(rate) {
            let rate = rate.map_or_else(|| "unknown".to_owned(), |r| r.to_string());
            tracing::info!(rate, "the node's uplink");
        }
        self.known = Some((Instant::now(), rate));
        rate
    }

    async fn annotated(&self) -> Result<Option<Rate>, kube::Error> {
        let api: Api<core::Node> = Api::all(self.client.clone());
        let found = api.get_metadata_opt(&self.node.name).await?;
        let Some(text) = found.and_then(|n| n.annotations().get(UPLINK).cloned()) else {
            return Ok(None);
        };
        match Rate::parse(&format!("metadata.annotations[{UPLINK}]"), &text) {
            Ok(rate) => Ok(Some(rate)),
            Err(fault) => {
                tracing::warn!(node = self.node.name, %fault, "the device's speed is taken instead");
                Ok(None)
            }
        }
    }

    /// The speed of the device that has the node's address.
    async fn told_by_device(&self) -> Option<Rate> {
        let address = self.node.underlay.first()?;
        let addresses = self.host.addresses().await.ok()?;
        let device = &addresses.iter().find(|a| a.net.addr() == *address)?.dev;
        let text = std::fs::read_to_string(format!("/sys/class/net/{device}/speed")).ok()?;
        // Mbit/s; -1 where it is not known.
        let speed: u64 = text.trim().parse().ok()?;
        (speed > 0).then(|| Rate(speed.saturating_mul(1_000_000)))
    }
}
