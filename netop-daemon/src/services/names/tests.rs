//! Names follow services and what gateways say.

use std::collections::BTreeSet;

use slicewire_api::service::plan_from;
use slicewire_api::{ServiceCluster, ServiceEndpoint, ServicePlan, ServicePort, ServiceShape};
use slicewire_core::dns::{Asker, Code, Kind, Question, answer};
use slicewire_core::routes::Tunnel;

use super::*;
use crate::world::{Balancing, GatewayPod, GatewayRoutes, Slice, SliceEntry, SlicePolicy};

pub(in crate::services) fn slice() -> Slice {
    Slice {
        name: SliceName::parse("blue").unwrap(),
        prefixes: vec!["10.77.0.0/16".parse().unwrap()],
        families: BTreeSet::new(),
        remotes: BTreeMap::new(),
        rules: Vec::new(),
        cluster: ClusterName::parse("east").unwrap(),
        policy: SlicePolicy::default(),
        vni: 7,
        mtu: 1400,
        qos: None,
        balancing: Balancing::default(),
    }
}

pub(in crate::services) fn service(headless: bool, address: &str) -> Arc<ServiceEntry> {
    let plan = ServicePlan {
        namespace: "shop".into(),
        name: "web".into(),
        exported: true,
        ips: vec!["10.77.240.9".into()],
        shape: ServiceShape {
            headless,
            ports: vec![ServicePort { protocol: "TCP".into(), port: 80, ..Default::default() }],
            ..ServiceShape::default()
        },
        clusters: vec![ServiceCluster {
            cluster: "west".into(),
            endpoints: vec![ServiceEndpoint {
                addresses: vec![address.into()],
                ports: vec!["TCP/=8080".into()],
                ready: true,
                ..ServiceEndpoint::default()
            }],
            weight: None,
        }],
    };
    let planned = plan_from(&plan, &["0.0.0.0/0".parse().unwrap()]).unwrap();
    Arc::new(ServiceEntry { slice: "blue".into(), planned })
}

pub(in crate::services) fn world(entry: Arc<ServiceEntry>, up: bool) -> World {
    let mut world = World::default();
    world.slices.insert("blue".into(), SliceEntry { valid: Some(slice()), deleting: false });
    world.services.insert("blue.shop.web".into(), entry);
    let pod = GatewayPod { slice: "blue".into(), node: "n".into(), ip: None, deleting: false };
    world.gateways.insert("g".into(), pod);
    let tunnel = Tunnel { cluster: "west".into(), prefixes: Vec::new(), up };
    world.routes.insert("g".into(), GatewayRoutes { tunnels: vec![tunnel], lost: None });
    world
}

fn asked(view: &View) -> (Code, usize) {
    let labels = ["web", "shop", "svc", "clusterset", "local"];
    let question = Question { labels: &labels, kind: Kind::A };
    let answer = answer(view, &question, Asker::default());
    (answer.code, answer.records.len())
}

#[test]
fn names_come_and_go_with_their_service() {
    let mut view = View::default();
    let first = Told::of(&world(service(false, "10.77.16.5"), true), Instant::now());
    first.change(&Told::default(), "n", &mut view);
    assert_eq!(asked(&view), (Code::NoError, 1));
    assert!(first == Told::of(&World { ..first_world(&first) }, Instant::now()));
    let mut none = world(service(false, "10.77.16.5"), true);
    none.services.clear();
    let then = Told::of(&none, Instant::now());
    then.change(&first, "n", &mut view);
    assert_eq!(asked(&view).0, Code::NxDomain);
    Told::default().change(&then, "n", &mut view);
    assert_eq!(asked(&view).0, Code::NxDomain);
}

fn first_world(told: &Told) -> World {
    let slice = told.slices.values().next().unwrap();
    world(slice.services.values().next().unwrap().clone(), true)
}

#[test]
fn a_cluster_that_no_tunnel_reaches_has_no_names() {
    let mut view = View::default();
    let up = Told::of(&world(service(true, "10.77.16.5"), true), Instant::now());
    up.change(&Told::default(), "n", &mut view);
    assert_eq!(asked(&view), (Code::NoError, 1));
    let entry = up.slices.values().next().unwrap().services.values().next().unwrap().clone();
    let down = Told::of(&world(entry, false), Instant::now());
    assert!(up != down);
    down.change(&up, "n", &mut view);
    assert_eq!(asked(&view).1, 0);
}

#[test]
fn what_is_outside_the_slice_is_neither_named_nor_translated() {
    let entry = service(false, "192.0.2.5");
    let told = Told::of(&world(entry, true), Instant::now());
    assert!(told.slices.values().all(|slice| slice.services.is_empty()));
}
