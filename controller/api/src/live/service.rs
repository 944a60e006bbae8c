//! The service of what runs.

use std::sync::Arc;
use std::time::Duration;

use slicewire_core::name::check_label;
use slicewire_core::portal::position::{Page, scope};
use slicewire_core::violation::Violation;
use slicewire_rpc::hub::v1alpha1 as rpc;
use slicewire_rpc::hub::v1alpha1::live_service_server::{LiveService, LiveServiceServer};
use tonic::service::RoutesBuilder;
use tonic::{Request, Response, Status};

use super::slot::Slot;
use super::topology::topology;
use super::views::{Attached, Passing, list_attached};
use super::watcher::{View, watch};
use super::{events, services};
use crate::fault::{Fault, Outcome};
use crate::gate::Call;
use crate::read::{page_size, page_token, ready};
use crate::{Portal, Streamed};

/// Adds the service.
pub(crate) fn add_service(portal: &Arc<Portal>, largest_message: usize, to: &mut RoutesBuilder) {
    to.add_service(
        LiveServiceServer::new(Served(portal.clone())).max_decoding_message_size(largest_message),
    );
}

struct Served(Arc<Portal>);

#[tonic::async_trait]
impl LiveService for Served {
    async fn get_topology(
        &self,
        request: Request<rpc::GetTopologyRequest>,
    ) -> Result<Response<rpc::GetTopologyResponse>, Status> {
        let work = |portal: Arc<Portal>, call: Call, r: rpc::GetTopologyRequest| async move {
            let view = Running(Slot::parse(&r.project, &r.slice).map_err(Fault::fields)?);
            ready(&*portal.feeds.slices).await?;
            let found = view.look(&portal, &call).await?;
            let topology = found.ok_or_else(|| view.0.not_found())?;
            Ok(rpc::GetTopologyResponse { topology: Some(topology) })
        };
        self.0.clone().answer("get_topology", request, work).await
    }

    type WatchTopologyStream = Streamed<rpc::WatchTopologyResponse>;

    async fn watch_topology(
        &self,
        request: Request<rpc::WatchTopologyRequest>,
    ) -> Result<Response<Self::WatchTopologyStream>, Status> {
        let work = |portal: Arc<Portal>, call: Call, r: rpc::WatchTopologyRequest| async move {
            let view = Running(Slot::parse(&r.project, &r.slice).map_err(Fault::fields)?);
            ready(&*portal.feeds.slices).await?;
            watch(portal, call, view, &r.resume_token).await
        };
        self.0.clone().answer("watch_topology", request, work).await
    }

    async fn list_services(
        &self,
        request: Request<rpc::ListServicesRequest>,
    ) -> Result<Response<rpc::ListServicesResponse>, Status> {
        let work = |portal: Arc<Portal>, call: Call, r: rpc::ListServicesRequest| async move {
            list_services(&portal, &call, r).await
        };
        self.0.clone().answer("list_services", request, work).await
    }

    type WatchServicesStream = Streamed<rpc::WatchServicesResponse>;

    async fn watch_services(
        &self,
        request: Request<rpc::WatchServicesRequest>,
    ) -> Result<Response<Self::WatchServicesStream>, Status> {
        let work = |portal: Arc<Portal>, call: Call, r: rpc::WatchServicesRequest| async move {
            let view = Offered::parse(&r.project, &r.slice, &r.namespace);
            let view = view.map_err(Fault::fields)?;
            ready(&*portal.feeds.slices).await?;
            watch(portal, call, view, &r.resume_token).await
        };
        self.0.clone().answer("watch_services", request, work).await
    }

    async fn list_attached_pods(
        &self,
        request: Request<rpc::ListAttachedPodsRequest>,
    ) -> Result<Response<rpc::ListAttachedPodsResponse>, Status> {
        let work = |portal: Arc<Portal>, call: Call, r: rpc::ListAttachedPodsRequest| async move {
            list_attached(&portal, &call, r).await
        };
        self.0.clone().answer("list_attached_pods", request, work).await
    }

    type WatchAttachedPodsStream = Streamed<rpc::WatchAttachedPodsResponse>;

    async fn watch_attached_pods(
        &self,
        request: Request<rpc::WatchAttachedPodsRequest>,
    ) -> Result<Response<Self::WatchAttachedPodsStream>, Status> {
        let work = |portal: Arc<Portal>, call: Call, r: rpc::WatchAttachedPodsRequest| async move {
            let view = Attached::parse([&r.project, &r.slice, &r.cluster, &r.namespace]);
            let view = view.map_err(Fault::fields)?;
            ready(&*portal.feeds.slices).await?;
            watch(portal, call, view, &r.resume_token).await
        };
        self.0.clone().answer("watch_attached_pods", request, work).await
    }

    async fn get_traffic(
        &self,
        request: Request<rpc::GetTrafficRequest>,
    ) -> Result<Response<rpc::GetTrafficResponse>, Status> {
        let work = |portal: Arc<Portal>, call: Call, r: rpc::GetTrafficRequest| async move {
            let view = Passing(Slot::parse(&r.project, &r.slice).map_err(Fault::fields)?);
            ready(&*portal.feeds.slices).await?;
            let found = view.look(&portal, &call).await?;
            let traffic = found.ok_or_else(|| view.0.not_found())?;
            Ok(rpc::GetTrafficResponse { traffic: Some(traffic) })
        };
        self.0.clone().answer("get_traffic", request, work).await
    }

    type WatchTrafficStream = Streamed<rpc::WatchTrafficResponse>;

