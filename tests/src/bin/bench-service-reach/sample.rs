//! One Service: exported, answered, and not exported any more.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, Client as Kube};
use serde_json::json;
use slicewire_api::mcs::ServiceExport;
use slicewire_testbed::moments::uptime;
use slicewire_tests::World;
use slicewire_tests::world::WORKERS;
use tokio::runtime::Runtime;

use crate::client::Client;
use crate::{NAMESPACE, POD};

/// So long clients ask in vain that begin before the export.
const VAIN: Duration = Duration::from_secs(1);
/// Lets what the step before started come to rest.
const REST: Duration = Duration::from_millis(500);
/// After this a Service has no endpoints.
const PATIENCE: Duration = Duration::from_secs(20);

/// When a client begins to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Begins {
    /// A second before the export.
    Before,
    /// When the export is there.
    After,
}

/// What every sample needs.
pub(crate) struct Sampler<'a> {
    pub(crate) world: &'a World,
    pub(crate) runtime: &'a Runtime,
    /// The cluster that exports.
    pub(crate) exporter: &'a Kube,
}

/// Milliseconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Took {
    /// From the export to the end of the first request that was answered.
    pub(crate) first: f64,
    /// From its deletion to the beginning of the last one; 0 where that was before.
    pub(crate) last: f64,
    /// From its deletion until the client was told that there is no such name.
    pub(crate) gone: f64,
}

impl Sampler<'_> {
    /// Exports a Service of a new name, whose pod is ready, and takes the export back.
    pub(crate) fn measure(&self, name: &str, begins: Begins) -> Result<Took> {
        self.runtime.block_on(self.service(name))?;
        let url = format!("http://{name}.{NAMESPACE}.svc.clusterset.local/");
        let mut client = Client::start(self.world, (WORKERS[0], NAMESPACE, POD), &url)?;
        if begins == Begins::Before {
            client.begin()?;
            thread::sleep(VAIN);
        }
        self.runtime.block_on(self.export(name))?;
        let exported = uptime()?;
        if begins == Begins::After {
            client.begin()?;
        }
        let first = client.first();
        // It is to be taken back in any case: the next sample is alone.
        thread::sleep(REST);
        self.runtime.block_on(self.unexport(name))?;
        let deleted = uptime()?;
        let first = first?;
        let (last, gone) = client.end(first)?;
        self.runtime.block_on(self.services().delete(name, &DeleteParams::default()))?;
        thread::sleep(REST);
        let ms = |from: f64, to: f64| (to - from).max(0.0) * 1e3;
        Ok(Took {
            first: ms(exported, first.ended),
            last: ms(deleted, last.began),
            gone: ms(deleted, gone.ended),
        })
    }

    /// Makes the Service, and waits until Kubernetes has found its pod.
    async fn service(&self, name: &str) -> Result<()> {
        let service = json!({
            "metadata": {"name": name},
            "spec": {"selector": {"app": POD}, "ports": [{"port": 80, "targetPort": 8080}]},
        });
        let service: Service = serde_json::from_value(service)?;
        self.services().create(&PostParams::default(), &service).await?;
        let slices: Api<EndpointSlice> = Api::namespaced(self.exporter.clone(), NAMESPACE);
        let of = ListParams::default().labels(&format!("kubernetes.io/service-name={name}"));
        let until = Instant::now() + PATIENCE;
        loop {
            let all = slices.list(&of).await?;
            let mut conditions = all.iter().flat_map(|s| &s.endpoints).map(|e| &e.conditions);
            if conditions.any(|c| c.as_ref().is_some_and(|c| c.ready == Some(true))) {
                return Ok(());
            }
            ensure!(Instant::now() < until, "{name} has no ready endpoint");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn export(&self, name: &str) -> Result<()> {
        let export = json!({
            "apiVersion": "multicluster.x-k8s.io/v1beta1", "kind": "ServiceExport",
            "metadata": {"name": name}, "spec": {},
        });
        let export: ServiceExport = serde_json::from_value(export)?;
        self.exports().create(&PostParams::default(), &export).await.context("cannot export")?;
        Ok(())
    }

    async fn unexport(&self, name: &str) -> Result<()> {
        self.exports().delete(name, &DeleteParams::default()).await?;
        Ok(())
    }

    fn services(&self) -> Api<Service> {
        Api::namespaced(self.exporter.clone(), NAMESPACE)
    }

    fn exports(&self) -> Api<ServiceExport> {
        Api::namespaced(self.exporter.clone(), NAMESPACE)
    }
}
