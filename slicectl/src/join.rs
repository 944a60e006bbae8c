//! `slicectl join`: a cluster becomes a member of a project, by a string made on the hub.

use std::io::{self, Read as _};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use k8s_openapi::ByteString;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::api::{Patch, PatchParams};
use kube::core::DynamicObject;
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use slicewire_api::labels::{HUB_SECRET, SYSTEM_NAMESPACE, WORKER_ACCOUNT};
use slicewire_core::name::{ClusterName, project_namespace};
use slicewire_ticket::Ticket;

use crate::apply::MANAGER;
use crate::cluster::ClusterArguments;
use crate::exchange::{Credential, exchange};
use crate::manifests::{Role, kind, objects};
use crate::progress::{State, done, line, wait};
use crate::ticket::{hub_client, name_to_join};
use crate::{ImageArguments, apply, dns, explain, ready};

/// Who joins, and with what.
#[derive(Args)]
pub(crate) struct Arguments {
    /// What 'slicectl token create' printed on the hub; '-' reads it from standard input, where no
    /// other user of this machine sees it.
    token: String,
    /// The name to join under; needed where the token is for several clusters.
    #[arg(long)]
    cluster: Option<String>,
    #[command(flatten)]
    worker: ClusterArguments,
    /// Leave the cluster's DNS alone: names of slices are not known to it then.
    #[arg(long)]
    without_dns: bool,
    #[command(flatten)]
    images: ImageArguments,
    /// Seconds to wait for each step.
    #[arg(long, default_value_t = 180)]
    timeout: u64,
}

/// Installs the worker, exchanges the token for the cluster's own credential, and waits until the
/// worker has reported to the hub.
///
/// The token is used as late as possible: what can fail before is tried before.
///
/// # Errors
/// What a step failed with, and what to do about it.
pub(crate) async fn join(arguments: Arguments) -> Result<()> {
    let begin = Instant::now();
    let limit = Duration::from_secs(arguments.timeout);
    let ticket = Ticket::parse(&text(&arguments.token)?)?;
    let name = name_to_join(&ticket, arguments.cluster.as_deref())?;
    let worker =
        arguments.worker.connect().await.context("the cluster that joins cannot be reached")?;
    let project = &ticket.project;
    line(&format!("{} ({}) joins project {project} as {name}", worker.context, worker.server));
    member_of_another(&worker.client, &ticket, &name).await?;
    let uid = uid(&worker.client).await?;

    let objects = objects(Role::Worker, Some(&arguments.images))?;
    let objects = apply::without_others(&worker.client, objects).await?;
    let ours = apply::without_releases(&worker.client, objects.clone()).await?;
    let workload = |o: &&DynamicObject| matches!(kind(o), "Deployment" | "DaemonSet");
    let (workloads, others): (Vec<_>, Vec<_>) = ours.iter().cloned().partition(|o| workload(&o));
    apply::apply(&worker.client, &others).await?;
    let credential = exchange(&ticket, &name, &uid, limit).await?;
    store(&worker.client, &ticket, &name, &credential).await?;
    let before = Beat::read(&ticket, &credential).await?;
    apply::apply(&worker.client, &workloads).await?;
    ready::workloads(&worker.client, &objects, limit).await?;
    before.next(&name, limit).await?;
    if !arguments.without_dns {
        dns::extend(&worker.client, limit).await?;
    }
    done(&format!("{name} has joined {project}"), begin);
    line(&format!(
        "next: join another cluster, then apply a SliceConfig in namespace {} on the hub",
        project_namespace(project)
    ));
    Ok(())
}

/// The string, or what standard input holds.
fn text(argument: &str) -> Result<String> {
    if argument != "-" {
        return Ok(argument.to_owned());
    }
    // A join string has a few kilobytes; what goes on for ever is none.
    let mut text = String::new();
    io::stdin().take(1 << 20).read_to_string(&mut text).context("cannot read standard input")?;
    Ok(text)
}