    async fn watch_traffic(
        &self,
        request: Request<rpc::WatchTrafficRequest>,
    ) -> Result<Response<Self::WatchTrafficStream>, Status> {
        let work = |portal: Arc<Portal>, call: Call, r: rpc::WatchTrafficRequest| async move {
            let view = Passing(Slot::parse(&r.project, &r.slice).map_err(Fault::fields)?);
            ready(&*portal.feeds.slices).await?;
            watch(portal, call, view, &r.resume_token).await
        };
        self.0.clone().answer("watch_traffic", request, work).await
    }

    async fn list_events(
        &self,
        request: Request<rpc::ListEventsRequest>,
    ) -> Result<Response<rpc::ListEventsResponse>, Status> {
        let work = |portal: Arc<Portal>, call: Call, r: rpc::ListEventsRequest| async move {
            events::list(&portal, &call, r).await
        };
        self.0.clone().answer("list_events", request, work).await
    }

    type WatchEventsStream = Streamed<rpc::WatchEventsResponse>;

    async fn watch_events(
        &self,
        request: Request<rpc::WatchEventsRequest>,
    ) -> Result<Response<Self::WatchEventsStream>, Status> {
        self.0.clone().answer("watch_events", request, events::watched).await
    }
}

/// A slice as it runs.
struct Running(Slot);

impl View for Running {
    type State = rpc::Topology;
    type Response = rpc::WatchTopologyResponse;
    const TOGETHER: Duration = Duration::from_millis(20);

    fn slot(&self) -> &Slot {
        &self.0
    }

    fn scope(&self) -> u64 {
        scope(&["topology", self.0.project.as_str(), &self.0.name])
    }

    async fn look(&self, portal: &Portal, call: &Call) -> Outcome<Option<Self::State>> {
        self.0.may_get(portal, call).await?;
        let Some(config) = portal.live.reports.slice(&self.0.namespace, &self.0.name) else {
            return Ok(None);
        };
        let reports = self.0.reports(portal, call, &config).await?;
        Ok(Some(topology(self.0.project.as_str(), &config, &reports)))
    }

    fn response(
        event: rpc::EventType,
        topology: Option<Self::State>,
        resume_token: String,
    ) -> Self::Response {
        rpc::WatchTopologyResponse { r#type: event.into(), topology, resume_token }
    }
}

/// The services of a slice.
struct Offered {
    slot: Slot,
    /// Only those in this namespace, where one is given.
    namespace: String,
}

impl Offered {
    fn parse(project: &str, slice: &str, namespace: &str) -> Result<Self, Vec<Violation>> {
        let mut faults = Vec::new();
        let slot = Slot::parse(project, slice).map_err(|f| faults.extend(f)).ok();
        if !namespace.is_empty() {
            faults.extend(check_label("namespace", namespace, 63));
        }
        match (slot, faults.is_empty()) {
            (Some(slot), true) => Ok(Self { slot, namespace: namespace.to_owned() }),
            _ => Err(faults),
        }
    }
}

impl View for Offered {
    type State = rpc::ListServicesResponse;
    type Response = rpc::WatchServicesResponse;
    /// There may be thousands, and all are sent.
    const TOGETHER: Duration = Duration::from_millis(200);

    fn slot(&self) -> &Slot {
        &self.slot
    }

    fn scope(&self) -> u64 {
        let Slot { project, name, .. } = &self.slot;
        scope(&["services", project.as_str(), name, &self.namespace])
    }

    async fn look(&self, portal: &Portal, call: &Call) -> Outcome<Option<Self::State>> {
        self.slot.may_get(portal, call).await?;
        let Some(config) = portal.live.reports.slice(&self.slot.namespace, &self.slot.name) else {
            return Ok(None);
        };
        let reports = self.slot.services(portal, call, &config).await?;
        Ok(Some(rpc::ListServicesResponse {
            services: services::services(&reports, &self.namespace),
            next_page_token: String::new(),
            withheld_clusters: services::withheld(&reports),
        }))
    }

    fn response(
        event: rpc::EventType,
        state: Option<Self::State>,
        resume_token: String,
    ) -> Self::Response {
        let state = state.unwrap_or_default();
        rpc::WatchServicesResponse {
            r#type: event.into(),
            services: state.services,
            withheld_clusters: state.withheld_clusters,
            resume_token,
        }
    }
}

/// A page of the services of a slice.
async fn list_services(
    portal: &Portal,
    call: &Call,
    request: rpc::ListServicesRequest,
) -> Outcome<rpc::ListServicesResponse> {
    let mut faults = Vec::new();
    let view = Offered::parse(&request.project, &request.slice, &request.namespace);
    let view = view.map_err(|f| faults.extend(f)).ok();
    let size = page_size(request.page_size, &mut faults);
    let scope = view.as_ref().map_or(0, View::scope);
    let after = page_token(&request.page_token, scope, &mut faults);
    let (Some(view), []) = (view, faults.as_slice()) else {
        return Err(Fault::fields(faults));
    };
    ready(&*portal.feeds.slices).await?;
    let mut all = view.look(portal, call).await?.ok_or_else(|| view.slot.not_found())?;
    if let Some(after) = after {
        let key = (after.namespace, after.name);
        all.services.retain(|s| (&s.namespace, &s.name) > (&key.0, &key.1));
    }
    if all.services.len() > size {
        all.services.truncate(size);
        let last = all.services.last().map(|s| (s.namespace.clone(), s.name.clone()));
        let (namespace, name) = last.unwrap_or_default();
        all.next_page_token = Page { scope, namespace, name }.to_string();
    }
    Ok(all)
}
