//! Lets the cluster's CoreDNS ask the nodes' daemons for names of slices, and takes that back.

mod cache;
mod tell;
mod wanted;

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use slicewire_api::cluster_dns::{ENTRY, NAME, PLACE};
use slicewire_core::dns::corefile::{Wanted, forwarded, with_block, without_block, zones};

use crate::progress::{State, line, wait};
pub(crate) use tell::{Arguments, tell};

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
    if let Some(Err(advice)) = cache::leads(client, &wanted).await? {
        line(&format!("! {advice}"));
    }
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

/// Takes our block away, and tells of what others have written that would lead nowhere from now on.
///
/// # Errors
/// The cluster refuses, or the block cannot be told from the rest.
pub(crate) async fn restore(client: &Client, limit: Duration) -> Result<()> {
    if rewrite(client, |old| Ok(without_block(old)?), false).await?.is_some() {
        wait("CoreDNS without slicewire's block", limit, async || rolled_out(client).await).await?;
    }
    let servers = wanted::servers(client).await?;
    for name in [NAME, cache::NAME] {
        let map = config(client, name).await?.unwrap_or_default();
        if let Some(left) = left(name, &corefile(&map), &servers) {
            line(&format!("! {left}"));
        }
    }
    Ok(())
}

/// What to take out of a Corefile by hand, where something of it leads to the nodes.
fn left(name: &str, corefile: &str, servers: &[IpAddr]) -> Option<String> {
    let zones = forwarded(corefile, servers);
    let servers: Vec<String> = servers.iter().map(IpAddr::to_string).collect();
    let (zones, servers) = (zones.join(" "), servers.join(" "));
    (!zones.is_empty()).then(|| {
        format!(
            "nobody answers at {servers} any more: take what forwards there out of the entry {ENTRY} of ConfigMap {PLACE}/{name} (zones {zones})"
        )
    })
}

fn not_coredns(wanted: &Wanted) -> String {
    let servers: Vec<String> = wanted.servers.iter().map(IpAddr::to_string).collect();
    let (zones, servers) = (zones(wanted).join(", "), servers.join(", "));
    format!("the cluster's DNS is not CoreDNS in {PLACE}; let it forward to {servers}: {zones}")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_have_written_is_told_when_nobody_answers_any_more() {
        let servers = ["10.96.0.9".parse().unwrap()];
        let by_hand = "slice.local:53 {\n    forward . 10.96.0.9\n}\n";
        let told = left(cache::NAME, by_hand, &servers).unwrap();
        assert!(told.contains("kube-system/node-local-dns (zones slice.local)"), "{told}");
        assert_eq!(left(NAME, by_hand, &[]), None);
        assert_eq!(left(NAME, ".:53 {\n    forward . 192.0.2.1\n}\n", &servers), None);
    }
}
