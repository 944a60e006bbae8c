//! What the hub tells of services → SliceServices for the nodes, and the standard's objects for
//! people; one service of one slice.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use slicewire_api::labels::{MANAGED_BY, WORKER_MANAGER};
use slicewire_api::mcs::ServiceImport;
use slicewire_api::service::plan_from;
use slicewire_api::{Slice, SliceService, SliceServiceSpec, WorkerServiceImport};
use slicewire_core::name::import_object;
use slicewire_core::violation::summary;
use slicewire_runtime::reconcile::Next;

use super::objects;
use crate::kubernetes::change::{Change, Steps};
use crate::kubernetes::write::next;
use crate::worker::Worker;
use crate::worker::policy::meta;

/// One round for one service, by the name of the hub's object.
pub(super) async fn reconcile(worker: &Worker, object: &str) -> Next {
    let Some(observed) = observe(worker, object) else { return Next::Wait };
    let outcome = worker.writer.run(plan(&observed), |object| worker.note(object)).await;
    next(&outcome, Next::Wait)
}

/// A service, as told and as it is here.
#[derive(Debug, Default)]
struct Observed {
    /// Where our components run.
    namespace: String,
    slice: Option<Arc<Slice>>,
    told: Option<Arc<WorkerServiceImport>>,
    mirror: Option<Arc<SliceService>>,
    /// The application's namespace is there and stays.
    place: bool,
    /// Another slice's service of this name is the one that people see.
    shadowed: bool,
    import: Option<Arc<ServiceImport>>,
    made: BTreeMap<String, Arc<EndpointSlice>>,
}

/// Nothing while the hub has not been heard: what is, stays.
fn observe(worker: &Worker, object: &str) -> Option<Observed> {
    let services = &worker.services;
    let session = worker.hub.session().filter(|_| services.told.is_synced())?;
    let listed = services.imports.is_synced() && services.made.is_synced();
    let parts: Vec<&str> = object.splitn(3, '.').collect();
    let [slice, namespace, name] = parts.as_slice() else { return None };
    let alive = |t: &Arc<WorkerServiceImport>| {
        t.metadata.deletion_timestamp.is_none() && t.spec.cluster == session.cluster
    };
    let told = |slice: &str| {
        let told = services.told.get(&session.namespace, &import_object(slice, namespace, name));
        told.filter(alive)
    };
    let before = worker.local.slices.list().into_iter().filter(|s| s.name_any().as_str() < *slice);
    let shadowed =
        before.into_iter().any(|s| told(&s.name_any()).is_some_and(|t| t.spec.service.exported));
    let there = worker.local.namespaces.get("", namespace);
    let made = services.made.list_in(namespace).into_iter();
    let made = made.filter(|s| s.annotations().get(objects::MADE_OF).is_some_and(|o| o == object));
    Some(Observed {
        namespace: worker.namespace.clone(),
        slice: worker.local.slices.get("", slice),
        told: told(slice),
        mirror: services.mirrors.get(&worker.namespace, object),
        place: listed && there.is_some_and(|n| n.metadata.deletion_timestamp.is_none()),
        shadowed,
        import: services.imports.get(namespace, name),
        made: made.map(|s| (s.name_any(), s)).collect(),
    })
}

