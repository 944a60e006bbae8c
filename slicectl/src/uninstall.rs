//! `slicectl uninstall`: what was there before is there again, and nothing else.
//!
//! Each step leaves the cluster in a state from which the next run goes on.

mod standard;

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::discovery::ApiResource;
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::json;
use slicewire_api::labels::{HUB_MANAGER, HUB_SECRET, MANAGED_BY, PROJECT, SYSTEM_NAMESPACE};
use slicewire_api::{
    Cluster, JoinRequest, JoinToken, Project, Slice, SliceConfig, SliceGateway, SliceNode,
    WorkerGateway, WorkerSlice,
};

use crate::apply::{delete, delete_all, is_gone, release_all, without_others};
use crate::cluster::ClusterArguments;
use crate::manifests::{Role, objects};
use crate::progress::{State, done, line, wait};
use crate::{dns, ready};

/// The DaemonSet of the daemon on every node.
const DAEMON: &str = "slicewire-netop-daemon";

/// From where to remove it.
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) cluster: ClusterArguments,
    /// Seconds to wait for our components to clean up before doing it without them.
    #[arg(long, default_value_t = 60)]
    pub(crate) timeout: u64,
}

fn resource<K: Resource<DynamicType = ()>>() -> ApiResource {
    ApiResource::erase::<K>(&())
}

/// Removes a worker: no new pods, all pods detached, every node clean, then the components.
///
/// # Errors
/// What a step failed with. Running it again goes on from there.
pub(crate) async fn worker(arguments: Arguments) -> Result<()> {
    let begin = Instant::now();
    let limit = Duration::from_secs(arguments.timeout);
    let from = arguments.cluster.connect().await?;
    let client = &from.client;
    line(&format!("removing the worker from {} ({})", from.context, from.server));

    // Without its credential the worker makes no slice anew; its finalizers go on working.
    let secrets: Api<Secret> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
    match secrets.delete(HUB_SECRET, &DeleteParams::default()).await {
        Ok(_) => {}
        Err(error) if is_gone(&error) => {}
        Err(error) => return Err(error).context("cannot delete the credential for the hub"),
    }
    for kind in [resource::<Slice>(), resource::<SliceGateway>(), resource::<SliceNode>()] {
        delete_all(client, &kind, limit).await?;
    }
    dns::restore(client, limit).await?;
    clean_nodes(client, limit).await?;
    for kind in [resource::<Slice>(), resource::<SliceGateway>(), resource::<SliceNode>()] {
        release_all(client, &kind).await?;
    }
    let objects = without_others(client, objects(Role::Worker, None)?).await?;
    let objects = standard::without_used(client, objects).await?;
    delete(client, &objects, limit * 2).await?;
    standard::clear(client).await?;
    done("worker removed; pods keep running, without their slice NICs", begin);
    line("if the hub still lists the cluster and it will not come back: slicectl evict, there");
    Ok(())
}

/// Lets every node's daemon remove all that is ours on its node, whatever state it is in.
async fn clean_nodes(client: &Client, limit: Duration) -> Result<()> {
    let daemons: Api<DaemonSet> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
    let cleaning = Patch::Strategic(json!({ "spec": {
        "updateStrategy": { "rollingUpdate": { "maxUnavailable": "100%" } },
        "template": { "spec": { "containers": [
            { "name": "netop-daemon", "args": ["cleanup", "--stay"] },
        ] } },
    } }));
    match daemons.patch(DAEMON, &PatchParams::default(), &cleaning).await {
        Ok(_) => {}
        Err(error) if is_gone(&error) => return Ok(()),
        Err(error) => return Err(error).context("cannot tell the nodes' daemons to clean up"),
    }
    let cleaned =
        wait("every node is clean", limit * 2, async || ready::daemon_set(client, DAEMON).await);
    cleaned.await.context(
        "a node is not clean; bring it back and run this again, or delete it from the cluster",
    )
}

/// Removes the hub: all slices (their workers clean up), clusters and projects, then the hub.
///
/// # Errors
/// What a step failed with. Running it again goes on from there.
pub(crate) async fn hub(arguments: Arguments) -> Result<()> {
    let begin = Instant::now();
    let limit = Duration::from_secs(arguments.timeout);
    let from = arguments.cluster.connect().await?;
    let client = &from.client;
    line(&format!("removing the hub from {} ({})", from.context, from.server));

    let slices =
        [resource::<SliceConfig>(), resource::<WorkerSlice>(), resource::<WorkerGateway>()];
    let places = [
        resource::<JoinToken>(),
        resource::<JoinRequest>(),
        resource::<Cluster>(),
        resource::<Project>(),
    ];
    let held = delete_all(client, &slices[0], limit).await?;
    if !held.is_empty() {
        line(
            "! slices are held by clusters that do not answer; they are removed from the hub only",
        );
    }
    for kind in &slices {
        release_all(client, kind).await?;
        delete_all(client, kind, limit).await?;
    }
    // A project takes its clusters along; both have namespaces that the hub removes.
    for kind in places {
        if !delete_all(client, &kind, limit).await?.is_empty() {
            release_all(client, &kind).await?;
            delete_all(client, &kind, limit).await?;
        }
    }
    remove_namespaces(client, limit).await?;
    delete(client, &objects(Role::Hub, None)?, limit * 2).await?;
    done("hub removed", begin);
    Ok(())
}

/// Removes namespaces of projects and clusters that a hub controller that died has left.
async fn remove_namespaces(client: &Client, limit: Duration) -> Result<()> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let ours = ListParams::default().labels(&format!("{MANAGED_BY}={HUB_MANAGER},{PROJECT}"));
    for namespace in namespaces.list(&ours).await?.items {
        match namespaces.delete(&namespace.name_any(), &DeleteParams::background()).await {
            Ok(_) => {}
            Err(error) if is_gone(&error) => {}
            Err(error) => return Err(error).context("cannot delete a project's namespace"),
        }
    }
    wait("namespaces of projects gone", limit, async || {
        let left = namespaces.list(&ours).await?.items;
        let names: Vec<String> = left.iter().map(ResourceExt::name_any).collect();
        Ok(if names.is_empty() { State::Done } else { State::Waiting(names.join(", ")) })
    })
    .await
}
