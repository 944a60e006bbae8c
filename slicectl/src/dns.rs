//! Lets the cluster's CoreDNS ask the nodes' daemons for names of slices, and takes that back.

mod tell;
mod wanted;

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use slicewire_api::cluster_dns::{ENTRY, NAME, PLACE};
use slicewire_core::dns::corefile::{
    Leads, Wanted, advice, leads, with_block, without_block, zones,
};

use crate::progress::{State, line, wait};
pub(crate) use tell::{Arguments, tell};

/// What the cache on every node is called there, where clusters have one.
const NODE_LOCAL: &str = "node-local-dns";
/// On CoreDNS' pods: the version of the ConfigMap that they begin with. A change starts new ones, also
/// one to what was there before and was lost meanwhile.
const MARK: &str = "slicewire.dev/corefile";
/// How often the Corefile is read again because somebody else has just written it.
const ATTEMPTS: u32 = 5;

/// Adds our block to the Corefile. What cannot be done is told with what to do by hand: names are
/// of no use to a cluster without DNS, and slices work without them.
///
/// # Errors
/// The cluster refuses, or CoreDNS did not come back; then the Corefile is as it was.
pub(crate) async fn extend(client: &Client, limit: Duration) -> Result<()> {
    let Some(wanted) = wanted::read(client).await? else { return Ok(()) };
    node_local(client, &wanted).await?;
    let Some(map) = config(client, NAME).await? else {
        line(&format!("! {}", not_coredns(&wanted)));
        return Ok(());
    };
    match with_block(&corefile(&map), &wanted) {
        Ok(written) => written.left_out.iter().for_each(|out| line(&format!("! {out}"))),
        Err(refusal) => {
            line(&format!("! {refusal}; names of slices are not known to the cluster's DNS"));
            return Ok(());
        }
    }
    let Some(old) = rewrite(client, |old| Ok(with_block(old, &wanted)?.text), true).await? else {
        return Ok(());
    };
    let back = wait("CoreDNS knows names of slices", limit, async || rolled_out(client).await);
    if let Err(error) = back.await {
        rewrite(client, |_| Ok(old.clone()), false).await?;
        return Err(error.context(
            "CoreDNS did not come back with slicewire's block; the Corefile is as it was before",
        ));
    }
    Ok(())
}

/// Takes our block away.
///
/// # Errors
/// The cluster refuses, or the block cannot be told from the rest.
pub(crate) async fn restore(client: &Client, limit: Duration) -> Result<()> {
    if rewrite(client, |old| Ok(without_block(old)?), false).await?.is_some() {
        wait("CoreDNS without slicewire's block", limit, async || rolled_out(client).await).await?;
    }
    Ok(())
}

fn not_coredns(wanted: &Wanted) -> String {
    let servers: Vec<String> = wanted.servers.iter().map(IpAddr::to_string).collect();
    let (zones, servers) = (zones(wanted).join(", "), servers.join(", "));
    format!("the cluster's DNS is not CoreDNS in {PLACE}; let it forward to {servers}: {zones}")
}

/// NodeLocal DNSCache stands between pods and CoreDNS, and asks it for the cluster's own zone only.
async fn node_local(client: &Client, wanted: &Wanted) -> Result<()> {
    if let Some(Err(advice)) = node_local_leads(client, wanted).await? {
        line(&format!("! {advice}"));
    }
    Ok(())
}

/// Whether NodeLocal DNSCache asks the nodes, or what to do that it does; none where there is none.
async fn node_local_leads(client: &Client, wanted: &Wanted) -> Result<Option<Result<(), String>>> {
    let daemons: Api<DaemonSet> = Api::namespaced(client.clone(), PLACE);
    if daemons.get_opt(NODE_LOCAL).await?.is_none() {
        return Ok(None);
    }
    let map = config(client, NODE_LOCAL).await?.unwrap_or_default();
    Ok(Some(match leads(&corefile(&map), wanted).0 {
        Leads::Here | Leads::HereByHand(_) => Ok(()),
        _ => Err(format!(
            "NodeLocal DNSCache is in use, and asks no node for names of slices; add this to the entry {ENTRY} of its ConfigMap {PLACE}/{NODE_LOCAL}:\n{}",
            advice(wanted)
        )),
    }))
}

async fn config(client: &Client, name: &str) -> Result<Option<ConfigMap>> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), PLACE);
    let map = maps.get_opt(name).await;
    let map = map.with_context(|| format!("cannot read the ConfigMap {PLACE}/{name}"))?;
    Ok(map.filter(|m| m.data.as_ref().is_some_and(|d| d.contains_key(ENTRY))))
}

fn corefile(map: &ConfigMap) -> String {
    map.data.as_ref().and_then(|data| data.get(ENTRY)).cloned().unwrap_or_default()
}

/// Changes the Corefile; as it was before, or none where there was nothing to change. The worker writes
/// the zones of slices into it meanwhile.
async fn rewrite(
    client: &Client,
    change: impl Fn(&str) -> Result<String>,
    marked: bool,
) -> Result<Option<String>> {
    for _ in 0..ATTEMPTS {
        let Some(map) = config(client, NAME).await? else { return Ok(None) };
        let old = corefile(&map);
        let new = change(&old)?;
        if new == old {
            return Ok(None);
        }
        if write(client, &map, &new, marked).await? {
            return Ok(Some(old));
        }
    }
    bail!("somebody else writes the ConfigMap {PLACE}/{NAME} all the time; run this again later")
}

/// Writes the Corefile and starts CoreDNS anew; false when somebody has written it since it was read.
async fn write(client: &Client, map: &ConfigMap, text: &str, marked: bool) -> Result<bool> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), PLACE);
    let patch = json!({
        "metadata": { "resourceVersion": map.resource_version() },
        "data": { ENTRY: text },
    });
    let how = PatchParams::default();
    let written = match maps.patch(NAME, &how, &Patch::Merge(patch)).await {
        Ok(written) => written,
        Err(kube::Error::Api(status)) if status.code == 409 => return Ok(false),
        Err(error) => return Err(error).context("cannot write the Corefile"),
    };
    let mark = written.resource_version().filter(|_| marked);
    let patch =
        json!({ "spec": { "template": { "metadata": { "annotations": { MARK: mark } } } } });
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), PLACE);
    match deployments.patch(NAME, &how, &Patch::Merge(patch)).await {
        Ok(_) => Ok(true),
        // It runs in another way, and reads the Corefile anew by itself.
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(true),
        Err(error) => Err(error).context("cannot start CoreDNS anew"),
    }
}

async fn rolled_out(client: &Client) -> Result<State> {
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), PLACE);
    let Some(found) = deployments.get_opt(NAME).await? else { return Ok(State::Done) };
    let wanted = found.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1);
    let status = found.status.unwrap_or_default();
    let current = status.observed_generation == found.metadata.generation;
    let ready = status.updated_replicas.unwrap_or(0).min(status.available_replicas.unwrap_or(0));
    let over = status.replicas.unwrap_or(0) > wanted;
    if current && !over && ready >= wanted {
        return Ok(State::Done);
    }
    Ok(State::Waiting(format!(
        "{ready} of {wanted} pods of CoreDNS are ready (kubectl -n {PLACE} logs deploy/{NAME} tells more)"
    )))
}
