//! What the benchmarks on real Kubernetes share.

pub mod netns;
pub mod nri;
pub mod ping;
pub mod router;

use std::path::Path;

use anyhow::Result;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tokio::runtime::{Builder, Runtime};

use crate::story::say;
use crate::world::{PROJECT_NS, WORKERS, World};

/// What a benchmark that speaks to API servers runs on.
///
/// # Errors
/// The system has no thread left.
pub fn runtime() -> Result<Runtime> {
    // Fails only if another part of the process chose before, which is as good.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    Ok(Builder::new_multi_thread().worker_threads(1).enable_all().build()?)
}

/// A client by kubeconfig, whose connection is open: its first request need not wait for that.
///
/// # Errors
/// The file cannot be read, or the API server does not answer.
pub async fn client(kubeconfig: &str) -> Result<Client> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    let client = Client::try_from(config)?;
    client.apiserver_version().await?;
    Ok(client)
}

/// Clusters with Slicewire on them: those that run already, or new ones.
///
/// # Errors
/// They do not come up, or Slicewire does not get ready on them.
pub fn world() -> Result<World> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize()?;
    let world = World::up(&root)?;
    let ready = |wait: &str| -> Result<()> {
        for cluster in WORKERS {
            let wait = format!("--for=condition=Ready --timeout={wait}");
            world.k("hub", &format!("-n {PROJECT_NS} wait cluster/{cluster} {wait}"))?;
        }
        Ok(())
    };
    let known = world.get("hub", &format!("-n {PROJECT_NS} clusters.slicewire.dev"));
    let joined =
        known.is_ok_and(|list| list["items"].as_array().is_some_and(|i| i.len() >= WORKERS.len()));
    if !joined || ready("30s").is_err() {
        say("installing Slicewire");
        world.install()?;
        ready("90s")?;
    }
    let name = &world.testbed.plan.name;
    say(&format!(
        "testbed {name} stays up; to take it down: target/release/testbed --name {name} down"
    ));
    Ok(world)
}

/// Makes a namespace for a benchmark and a pod in it, in every worker cluster.
///
/// # Errors
/// One does not come up.
pub fn pods(world: &World, namespace: &str, pod: &str) -> Result<()> {
    namespaces(world, namespace)?;
    for cluster in WORKERS {
        world.pod(cluster, namespace, pod, Some(&format!("{cluster}-1")))?;
    }
    Ok(())
}

/// Makes a namespace for a benchmark's pods in every worker cluster.
///
/// # Errors
/// It cannot be made.
pub fn namespaces(world: &World, name: &str) -> Result<()> {
    for cluster in WORKERS {
        world.namespace(cluster, name, "")?;
    }
    Ok(())
}

/// Removes a benchmark's namespaces, without waiting; what cannot be removed is told.
pub fn remove_namespaces(world: &World, name: &str) {
    for cluster in WORKERS {
        if let Err(error) = world.k(cluster, &format!("delete namespace {name} --wait=false")) {
            say(&format!("the namespace {name} stays in {cluster}: {error:#}"));
        }
    }
}
