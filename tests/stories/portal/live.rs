//! The pods on a slice and what passes its tunnels, as a portal sees them.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use slicewire_rpc::hub::v1alpha1 as rpc;
use slicewire_rpc::hub::v1alpha1::live_service_client::LiveServiceClient;
use slicewire_tests::portal::{Portal, with_token};
use slicewire_tests::world::{WORKERS, World, not_yet};
use tokio::time::timeout;

use super::watch::SOON;
use super::{everything, slices_alone};

const EAST: (&str, &str, &str) = ("east", "shop", "web");
const WEST: (&str, &str, &str) = ("west", "shop", "web");
/// A pod that comes and goes.
const GUEST: &str = "listed";
/// Longest until a cluster has told of traffic: two counts, the hub, and some of everything else.
const COUNTED: Duration = Duration::from_secs(60);

/// A pod: cluster, namespace, name, node, NIC, addresses.
type Pod = (String, String, String, String, String, Vec<String>);

/// Pods are those that the clusters' nodes have attached; traffic is told while it passes and when it
/// has ended.
pub(crate) fn live(world: &mut World) -> Result<String> {
    let portal = world.portal()?;
    let outcome = (|| {
        let token = world.caller("looking", true, &everything())?;
        let stranger = world.caller("unseeing", false, &slices_alone())?;
        let listed = pods(world, &portal, &token, &stranger).context("pods")?;
        guest(world, &portal, &token).context("a pod that comes and goes")?;
        let rate = traffic(world, &portal, &token, &stranger).context("traffic")?;
        Ok(format!("{listed} pods as the nodes have them; {rate} bit/s from east to west"))
    })();
    let _ = world.k("east", &format!("-n shop delete pod {GUEST} --ignore-not-found --wait=false"));
    world.remove_portal();
    outcome
}

/// A list in pages is what the nodes have attached; how many.
fn pods(world: &World, portal: &Portal, token: &str, stranger: &str) -> Result<usize> {
    let listed = World::wait("the API lists the nodes' pods", 30, || {
        let (attached, listed) = (attached(world)?, listed(portal, token)?);
        if attached.is_empty() || attached != listed {
            return not_yet(format!("attached {attached:?}, listed {listed:?}"));
        }
        Ok(listed.len())
    })?;
    portal.runtime.block_on(async {
        let mut live = LiveServiceClient::new(portal.connect().await?);
        let none = live.list_attached_pods(with_token(stranger, ask(0, ""))).await?.into_inner();
        ensure!(none.pods.is_empty() && none.withheld_clusters == ["east", "west"], "{none:?}");
        let all = live.list_attached_pods(with_token(token, ask(0, ""))).await?.into_inner();
        ensure!(all.incomplete_clusters.is_empty(), "{all:?}");
        let bad = rpc::ListAttachedPodsRequest { cluster: "A".into(), ..ask(-1, "x") };
        let refused =
            live.list_attached_pods(with_token(token, bad)).await.err().context("taken")?;
        for field in ["cluster", "page_size", "page_token"] {
            ensure!(refused.message().contains(field), "{field} is not in {refused:?}");
        }
        Ok(listed)
    })
}

fn ask(page_size: i32, page_token: &str) -> rpc::ListAttachedPodsRequest {
    rpc::ListAttachedPodsRequest {
        project: "demo".into(),
        slice: "blue".into(),
        page_size,
        page_token: page_token.to_owned(),
        ..Default::default()
    }
}

/// All pages.
fn listed(portal: &Portal, token: &str) -> Result<BTreeSet<Pod>> {
    portal.runtime.block_on(async {
        let mut live = LiveServiceClient::new(portal.connect().await?);
        let (mut all, mut page) = (BTreeSet::new(), String::new());
        loop {
            let one = live.list_attached_pods(with_token(token, ask(2, &page))).await?.into_inner();
            ensure!(one.pods.len() <= 2, "{one:?}");
            for p in one.pods {
                let pod = (p.cluster, p.namespace, p.name, p.node, p.interface, p.addresses);
                ensure!(all.insert(pod), "a pod is on two pages");
            }
            if one.next_page_token.is_empty() {
                return Ok(all);
            }
            page = one.next_page_token;
        }
    })
}

/// What the clusters' nodes have attached to the slice, as they say themselves.
fn attached(world: &World) -> Result<BTreeSet<Pod>> {
    let mut all = BTreeSet::new();
    for cluster in WORKERS {
        let nodes = world.get(cluster, "-n slicewire-system slicenodes")?;
        let of_blue = nodes["items"].as_array().into_iter().flatten();
        for node in of_blue.filter(|n| n["spec"]["slice"] == "blue") {
            let nics = node["status"]["nics"].as_array().into_iter().flatten();
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            for nic in nics.filter(|nic| nic["namespace"] != "slicewire-system") {
                let addresses = nic["addresses"].as_array().into_iter().flatten();
                all.insert((
                    cluster.to_owned(),
                    text(&nic["namespace"]),
                    text(&nic["pod"]),
                    text(&node["spec"]["node"]),
                    text(&nic["interface"]),
                    addresses.map(text).collect(),
                ));
            }
        }
    }
    Ok(all)
}

