//! The laws of the services' reconciler, against an API server in memory.

use std::sync::Arc;

use slicewire_api::{
    ReportedService, ServiceEndpoint, ServicePort, ServiceShape, WorkerServiceExport,
    WorkerServiceExportStatus, WorkerServiceImport, WorkerSlice, WorkerSliceSpec,
};

use super::observe::observe;
use super::plan::plan;
use crate::hub::Caches;
use crate::kubernetes::change::Change;
use crate::kubernetes::fake::Fake;

const PROJECT: &str = "slicewire-demo";
const EAST: &str = "slicewire-demo--east";
const WEST: &str = "slicewire-demo--west";

fn slice(namespace: &str, pool: &str) -> WorkerSlice {
    let spec = WorkerSliceSpec {
        prefixes: vec!["10.77.0.0/16".into()],
        pools: vec![pool.into()],
        service_prefixes: vec!["10.77.240.0/21".into()],
        ..WorkerSliceSpec::default()
    };
    let mut slice = WorkerSlice::new("blue", spec);
    slice.metadata.namespace = Some(namespace.into());
    slice
}

fn web(address: &str, created: i64) -> ReportedService {
    ReportedService {
        namespace: "shop".into(),
        name: "web".into(),
        exported: true,
        created,
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
        endpoints: vec![ServiceEndpoint {
            addresses: vec![address.into()],
            ports: vec!["TCP/http=8080".into()],
            ready: true,
            serving: true,
            ..ServiceEndpoint::default()
        }],
        weight: None,
    }
}

fn world() -> Fake {
    let mut fake = Fake::default();
    fake.put(&slice(EAST, "10.77.0.0/20"));
    fake.put(&slice(WEST, "10.77.16.0/20"));
    settle(&mut fake);
    fake
}

fn changes(fake: &Fake) -> Vec<Change> {
    let caches = Caches::default();
    for object in fake.all() {
        caches.note(object);
    }
    plan(&observe(&caches, &(PROJECT.into(), "blue".into()))).concat()
}

fn settle(fake: &mut Fake) {
    for change in changes(fake) {
        fake.carry_out(&change).unwrap();
    }
    for change in changes(fake) {
        fake.carry_out(&change).unwrap();
    }
    assert_eq!(changes(fake), [], "another round does nothing");
}

fn say(fake: &mut Fake, namespace: &str, number: usize, service: Option<ReportedService>) {
    let status = WorkerServiceExportStatus { services: service.into_iter().collect() };
    fake.report::<WorkerServiceExport>(namespace, &format!("blue.{number}"), &status);
    settle(fake);
}

fn told(fake: &Fake, namespace: &str) -> Option<Arc<WorkerServiceImport>> {
    fake.get::<WorkerServiceImport>(namespace, "blue.shop.web")
}

fn answer(fake: &Fake, namespace: &str, number: usize) -> slicewire_api::ExportAnswer {
    let place = fake.get::<WorkerServiceExport>(namespace, &format!("blue.{number}")).unwrap();
    place.spec.answer.clone().unwrap()
}

#[test]
fn what_one_exports_all_are_told_with_one_address_and_no_more_when_it_goes() {
    let mut fake = world();
    say(&mut fake, WEST, 0, Some(web("10.77.16.5", 7)));
    let (east, west) = (told(&fake, EAST).unwrap(), told(&fake, WEST).unwrap());
    assert_eq!(east.spec.service, west.spec.service);
    assert_eq!(east.spec.service.ips.len(), 1);
    assert!(east.spec.service.ips[0].starts_with("10.77.24"));
    assert_eq!(east.spec.service.clusters[0].endpoints[0].addresses, ["10.77.16.5"]);
    assert!(answer(&fake, WEST, 0).accepted);
    let ips = east.spec.service.ips.clone();
    // Another cluster that exports it, too, changes neither the address nor what is there.
    say(&mut fake, EAST, 1, Some(web("10.77.0.9", 9)));
    let both = told(&fake, EAST).unwrap();
    assert_eq!((&both.spec.service.ips, both.spec.service.clusters.len()), (&ips, 2));
    say(&mut fake, WEST, 0, None);
    assert_eq!(told(&fake, WEST).unwrap().spec.service.clusters[0].cluster, "east");
    say(&mut fake, EAST, 1, None);
    assert!(told(&fake, EAST).is_none() && told(&fake, WEST).is_none());
}

