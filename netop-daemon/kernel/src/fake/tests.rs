use super::*;
use crate::model::{LinkKind, NextHops, Vxlan};
use crate::op::{LinkChange, LinkEnd};

fn pod() -> NsId {
    NsId::path("/proc/7/ns/net")
}

fn veth(port: &str, pod: &NsId) -> Op {
    let (end, peer) = (LinkEnd::new(port).up(), LinkEnd::new("slice0").up());
    Op::AddVeth { end, peer_ns: pod.clone(), peer }
}

fn route(dst: &str, dev: &str) -> Op {
    Op::ReplaceRoute(Route::new(dst.parse().unwrap(), NextHops::dev(dev)))
}

async fn router(network: &FakeNetwork) -> Ns {
    network.add_namespace(&pod());
    network.create("sw-blue").await.unwrap()
}

#[tokio::test]
async fn a_device_takes_its_pair_and_its_entries_along() {
    let network = FakeNetwork::new();
    let router = router(&network).await;
    let before = (network.state(router.id()), network.state(&pod()));
    router.sequence(vec![veth("p1", &pod()), route("10.0.0.1/32", "p1")]).await.unwrap();
    let inside = network.open(&pod()).await.unwrap();
    let address = Address::host("slice0", "10.0.0.1".parse().unwrap());
    inside.sequence(vec![Op::ReplaceAddress(address)]).await.unwrap();
    assert_eq!(inside.links().await.unwrap().len(), 2);

    inside.sequence(vec![Op::DeleteLink { dev: "slice0".to_owned() }]).await.unwrap();
    assert_eq!((network.state(router.id()), network.state(&pod())), before);
}

#[tokio::test]
async fn the_end_of_a_pod_is_the_end_of_its_port() {
    let network = FakeNetwork::new();
    let router = router(&network).await;
    router.sequence(vec![veth("p1", &pod())]).await.unwrap();
    network.remove_namespace(&pod());
    assert!(network.state(router.id()).unwrap().link("p1").is_none());
    assert_eq!(network.open(&pod()).await.err().unwrap().reason(), "NotFound");
}

#[tokio::test]
async fn what_the_kernel_refuses_is_refused() {
    let network = FakeNetwork::new();
    let router = router(&network).await;
    let down = Op::SetLink { dev: "p1".to_owned(), change: LinkChange::up(false) };
    let errors = router
        .apply(vec![
            route("10.0.0.1/32", "p1"),
            veth("p1", &pod()),
            veth("p1", &pod()),
            veth("p2", &pod()),
            down,
            route("10.0.0.1/32", "p1"),
            Op::AddWireguard { end: LinkEnd::new("swwg0") },
        ])
        .await
        .unwrap_err();
    let reasons: Vec<_> = errors.0.iter().map(Error::reason).collect();
    assert_eq!(reasons, ["NoSuchDevice", "Conflict", "LinkDown", "Unsupported"]);
}

#[tokio::test]
async fn two_networks_of_one_number_cannot_share_a_host() {
    let network = FakeNetwork::new();
    let (blue, red) =
        (network.create("sw-blue").await.unwrap(), network.create("sw-red").await.unwrap());
    let host = network.open(&NsId::Current).await.unwrap();
    let vxlan = Vxlan { vni: 7, port: 5789, local: None };
    let add = |into: &Ns| Op::AddVxlan {
        end: LinkEnd::new("swvx"),
        into: into.id().clone(),
        vxlan: vxlan.clone(),
    };
    host.sequence(vec![add(&blue), add(&blue)]).await.unwrap();
    assert_eq!(host.sequence(vec![add(&red)]).await.unwrap_err().reason(), "Conflict");
    let made = network.state(blue.id()).unwrap();
    assert_eq!(made.link("swvx").unwrap().kind, LinkKind::Vxlan(vxlan.clone()));
    network.delete("sw-blue").await.unwrap();
    host.sequence(vec![add(&red)]).await.unwrap();
}

#[tokio::test]
async fn injected_errors_stop_at_any_place() {
    let network = FakeNetwork::new();
    let router = router(&network).await;
    network.fail_after(1, Errno::ENOMEM);
    let ops = vec![veth("p1", &pod()), route("10.0.0.1/32", "p1"), route("10.0.0.2/32", "p1")];
    let errors = router.apply(ops.clone()).await.unwrap_err();
    assert_eq!((errors.0.len(), errors.reason()), (2, "OutOfResources"));
    assert_eq!(network.take_done().len(), 1);
    network.heal();
    router.apply(ops).await.unwrap();
    assert_eq!(router.routes().await.unwrap().len(), 2);
}