/// A watch tells of a pod that comes, and of its end.
fn guest(world: &World, portal: &Portal, token: &str) -> Result<()> {
    let request = rpc::WatchAttachedPodsRequest {
        project: "demo".into(),
        slice: "blue".into(),
        cluster: "east".into(),
        namespace: "shop".into(),
        ..Default::default()
    };
    let mut stream = portal.runtime.block_on(async {
        let mut client = LiveServiceClient::new(portal.connect().await?);
        anyhow::Ok(client.watch_attached_pods(with_token(token, request)).await?.into_inner())
    })?;
    let mut until = |there: bool| -> Result<()> {
        for _ in 0..50 {
            let told = portal.runtime.block_on(async { timeout(SOON, stream.message()).await });
            let told = told.context("nothing is told")??.context("the watch ended")?;
            ensure!(told.pods.iter().all(|p| p.cluster == "east"), "{told:?}");
            if told.r#type() == rpc::EventType::Changed
                && told.pods.iter().any(|p| p.name == GUEST && !p.addresses.is_empty()) == there
            {
                return Ok(());
            }
        }
        bail!("not told: the pod is {}", if there { "there" } else { "gone" })
    };
    until(false)?;
    world.pod("east", "shop", GUEST, Some("east-2"))?;
    until(true)?;
    world.k("east", &format!("-n shop delete pod {GUEST} --grace-period=1"))?;
    until(false)
}

/// Traffic shows at both ends of the tunnel while it passes, and its end as well; the rate that east
/// told of.
fn traffic(world: &World, portal: &Portal, token: &str, stranger: &str) -> Result<i64> {
    let to = world.addresses("west", "shop", "web", "blue")?[0];
    let request = || rpc::WatchTrafficRequest {
        project: "demo".into(),
        slice: "blue".into(),
        ..Default::default()
    };
    let mut stream = portal.runtime.block_on(async {
        let mut client = LiveServiceClient::new(portal.connect().await?);
        let ask = rpc::GetTrafficRequest { project: "demo".into(), slice: "blue".into() };
        let none = client.get_traffic(with_token(stranger, ask)).await?.into_inner();
        let none = none.traffic.context("no traffic")?;
        ensure!(none.tunnels.is_empty() && none.withheld_clusters == ["east", "west"], "{none:?}");
        Ok(client.watch_traffic(with_token(token, request())).await?.into_inner())
    })?;
    let mut until = |what: &str, right: &dyn Fn(&rpc::Traffic) -> bool| -> Result<rpc::Traffic> {
        for _ in 0..50 {
            let told = portal.runtime.block_on(async { timeout(COUNTED, stream.message()).await });
            let told = told.with_context(|| format!("not told: {what}"))??;
            let told = told.context("the watch ended")?;
            if let Some(traffic) = told.traffic.filter(right) {
                return Ok(traffic);
            }
        }
        bail!("not told: {what}")
    };
    let of = |traffic: &rpc::Traffic, cluster: &str| -> rpc::PassedTraffic {
        let tunnel = traffic.tunnels.iter().find(|t| t.cluster == cluster);
        tunnel.and_then(|t| t.passed).unwrap_or_default()
    };
    // The stream of the tests has 20 Mbit/s.
    let flow = world.traffic(EAST, WEST, to, 120)?;
    let passing = until("what passes, from both ends", &|traffic| {
        of(traffic, "east").sent > 10_000_000 && of(traffic, "west").received > 10_000_000
    });
    let lost = flow.end(world);
    let passing = passing?;
    ensure!(lost? == 0, "pings were lost");
    let east = of(&passing, "east");
    ensure!(east.sent < 60_000_000 && east.sent_bytes > 10_000_000, "{passing:?}");
    let sum = passing.clusters.iter().find(|c| c.cluster == "east").context("no sum")?;
    ensure!(sum.count_time.is_some() && sum.tunnels_left_out == 0, "{sum:?}");
    ensure!(sum.passed.is_some_and(|p| p.sent >= east.sent), "{sum:?} is less than {east:?}");
    let after = until("its end", &|traffic| of(traffic, "east").sent < 1_000_000)?;
    ensure!(of(&after, "east").sent_bytes >= east.sent_bytes, "the counter went back: {after:?}");
    Ok(east.sent)
}