#[test]
fn nobody_speaks_for_anothers_pods_and_faults_are_answered() {
    let mut fake = world();
    say(&mut fake, WEST, 0, Some(web("10.77.0.5", 7)));
    assert_eq!(told(&fake, EAST).unwrap().spec.service.clusters[0].endpoints, []);
    let said = answer(&fake, WEST, 0);
    assert!(said.accepted && said.message.contains("10.77.0.5"), "{said:?}");
    let mut broken = web("10.77.16.5", 7);
    broken.shape.ports[0].port = 70_000;
    say(&mut fake, WEST, 0, Some(broken));
    assert!(told(&fake, EAST).is_none());
    assert!(!answer(&fake, WEST, 0).accepted);
    let bad = ReportedService { name: "Web.x".into(), ..web("10.77.16.5", 7) };
    say(&mut fake, WEST, 0, Some(bad));
    assert!(answer(&fake, WEST, 0).message.contains("DNS labels"));
}

#[test]
fn the_oldest_wins_and_all_who_export_are_told_what_they_disagree_about() {
    let mut fake = world();
    let mut headless = web("10.77.0.9", 9);
    headless.shape.headless = true;
    say(&mut fake, WEST, 0, Some(web("10.77.16.5", 7)));
    say(&mut fake, EAST, 0, Some(headless));
    assert!(!told(&fake, EAST).unwrap().spec.service.shape.headless);
    for namespace in [EAST, WEST] {
        let conflicts = answer(&fake, namespace, 0).conflicts;
        assert_eq!(conflicts[0].reason, "TypeConflict", "{namespace}");
        assert_eq!(conflicts[0].clusters, ["east"]);
    }
}

#[test]
fn every_cluster_is_told_the_weights_that_clusters_give_their_endpoints() {
    let mut fake = world();
    say(&mut fake, WEST, 0, Some(ReportedService { weight: Some(0), ..web("10.77.16.5", 7) }));
    say(&mut fake, EAST, 0, Some(web("10.77.0.9", 9)));
    for namespace in [EAST, WEST] {
        let parts = told(&fake, namespace).unwrap().spec.service.clusters.clone();
        let weights: Vec<_> = parts.iter().map(|p| (p.cluster.as_str(), p.weight)).collect();
        assert_eq!(weights, [("east", None), ("west", Some(0))]);
        assert_eq!(answer(&fake, namespace, 0).conflicts, []);
    }
    // A member may write what no API server should have taken.
    say(&mut fake, WEST, 0, Some(ReportedService { weight: Some(-1), ..web("10.77.16.5", 7) }));
    let said = answer(&fake, WEST, 0);
    assert!(!said.accepted && said.message.contains("slicewire.dev/weight"), "{said:?}");
    assert_eq!(told(&fake, WEST).unwrap().spec.service.clusters.len(), 1);
}

#[test]
fn what_is_only_exposed_stays_in_its_cluster() {
    let mut fake = world();
    let own = ReportedService { exported: false, ..web("10.77.16.5", 7) };
    say(&mut fake, WEST, 0, Some(own));
    assert!(told(&fake, EAST).is_none());
    let west = told(&fake, WEST).unwrap();
    assert!(!west.spec.service.exported && west.spec.service.ips.len() == 1);
}

#[test]
fn there_is_always_a_place_that_is_free() {
    let mut fake = world();
    for number in 0..20 {
        let name = format!("web-{number}");
        let address = format!("10.77.16.{}", number + 1);
        say(&mut fake, WEST, number, Some(ReportedService { name, ..web(&address, 7) }));
    }
    assert!(fake.get::<WorkerServiceExport>(WEST, "blue.27").is_some());
    assert!(fake.get::<WorkerServiceExport>(WEST, "blue.28").is_none());
    assert!(fake.get::<WorkerServiceExport>(EAST, "blue.1").is_some());
    assert!(fake.get::<WorkerServiceExport>(EAST, "blue.2").is_none());
    // The same service twice is one cluster's mistake, and nobody else's trouble.
    say(
        &mut fake,
        WEST,
        20,
        Some(ReportedService { name: "web-0".into(), ..web("10.77.16.99", 7) }),
    );
    assert!(!answer(&fake, WEST, 20).accepted);
}
