//! `slicectl join`: a cluster becomes a member of a project.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use k8s_openapi::ByteString;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{ConfigMap, Secret, ServiceAccount};
use kube::api::{Patch, PatchParams, PostParams};
use kube::core::DynamicObject;
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use slicewire_api::labels::SYSTEM_NAMESPACE;
use slicewire_api::{Cluster, Project, condition};
use slicewire_core::name::{ClusterName, ProjectName, project_namespace};
use slicewire_core::violation::summary;

use crate::apply::{MANAGER, is_gone};
use crate::cluster::{self, Cluster as Reached};
use crate::manifests::{Role, kind, objects};
use crate::progress::{State, done, line, wait};
use crate::{ImageArguments, apply, ready};

/// Name of the Secret that holds the worker's credential for the hub.
const CREDENTIAL: &str = "slicewire-hub";
/// The account on the hub, in the cluster's own namespace, that the worker uses.
const ACCOUNT: &str = "worker";
/// Seconds the first token lives; the worker renews it well before.
const FIRST_TOKEN: i64 = 24 * 3600;

/// Who joins what.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Kubeconfig of the hub; as kubectl when left out.
    #[arg(long)]
    hub_kubeconfig: Option<PathBuf>,
    /// Context of the hub in its kubeconfig.
    #[arg(long)]
    hub_context: Option<String>,
    /// The hub's URL as the worker reaches it, where it differs from the one in the kubeconfig.
    #[arg(long)]
    hub_server: Option<String>,
    /// Kubeconfig of the cluster that joins; as kubectl when left out.
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// Context of the cluster in its kubeconfig.
    #[arg(long)]
    context: Option<String>,
    /// The project to join; made where it does not exist.
    #[arg(long)]
    project: String,
    /// The cluster's name in the project; registered where it is not.
    #[arg(long)]
    cluster: String,
    #[command(flatten)]
    images: ImageArguments,
    /// Seconds to wait for each step.
    #[arg(long, default_value_t = 180)]
    timeout: u64,
}

/// Registers the cluster, installs the worker, and waits until it has reported to the hub.
///
/// # Errors
/// What a step failed with, and what to do about it.
pub(crate) async fn join(arguments: Arguments) -> Result<()> {
    let begin = Instant::now();
    let limit = Duration::from_secs(arguments.timeout);
    let (project, name) = names(&arguments)?;
    let hub =
        cluster::connect(arguments.hub_kubeconfig.as_deref(), arguments.hub_context.as_deref())
            .await
            .context("the hub cannot be reached")?;
    let worker = cluster::connect(arguments.kubeconfig.as_deref(), arguments.context.as_deref())
        .await
        .context("the cluster that joins cannot be reached")?;
    let server = hub_server(&arguments, &hub)?;
    line(&format!("{} ({}) joins project {project} as {name}", worker.context, worker.server));

    let namespace = register(&hub.client, &project, &name, limit).await?;
    let credential = credential(&hub, &namespace, &server).await?;

    let objects = objects(Role::Worker, Some(&arguments.images))?;
    let workload = |o: &&DynamicObject| matches!(kind(o), "Deployment" | "DaemonSet");
    let (workloads, others): (Vec<_>, Vec<_>) = objects.iter().cloned().partition(|o| workload(&o));
    apply::apply(&worker.client, &others).await?;
    store(&worker.client, &credential, &namespace, &project, &name).await?;
    apply::apply(&worker.client, &workloads).await?;
    ready::workloads(&worker.client, &workloads, limit).await?;
    connected(&hub.client, &project, &name, limit).await?;
    done(&format!("{name} has joined {project}"), begin);
    line(&format!(
        "next: join another cluster, then apply a SliceConfig in namespace {} on the hub",
        project_namespace(&project)
    ));
    Ok(())
}