/// Decides. Nodes first: they carry the traffic.
fn plan(observed: &Observed) -> Steps {
    let stays = |s: &&Arc<Slice>| s.metadata.deletion_timestamp.is_none();
    let slice = observed.slice.as_ref().filter(stays);
    let told = observed.told.as_ref().filter(|_| slice.is_some());
    let (Some(told), Some(slice)) = (told, slice) else { return gone(observed) };
    let prefixes: Vec<ipnet::IpNet> =
        slice.spec.prefixes.iter().filter_map(|p| p.parse().ok()).collect();
    let planned = match plan_from(&told.spec.service, &prefixes) {
        Ok(planned) => planned,
        Err(faults) => {
            let faults = summary(&faults);
            tracing::warn!(service = told.name_any(), faults, "kept as it was");
            return Vec::new();
        }
    };
    let spec =
        SliceServiceSpec { slice: told.spec.slice.clone(), service: told.spec.service.clone() };
    let mut mirror = SliceService::new(&told.name_any(), spec);
    mirror.metadata = meta(&observed.namespace, slice, told.name_any());
    let mut steps =
        vec![Change::converge(&mirror, observed.mirror.as_deref()).into_iter().collect()];
    if !planned.exported || observed.shadowed {
        steps.push(unseen(observed));
        return steps;
    }
    // One that somebody else made is not ours to change.
    let foreign = observed.import.as_ref().is_some_and(|i| !ours(i));
    if !observed.place || foreign {
        return steps;
    }
    let wanted = objects::import(slice, &planned, &told.name_any());
    let mut step: Vec<Change> =
        Change::converge(&wanted, observed.import.as_deref()).into_iter().collect();
    let slices = objects::slices(slice, &planned, &told.name_any());
    for wanted in &slices {
        let there = observed.made.get(&wanted.name_any());
        step.extend(Change::converge(wanted, there.map(|s| &**s)));
    }
    let kept = |name: &String| slices.iter().any(|s| s.name_any() == *name);
    let left = observed.made.iter().filter(|(name, _)| !kept(name));
    step.extend(left.filter_map(|(_, s)| Change::delete(&**s)));
    if let Some(there) = &observed.import {
        let status = objects::status(there, &planned);
        let old = there.status.clone().unwrap_or_default();
        step.extend((old != status).then(|| Change::status(&**there, &status)));
    }
    steps.push(step);
    steps
}

fn ours(import: &ServiceImport) -> bool {
    import.labels().get(MANAGED_BY).is_some_and(|by| by == WORKER_MANAGER)
}

/// The hub does not tell of it any more.
fn gone(observed: &Observed) -> Steps {
    let mirror = observed.mirror.as_ref().and_then(|m| Change::delete(&**m));
    vec![mirror.into_iter().collect(), unseen(observed)]
}

/// Takes away what people see of it, unless that is another slice's.
fn unseen(observed: &Observed) -> Vec<Change> {
    let mut step: Vec<Change> =
        observed.made.values().filter_map(|s| Change::delete(&**s)).collect();
    let import = observed.import.as_ref().filter(|i| ours(i) && !observed.shadowed);
    step.extend(import.and_then(|i| Change::delete(&**i)));
    step
}

#[cfg(test)]
mod tests {
    use slicewire_api::{
        ServiceCluster, ServiceEndpoint, ServicePlan, ServicePort, ServiceShape, SliceSpec,
        WorkerServiceImportSpec,
    };

    use super::*;
    use crate::kubernetes::fake::Fake;

    fn observed() -> Observed {
        let spec = SliceSpec {
            cluster: "east".into(),
            prefixes: vec!["10.77.0.0/16".into()],
            ..SliceSpec::default()
        };
        let endpoint = |i: usize| ServiceEndpoint {
            addresses: vec![format!("10.77.{}.{}", i / 200, i % 200 + 1)],
            ports: vec!["TCP/http=8080".into()],
            ready: true,
            serving: true,
            ..ServiceEndpoint::default()
        };
        let service = ServicePlan {
            namespace: "shop".into(),
            name: "web".into(),
            exported: true,
            ips: vec!["10.77.240.9".into()],
            shape: ServiceShape {
                ports: vec![ServicePort {
                    name: "http".into(),
                    protocol: "TCP".into(),
                    port: 80,
                    app_protocol: None,
                }],
                ip_families: vec!["IPv4".into()],
                ..ServiceShape::default()
            },
            clusters: vec![ServiceCluster {
                cluster: "west".into(),
                endpoints: (0..150).map(endpoint).collect(),
                weight: None,
            }],
        };
        let spec_told =
            WorkerServiceImportSpec { slice: "blue".into(), cluster: "east".into(), service };
        Observed {
            namespace: "slicewire-system".into(),
            slice: Some(Arc::new(Slice::new("blue", spec))),
            told: Some(Arc::new(WorkerServiceImport::new("blue.shop.web", spec_told))),
            place: true,
            ..Observed::default()
        }
    }

