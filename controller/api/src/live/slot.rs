//! The slice that is asked about, and who may see what of it.

use std::future::Future;

use futures::StreamExt;
use futures::stream::FuturesOrdered;
use slicewire_api::{
    SliceConfig, WorkerGateway, WorkerPods, WorkerServiceExport, WorkerServiceImport, WorkerSlice,
    WorkerTraffic,
};
use slicewire_core::name::{ClusterName, ProjectName, cluster_namespace};
use slicewire_core::violation::Violation;
use tonic::Code;

use super::topology::{Report, clusters};
use crate::Portal;
use crate::access::Deed;
use crate::fault::{Fault, Outcome};
use crate::gate::Call;
use crate::kind::namespace_of;
use crate::kinds::Slice;
use crate::read::name_faults;

/// What a topology shows of a cluster.
const RUNNING: &[Of] = &[Deed::with::<WorkerSlice>, Deed::with::<WorkerGateway>];
/// What is shown of its services.
const SERVICES: &[Of] = &[Deed::with::<WorkerServiceExport>, Deed::with::<WorkerServiceImport>];
/// What is shown of its pods.
const PODS: &[Of] = &[Deed::with::<WorkerPods>];
/// What is shown of its traffic.
const TRAFFIC: &[Of] = &[Deed::with::<WorkerTraffic>];

/// Something to do with objects of some kind: the verb, the namespace and the object's name.
type Of = fn(&'static str, &str, &str) -> Deed;

/// A slice that is asked about.
pub(super) struct Slot {
    /// Its project.
    pub(super) project: ProjectName,
    /// The project's namespace.
    pub(super) namespace: String,
    /// Its name.
    pub(super) name: String,
}

impl Slot {
    /// Checks the names.
    pub(super) fn parse(project: &str, slice: &str) -> Result<Self, Vec<Violation>> {
        let mut faults = name_faults("slice", slice);
        let namespace = namespace_of::<Slice>("project", project).map_err(|f| faults.extend(f));
        match (ProjectName::parse(project), namespace, faults.is_empty()) {
            (Ok(project), Ok(namespace), true) => {
                Ok(Self { project, namespace, name: slice.to_owned() })
            }
            _ => Err(faults),
        }
    }

    /// What who asks for a slice that is not there is told.
    pub(super) fn not_found(&self) -> Fault {
        let message = format!("there is no slice {:?} in project {}", self.name, self.project);
        Fault::new(Code::NotFound, "NotFound", message)
    }

    /// Refuses who may not look at the slice at all.
    pub(super) async fn may_get(&self, portal: &Portal, call: &Call) -> Outcome<()> {
        let deed = Deed::with::<SliceConfig>("get", &self.namespace, &self.name);
        portal.access.require(&call.caller, deed).await
    }

    /// What its clusters report of how it runs, as far as the caller may see it.
    pub(super) async fn reports(
        &self,
        portal: &Portal,
        call: &Call,
        config: &SliceConfig,
    ) -> Outcome<Vec<Report>> {
        let known = &portal.live.reports;
        let may = |namespace| self.may_see(portal, call, "get", RUNNING, namespace);
        self.each(config, may, |cluster, shown, namespace| Report {
            cluster,
            shown,
            slice: known.worker_slice(namespace, &self.name),
            gateway: known.worker_gateway(namespace, &self.name),
        })
        .await
    }

    /// What its clusters tell of services and are told of them, as far as the caller may see it.
    pub(super) async fn services(
        &self,
        portal: &Portal,
        call: &Call,
        config: &SliceConfig,
    ) -> Outcome<Vec<super::services::Report>> {
        let known = &portal.live.reports;
        let may = |namespace| self.may_see(portal, call, "list", SERVICES, namespace);
        self.each(config, may, |cluster, shown, namespace| {
            if !shown {
                return super::services::Report { cluster, ..Default::default() };
            }
            super::services::Report {
                cluster,
                shown,
                exports: known.service_exports(namespace, &self.name),
                imports: known.service_imports(namespace, &self.name),
            }
        })
        .await
    }

    /// What its clusters tell of their pods, as far as the caller may see it.
    pub(super) async fn pods(
        &self,
        portal: &Portal,
        call: &Call,
        config: &SliceConfig,
    ) -> Outcome<Vec<super::pods::Report>> {
        let known = &portal.live.reports;
        let may = |namespace| self.may_see(portal, call, "list", PODS, namespace);
        self.each(config, may, |cluster, shown, namespace| {
            if !shown {
                return super::pods::Report { cluster, ..Default::default() };
            }
            super::pods::Report {
                cluster,
                shown,
                slice: known.worker_slice(namespace, &self.name),
                pods: known.pods(namespace, &self.name),
            }
        })
        .await
    }

    /// What its clusters tell of their traffic, as far as the caller may see it.
    pub(super) async fn traffic(
        &self,
        portal: &Portal,
        call: &Call,
        config: &SliceConfig,
    ) -> Outcome<Vec<super::traffic::Report>> {
        let known = &portal.live.reports;
        let may = |namespace| self.may_see(portal, call, "get", TRAFFIC, namespace);
        self.each(config, may, |cluster, shown, namespace| super::traffic::Report {
            cluster,
            shown,
            traffic: known.traffic(namespace, &self.name),
        })
        .await
    }

    /// Asks for each cluster whether it may be shown, by its namespace on the hub; nowhere means
    /// everywhere.
    async fn each<R: Default, F: Future<Output = Outcome<bool>>>(
        &self,
        config: &SliceConfig,
        may_see: impl Fn(String) -> F,
        report: impl Fn(String, bool, &str) -> R,
    ) -> Outcome<Vec<R>> {
        // Who may see all is asked about once.
        let all = may_see(String::new()).await?;
        let mut reports = FuturesOrdered::new();
        for cluster in clusters(config) {
            let (may_see, report) = (&may_see, &report);
            reports.push_back(async move {
                let Ok(name) = ClusterName::parse(&cluster) else {
                    return Ok(report(cluster, false, ""));
                };
                let namespace = cluster_namespace(&self.project, &name);
                let shown = all || may_see(namespace.clone()).await?;
                Ok(report(cluster, shown, &namespace))
            });
        }
        reports.collect::<Vec<Outcome<R>>>().await.into_iter().collect()
    }

    async fn may_see(
        &self,
        portal: &Portal,
        call: &Call,
        verb: &'static str,
        kinds: &[Of],
        namespace: String,
    ) -> Outcome<bool> {
        // Lists are of all objects of a namespace; what is got there has the slice's name.
        let name = if namespace.is_empty() || verb == "list" { "" } else { &self.name };
        for deed in kinds {
            if !portal.access.allows(&call.caller, &deed(verb, &namespace, name)).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
