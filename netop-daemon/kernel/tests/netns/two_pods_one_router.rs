//! pod a — router — pod b: attachment as the daemon does it, both families, and its end.

use slicewire_kernel::{
    Address, LinkChange, LinkEnd, LinkKind, Mac, Neighbour, NextHops, Ns, NsId, Op, Route,
};

use crate::lab::{Lab, ip, net, round_trip, udp};

/// One pod's place on the router.
pub(crate) struct Place {
    pub(crate) port: String,
    pub(crate) addrs: [&'static str; 2],
    pub(crate) macs: [Mac; 2],
}

/// All that makes a pod part of the slice, on the router's side.
pub(crate) fn router_side(pod: &NsId, place: &Place) -> Vec<Op> {
    let [port_mac, pod_mac] = place.macs;
    let mut ops = vec![Op::AddVeth {
        end: LinkEnd::new(&place.port).mac(port_mac).mtu(1400).up(),
        peer_ns: pod.clone(),
        peer: LinkEnd::new("slice0").mac(pod_mac).mtu(1400),
    }];
    for addr in place.addrs {
        ops.push(Op::ReplaceRoute(Route::new(net(addr), NextHops::dev(&place.port))));
        let addr = net::<ipnet::IpNet>(addr).addr();
        ops.push(Op::ReplaceNeighbour(Neighbour { dev: place.port.clone(), addr, mac: pod_mac }));
    }
    ops
}

/// The same on the pod's side; the alias comes last and says that all is ready.
pub(crate) fn pod_side(place: &Place, prefixes: [&str; 2]) -> Vec<Op> {
    let change = LinkChange { up: Some(true), link_local: Some(false), ..LinkChange::default() };
    let mut ops = vec![Op::SetLink { dev: "slice0".to_owned(), change }];
    for (n, gateway) in ["169.254.1.1", "fe80::1"].into_iter().enumerate() {
        let gateway = ip(gateway);
        ops.push(Op::ReplaceAddress(Address::new("slice0", net(place.addrs[n]))));
        ops.push(Op::ReplaceNeighbour(Neighbour {
            dev: "slice0".to_owned(),
            addr: gateway,
            mac: place.macs[0],
        }));
        let route = Route::new(net(prefixes[n]), NextHops::via(gateway, "slice0"));
        ops.push(Op::ReplaceRoute(route.with_mtu(1400)));
    }
    let change = LinkChange::alias("slicewire/blue");
    ops.push(Op::SetLink { dev: "slice0".to_owned(), change });
    ops
}

pub(crate) fn forwarding() -> Vec<Op> {
    ["ipv4/ip_forward", "ipv6/conf/all/forwarding"]
        .map(|key| Op::SetSysctl { key: key.to_owned(), value: "1".to_owned() })
        .to_vec()
}

fn place(port: &str, addrs: [&'static str; 2], mac: u8) -> Place {
    let macs = [Mac([2, 0, 0, 0, 1, mac]), Mac([2, 0, 0, 0, 2, mac])];
    Place { port: port.to_owned(), addrs, macs }
}

const PREFIXES: [&str; 2] = ["10.20.0.0/16", "fd00:20::/48"];

async fn attach(router: &Ns, pod: &Ns, place: &Place) {
    router.sequence(router_side(pod.id(), place)).await.unwrap();
    pod.sequence(pod_side(place, PREFIXES)).await.unwrap();
}

#[tokio::test]
async fn both_families_pass_and_nothing_stays_behind() {
    let mut lab = Lab::new("2p");
    let (router, a, b) = (lab.ns("r").await, lab.ns("a").await, lab.ns("b").await);
    router.apply(forwarding()).await.unwrap();
    assert_eq!(router.sysctl("ipv4/ip_forward").await.unwrap(), "1");
    let before = (router.observe().await.unwrap(), a.observe().await.unwrap());

    let place_a = place("swpa", ["10.20.0.2/32", "fd00:20::2/128"], 1);
    let place_b = place("swpb", ["10.20.0.3/32", "fd00:20::3/128"], 2);
    attach(&router, &a, &place_a).await;
    attach(&router, &b, &place_b).await;

    for (from, to) in [("10.20.0.2", "10.20.0.3"), ("fd00:20::2", "fd00:20::3")] {
        let (client, server) = (udp(a.id(), ip(from)), udp(b.id(), ip(to)));
        assert_eq!(round_trip(&client, &server).unwrap(), ip(from));
    }

    let state = a.observe().await.unwrap();
    let nic = state.link("slice0").unwrap();
    let port = router.observe().await.unwrap().link("swpa").unwrap().clone();
    assert_eq!((nic.kind.clone(), nic.mtu, nic.up), (LinkKind::Veth, 1400, true));
    assert_eq!(nic.mac, Some(place_a.macs[1]));
    assert_eq!(nic.alias.as_deref(), Some("slicewire/blue"));
    assert_eq!((nic.peer, port.peer), (Some(port.index), Some(nic.index)));

    // A second time changes nothing: adoption after a restart finds what it would have made.
    attach(&router, &a, &place_a).await;
    assert_eq!(a.observe().await.unwrap(), state);

    for port in ["swpa", "swpb"] {
        let detach = vec![
            Op::DeleteRoute { table: slicewire_kernel::MAIN_TABLE, dst: net("10.20.0.2/32") },
            Op::DeleteLink { dev: port.to_owned() },
        ];
        router.apply(detach.clone()).await.unwrap();
        router.apply(detach).await.unwrap();
    }
    assert_eq!((router.observe().await.unwrap(), a.observe().await.unwrap()), before);
}

#[tokio::test]
async fn a_name_taken_by_another_device_is_a_conflict() {
    let mut lab = Lab::new("2p-taken");
    let (router, a, b) = (lab.ns("r").await, lab.ns("a").await, lab.ns("b").await);
    let veth = |pod: &Ns| Op::AddVeth {
        end: LinkEnd::new("swpa"),
        peer_ns: pod.id().clone(),
        peer: LinkEnd::new("slice0"),
    };
    router.sequence(vec![veth(&a), veth(&a)]).await.unwrap();
    let errors = router.sequence(vec![veth(&b)]).await.unwrap_err();
    assert_eq!(errors.reason(), "Conflict", "{errors}");
    assert_eq!(b.link("slice0").await.unwrap(), None);
    assert_eq!(router.link("swpa").await.unwrap().unwrap().name, "swpa");
}
