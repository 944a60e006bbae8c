//! client — router — two servers, and a virtual address in between, both families.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use slicewire_core::name::ClusterName;
use slicewire_core::prefix::Family;
use slicewire_core::service::balance::{Balance, Here, Spread, Target};
use slicewire_core::service::translate::{Front, Translation};
use slicewire_core::service::{Affinity, Endpoint, Import, InternalTraffic, Kind, Port, Protocol};
use slicewire_kernel::{Filter, Mac, Ns, NsId};

use crate::lab::{Lab, inside, ip};
use crate::two_pods_one_router::{Place, forwarding, pod_side, router_side};

const PREFIXES: [&str; 2] = ["10.20.0.0/16", "fd00:20::/48"];
const CLIENT: [&str; 2] = ["10.20.0.1", "fd00:20::1"];
const A: [&str; 2] = ["10.20.0.2", "fd00:20::2"];
const B: [&str; 2] = ["10.20.0.3", "fd00:20::3"];
const VIRTUAL: [&str; 2] = ["10.20.200.1", "fd00:20:0:ffff::1"];
const PORT: u16 = 80;
const INNER: u16 = 8080;
const TABLE: &str = "slicewire-services";

struct Bed {
    lab: Lab,
    router: Ns,
    filter: Filter,
    now: Translation,
}

impl Bed {
    async fn new(test: &str) -> Self {
        let mut lab = Lab::new(test);
        let router = lab.ns("r").await;
        router.apply(forwarding()).await.unwrap();
        let places = [
            ("c", "swpc", ["10.20.0.1/32", "fd00:20::1/128"], 1),
            ("a", "swpa", ["10.20.0.2/32", "fd00:20::2/128"], 2),
            ("b", "swpb", ["10.20.0.3/32", "fd00:20::3/128"], 3),
        ];
        for (name, port, addrs, mac) in places {
            let pod = lab.ns(name).await;
            let macs = [Mac([2, 0, 0, 0, 1, mac]), Mac([2, 0, 0, 0, 2, mac])];
            let place = Place { port: port.to_owned(), addrs, macs };
            router.sequence(router_side(pod.id(), &place)).await.unwrap();
            pod.sequence(pod_side(&place, PREFIXES)).await.unwrap();
        }
        let filter = Filter::open(router.id()).await.unwrap();
        let mut bed = Self { lab, router, filter, now: Translation::default() };
        bed.filter.translate(bed.now.change(None)).await.unwrap();
        bed.lead(&[A, B], &[A, B], None).await;
        bed
    }

    /// Makes the virtual addresses lead to some, with some serving.
    async fn lead(&mut self, targets: &[[&str; 2]], live: &[[&str; 2]], sticky: Option<u32>) {
        let mut next = Translation { own: self.now.own.clone(), ..Translation::default() };
        for (n, address) in VIRTUAL.into_iter().enumerate() {
            let target = |pod: &[&str; 2]| Target { address: ip(pod[n]), port: INNER, share: 1 };
            let targets: Vec<Target> = targets.iter().map(target).collect();
            let total = u32::try_from(targets.len()).unwrap();
            next.fronts.insert(front(ip(address), PORT), Balance { targets, total, sticky });
            next.live.extend(live.iter().map(|pod| front(ip(pod[n]), INNER)));
        }
        self.change(next).await;
    }

    async fn change(&mut self, next: Translation) {
        self.filter.translate(next.change(Some(&self.now))).await.unwrap();
        self.now = next;
    }

    fn id(&self, pod: &str) -> NsId {
        self.lab.id(pod)
    }

    /// Listens in a pod, on both families.
    fn listen(&self, pod: &str, addresses: [&str; 2]) -> [TcpListener; 2] {
        addresses.map(|address| {
            let at = SocketAddr::new(ip(address), INNER);
            let listener = inside(&self.id(pod), move || TcpListener::bind(at)).unwrap();
            listener.set_nonblocking(true).unwrap();
            listener
        })
    }

    /// Connects from a pod to the virtual address.
    fn connect(&self, pod: &str, family: usize) -> io::Result<TcpStream> {
        let to = SocketAddr::new(ip(VIRTUAL[family]), PORT);
        let stream =
            inside(&self.id(pod), move || TcpStream::connect_timeout(&to, Duration::from_secs(2)))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        Ok(stream)
    }
}

fn front(address: IpAddr, port: u16) -> Front {
    Front { address, protocol: Protocol::Tcp, port }
}

