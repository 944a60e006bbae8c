//! router 1 ═ node 1 — node 2 ═ router 2: the VXLAN lives in the routers, its packets on the
//! nodes' network.

use std::net::IpAddr;

use slicewire_kernel::{
    Address, Fdb, Hop, LinkEnd, LinkKind, Mac, Neighbour, NextHops, Ns, NsId, Op, Route, Vxlan,
};

use crate::lab::{Lab, ip, net, round_trip, udp};

fn vxlan(into: &NsId, mac: Mac, local: IpAddr) -> Op {
    Op::AddVxlan {
        end: LinkEnd::new("swvx").mac(mac).mtu(1400).up(),
        into: into.clone(),
        vxlan: Vxlan { vni: 4711, port: 5789, local: Some(local) },
    }
}

/// What a router knows of the other node: its block, its MAC address, where it is.
pub(crate) fn towards(block: &str, router: &str, mac: Mac, underlay: IpAddr) -> Vec<Op> {
    let dev = "swvx".to_owned();
    vec![
        Op::ReplaceFdb(Fdb { dev: dev.clone(), mac, dst: underlay }),
        Op::ReplaceNeighbour(Neighbour { dev, addr: ip(router), mac }),
        Op::ReplaceRoute(Route::new(net(block), NextHops::via(ip(router), "swvx"))),
    ]
}

pub(crate) async fn underlay(n1: &Ns, n2: &Ns, addrs: [&str; 2]) {
    let wire = Op::AddVeth {
        end: LinkEnd::new("eth0").up(),
        peer_ns: n2.id().clone(),
        peer: LinkEnd::new("eth0").up(),
    };
    n1.sequence(vec![wire]).await.unwrap();
    for (node, addr) in [(n1, addrs[0]), (n2, addrs[1])] {
        let other = if addr == addrs[0] { addrs[1] } else { addrs[0] };
        let address = Address::host("eth0", ip(addr));
        let route = Route::new(ip(other).into(), NextHops::One(Hop::dev("eth0")));
        node.sequence(vec![Op::ReplaceAddress(address), Op::ReplaceRoute(route)]).await.unwrap();
    }
}

async fn over(test: &str, addrs: [&str; 2]) {
    let mut lab = Lab::new(test);
    let (n1, n2) = (lab.ns("n1").await, lab.ns("n2").await);
    let (r1, r2) = (lab.ns("r1").await, lab.ns("r2").await);
    underlay(&n1, &n2, addrs).await;
    let before = (n1.observe().await.unwrap(), r1.observe().await.unwrap());

    let macs = [Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2])];
    n1.sequence(vec![vxlan(r1.id(), macs[0], ip(addrs[0]))]).await.unwrap();
    n2.sequence(vec![vxlan(r2.id(), macs[1], ip(addrs[1]))]).await.unwrap();
    for (router, own) in [(&r1, "10.20.1.1"), (&r2, "10.20.2.1")] {
        let address = Address::host("lo", ip(own));
        router.sequence(vec![Op::ReplaceAddress(address)]).await.unwrap();
    }
    let first = towards("10.20.2.0/24", "10.20.2.1", macs[1], ip(addrs[1]));
    r1.sequence(first.clone()).await.unwrap();
    r2.sequence(towards("10.20.1.0/24", "10.20.1.1", macs[0], ip(addrs[0]))).await.unwrap();

    let (client, server) = (udp(r1.id(), ip("10.20.1.1")), udp(r2.id(), ip("10.20.2.1")));
    assert_eq!(round_trip(&client, &server).unwrap(), ip("10.20.1.1"));

    let state = r1.observe().await.unwrap();
    let expected = Vxlan { vni: 4711, port: 5789, local: Some(ip(addrs[0])) };
    assert_eq!(state.link("swvx").unwrap().kind, LinkKind::Vxlan(expected));
    let entry = Fdb { dev: "swvx".to_owned(), mac: macs[1], dst: ip(addrs[1]) };
    assert_eq!(state.fdb.iter().collect::<Vec<_>>(), [&entry]);
    assert!(n1.links().await.unwrap().iter().all(|link| link.name != "swvx"));

    // Again changes nothing; another network under the same name is refused.
    n1.sequence(vec![vxlan(r1.id(), macs[0], ip(addrs[0]))]).await.unwrap();
    r1.sequence(first).await.unwrap();
    assert_eq!(r1.observe().await.unwrap(), state);
    let errors = n1.sequence(vec![vxlan(r2.id(), macs[0], ip(addrs[0]))]).await.unwrap_err();
    assert_eq!(errors.reason(), "Conflict", "{errors}");

    // A node that moved: the entry is replaced, not doubled.
    let moved = Fdb { dst: ip(addrs[0]), ..entry.clone() };
    r1.sequence(vec![Op::ReplaceFdb(moved.clone())]).await.unwrap();
    assert_eq!(r1.fdb().await.unwrap(), [moved.clone()].into());
    r1.sequence(vec![Op::DeleteFdb(moved.clone()), Op::DeleteFdb(moved)]).await.unwrap();
    assert!(r1.fdb().await.unwrap().is_empty());

    let clean = vec![
        Op::DeleteLink { dev: "swvx".to_owned() },
        Op::DeleteAddress(Address::host("lo", ip("10.20.1.1"))),
    ];
    r1.sequence(clean).await.unwrap();
    assert_eq!((n1.observe().await.unwrap(), r1.observe().await.unwrap()), before);
}

#[tokio::test]
async fn over_ipv4() {
    over("vx4", ["192.0.2.1", "192.0.2.2"]).await;
}

#[tokio::test]
async fn over_ipv6() {
    over("vx6", ["2001:db8::1", "2001:db8::2"]).await;
}
