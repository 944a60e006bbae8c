//! ServiceExports, and Services that are exposed → places on the hub, and what people are told.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use slicewire_api::mcs::ServiceExportStatus;
use slicewire_api::{
    ExportAnswer, ReportedService, ServiceEndpoint, ServiceShape, Slice, WorkerServiceExport,
    WorkerServiceExportStatus, condition, convert,
};
use slicewire_core::name::ClusterName;
use slicewire_core::onboarding::namespace_member;
use slicewire_core::service::conditions::{Progress, Status, judge};
use slicewire_core::service::{Conflict, ConflictReason, Export, spec};
use slicewire_core::violation::Violation;
use slicewire_runtime::reconcile::Next;

use super::shape;
use super::standard::ServiceExport;
use crate::kubernetes::cache::Key;
use crate::kubernetes::change::Change;
use crate::kubernetes::write::{Outcome, next};
use crate::worker::Worker;
use crate::worker::hub_link::Session;

/// How soon a place is looked for again where none was free: the hub is making some.
const NO_PLACE: Duration = Duration::from_millis(100);

/// One round for one Service: its namespace and name.
pub(super) async fn reconcile(worker: &Worker, key: &Key) -> Next {
    let services = &worker.services;
    // What has not been listed yet would look as if it had been deleted.
    let listed = services.exports.is_synced()
        && services.services.is_synced()
        && services.endpoints.is_synced();
    if !listed {
        return Next::After(NO_PLACE);
    }
    let wanted = wanted(worker, key);
    let session = worker.hub.session().filter(|_| services.places.is_synced());
    let (mut outcome, mut waits) = (None, false);
    if let Some(session) = &session {
        let (changes, full) = reports(worker, session, key, &wanted);
        waits = full;
        outcome = Some(session.tell(vec![changes], |object| worker.note(object)).await);
    }
    let told = report(worker, session.as_deref(), key, &wanted).await;
    let after = if waits { Next::After(NO_PLACE) } else { Next::Wait };
    outcome.map_or(next(&told, after), |outcome| next(&outcome, next(&told, after)))
}

/// What of a Service is to be told, and to whom.
struct Wanted {
    /// The ServiceExport, unless the Service is only exposed.
    object: Option<Arc<ServiceExport>>,
    /// The Service, checked; none where nobody wants it to be told of.
    export: Option<Result<Export, Vec<Violation>>>,
    /// What is told on each slice.
    on: Vec<(Arc<Slice>, Option<ReportedService>)>,
}

fn wanted(worker: &Worker, (namespace, name): &Key) -> Wanted {
    let services = &worker.services;
    let alive = |e: &Arc<ServiceExport>| e.metadata.deletion_timestamp.is_none();
    let object = services.exports.get(namespace, name).filter(alive);
    let service = services.services.get(namespace, name);
    let exposed = service.as_ref().is_some_and(|s| shape::exposed(s));
    let export = (object.is_some() || exposed)
        .then(|| spec::parse(&shape::raw(object.as_deref(), service.as_deref())));
    let mut on = Vec::new();
    for slice in worker.local.slices.list() {
        let told = match &export {
            Some(Ok(export)) => told(worker, &slice, namespace, name, export, object.is_some()),
            _ => None,
        };
        on.push((slice, told));
    }
    Wanted { object, export, on }
}

/// What is told of a Service on a slice; none where its namespace has nothing to do with it.
fn told(
    worker: &Worker,
    slice: &Slice,
    namespace: &str,
    name: &str,
    export: &Export,
    exported: bool,
) -> Option<ReportedService> {
    let all = worker.services.endpoints.list_in(namespace);
    let of = |s: &k8s_openapi::api::discovery::v1::EndpointSlice| {
        s.labels().get(super::watches::SERVICE_NAME).is_some_and(|n| n == name)
    };
    let behind: Vec<_> = all.into_iter().filter(|s| of(s)).collect();
    let nodes = worker.local.slice_nodes.list_in(&worker.namespace);
    let nodes: Vec<_> = nodes.into_iter().filter(|n| n.spec.slice == slice.name_any()).collect();
    let endpoints = shape::endpoints(&behind, &nodes, namespace);
    let leaving = slice.metadata.deletion_timestamp.is_some();
    if leaving || (endpoints.is_empty() && !member(worker, slice, namespace)) {
        return None;
    }
    Some(ReportedService {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        exported,
        created: export.created,
        shape: ServiceShape::of_export(export),
        endpoints: endpoints.iter().map(ServiceEndpoint::of).collect(),
        weight: export.weight.map(i32::from),
    })
}

fn member(worker: &Worker, slice: &Slice, namespace: &str) -> bool {
    let Some(object) = worker.local.namespaces.get("", namespace) else { return false };
    let rules = convert::rules("spec.namespaces", &slice.spec.namespaces, None);
    namespace_member(&slice.name_any(), &rules.unwrap_or_default(), namespace, object.labels())
}

