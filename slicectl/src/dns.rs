//! Lets the cluster's CoreDNS ask the nodes' daemons for names of slices, and takes that back.

mod tell;

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use slicewire_api::labels::SYSTEM_NAMESPACE;
use slicewire_core::name::fnv1a;

use crate::corefile::{Leads, block, leads, with_block, without_block};
use crate::progress::{State, line, wait};
pub(crate) use tell::{Arguments, tell};

/// Where CoreDNS is in clusters that are made in the usual ways, and what it is called there.
const PLACE: &str = "kube-system";
const NAME: &str = "coredns";
/// What the cache on every node is called there, where clusters have one.
const NODE_LOCAL: &str = "node-local-dns";
/// The ConfigMap's entry.
const ENTRY: &str = "Corefile";
/// On CoreDNS' pods: which Corefile they began with, so that a change starts new ones.
const MARK: &str = "slicewire.dev/corefile";
/// The Service that leads to the daemons.
const SERVICE: &str = "slicewire-dns";

/// Adds our block to the Corefile. What cannot be done is told with what to do by hand: names are
/// of no use to a cluster without DNS, and slices work without them.
///
/// # Errors
/// The cluster refuses, or CoreDNS did not come back; then the Corefile is as it was.
pub(crate) async fn extend(client: &Client, limit: Duration) -> Result<()> {
    let Some(servers) = servers(client).await? else { return Ok(()) };
    node_local(client, &servers).await?;
    let Some(map) = config(client, NAME).await? else {
        line(&format!("! {}", not_coredns(&servers)));
        return Ok(());
    };
    let old = corefile(&map);
    let new = match with_block(&old, &servers) {
        Ok(new) => new,
        Err(refusal) => {
            line(&format!("! {refusal}; names of slices are not known to the cluster's DNS"));
            return Ok(());
        }
    };
    if new == old {
        return Ok(());
    }
    write(client, &map, &new, Some(&new)).await?;
    let back = wait("CoreDNS knows names of slices", limit, async || rolled_out(client).await);
    if let Err(error) = back.await {
        let map = config(client, NAME).await?.unwrap_or_default();
        write(client, &map, &old, None).await?;
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
    let Some(map) = config(client, NAME).await? else { return Ok(()) };
    let old = corefile(&map);
    let new = without_block(&old)?;
    if new != old {
        write(client, &map, &new, None).await?;
        wait("CoreDNS without slicewire's block", limit, async || rolled_out(client).await).await?;
    }
    Ok(())
}

/// Where the nodes are asked; none where they answer no questions.
async fn servers(client: &Client) -> Result<Option<Vec<IpAddr>>> {
    let services: Api<Service> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
    let Some(service) = services.get_opt(SERVICE).await? else { return Ok(None) };
    let ips = service.spec.and_then(|s| s.cluster_ips).unwrap_or_default();
    Ok(Some(ips.iter().filter_map(|ip| ip.parse().ok()).collect()))
}

fn not_coredns(servers: &[IpAddr]) -> String {
    let servers: Vec<String> = servers.iter().map(IpAddr::to_string).collect();
    let servers = servers.join(", ");
    format!(
        "the cluster's DNS is not CoreDNS in {PLACE}; let it forward clusterset.local and slice.local to {servers}"
    )
}

/// NodeLocal DNSCache stands between pods and CoreDNS, and asks it for the cluster's own zone only.
async fn node_local(client: &Client, servers: &[IpAddr]) -> Result<()> {
    if let Some(Err(advice)) = node_local_leads(client, servers).await? {
        line(&format!("! {advice}"));
    }
    Ok(())
}

/// Whether NodeLocal DNSCache asks the nodes, or what to do that it does; none where there is none.
async fn node_local_leads(
    client: &Client,
    servers: &[IpAddr],
) -> Result<Option<Result<(), String>>> {
    let daemons: Api<DaemonSet> = Api::namespaced(client.clone(), PLACE);
    if daemons.get_opt(NODE_LOCAL).await?.is_none() {
        return Ok(None);
    }
    let map = config(client, NODE_LOCAL).await?.unwrap_or_default();
    Ok(Some(match leads(&corefile(&map), servers) {
        Leads::Here | Leads::HereByHand => Ok(()),
        _ => Err(format!(
            "NodeLocal DNSCache is in use, and asks no node for names of slices; add this to the entry {ENTRY} of its ConfigMap {PLACE}/{NODE_LOCAL}:\n{}",
            block(servers)
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

/// Writes the Corefile, provided that nobody did since it was read, and starts CoreDNS anew.
async fn write(client: &Client, map: &ConfigMap, text: &str, mark: Option<&str>) -> Result<()> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), PLACE);
    let patch = json!({
        "metadata": { "resourceVersion": map.resource_version() },
        "data": { ENTRY: text },
    });
    let how = PatchParams::default();
    maps.patch(NAME, &how, &Patch::Merge(patch)).await.context("cannot write the Corefile")?;
    let mark = mark.map(|text| format!("{:016x}", fnv1a(&[text])));
    let patch =
        json!({ "spec": { "template": { "metadata": { "annotations": { MARK: mark } } } } });
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), PLACE);
    match deployments.patch(NAME, &how, &Patch::Merge(patch)).await {
        Ok(_) => Ok(()),
        // It runs in another way, and reads the Corefile anew by itself.
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
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
