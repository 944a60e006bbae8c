//! What the hub holds: projects, clusters, slices; and who calls.

use std::fmt::Debug;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::stream::{self, StreamExt, TryStreamExt};
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use slicewire_api::{Cluster, Project, SliceConfig};
use slicewire_testbed::Testbed;
use slicewire_tests::story::say;

use crate::Args;
use crate::hub::{Hub, wait};

/// Callers; each may have 100 streams.
pub(crate) const CALLERS: usize = 12;
/// Writes under way at a time.
const WRITES: usize = 24;
/// Longest wait for what was deleted to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(180);

/// Who calls.
pub(crate) struct Callers {
    /// Their tokens.
    pub(crate) tokens: Vec<String>,
    /// A kubeconfig with the first one's.
    pub(crate) kubeconfig: PathBuf,
}

/// A client of the API server, which is not asked to spend time on compressing.
pub(crate) async fn client(kubeconfig: &Path) -> Result<Client> {
    let file = Kubeconfig::read_from(kubeconfig)?;
    let mut config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
    config.disable_compression = true;
    Ok(Client::try_from(config)?)
}

/// Fills the hub.
pub(crate) fn load(testbed: &Testbed, hub: &Hub, args: &Args) -> Result<Callers> {
    let begun = Instant::now();
    let run = &hub.portal.runtime;
    let client = run.block_on(client(&testbed.kubeconfig("hub")))?;
    let projects: Vec<Project> = (0..args.projects)
        .map(|p| serde_json::from_value(json!({"metadata": {"name": format!("b{p}")}, "spec": {}})))
        .collect::<Result<_, _>>()?;
    run.block_on(make(projects.into_iter().map(|p| (Api::all(client.clone()), p))))?;
    wait("the projects have namespaces", 60, || {
        let said = testbed.kubectl("hub", &["get", "namespaces", "-o", "name"])?;
        let known = |p: usize| said.lines().any(|l| l == format!("namespace/slicewire-b{p}"));
        Ok((0..args.projects).all(known))
    })?;
    let clusters = (0..args.clusters).map(|i| {
        let (project, name) = (i % args.projects, cluster(i / args.projects));
        (project, json!({"metadata": {"name": name}, "spec": {}}))
    });
    run.block_on(make(objects::<Cluster>(&client, clusters)?.into_iter()))?;
    let each = args.clusters / args.projects;
    let slices = (0..args.slices).map(|i| {
        let (project, n) = (i % args.projects, i / args.projects);
        (project, slice(&format!("s{n}"), &[cluster(n % each), cluster((n + 1) % each)]))
    });
    run.block_on(make(objects::<SliceConfig>(&client, slices)?.into_iter()))?;
    // What an earlier run may have left.
    run.block_on(clear(&client))?;
    hub.settle()?;
    say(&format!(
        "{} clusters and {} slices made and planned in {:.0} s",
        args.clusters,
        args.slices,
        begun.elapsed().as_secs_f64()
    ));
    callers(testbed)
}

fn cluster(n: usize) -> String {
    format!("c{n}")
}

/// A slice over these clusters.
pub(crate) fn slice(name: &str, clusters: &[String]) -> Value {
    let clusters: Vec<Value> = clusters.iter().map(|c| json!({"name": c})).collect();
    json!({
        "apiVersion": "slicewire.dev/v1alpha1",
        "kind": "SliceConfig",
        "metadata": {"name": name},
        "spec": {
            "prefixes": ["10.77.0.0/16"],
            "clusters": clusters,
            "namespaces": [{"names": ["shop"]}],
        },
    })
}

type Made<K> = Vec<(Api<K>, K)>;

fn objects<K>(client: &Client, all: impl Iterator<Item = (usize, Value)>) -> Result<Made<K>>
where
    K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + DeserializeOwned,
{
    all.map(|(project, object)| {
        let api = Api::namespaced(client.clone(), &format!("slicewire-b{project}"));
        Ok((api, serde_json::from_value(object)?))
    })
    .collect()
}

/// Makes objects; those that are there are left as they are.
async fn make<K>(all: impl Iterator<Item = (Api<K>, K)>) -> Result<()>
where
    K: kube::Resource + Clone + Serialize + DeserializeOwned + Debug,
{
    let one = |(api, object): (Api<K>, K)| async move {
        match api.create(&PostParams::default(), &object).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            Err(error) => Err(error).context("the API server refuses an object"),
        }
    };
    stream::iter(all.map(one)).buffer_unordered(WRITES).try_collect::<Vec<()>>().await?;
    Ok(())
}

/// Deletes the slices that measuring has made, which have a dash in their names, and waits until they
/// are gone; how many there were.
pub(crate) async fn clear(client: &Client) -> Result<usize> {
    let all: Api<SliceConfig> = Api::all(client.clone());
    let made = async || -> Result<Vec<SliceConfig>> {
        let all = all.list(&ListParams::default()).await?;
        Ok(all.into_iter().filter(|s| s.name_any().contains('-')).collect())
    };
    let end = Instant::now() + GONE_WITHIN;
    let found = made().await?;
    let delete = |slice: &SliceConfig| {
        let place = slice.namespace().unwrap_or_default();
        let api: Api<SliceConfig> = Api::namespaced(client.clone(), &place);
        let name = slice.name_any();
        async move {
            match api.delete(&name, &DeleteParams::default()).await {
                Ok(_) => Ok(()),
                Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
                Err(error) => Err(error).context("a slice cannot be deleted"),
            }
        }
    };
    let deleted = stream::iter(found.iter().map(delete)).buffer_unordered(WRITES);
    deleted.try_collect::<Vec<()>>().await?;
    while !made().await?.is_empty() {
        ensure!(Instant::now() < end, "slices are not gone after {GONE_WITHIN:?}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    Ok(found.len())
}

fn callers(testbed: &Testbed) -> Result<Callers> {
    let mut items = vec![json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {"name": "bench-caller"},
        "rules": [{"apiGroups": ["slicewire.dev"], "resources": ["*"], "verbs": ["*"]}],
    })];
    let subject = |i| json!({"kind": "ServiceAccount", "name": name(i), "namespace": "default"});
    for i in 0..CALLERS {
        items.push(json!({
            "apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {"name": name(i), "namespace": "default"},
        }));
    }
    items.push(json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": "bench-caller"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "bench-caller"},
        "subjects": (0..CALLERS).map(subject).collect::<Vec<_>>(),
    }));
    testbed
        .apply("hub", &json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string())?;
    let token = |i| {
        let token = testbed.kubectl("hub", &["create", "token", &name(i), "--duration=6h"])?;
        Ok(token.trim().to_owned())
    };
    let tokens: Vec<String> = (0..CALLERS).map(token).collect::<Result<_>>()?;
    let admin = testbed.kubeconfig("hub");
    let mut config: Value = serde_json::from_str(&fs::read_to_string(&admin)?)?;
    config["users"][0]["user"] = json!({"token": tokens.first()});
    let kubeconfig = admin.with_file_name("bench-caller.kubeconfig");
    fs::write(&kubeconfig, config.to_string())?;
    Ok(Callers { tokens, kubeconfig })
}

fn name(i: usize) -> String {
    format!("caller-{i}")
}