/// The places of this cluster on a slice.
fn places(worker: &Worker, session: &Session, slice: &str) -> Vec<Arc<WorkerServiceExport>> {
    let all = worker.services.places.list_in(&session.namespace).into_iter();
    let own = all.filter(|p| p.spec.slice == slice && p.spec.cluster == session.cluster);
    own.filter(|p| p.metadata.deletion_timestamp.is_none()).collect()
}

fn held(place: &WorkerServiceExport) -> Option<&ReportedService> {
    place.status.as_ref()?.services.first()
}

/// What has to be said to the hub, and whether a place was missing.
fn reports(
    worker: &Worker,
    session: &Session,
    (namespace, name): &Key,
    wanted: &Wanted,
) -> (Vec<Change>, bool) {
    let (mut changes, mut missing) = (Vec::new(), false);
    for (slice, said) in &wanted.on {
        let mut free = None;
        let mut own = Vec::new();
        for place in places(worker, session, &slice.name_any()) {
            match held(&place) {
                Some(s) if s.namespace == *namespace && s.name == *name => own.push(place),
                None if free.as_ref().is_none_or(|f: &Arc<WorkerServiceExport>| {
                    f.spec.number > place.spec.number
                }) =>
                {
                    free = Some(place);
                }
                _ => {}
            }
        }
        let status = |said: Option<&ReportedService>| WorkerServiceExportStatus {
            services: said.cloned().into_iter().collect(),
        };
        let mut own = own.into_iter();
        if let Some(said) = said {
            match own.next().or(free) {
                None => missing = true,
                Some(place) if held(&place) == Some(said) => {}
                Some(place) => changes.push(Change::status(&*place, &status(Some(said)))),
            }
        }
        changes.extend(own.map(|place| Change::status(&*place, &status(None))));
    }
    (changes, missing)
}

/// Says in the ServiceExport how far it has come.
async fn report(worker: &Worker, session: Option<&Session>, key: &Key, wanted: &Wanted) -> Outcome {
    let change = wanted.object.as_ref().zip(wanted.export.as_ref()).and_then(|(object, export)| {
        let conditions = conditions(worker, session, key, wanted, object, export);
        let status = ServiceExportStatus { conditions };
        (object.status.as_ref() != Some(&status)).then(|| Change::status(&**object, &status))
    });
    worker.writer.run(vec![change.into_iter().collect()], |object| worker.note(object)).await
}

fn conditions(
    worker: &Worker,
    session: Option<&Session>,
    (namespace, name): &Key,
    wanted: &Wanted,
    object: &ServiceExport,
    export: &Result<Export, Vec<Violation>>,
) -> Vec<Condition> {
    let on: Vec<_> = wanted.on.iter().filter_map(|(s, r)| Some((s, r.as_ref()?))).collect();
    let answers: Vec<Option<ExportAnswer>> = on
        .iter()
        .map(|(slice, _)| {
            let places = places(worker, session?, &slice.name_any());
            let mut answers = places.iter().filter_map(|p| p.spec.answer.clone());
            answers.find(|a| a.namespace == *namespace && a.name == *name)
        })
        .collect();
    let refused = answers.iter().flatten().find(|a| !a.accepted).map(|a| a.message.clone());
    let all = on.iter().map(|(_, r)| r.endpoints.len()).max().unwrap_or(0);
    let ready = on.iter().map(|(_, r)| r.endpoints.iter().filter(|e| e.ready).count()).max();
    let progress = match &refused {
        _ if on.is_empty() => Progress::NoSlice,
        Some(why) => Progress::Refused { why },
        None if answers.iter().any(Option::is_none) => Progress::Pending,
        None => Progress::Exported { ready: ready.unwrap_or(0), all },
    };
    let compared = !answers.is_empty() && answers.iter().all(Option::is_some);
    let conflicts: Vec<Conflict> = answers.iter().flatten().flat_map(conflicts).collect();
    let cluster = session.map(|s| s.cluster.clone()).unwrap_or_default();
    let cluster = ClusterName::parse(&cluster).or_else(|_| ClusterName::parse("here"));
    let mut conditions = object.status.clone().unwrap_or_default().conditions;
    let Ok(cluster) = cluster else { return conditions };
    let export = export.as_ref().map_err(Vec::as_slice);
    for one in judge(&cluster, export, progress, compared.then_some(conflicts.as_slice())) {
        let now = Time(Timestamp::now());
        let generation = object.metadata.generation;
        let mut new =
            condition::condition(one.kind, false, &one.reason, one.message, generation, now);
        match one.status {
            Status::True => "True",
            Status::False => "False",
            Status::Unknown => "Unknown",
        }
        .clone_into(&mut new.status);
        condition::set(&mut conditions, new);
    }
    conditions
}

/// What the hub says that clusters disagree about.
fn conflicts(answer: &ExportAnswer) -> Vec<Conflict> {
    let one = |c: &slicewire_api::ServiceConflict| {
        Some(Conflict {
            reason: ConflictReason::parse(&c.reason)?,
            clusters: c.clusters.iter().filter_map(|c| ClusterName::parse(c).ok()).collect(),
            message: c.message.clone(),
        })
    };
    answer.conflicts.iter().filter_map(one).collect()
}
