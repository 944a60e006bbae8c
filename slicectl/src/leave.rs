//! `slicectl leave` and `slicectl evict`: a membership ends, from either side.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use slicewire_api::condition::{self, LEAVING};
use slicewire_api::labels::{ABANDON, HUB_SECRET, SYSTEM_NAMESPACE};
use slicewire_api::{Cluster, SliceConfig};
use slicewire_core::name::{ClusterName, ProjectName, project_namespace};
use slicewire_core::violation::summary;
use slicewire_ticket::certificates;

use crate::apply::is_gone;
use crate::cluster::HubArguments;
use crate::progress::{State, done, line, wait};
use crate::ticket::hub_client;
use crate::{explain, uninstall};

/// Whom to evict.
#[derive(Args)]
pub(crate) struct EvictArguments {
    #[command(flatten)]
    hub: HubArguments,
    /// The cluster's name in the project.
    cluster: String,
    /// The project.
    #[arg(long)]
    project: String,
    /// Seconds to wait until nothing of it is left on the hub.
    #[arg(long, default_value_t = 120)]
    timeout: u64,
}

/// Leaves from the worker's side: tells the hub, which cuts the cluster off, then removes the worker.
///
/// # Errors
/// What a step failed with. Running it again goes on from there.
pub(crate) async fn leave(arguments: uninstall::Arguments) -> Result<()> {
    let from = arguments.cluster.connect().await?;
    let secrets: Api<Secret> = Api::namespaced(from.client.clone(), SYSTEM_NAMESPACE);
    match secrets.get_opt(HUB_SECRET).await.context("cannot read the credential for the hub")? {
        Some(secret) => {
            let limit = Duration::from_secs(arguments.timeout);
            goodbye(&Membership::read(&secret)?, limit).await?;
        }
        None => line(
            "! this cluster has no credential for a hub (any more); if a hub still lists it, say there: slicectl evict",
        ),
    }
    uninstall::worker(arguments).await
}

/// What the worker's Secret says.
struct Membership {
    server: String,
    namespace: String,
    cluster: String,
    project: String,
    client: Client,
}

impl Membership {
    fn read(secret: &Secret) -> Result<Self> {
        let entry = |key: &str| {
            let bytes = secret.data.as_ref().and_then(|d| d.get(key));
            bytes.map(|b| String::from_utf8_lossy(&b.0).trim().to_owned()).unwrap_or_default()
        };
        let server = entry("server");
        let client = hub_client(&server, &certificates(&entry("ca.crt"))?, &entry("token"))?;
        let (namespace, cluster, project) =
            (entry("namespace"), entry("cluster"), entry("project"));
        ensure!(
            !namespace.is_empty() && !cluster.is_empty(),
            "Secret {SYSTEM_NAMESPACE}/{HUB_SECRET} does not say which cluster this is; evict it on the hub (slicectl evict), then run 'slicectl uninstall worker' here"
        );
        Ok(Self { server, namespace, cluster, project, client })
    }

    /// What to do where the hub cannot be told.
    fn otherwise(&self) -> String {
        format!(
            "to leave without the hub: slicectl uninstall worker here, and on the hub: slicectl evict {} --project {}",
            self.cluster, self.project
        )
    }
}

/// Says that the cluster leaves for good, with its own credential, and waits until that is dead.
async fn goodbye(member: &Membership, limit: Duration) -> Result<()> {
    let clusters: Api<Cluster> = Api::namespaced(member.client.clone(), &member.namespace);
    let name = member.cluster.as_str();
    let copy = match clusters.get(name).await {
        Ok(copy) => copy,
        Err(kube::Error::Api(status)) if matches!(status.code, 401 | 403 | 404) => {
            line(&format!("! the hub does not know {name} any more; only the worker is removed"));
            return Ok(());
        }
        Err(error) => {
            bail!("{}; {}", explain::connection(&member.server, &error), member.otherwise())
        }
    };
    let mut conditions = copy.status.unwrap_or_default().conditions;
    let message = "slicectl leave was run in the cluster";
    let now = Time(Timestamp::now());
    let leaving = condition::condition(LEAVING, true, "Leaves", message, None, now);
    condition::set(&mut conditions, leaving);
    let status = Patch::Merge(json!({ "status": { "conditions": conditions } }));
    clusters.patch_status(name, &PatchParams::default(), &status).await.with_context(|| {
        format!("the hub does not take that {name} leaves; {}", member.otherwise())
    })?;
    wait(&format!("the hub lets {name} go"), limit, async || {
        Ok(match clusters.get(name).await {
            Err(kube::Error::Api(status)) if matches!(status.code, 401 | 403 | 404) => State::Done,
            Ok(_) => State::Waiting("the hub controller has not heard it yet; does it run?".into()),
            Err(error) => State::Waiting(explain::connection(&member.server, &error)),
        })
    })
    .await
    .with_context(|| member.otherwise())
}

/// Evicts from the hub's side, whether the worker is there or not.
///
/// # Errors
/// What a step failed with.
pub(crate) async fn evict(arguments: EvictArguments) -> Result<()> {
    let begin = Instant::now();
    let project = ProjectName::parse(&arguments.project)
        .map_err(|faults| anyhow::anyhow!("--project: {}", summary(&faults)))?;
    let name = ClusterName::parse(&arguments.cluster)
        .map_err(|faults| anyhow::anyhow!("the cluster's name: {}", summary(&faults)))?;
    let hub = arguments.hub.connect().await?;
    let namespace = project_namespace(&project);
    let clusters: Api<Cluster> = Api::namespaced(hub.client.clone(), &namespace);
    let abandon = Patch::Merge(json!({ "metadata": { "annotations": { ABANDON: "true" } } }));
    let evicted = async {
        clusters.patch(name.as_str(), &PatchParams::default(), &abandon).await?;
        clusters.delete(name.as_str(), &DeleteParams::background()).await
    };
    match evicted.await {
        Ok(_) => {}
        Err(error) if is_gone(&error) => {
            bail!("project {project} has no cluster {name}; 'slicectl status' shows those it has")
        }
        Err(error) => return Err(error).with_context(|| format!("cannot evict {name}")),
    }
    let limit = Duration::from_secs(arguments.timeout);
    wait(&format!("nothing of {name} is left on the hub"), limit, async || {
        let Some(left) = clusters.get_opt(name.as_str()).await? else { return Ok(State::Done) };
        let conditions = left.status.unwrap_or_default().conditions;
        let said = conditions.into_iter().find(|c| c.type_ == condition::READY);
        Ok(State::Waiting(said.map_or_else(|| "the hub works on it".to_owned(), |c| c.message)))
    })
    .await?;
    done(&format!("{name} is evicted from {project}"), begin);
    let slices = still_named(&hub.client, &namespace, &name).await?;
    if !slices.is_empty() {
        line(&format!(
            "next: take {name} out of spec.clusters of slices {}: they run on without it, but are not changed until then",
            slices.join(", ")
        ));
    }
    line(&format!(
        "in {name}, when it is within reach: slicectl uninstall worker; its gateways are no one's peers any more"
    ));
    Ok(())
}

/// Slices whose spec names the cluster.
async fn still_named(hub: &Client, namespace: &str, name: &ClusterName) -> Result<Vec<String>> {
    let configs: Api<SliceConfig> = Api::namespaced(hub.clone(), namespace);
    let found = configs.list(&ListParams::default()).await.context("cannot list slices")?;
    let names = |c: &&SliceConfig| c.spec.clusters.iter().any(|x| x.name == name.as_str());
    Ok(found.items.iter().filter(names).map(ResourceExt::name_any).collect())
}
