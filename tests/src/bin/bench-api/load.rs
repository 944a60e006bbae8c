//! What the hub holds: projects, clusters, slices; and who calls.

use std::fmt::Debug;
use std::time::Instant;

use anyhow::{Context, Result};
use futures::stream::{self, StreamExt, TryStreamExt};
use kube::api::PostParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
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

/// A client of the API server with an administrator's certificate.
pub(crate) async fn administrator(testbed: &Testbed) -> Result<Client> {
    let file = Kubeconfig::read_from(testbed.kubeconfig("hub"))?;
    let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

/// Fills the hub; the callers' tokens.
pub(crate) fn load(testbed: &Testbed, hub: &Hub, args: &Args) -> Result<Vec<String>> {
    let begun = Instant::now();
    let run = &hub.portal.runtime;
    let client = run.block_on(administrator(testbed))?;
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

fn callers(testbed: &Testbed) -> Result<Vec<String>> {
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
    (0..CALLERS).map(token).collect()
}

fn name(i: usize) -> String {
    format!("caller-{i}")
}
