//! The services of a slice as a portal sees them, from an export to its end.

use anyhow::{Context, Result, ensure};
use slicewire_rpc::hub::v1alpha1 as rpc;
use slicewire_rpc::hub::v1alpha1::live_service_client::LiveServiceClient;
use slicewire_tests::portal::{Portal, with_token};
use slicewire_tests::world::World;
use tokio::time::timeout;
use tonic::Streaming;

use super::watch::SOON;
use super::{everything, slices_alone};

const NAME: &str = "told";
const EXPORTED: &str = r#"{"apiVersion": "v1", "kind": "List", "items": [
    {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "told", "namespace": "shop"},
     "spec": {"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}},
    {"apiVersion": "multicluster.x-k8s.io/v1beta1", "kind": "ServiceExport",
     "metadata": {"name": "told", "namespace": "shop"}}]}"#;

/// An export is told with its cluster, its address and where it can be used; so is its end.
pub(crate) fn services(world: &mut World) -> Result<String> {
    let portal = world.portal()?;
    let outcome = (|| {
        let token = world.caller("serving", true, &everything())?;
        let stranger = world.caller("blind", false, &slices_alone())?;
        let mut watch = Watch::open(&portal, &token)?;
        watch.until("the state before", |told| told.is_none())?;
        world.apply("west", EXPORTED)?;
        let whole = |told: Option<&rpc::OfferedService>| told.is_some_and(is_whole);
        let told = watch.until("the export with both clusters", whole)?.context("no service")?;
        listed(&portal, &token, &stranger, &told)?;
        world.k("west", "-n shop delete serviceexport told")?;
        watch.until("its end", |told| told.is_none())?;
        Ok(format!("exported by west, {} in east and west, then gone", told.ips.join(" ")))
    })();
    let _ = world.k("west", "-n shop delete serviceexport/told service/told --ignore-not-found");
    world.remove_portal();
    outcome
}

/// Exported and taken, with an address and pods, and told to both clusters.
fn is_whole(told: &rpc::OfferedService) -> bool {
    let [west] = &told.clusters[..] else { return false };
    told.exported
        && !told.ips.is_empty()
        && told.ports.len() == 1
        && told.importing_clusters == ["east", "west"]
        && (west.cluster.as_str(), west.exported, west.accepted) == ("west", true, Some(true))
        && west.ready_endpoints > 0
}

/// A list says the same, and to who may not look into the clusters nothing.
fn listed(portal: &Portal, token: &str, stranger: &str, told: &rpc::OfferedService) -> Result<()> {
    let ask = || rpc::ListServicesRequest {
        project: "demo".into(),
        slice: "blue".into(),
        namespace: "shop".into(),
        ..Default::default()
    };
    portal.runtime.block_on(async {
        let mut live = LiveServiceClient::new(portal.connect().await?);
        let all = live.list_services(with_token(token, ask())).await?.into_inner();
        ensure!(all.services.contains(told), "{told:?} is not in {all:?}");
        let none = live.list_services(with_token(stranger, ask())).await?.into_inner();
        ensure!(none.services.is_empty(), "{none:?}");
        ensure!(none.withheld_clusters == ["east", "west"], "{none:?}");
        let bad = rpc::ListServicesRequest { page_size: -1, namespace: "A".into(), ..ask() };
        let refused = live.list_services(with_token(token, bad)).await.err().context("taken")?;
        for field in ["namespace", "page_size"] {
            ensure!(refused.message().contains(field), "{field} is not in {refused:?}");
        }
        Ok(())
    })
}

struct Watch<'a> {
    portal: &'a Portal,
    stream: Streaming<rpc::WatchServicesResponse>,
}

impl<'a> Watch<'a> {
    fn open(portal: &'a Portal, token: &str) -> Result<Self> {
        let request = rpc::WatchServicesRequest {
            project: "demo".into(),
            slice: "blue".into(),
            ..Default::default()
        };
        let stream = portal.runtime.block_on(async {
            let mut client = LiveServiceClient::new(portal.connect().await?);
            anyhow::Ok(client.watch_services(with_token(token, request)).await?.into_inner())
        })?;
        Ok(Self { portal, stream })
    }

    /// The service, once it is as it should be.
    fn until(
        &mut self,
        what: &str,
        right: impl Fn(Option<&rpc::OfferedService>) -> bool,
    ) -> Result<Option<rpc::OfferedService>> {
        let mut last = None;
        for _ in 0..50 {
            let next = async { timeout(SOON, self.stream.message()).await };
            let told = self.portal.runtime.block_on(next);
            let told = told.with_context(|| format!("not told: {what}; last was {last:?}"))?;
            let told = told?.context("the watch ended")?;
            if told.r#type() != rpc::EventType::Changed {
                continue;
            }
            last = told.services.into_iter().find(|s| s.name == NAME && s.namespace == "shop");
            if right(last.as_ref()) {
                return Ok(last);
            }
        }
        anyhow::bail!("not told: {what}; last was {last:?}")
    }
}