    fn carry_out(fake: &mut Fake, observed: &mut Observed) {
        for change in plan(observed).concat() {
            fake.carry_out(&change).unwrap();
        }
        observed.mirror = fake.get::<SliceService>("slicewire-system", "blue.shop.web");
        observed.import = fake.get::<ServiceImport>("shop", "web");
        let names: Vec<String> = objects_made(fake);
        let made = names.into_iter().filter_map(|n| Some((n.clone(), fake.get("shop", &n)?)));
        observed.made = made.collect();
    }

    fn objects_made(fake: &Fake) -> Vec<String> {
        let all = fake.all().into_iter();
        let slices = all.filter(|o| o.types.as_ref().is_some_and(|t| t.kind == "EndpointSlice"));
        slices.map(|o| o.name_any()).collect()
    }

    #[test]
    fn what_is_told_becomes_the_standards_objects_and_goes_with_it() {
        let (mut fake, mut observed) = (Fake::default(), observed());
        carry_out(&mut fake, &mut observed);
        carry_out(&mut fake, &mut observed);
        assert_eq!(plan(&observed).concat(), [], "another round does nothing");
        let import = observed.import.clone().unwrap();
        assert_eq!(import.spec.ips, ["10.77.240.9"]);
        assert_eq!(import.status.as_ref().unwrap().clusters[0].cluster, "west");
        assert_eq!(observed.made.len(), 2, "at most 100 endpoints each");
        let slice = observed.made.values().next().unwrap();
        assert_eq!(slice.labels()["multicluster.kubernetes.io/service-name"], "web");
        assert_eq!(slice.labels()["multicluster.kubernetes.io/source-cluster"], "west");
        observed.told = None;
        carry_out(&mut fake, &mut observed);
        assert!(observed.mirror.is_none() && observed.import.is_none());
        assert!(observed.made.is_empty());
    }

    #[test]
    fn who_is_to_prefer_an_endpoint_is_said_of_the_own_clusters() {
        let (mut fake, mut observed) = (Fake::default(), observed());
        let told = Arc::make_mut(observed.told.as_mut().unwrap());
        let service = &mut told.spec.service;
        service.shape.traffic_distribution = Some("PreferSameNode".into());
        service.clusters[0].endpoints.truncate(1);
        service.clusters[0].endpoints[0].node = "n1".into();
        service.clusters[0].endpoints[0].zone = "eu-1a".into();
        let mut own = service.clusters[0].clone();
        own.cluster = "east".into();
        own.endpoints[0].addresses = vec!["10.77.200.1".into()];
        service.clusters.push(own);
        carry_out(&mut fake, &mut observed);
        let of = |cluster: &str| {
            let mut made = observed.made.values();
            let source = "multicluster.kubernetes.io/source-cluster";
            made.find(|s| s.labels()[source] == cluster).unwrap().endpoints[0].clone()
        };
        assert_eq!(of("west").zone.as_deref(), Some("eu-1a"));
        assert_eq!(of("west").hints, None);
        let hints = of("east").hints.unwrap();
        assert_eq!(hints.for_nodes.unwrap()[0].name, "n1");
        assert_eq!(hints.for_zones.unwrap()[0].name, "eu-1a");
    }

    #[test]
    fn what_somebody_else_made_is_left_alone_and_what_is_only_exposed_is_not_shown() {
        let (mut fake, mut observed) = (Fake::default(), observed());
        let mut foreign = ServiceImport::new("web", Default::default());
        foreign.metadata.namespace = Some("shop".into());
        observed.import = Some(Arc::new(foreign));
        assert_eq!(plan(&observed).concat().len(), 1, "the nodes' mirror only");
        observed.import = None;
        Arc::make_mut(observed.told.as_mut().unwrap()).spec.service.exported = false;
        carry_out(&mut fake, &mut observed);
        assert!(observed.mirror.is_some() && observed.import.is_none());
    }
}