/// The names, or all of their faults at once.
fn names(arguments: &Arguments) -> Result<(ProjectName, ClusterName)> {
    match (ProjectName::parse(&arguments.project), ClusterName::parse(&arguments.cluster)) {
        (Ok(project), Ok(cluster)) => Ok((project, cluster)),
        (project, cluster) => {
            let mut faults = Vec::new();
            let mut add = |option: &str, found: Vec<slicewire_core::violation::Violation>| {
                for mut fault in found {
                    option.clone_into(&mut fault.field);
                    faults.push(fault);
                }
            };
            add("--project", project.err().unwrap_or_default());
            add("--cluster", cluster.err().unwrap_or_default());
            bail!("{}", summary(&faults))
        }
    }
}

/// The hub's URL for the worker; one that means the machine it is read on is of no use elsewhere.
fn hub_server(arguments: &Arguments, hub: &Reached) -> Result<String> {
    let server = arguments.hub_server.clone().unwrap_or_else(|| hub.server.clone());
    let Some(host) = server.strip_prefix("https://") else {
        bail!("the hub's URL {server} does not begin with https://; say --hub-server");
    };
    let local = ["localhost", "127.", "[::1]", "0.0.0.0"];
    if arguments.hub_server.is_none() && local.iter().any(|l| host.starts_with(l)) {
        bail!(
            "the hub's URL {server} means this machine only; say with --hub-server how the \
             cluster's pods reach the hub"
        );
    }
    Ok(server)
}

/// Makes project and cluster where they are not there; the cluster's own namespace on the hub.
async fn register(
    hub: &Client,
    project: &ProjectName,
    name: &ClusterName,
    limit: Duration,
) -> Result<String> {
    let projects: Api<Project> = Api::all(hub.clone());
    create(&projects, &Project::new(project.as_str(), Default::default()))
        .await
        .with_context(|| format!("cannot make project {project} on the hub; is it installed?"))?;
    wait(&format!("project {project} is there"), limit, async || {
        let status = projects.get(project.as_str()).await?.status.unwrap_or_default();
        Ok(match status.namespace {
            Some(_) => State::Done,
            None => State::Waiting("the hub controller has not made its namespace yet".to_owned()),
        })
    })
    .await?;

    let clusters: Api<Cluster> = Api::namespaced(hub.clone(), &project_namespace(project));
    create(&clusters, &Cluster::new(name.as_str(), Default::default()))
        .await
        .with_context(|| format!("cannot register cluster {name} on the hub"))?;
    let mut namespace = None;
    wait(&format!("cluster {name} is registered"), limit, async || {
        namespace = clusters.get(name.as_str()).await?.status.and_then(|s| s.namespace);
        let Some(namespace) = &namespace else {
            let reason = "the hub controller has not made the cluster's namespace yet";
            return Ok(State::Waiting(reason.to_owned()));
        };
        let accounts: Api<ServiceAccount> = Api::namespaced(hub.clone(), namespace);
        Ok(match accounts.get_opt(ACCOUNT).await? {
            Some(_) => State::Done,
            None => State::Waiting(format!("account {namespace}/{ACCOUNT} is not there yet")),
        })
    })
    .await?;
    namespace.context("the hub controller took back the cluster's namespace")
}

/// Creates an object; one that is there already is left as it is.
async fn create<K>(api: &Api<K>, object: &K) -> kube::Result<()>
where
    K: kube::Resource + Clone + std::fmt::Debug + serde::Serialize + serde::de::DeserializeOwned,
    K::DynamicType: Default,
{
    let parameters =
        PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
    match api.create(&parameters, object).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        Err(error) => Err(error),
    }
}

/// What the worker needs to talk to the hub.
struct Credential {
    server: String,
    authorities: String,
    token: String,
}

