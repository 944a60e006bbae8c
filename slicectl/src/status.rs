//! `slicectl status`: what works, what does not, and why. Everything is read from the hub.

#[cfg(test)]
mod tests;
mod text;

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, ValueEnum};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};
use serde::Serialize;
use slicewire_api::condition::{ACCEPTED, CONNECTED, KEYS_CURRENT, READY, is_true};
use slicewire_api::{
    AttachFailure, Cluster, Project, SliceConfig, SliceConfigStatus, TunnelStatus, WorkerGateway,
    WorkerSlice,
};

use crate::cluster::HubArguments;
use crate::plain;

/// What to show, and how.
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    hub: HubArguments,
    /// Only this project.
    #[arg(long)]
    project: Option<String>,
    /// Only this slice.
    #[arg(long)]
    slice: Option<String>,
    /// How to print it.
    #[arg(long, short, default_value = "table")]
    output: Output,
}

#[derive(Clone, Copy, ValueEnum)]
enum Output {
    Table,
    Json,
}

/// Everything shown, as `-o json` prints it.
#[derive(Debug, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Report {
    /// Whether all of it is ready.
    ready: bool,
    clusters: Vec<Member>,
    slices: Vec<SliceReport>,
}

#[derive(Debug, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
struct Member {
    project: String,
    name: String,
    connected: bool,
    ready: bool,
    nodes: Option<i32>,
    kubernetes: Option<String>,
    /// What is wrong, one sentence a fault.
    faults: Vec<String>,
}

#[derive(Debug, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
struct SliceReport {
    project: String,
    name: String,
    ready: bool,
    prefixes: Vec<String>,
    /// The gateways' keys, once they have been renewed or are being.
    keys: Option<String>,
    faults: Vec<String>,
    clusters: Vec<SliceInCluster>,
}

#[derive(Debug, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
struct SliceInCluster {
    cluster: String,
    ready: bool,
    pods: i32,
    gateways: Vec<Gateway>,
    faults: Vec<String>,
}

#[derive(Debug, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
struct Gateway {
    lane: u8,
    ready: bool,
    node: Option<String>,
    backend: Option<String>,
    tunnels: Vec<TunnelReport>,
}

#[derive(Debug, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
struct TunnelReport {
    to: String,
    up: bool,
    key_generation: Option<u64>,
    preshared_key: bool,
    handshake_seconds: Option<i64>,
    rtt_milliseconds: Option<f64>,
    loss_percent: Option<f64>,
    path_mtu: Option<i32>,
    reason: Option<String>,
}

/// What the hub holds.
#[derive(Default)]
pub(crate) struct Found {
    pub(crate) projects: Vec<Project>,
    pub(crate) clusters: Vec<Cluster>,
    pub(crate) configs: Vec<SliceConfig>,
    pub(crate) slices: Vec<WorkerSlice>,
    pub(crate) gateways: Vec<WorkerGateway>,
}

/// Prints the status; exit status 0 when everything is ready, 2 when not.
///
/// # Errors
/// The hub cannot be read.
pub(crate) async fn status(arguments: Arguments) -> Result<ExitCode> {
    let hub = arguments.hub.connect().await?;
    let mut found = read(&hub.client).await?;
    if let Some(project) = &arguments.project {
        found.projects.retain(|p| p.name_any() == *project);
    }
    if let Some(slice) = &arguments.slice {
        found.configs.retain(|c| c.name_any() == *slice);
    }
    plain::clean(&mut found);
    let report = report(&found, Timestamp::now());
    let text = match arguments.output {
        Output::Table => text::render(&report),
        Output::Json => serde_json::to_string_pretty(&report)? + "\n",
    };
    io::stdout().write_all(text.as_bytes())?;
    Ok(if report.ready { ExitCode::SUCCESS } else { ExitCode::from(2) })
}