/// Takes the connection that has just been made, wherever it went: which server, and from whom.
fn accept(servers: [&TcpListener; 2]) -> (usize, TcpStream, IpAddr) {
    let until = Instant::now() + Duration::from_secs(2);
    loop {
        for (number, server) in servers.into_iter().enumerate() {
            if let Ok((stream, from)) = server.accept() {
                stream.set_nonblocking(false).unwrap();
                stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
                return (number, stream, from.ip());
            }
        }
        assert!(Instant::now() < until, "no server has the connection");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn talks(client: &mut TcpStream, server: &mut TcpStream) -> io::Result<()> {
    let mut byte = [0];
    client.write_all(b"?")?;
    server.read_exact(&mut byte)?;
    server.write_all(b"!")?;
    client.read_exact(&mut byte)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_virtual_address_leads_to_every_endpoint_and_servers_see_the_client() {
    let bed = Bed::new("vip").await;
    let (a, b) = (bed.listen("a", A), bed.listen("b", B));
    for family in 0..2 {
        let mut reached = [0, 0];
        for _ in 0..40 {
            let mut client = bed.connect("c", family).unwrap();
            let (number, mut server, from) = accept([&a[family], &b[family]]);
            assert_eq!(from, ip(CLIENT[family]));
            talks(&mut client, &mut server).unwrap();
            reached[number] += 1;
        }
        // One in 2^39 for one server to get none.
        assert!(reached[0] > 0 && reached[1] > 0, "{reached:?}");
    }
}

/// A service with this `trafficDistribution` whose endpoints are A and B, each on a node, in a zone,
/// ready or not, as a client on node `n0` in zone `z0` sees it.
fn near(distribution: Option<&str>, places: [(&str, &str, bool); 2]) -> Translation {
    let cluster = ClusterName::parse("east").unwrap();
    let endpoint = |(node, zone, ready): (&str, &str, bool), pod: [&str; 2]| Endpoint {
        addresses: pod.map(ip).to_vec(),
        ports: BTreeMap::from([((Protocol::Tcp, String::new()), INNER)]).into(),
        node: Some(node.to_owned()),
        zone: Some(zone.into()),
        ready,
        serving: true,
        ..Endpoint::default()
    };
    let all = vec![endpoint(places[0], A), endpoint(places[1], B)];
    let protocol = Protocol::Tcp;
    let import = Import {
        kind: Kind::ClusterSetIp,
        ports: vec![Port { name: String::new(), protocol, port: PORT, app_protocol: None }],
        affinity: Affinity::None,
        internal_traffic: InternalTraffic::Cluster,
        distribution: distribution.map(str::to_owned),
        families: BTreeSet::from([Family::V4, Family::V6]),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        clusters: BTreeSet::from([cluster.clone()]),
        weights: BTreeMap::new(),
    };
    let (reach, spread) = (BTreeMap::new(), Spread::LocalFirst);
    let here = Here { cluster: &cluster, node: "n0", zone: Some("z0"), reach: &reach, spread };
    let endpoints = BTreeMap::from([(cluster.clone(), all)]);
    Translation::of(&import, &VIRTUAL.map(ip), &endpoints, here)
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_go_to_the_nearest_endpoint_and_on_to_the_next() {
    let mut bed = Bed::new("near").await;
    let (a, b) = (bed.listen("a", A), bed.listen("b", B));
    let (node, zone) = (Some("PreferSameNode"), Some("PreferSameZone"));
    for (distribution, places, wanted) in [
        (node, [("n0", "z0", true), ("n1", "z0", true)], [true, false]),
        (node, [("n0", "z0", false), ("n1", "z0", true)], [false, true]),
        (node, [("n1", "z1", true), ("n2", "z0", true)], [false, true]),
        (zone, [("n1", "z0", true), ("n2", "z1", true)], [true, false]),
        (zone, [("n1", "z1", true), ("n2", "z2", true)], [true, true]),
        (None, [("n0", "z0", true), ("n2", "z1", true)], [true, true]),
    ] {
        bed.change(near(distribution, places)).await;
        for family in 0..2 {
            let mut reached = [false; 2];
            for _ in 0..30 {
                let _client = bed.connect("c", family).unwrap();
                reached[accept([&a[family], &b[family]]).0] = true;
            }
            assert_eq!(reached, wanted, "{distribution:?} {places:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_outlive_changes_until_their_endpoint_serves_no_more() {
    let mut bed = Bed::new("cut").await;
    let (a, b) = (bed.listen("a", A), bed.listen("b", B));
    for family in 0..2 {
        bed.lead(&[A], &[A], None).await;
        let mut client = bed.connect("c", family).unwrap();
        let (_, mut server, _) = accept([&a[family], &b[family]]);
        talks(&mut client, &mut server).unwrap();
        // Another service comes, and this one gets another endpoint; then its own only drains.
        let mut more = bed.now.clone();
        let other = Balance {
            targets: vec![Target { address: ip(B[0]), port: INNER, share: 1 }],
            total: 1,
            sticky: None,
        };
        more.fronts.insert(front(ip("10.20.200.2"), PORT), other);
        bed.change(more).await;
        talks(&mut client, &mut server).unwrap();
        bed.lead(&[A, B], &[A, B], None).await;
        talks(&mut client, &mut server).unwrap();
        bed.lead(&[B], &[A, B], None).await;
        talks(&mut client, &mut server).unwrap();
        // Now it is gone.
        bed.lead(&[B], &[B], None).await;
        let begun = Instant::now();
        client.write_all(b"?").unwrap();
        let error = client.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}");
        assert!(begun.elapsed() < Duration::from_secs(1));
        for _ in 0..10 {
            let mut client = bed.connect("c", family).unwrap();
            let (number, mut server, _) = accept([&a[family], &b[family]]);
            assert_eq!(number, 1);
            talks(&mut client, &mut server).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_endpoints_the_client_is_told_at_once() {
    let mut bed = Bed::new("none").await;
    bed.lead(&[], &[], None).await;
    for family in 0..2 {
        let begun = Instant::now();
        let error = bed.connect("c", family).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "{error}");
        assert!(begun.elapsed() < Duration::from_secs(1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_affinity_a_client_stays_with_its_endpoint_while_the_service_has_it() {
    let mut bed = Bed::new("stay").await;
    let (a, b) = (bed.listen("a", A), bed.listen("b", B));
    for family in 0..2 {
        let reach = |bed: &Bed| {
            let _client = bed.connect("c", family).unwrap();
            accept([&a[family], &b[family]]).0
        };
        bed.lead(&[A], &[A, B], Some(60)).await;
        assert_eq!(reach(&bed), 0);
        // Another endpoint takes none of those who are there.
        bed.lead(&[A, B], &[A, B], Some(60)).await;
        assert!((0..20).all(|_| reach(&bed) == 0));
        // Theirs only drains: they go elsewhere, and do not come back for it.
        bed.lead(&[B], &[A, B], Some(60)).await;
        assert_eq!(reach(&bed), 1);
        bed.lead(&[A, B], &[A, B], Some(60)).await;
        assert!((0..20).all(|_| reach(&bed) == 1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_forgotten_after_the_time_of_its_affinity() {
    let mut bed = Bed::new("forget").await;
    bed.lead(&[A, B], &[A, B], Some(1)).await;
    let (a, b) = (bed.listen("a", A), bed.listen("b", B));
    for (family, map) in ["kept4", "kept6"].into_iter().enumerate() {
        let known = |bed: &Bed| {
            let list =
                move || Command::new("nft").args(["list", "map", "inet", TABLE, map]).output();
            let output = inside(&bed.id("r"), list).unwrap();
            assert!(output.status.success(), "{output:?}");
            String::from_utf8_lossy(&output.stdout).contains(CLIENT[family])
        };
        assert!(!known(&bed));
        let _client = bed.connect("c", family).unwrap();
        accept([&a[family], &b[family]]);
        assert!(known(&bed));
        std::thread::sleep(Duration::from_millis(1500));
        assert!(!known(&bed), "it was silent for longer");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_is_its_own_endpoint_reaches_itself() {
    let mut bed = Bed::new("self").await;
    let mut next = bed.now.clone();
    next.own = [CLIENT, A, B].concat().into_iter().map(ip).collect();
    bed.change(next).await;
    bed.lead(&[B], &[B], None).await;
    let (a, b) = (bed.listen("a", A), bed.listen("b", B));
    for family in 0..2 {
        let mut client = bed.connect("b", family).unwrap();
        let (_, mut server, from) = accept([&a[family], &b[family]]);
        assert_eq!(from, ip(VIRTUAL[family]));
        talks(&mut client, &mut server).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_there_is_replaced_and_ten_thousand_services_take_a_change_quickly() {
    let mut bed = Bed::new("many").await;
    let mut many = bed.now.clone();
    for i in 0..10_000u32 {
        let address = IpAddr::from(std::net::Ipv4Addr::from(0x0a15_0000 + i));
        let target = |n: u32| Target {
            address: IpAddr::from(std::net::Ipv4Addr::from(0x0a16_0000 + i * 10 + n)),
            port: INNER,
            share: 1,
        };
        let targets: Vec<Target> = (0..10).map(target).collect();
        many.live.extend(targets.iter().map(|t| front(t.address, t.port)));
        many.fronts.insert(front(address, PORT), Balance { targets, total: 10, sticky: None });
    }
    let whole = many.change(None);
    let begun = Instant::now();
    bed.filter.translate(whole).await.unwrap();
    let load = begun.elapsed();
    bed.now = many;
    let one = bed.lead_one().await;
    eprintln!("10,000 services of 10 endpoints: {load:?} to load, one change {one:?}");
    let a = bed.listen("a", A);
    let mut client = bed.connect("c", 0).unwrap();
    let (_, mut server, _) = accept([&a[0], &a[1]]);
    talks(&mut client, &mut server).unwrap();
    bed.filter.remove().await.unwrap();
    assert!(bed.connect("c", 0).is_err(), "nothing is left");
    assert!(bed.router.observe().await.is_ok());
}

impl Bed {
    /// One endpoint goes, out of very many.
    async fn lead_one(&mut self) -> Duration {
        let mut next = self.now.clone();
        let front = front(ip(VIRTUAL[0]), PORT);
        next.fronts.get_mut(&front).unwrap().targets.retain(|t| t.address == ip(A[0]));
        next.fronts.get_mut(&front).unwrap().total = 1;
        let delta = next.change(Some(&self.now));
        let begun = Instant::now();
        self.filter.translate(delta).await.unwrap();
        self.now = next;
        begun.elapsed()
    }
}
