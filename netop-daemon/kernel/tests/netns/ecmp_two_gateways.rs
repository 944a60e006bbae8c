//! source — two gateways — the same far prefix behind both: flows share the gateways, and the
//! route changes without a gap.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::UdpSocket;
use std::time::Duration;

use slicewire_kernel::{Address, Hop, LinkEnd, NextHops, Ns, Op, Route};

use crate::lab::{Lab, ip, net, udp};

/// Gateways and far addresses, one each a family.
const FAMILIES: [(&str, [&str; 2], &str, &str); 2] = [
    ("10.20.0.1", ["10.20.0.11", "10.20.0.12"], "10.30.0.0/16", "10.30.0.9"),
    ("fd00:20::1", ["fd00:20::11", "fd00:20::12"], "fd00:30::/48", "fd00:30::9"),
];

async fn wire(lab: &mut Lab) -> (Ns, [Ns; 2]) {
    let source = lab.ns("s").await;
    let gateways = [lab.ns("g1").await, lab.ns("g2").await];
    for (n, gateway) in gateways.iter().enumerate() {
        let port = format!("to{n}");
        source
            .sequence(vec![Op::AddVeth {
                end: LinkEnd::new(&port).up(),
                peer_ns: gateway.id().clone(),
                peer: LinkEnd::new("slice0").up(),
            }])
            .await
            .unwrap();
        for (own, vias, _, far) in FAMILIES {
            // Both gateways answer for the far address themselves.
            gateway
                .sequence(vec![
                    Op::ReplaceAddress(Address::host("slice0", ip(vias[n]))),
                    Op::ReplaceAddress(Address::host("lo", ip(far))),
                    Op::ReplaceRoute(Route::new(ip(own).into(), NextHops::dev("slice0"))),
                ])
                .await
                .unwrap();
            source.sequence(vec![Op::ReplaceAddress(Address::host(&port, ip(own)))]).await.unwrap();
        }
    }
    (source, gateways)
}

fn hops(vias: [&str; 2]) -> [Hop; 2] {
    [Hop::via(ip(vias[0]), "to0"), Hop::via(ip(vias[1]), "to1").weighted(3)]
}

/// Which of the servers got something from each of many flows.
fn who_answers(source: &Ns, own: &str, servers: &[UdpSocket; 2]) -> BTreeSet<usize> {
    let target = servers[0].local_addr().unwrap();
    for _ in 0..64 {
        udp(source.id(), ip(own)).send_to(b"x", target).unwrap();
    }
    std::thread::sleep(Duration::from_millis(100));
    let mut seen = BTreeSet::new();
    for (n, server) in servers.iter().enumerate() {
        server.set_nonblocking(true).unwrap();
        loop {
            match server.recv(&mut [0; 16]) {
                Ok(_) => {
                    seen.insert(n);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            }
        }
    }
    seen
}

fn bind_same_port(gateways: &[Ns; 2], far: &str) -> [UdpSocket; 2] {
    let first = udp(gateways[0].id(), ip(far));
    let addr = first.local_addr().unwrap();
    let second = crate::lab::inside(gateways[1].id(), move || UdpSocket::bind(addr)).unwrap();
    [first, second]
}

#[tokio::test]
async fn flows_share_the_gateways_that_are_up() {
    let mut lab = Lab::new("ecmp");
    let (source, gateways) = wire(&mut lab).await;
    // IPv6 hashes addresses and flow labels by default; flows of one pair of hosts differ in ports.
    source
        .apply(["ipv4", "ipv6"].map(|f| sysctl(&format!("{f}/fib_multipath_hash_policy"))).to_vec())
        .await
        .unwrap();
    for (own, vias, prefix, far) in FAMILIES {
        let servers = bind_same_port(&gateways, far);
        let [first, second] = hops(vias);
        let through = |next: NextHops| Route::new(net(prefix), next).with_mtu(1380);
        let both = through(NextHops::balanced([first.clone(), second.clone()]));
        for (route, expected) in [
            (both.clone(), vec![0, 1]),
            (through(NextHops::balanced([second])), vec![1]),
            (both, vec![0, 1]),
            (through(NextHops::balanced([first])), vec![0]),
        ] {
            source.sequence(vec![Op::ReplaceRoute(route.clone())]).await.unwrap();
            let listed = source.routes().await.unwrap();
            let listed: Vec<_> = listed.iter().filter(|r| r.dst == route.dst).collect();
            assert_eq!(listed, [&route]);
            let seen = who_answers(&source, own, &servers);
            assert_eq!(seen.into_iter().collect::<Vec<_>>(), expected, "{route:?}");
        }
    }
}

#[tokio::test]
async fn every_sort_of_route_replaces_every_other_and_goes() {
    let mut lab = Lab::new("ecmp-sorts");
    let (source, _gateways) = wire(&mut lab).await;
    for (_, vias, prefix, far) in FAMILIES {
        let [first, second] = hops(vias);
        let sorts = [
            NextHops::Unreachable,
            NextHops::balanced([first.clone(), second.clone()]),
            NextHops::One(first),
            NextHops::Unreachable,
            NextHops::One(second.clone().weighted(1)),
            NextHops::dev("to0"),
            NextHops::balanced(hops(vias)),
            NextHops::dev("to1"),
            NextHops::Unreachable,
        ];
        for table in [100, slicewire_kernel::MAIN_TABLE, 70_000] {
            for next in &sorts {
                let route = Route::new(net(prefix), next.clone()).in_table(table);
                source.sequence(vec![Op::ReplaceRoute(route.clone())]).await.unwrap();
                let listed: Vec<_> = source.routes().await.unwrap().into_iter().collect();
                assert_eq!(listed, [route]);
            }
            if table == slicewire_kernel::MAIN_TABLE {
                let own = if far.contains(':') { "::" } else { "0.0.0.0" };
                let sent = udp(source.id(), ip(own)).send_to(b"x", (ip(far), 9));
                assert!(sent.is_err(), "an unreachable prefix was sent to");
            }
            let multi = Route::new(net(prefix), NextHops::balanced(hops(vias))).in_table(table);
            let delete = Op::DeleteRoute { table, dst: net(prefix) };
            let ops = vec![Op::ReplaceRoute(multi), delete.clone(), delete];
            source.sequence(ops).await.unwrap();
            assert!(source.routes().await.unwrap().is_empty());
        }
    }
}

fn sysctl(key: &str) -> Op {
    Op::SetSysctl { key: key.to_owned(), value: "1".to_owned() }
}