async fn read(client: &Client) -> Result<Found> {
    async fn list<K>(client: &Client) -> Result<Vec<K>>
    where
        K: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
    {
        match Api::<K>::all(client.clone()).list(&ListParams::default()).await {
            Ok(list) => Ok(list.items),
            Err(error) if crate::apply::is_gone(&error) => anyhow::bail!(
                "this cluster is no hub: it does not know {}; say --kubeconfig or --context of the \
                 hub, or install one with 'slicectl install hub'",
                K::plural(&())
            ),
            Err(error) => Err(error.into()),
        }
    }
    Ok(Found {
        projects: list(client).await?,
        clusters: list(client).await?,
        configs: list(client).await?,
        slices: list(client).await?,
        gateways: list(client).await?,
    })
}

/// Puts together what is known. Pure; `now` is for the age of handshakes.
pub(crate) fn report(found: &Found, now: Timestamp) -> Report {
    let mut clusters = Vec::new();
    let mut slices = Vec::new();
    for project in &found.projects {
        let namespace = project.status.as_ref().and_then(|s| s.namespace.clone());
        let Some(namespace) = namespace else { continue };
        let here = |n: Option<String>| n.as_deref() == Some(namespace.as_str());
        let members = found.clusters.iter().filter(|c| here(c.namespace()));
        clusters.extend(members.map(|c| member(&project.name_any(), c)));
        let configs = found.configs.iter().filter(|c| here(c.namespace()));
        slices.extend(configs.map(|c| slice(&project.name_any(), c, found, now)));
    }
    let ready = clusters.iter().all(|c: &Member| c.ready && c.connected)
        && slices.iter().all(|s: &SliceReport| s.ready);
    Report { ready, clusters, slices }
}

fn member(project: &str, cluster: &Cluster) -> Member {
    let status = cluster.status.clone().unwrap_or_default();
    Member {
        project: project.to_owned(),
        name: cluster.name_any(),
        connected: is_true(&status.conditions, CONNECTED),
        ready: is_true(&status.conditions, READY),
        nodes: status.nodes,
        kubernetes: status.kubernetes_version,
        faults: if status.conditions.is_empty() {
            vec!["NotJoined: no worker has reported; run 'slicectl token create' here and 'slicectl join' there".to_owned()]
        } else {
            unmet(&status.conditions)
        },
    }
}

fn slice(project: &str, config: &SliceConfig, found: &Found, now: Timestamp) -> SliceReport {
    let name = config.name_any();
    let status = config.status.clone().unwrap_or_default();
    let mut faults: Vec<String> = status
        .violations
        .iter()
        .map(|v| format!("{}: {:?}: {} ({})", v.field, v.value, v.message, v.reason))
        .collect();
    // The violations say the same, each by itself.
    let told = |c: &&Condition| {
        c.type_ != KEYS_CURRENT && (c.type_ != ACCEPTED || status.violations.is_empty())
    };
    let conditions: Vec<Condition> = status.conditions.iter().filter(told).cloned().collect();
    faults.extend(unmet(&conditions));
    if status.conditions.is_empty() {
        faults.push("NotSeen: the hub controller has not looked at it yet".to_owned());
    }
    let clusters =
        config.spec.clusters.iter().map(|c| in_cluster(project, &name, &c.name, found, now));
    SliceReport {
        project: project.to_owned(),
        name: name.clone(),
        ready: is_true(&status.conditions, READY),
        prefixes: config.spec.prefixes.clone(),
        keys: keys(&status),
        faults,
        clusters: clusters.collect(),
    }
}

/// Which keys the gateways have, since when, and what a renewal waits for.
fn keys(status: &SliceConfigStatus) -> Option<String> {
    let keys = status.keys.as_ref()?;
    let renewed = keys.renewed_at.as_deref().unwrap_or("never");
    let preshared = keys.preshared.as_deref().unwrap_or("-");
    let generation = keys.generation;
    let mut text = format!("generation {generation}, renewed: {renewed}, pre-shared: {preshared}");
    let current = status.conditions.iter().find(|c| c.type_ == KEYS_CURRENT);
    if let Some(waits) = current.filter(|c| c.status != "True") {
        let _ = write!(text, "; {}", waits.message);
    }
    Some(text)
}

