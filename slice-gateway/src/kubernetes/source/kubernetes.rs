//! Plans from Kubernetes: the only place in this crate that speaks to an API server.

use std::path::{Path, PathBuf};

use futures::StreamExt as _;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client};
use slicewire_api::{SliceGateway, SliceGatewaySpec};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Plans, file};

/// Sends the spec of the SliceGateway `name`, now and whenever it changes, until `stop`. The last
/// one is kept in `cache`; a process that is started again begins with it, before and without the
/// API server.
///
/// # Errors
/// The pod has no service account, or its files cannot be used.
pub(in super::super) async fn watch(
    namespace: &str,
    name: &str,
    cache: PathBuf,
    stop: CancellationToken,
) -> anyhow::Result<Plans> {
    // Fails only if another part of the process chose before, which is as good.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let client = Client::try_default().await?;
    let gateways: Api<SliceGateway> = Api::namespaced(client, namespace);
    let only = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let (send, plans) = mpsc::channel(1);
    let name = name.to_owned();
    tokio::spawn(async move {
        let follow = async {
            if let Ok(spec) = file::read(&cache)
                && spec.slice == name
            {
                tracing::info!("going on with the last plan while asking for the newest");
                send.send(spec).await.ok();
            }
            follow(gateways, only, &cache, send).await;
        };
        stop.run_until_cancelled(follow).await;
    });
    Ok(plans)
}

async fn follow(
    gateways: Api<SliceGateway>,
    only: watcher::Config,
    cache: &Path,
    send: mpsc::Sender<SliceGatewaySpec>,
) {
    let mut events = watcher(gateways, only).default_backoff().boxed();
    let mut failing = false;
    while let Some(event) = events.next().await {
        match event {
            Ok(watcher::Event::Apply(found) | watcher::Event::InitApply(found)) => {
                failing = false;
                keep(cache, &found.spec);
                if send.send(found.spec).await.is_err() {
                    return;
                }
            }
            Ok(watcher::Event::Delete(_)) => {
                tracing::info!("the SliceGateway is gone; tunnels stay until the pod is removed");
            }
            Ok(watcher::Event::Init | watcher::Event::InitDone) => {}
            Err(error) if !failing => {
                failing = true;
                tracing::warn!(%error, "cannot watch the SliceGateway; keeping to the last plan");
            }
            Err(error) => tracing::debug!(%error, "still cannot watch the SliceGateway"),
        }
    }
}

/// Writes the plan beside and moves it into place, so that a reader never sees half of it.
fn keep(cache: &Path, spec: &SliceGatewaySpec) {
    let new = cache.with_extension("new");
    let written = serde_json::to_vec(spec)
        .map_err(std::io::Error::from)
        .and_then(|bytes| std::fs::write(&new, bytes))
        .and_then(|()| std::fs::rename(&new, cache));
    if let Err(error) = written {
        let cache = cache.display();
        tracing::warn!(%cache, %error, "cannot keep a copy of the plan for a restart");
    }
}