/// Which cluster this is: the uid of a namespace that is as old as the cluster.
async fn uid(worker: &Client) -> Result<String> {
    let namespaces: Api<Namespace> = Api::all(worker.clone());
    let system = namespaces.get("kube-system").await;
    let system = system.context("cannot read namespace kube-system of the cluster that joins")?;
    system.uid().context("namespace kube-system of the cluster that joins has no uid")
}

/// Refuses a cluster that is a member of something else already, before the token is used.
async fn member_of_another(worker: &Client, ticket: &Ticket, name: &ClusterName) -> Result<()> {
    let secrets: Api<Secret> = Api::namespaced(worker.clone(), SYSTEM_NAMESPACE);
    let found = secrets.get_opt(HUB_SECRET).await.with_context(|| {
        format!("cannot read Secret {SYSTEM_NAMESPACE}/{HUB_SECRET} of the cluster that joins")
    })?;
    let Some(before) = found else { return Ok(()) };
    let entry = |key: &str| {
        let value = before.data.as_ref().and_then(|d| d.get(key));
        value.map(|v| String::from_utf8_lossy(&v.0).into_owned()).unwrap_or_default()
    };
    let (project, cluster) = (entry("project"), entry("cluster"));
    let same = project == ticket.project.as_str() && cluster == name.as_str();
    ensure!(
        same || cluster.is_empty(),
        "this cluster is {cluster} of project {project} already; run 'slicectl leave' first to let \
         it join as another"
    );
    Ok(())
}

/// Writes the cluster's own credential; the token's secret is not in it.
async fn store(
    worker: &Client,
    ticket: &Ticket,
    name: &ClusterName,
    credential: &Credential,
) -> Result<()> {
    let secrets: Api<Secret> = Api::namespaced(worker.clone(), SYSTEM_NAMESPACE);
    let entry = |text: &str| ByteString(text.as_bytes().to_vec());
    let secret = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": HUB_SECRET,
            "namespace": SYSTEM_NAMESPACE,
            "labels": { "app.kubernetes.io/part-of": "slicewire" },
        },
        "type": "Opaque",
        "data": {
            "server": entry(&ticket.server),
            "ca.crt": entry(&ticket.authorities_pem()),
            "token": entry(&credential.token),
            "namespace": entry(&credential.namespace),
            "cluster": entry(name.as_str()),
            "project": entry(ticket.project.as_str()),
        },
    });
    let parameters = PatchParams::apply(MANAGER).force();
    secrets
        .patch(HUB_SECRET, &parameters, &Patch::Apply(&secret))
        .await
        .with_context(|| format!("cannot write Secret {SYSTEM_NAMESPACE}/{HUB_SECRET}"))?;
    Ok(())
}

/// The worker's heartbeat on the hub, read with the worker's own credential.
struct Beat {
    leases: Api<Lease>,
    server: String,
    version: Option<String>,
}

impl Beat {
    async fn read(ticket: &Ticket, credential: &Credential) -> Result<Self> {
        let client = hub_client(&ticket.server, &ticket.authorities, &credential.token)?;
        let leases = Api::namespaced(client, &credential.namespace);
        let mut beat = Self { leases, server: ticket.server.clone(), version: None };
        beat.version = beat.look().await?;
        Ok(beat)
    }

    async fn look(&self) -> Result<Option<String>> {
        match self.leases.get_opt(WORKER_ACCOUNT).await {
            Ok(lease) => Ok(lease.and_then(|l| l.resource_version())),
            // What was granted a moment ago may not be known everywhere yet.
            Err(kube::Error::Api(status)) if matches!(status.code, 401 | 403) => {
                Ok(self.version.clone())
            }
            Err(error) => bail!("{}", explain::connection(&self.server, &error)),
        }
    }

    /// Waits for the next one.
    async fn next(&self, name: &ClusterName, limit: Duration) -> Result<()> {
        wait(&format!("{name} reports to the hub"), limit, async || {
            let now = self.look().await?;
            if now.is_some() && now != self.version {
                return Ok(State::Done);
            }
            Ok(State::Waiting(format!(
                "its controller has not reached the hub yet (kubectl logs -n {SYSTEM_NAMESPACE} deploy/slicewire-worker in {name} tells more)"
            )))
        })
        .await
    }
}