fn in_cluster(
    project: &str,
    slice: &str,
    cluster: &str,
    found: &Found,
    now: Timestamp,
) -> SliceInCluster {
    let its = |name: &str, of_cluster: &str, of_project: Option<&str>| {
        name == slice && of_cluster == cluster && of_project.is_none_or(|p| p == project)
    };
    let worker_slice = found
        .slices
        .iter()
        .find(|s| its(&s.spec.slice, &s.spec.cluster, Some(s.spec.project.as_str())));
    let namespace = worker_slice.and_then(ResourceExt::namespace);
    let gateway = found
        .gateways
        .iter()
        .find(|g| its(&g.spec.slice, &g.spec.cluster, None) && g.namespace() == namespace);
    let status = worker_slice.and_then(|s| s.status.clone()).unwrap_or_default();
    let mut faults = unmet(&status.conditions);
    if worker_slice.is_none() {
        faults.push("NotPlanned: the hub has no plan for this cluster".to_owned());
    } else if status.conditions.is_empty() {
        faults.push("NotReported: the cluster has not reported on this slice".to_owned());
    }
    faults.extend(status.failures.iter().map(attach_failure));
    if let Some(gateway) = gateway {
        let conditions = gateway.status.as_ref().map(|s| s.conditions.as_slice());
        let of_gateway = unmet(conditions.unwrap_or_default());
        // What a gateway lacks, its slice lacks, too; once is enough.
        let news: Vec<String> = of_gateway.into_iter().filter(|f| !faults.contains(f)).collect();
        faults.extend(news.into_iter().map(|f| format!("gateway: {f}")));
    }
    SliceInCluster {
        cluster: cluster.to_owned(),
        ready: is_true(&status.conditions, READY),
        pods: status.attached_pods,
        gateways: gateway.map(|g| gateways(g, now)).unwrap_or_default(),
        faults,
    }
}

fn gateways(gateway: &WorkerGateway, now: Timestamp) -> Vec<Gateway> {
    let lanes = gateway.status.iter().flat_map(|s| &s.lanes);
    lanes
        .map(|lane| Gateway {
            lane: lane.lane,
            ready: lane.ready,
            node: lane.node.clone(),
            backend: lane.backend.clone(),
            tunnels: lane.tunnels.iter().map(|t| tunnel(t, now)).collect(),
        })
        .collect()
}

fn tunnel(status: &TunnelStatus, now: Timestamp) -> TunnelReport {
    let handshake = status.last_handshake.as_deref().and_then(|text| {
        let time: Time = serde_json::from_value(text.into()).ok()?;
        Some((now.as_second() - time.0.as_second()).max(0))
    });
    #[expect(clippy::cast_precision_loss, reason = "round-trip times are far below 2^52 µs")]
    let rtt = status.rtt_micros.map(|micros| micros as f64 / 1000.0);
    TunnelReport {
        to: status.cluster.clone(),
        up: status.up,
        key_generation: status.generation,
        preshared_key: status.preshared_key,
        handshake_seconds: handshake,
        rtt_milliseconds: rtt,
        loss_percent: status.loss_permille.map(|permille| f64::from(permille) / 10.0),
        path_mtu: status.path_mtu,
        reason: status.reason.clone(),
    }
}

/// Conditions that are not as they should be, as sentences. `Degraded` should be false.
fn unmet(conditions: &[Condition]) -> Vec<String> {
    let bad =
        |c: &&Condition| (c.status == "True") == (c.type_ == slicewire_api::condition::DEGRADED);
    let mut told: Vec<String> =
        conditions.iter().filter(bad).map(|c| format!("{}: {}", c.reason, c.message)).collect();
    told.dedup();
    told
}

fn attach_failure(failure: &AttachFailure) -> String {
    let AttachFailure { pod, node, reason, message } = failure;
    format!("pod {pod} on {node}: {reason}: {message}")
}