async fn credential(hub: &Reached, namespace: &str, server: &str) -> Result<Credential> {
    let accounts: Api<ServiceAccount> = Api::namespaced(hub.client.clone(), namespace);
    let request = TokenRequest {
        spec: TokenRequestSpec { expiration_seconds: Some(FIRST_TOKEN), ..Default::default() },
        ..Default::default()
    };
    let token = accounts
        .create_token_request(ACCOUNT, &PostParams::default(), &request)
        .await
        .with_context(|| format!("the hub gives no token for {namespace}/{ACCOUNT}"))?
        .status
        .context("the hub gave an empty token")?
        .token;
    let authorities = match &hub.authorities {
        Some(authorities) => authorities.clone(),
        None => published_authorities(&hub.client, namespace).await?,
    };
    Ok(Credential { server: server.to_owned(), authorities, token })
}

/// The authority Kubernetes publishes in every namespace, for kubeconfigs that name none.
async fn published_authorities(hub: &Client, namespace: &str) -> Result<String> {
    let maps: Api<ConfigMap> = Api::namespaced(hub.clone(), namespace);
    let map = maps.get("kube-root-ca.crt").await.context(
        "the hub's kubeconfig names no certificate authority, and the hub publishes none",
    )?;
    map.data
        .and_then(|mut data| data.remove("ca.crt"))
        .context("the hub's ConfigMap kube-root-ca.crt has no entry ca.crt")
}

async fn store(
    worker: &Client,
    credential: &Credential,
    namespace: &str,
    project: &ProjectName,
    name: &ClusterName,
) -> Result<()> {
    let secrets: Api<Secret> = Api::namespaced(worker.clone(), SYSTEM_NAMESPACE);
    if let Some(before) = secrets.get_opt(CREDENTIAL).await? {
        let entry = |key: &str| {
            let value = before.data.as_ref().and_then(|d| d.get(key));
            value.map(|v| String::from_utf8_lossy(&v.0).into_owned()).unwrap_or_default()
        };
        let (old_project, old_name) = (entry("project"), entry("cluster"));
        let same = old_project == project.as_str() && old_name == name.as_str();
        if !same && !old_name.is_empty() {
            bail!(
                "this cluster is {old_name} of project {old_project} already; run \
                 'slicectl uninstall worker' first to let it join as another"
            );
        }
    }
    let entry = |text: &str| ByteString(text.as_bytes().to_vec());
    let secret = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": CREDENTIAL,
            "namespace": SYSTEM_NAMESPACE,
            "labels": { "app.kubernetes.io/part-of": "slicewire" },
        },
        "type": "Opaque",
        "data": {
            "server": entry(&credential.server),
            "ca.crt": entry(&credential.authorities),
            "token": entry(&credential.token),
            "namespace": entry(namespace),
            "cluster": entry(name.as_str()),
            "project": entry(project.as_str()),
        },
    });
    let parameters = PatchParams::apply(MANAGER).force();
    secrets
        .patch(CREDENTIAL, &parameters, &Patch::Apply(&secret))
        .await
        .with_context(|| format!("cannot write Secret {SYSTEM_NAMESPACE}/{CREDENTIAL}"))?;
    Ok(())
}

async fn connected(
    hub: &Client,
    project: &ProjectName,
    name: &ClusterName,
    limit: Duration,
) -> Result<()> {
    let clusters: Api<Cluster> = Api::namespaced(hub.clone(), &project_namespace(project));
    wait(&format!("{name} reports to the hub"), limit, async || {
        let found = match clusters.get(name.as_str()).await {
            Ok(found) => found,
            Err(error) if is_gone(&error) => bail!("cluster {name} was deleted on the hub"),
            Err(error) => return Err(error.into()),
        };
        let name = found.name_any();
        let conditions = found.status.unwrap_or_default().conditions;
        if condition::is_true(&conditions, condition::CONNECTED) {
            return Ok(State::Done);
        }
        let said = conditions.iter().find(|c| c.type_ == condition::CONNECTED);
        let said = said.map_or("it has not reported yet", |c| c.message.as_str());
        Ok(State::Waiting(format!(
            "{said} (kubectl logs -n {SYSTEM_NAMESPACE} deploy/slicewire-worker in {name} tells more)"
        )))
    })
    .await
}
