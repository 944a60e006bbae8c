use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::name::ClusterName;
use crate::service::balance::{Here, Reach, Spread};
use crate::service::model::{
    Affinity, Endpoint, Import, InternalTraffic, Kind as How, Protocol, ServiceName,
};

fn slice(name: &str) -> SliceName {
    SliceName::parse(name).unwrap()
}

fn port(name: &str, number: u16) -> Port {
    Port { name: name.into(), protocol: Protocol::Tcp, port: number, app_protocol: None }
}

fn with_address(exported: bool, addresses: &[&str]) -> Service {
    Service {
        exported,
        kind: How::ClusterSetIp,
        addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
        ports: vec![port("http", 80), port("", 81)],
        hosts: vec![],
    }
}

fn endpoint(name: Option<&str>, address: &str, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.parse().unwrap()],
        ports: BTreeMap::from([((Protocol::Tcp, "db".to_owned()), 5433)]).into(),
        hostname: name.map(str::to_owned),
        ready,
        ..Endpoint::default()
    }
}

/// A database with `db-0` in both clusters, and one pod without a name of its own in `west`; `north`
/// cannot be reached.
fn headless() -> Service {
    weighing(BTreeMap::new())
}

/// The same with what exports say of weights.
fn weighing(weights: BTreeMap<ClusterName, u16>) -> Service {
    let cluster = |name: &str| ClusterName::parse(name).unwrap();
    let import = Import {
        kind: How::Headless,
        ports: vec![port("db", 5432)],
        affinity: Affinity::None,
        internal_traffic: InternalTraffic::Cluster,
        distribution: None,
        families: [crate::prefix::Family::V4].into(),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        clusters: ["east", "north", "west"].map(cluster).into(),
        weights,
    };
    let endpoints = BTreeMap::from([
        (
            cluster("east"),
            vec![
                endpoint(Some("db-0"), "10.77.0.5", true),
                endpoint(Some("db-1"), "10.77.0.6", false),
            ],
        ),
        (cluster("north"), vec![endpoint(Some("db-0"), "10.77.32.5", true)]),
        (
            cluster("west"),
            vec![endpoint(Some("db-0"), "10.77.16.5", true), endpoint(None, "10.77.16.6", true)],
        ),
    ]);
    let reach = BTreeMap::from([(cluster("north"), Reach { up: false, ..Reach::default() })]);
    let (cluster, spread) = (&cluster("west"), Spread::LocalFirst);
    let here = Here { cluster, node: "n1", zone: None, reach: &reach, spread };
    Service::of(&import, true, &[], &endpoints, here)
}

/// Two slices: `blue` has all of it, `red` has another `web`.
fn view() -> View {
    let mut view = View::default();
    view.set_servers(vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()]);
    view.set_slice(
        &slice("blue"),
        &["10.77.0.0/16".parse().unwrap(), "fd77::/48".parse().unwrap()],
    );
    view.set_slice(&slice("red"), &["10.78.0.0/20".parse().unwrap()]);
    let set = |view: &mut View, of: &str, name: &str, service| {
        view.set(&slice(of), &ServiceName::new("shop", name), Some(service));
    };
    set(&mut view, "blue", "web", with_address(true, &["10.77.240.9", "fd77::9"]));
    set(&mut view, "red", "web", with_address(true, &["10.78.8.9"]));
    set(&mut view, "blue", "own", with_address(false, &["10.77.240.10"]));
    set(&mut view, "blue", "db", headless());
    let none_ready = Service { hosts: vec![], ..headless() };
    set(&mut view, "blue", "cold", none_ready);
    view
}

fn ask(view: &View, name: &str, kind: Kind, asker: Asker<'_>) -> Answer {
    let labels: Vec<&str> = name.split('.').collect();
    answer(view, &Question { labels: &labels, kind }, asker)
}

/// The answer in short: its records, or how it ended.
fn told(name: &str, kind: Kind) -> String {
    short(&ask(&view(), name, kind, Asker::default()))
}

fn short(answer: &Answer) -> String {
    let text = |record: &Record| match &record.data {
        Data::A(a) => a.to_string(),
        Data::Aaaa(a) => a.to_string(),
        Data::Srv { priority, weight, port, target } => {
            format!("{priority} {weight} {port} {target}")
        }
        Data::Ptr(name) | Data::Ns(name) | Data::Txt(name) => name.clone(),
        Data::Soa { zone, .. } => format!("SOA {zone}"),
    };
    let records: Vec<String> = answer.records.iter().map(text).collect();
    match (answer.code, &answer.authority) {
        (Code::NoError, None) => records.join(", "),
        (Code::NoError, Some(soa)) => format!("no data in {}", text(soa)),
        (Code::NxDomain, Some(soa)) => format!("nothing in {}", text(soa)),
        (code, _) => format!("{code:?}"),
    }
}

const CLUSTER_SET: &str = "SOA clusterset.local";
const SLICE: &str = "SOA slice.local";

#[test]
fn a_service_has_its_addresses_in_every_slice_of_the_asker() {
    assert_eq!(told("web.shop.svc.clusterset.local", Kind::A), "10.77.240.9, 10.78.8.9");
    assert_eq!(told("web.shop.svc.slice.local", Kind::A), "10.77.240.9, 10.78.8.9");
    assert_eq!(told("web.shop.svc.blue.slice.local", Kind::A), "10.77.240.9");
    assert_eq!(told("web.shop.svc.red.slice.local", Kind::A), "10.78.8.9");
    assert_eq!(told("web.shop.svc.clusterset.local", Kind::Aaaa), "fd77::9");
    let red = BTreeSet::from([slice("red")]);
    let asker = Asker { slices: Some(&red), turn: 0 };
    let ask = |name| short(&ask(&view(), name, Kind::A, asker));
    assert_eq!(ask("web.shop.svc.clusterset.local"), "10.78.8.9");
    assert_eq!(ask("web.shop.svc.red.slice.local"), "10.78.8.9");
    assert_eq!(ask("web.shop.svc.blue.slice.local"), format!("nothing in {SLICE}"));
    assert_eq!(ask("own.shop.svc.slice.local"), format!("nothing in {SLICE}"));
}

#[test]
fn who_is_in_no_slice_gets_no_address() {
    let none = BTreeSet::new();
    let asker = Asker { slices: Some(&none), turn: 0 };
    for name in
        ["web.shop.svc.clusterset.local", "db.shop.svc.slice.local", "9.240.77.10.in-addr.arpa"]
    {
        let got = ask(&view(), name, Kind::Any, asker);
        assert_eq!((got.code, got.records.len()), (Code::NxDomain, 0), "{name}");
    }
}

#[test]
fn a_service_that_is_only_exposed_has_no_name_in_the_cluster_set() {
    assert_eq!(told("own.shop.svc.clusterset.local", Kind::A), format!("nothing in {CLUSTER_SET}"));
    assert_eq!(told("own.shop.svc.slice.local", Kind::A), "10.77.240.10");
    assert_eq!(told("10.240.77.10.in-addr.arpa", Kind::Ptr), "own.shop.svc.blue.slice.local");
}

#[test]
fn no_such_name_is_not_no_such_type() {
    let no_data = [
        "clusterset.local",
        "svc.clusterset.local",
        "shop.svc.clusterset.local",
        "_tcp.web.shop.svc.clusterset.local",
        "_http._tcp.web.shop.svc.clusterset.local",
        "east.db.shop.svc.clusterset.local",
        "dns.clusterset.local",
    ];
    for name in no_data {
        assert_eq!(told(name, Kind::A), format!("no data in {CLUSTER_SET}"), "{name}");
    }
    let nothing = [
        "x.clusterset.local",
        "kitchen.svc.clusterset.local",
        "nix.shop.svc.clusterset.local",
        "_udp.web.shop.svc.clusterset.local",
        "_ftp._tcp.web.shop.svc.clusterset.local",
        "._tcp.web.shop.svc.clusterset.local",
        "east.web.shop.svc.clusterset.local",
        "north.db.shop.svc.clusterset.local",
        "db-1.east.db.shop.svc.clusterset.local",
        "db-0.db.shop.svc.clusterset.local",
        "a.db-0.east.db.shop.svc.clusterset.local",
        "cold.shop.svc.clusterset.local",
        "_db._tcp.cold.shop.svc.clusterset.local",
    ];
    for name in nothing {
        assert_eq!(told(name, Kind::A), format!("nothing in {CLUSTER_SET}"), "{name}");
    }
    for name in ["blue.slice.local", "svc.blue.slice.local", "shop.svc.blue.slice.local"] {
        assert_eq!(told(name, Kind::A), format!("no data in {SLICE}"), "{name}");
    }
    for name in
        ["green.slice.local", "web.shop.svc.green.slice.local", "shop.svc.green.slice.local"]
    {
        assert_eq!(told(name, Kind::A), format!("nothing in {SLICE}"), "{name}");
    }
    assert_eq!(told("web.shop.svc.cluster.local", Kind::A), "Refused");
    assert_eq!(told("example.org", Kind::Any), "Refused");
}

#[test]
fn pods_of_headless_services_have_names() {
    let cases = [
        ("db.shop.svc.clusterset.local", "10.77.16.6, 10.77.16.5, 10.77.0.5"),
        ("db-0.east.db.shop.svc.clusterset.local", "10.77.0.5"),
        ("db-0.west.db.shop.svc.slice.local", "10.77.16.5"),
        ("10-77-16-6.west.db.shop.svc.blue.slice.local", "10.77.16.6"),
        ("west.db.shop.svc.slice.local", "10.77.16.6, 10.77.16.5"),
        ("db-0.db.shop.svc.slice.local", "10.77.16.5, 10.77.0.5"),
    ];
    for (name, addresses) in cases {
        assert_eq!(told(name, Kind::A), addresses, "{name}");
    }
    let none = format!("no data in {CLUSTER_SET}");
    assert_eq!(told("db.shop.svc.clusterset.local", Kind::Aaaa), none);
}

#[test]
fn servers_of_ports() {
    assert_eq!(
        told("_http._tcp.web.shop.svc.clusterset.local", Kind::Srv),
        "0 100 80 web.shop.svc.clusterset.local"
    );
    let got = ask(&view(), "_db._tcp.db.shop.svc.blue.slice.local", Kind::Srv, Asker::default());
    assert_eq!(
        short(&got),
        "0 100 5433 10-77-16-6.west.db.shop.svc.blue.slice.local, \
         0 100 5433 db-0.west.db.shop.svc.blue.slice.local, \
         1 100 5433 db-0.east.db.shop.svc.blue.slice.local"
    );
    let extra: Vec<_> = got.additional.iter().map(|r| (r.name.as_deref(), &r.data)).collect();
    let last = Data::A([10, 77, 0, 5].into());
    assert_eq!(extra[2], (Some("db-0.east.db.shop.svc.blue.slice.local"), &last));
}

#[test]
fn the_zones_own_records() {
    assert_eq!(told("clusterset.local", Kind::Soa), CLUSTER_SET);
    assert_eq!(told("slice.local", Kind::Ns), "ns.dns.slice.local");
    assert_eq!(told("ns.dns.slice.local", Kind::A), "192.0.2.1");
    assert_eq!(told("ns.dns.slice.local", Kind::Aaaa), "2001:db8::1");
    assert_eq!(told("dns-version.clusterset.local", Kind::Txt), "1.0.0");
    assert_eq!(told("clusterset.local", Kind::Any), CLUSTER_SET);
    assert_eq!(told("web.shop.svc.clusterset.local", Kind::Any), "10.77.240.9, 10.78.8.9");
}

#[test]
fn addresses_have_one_name() {
    let cases = [
        ("9.240.77.10.in-addr.arpa", "web.shop.svc.clusterset.local"),
        ("5.0.77.10.in-addr.arpa", "db-0.east.db.shop.svc.clusterset.local"),
        ("8.240.77.10.in-addr.arpa", "nothing in SOA 77.10.in-addr.arpa"),
        ("x.240.77.10.in-addr.arpa", "nothing in SOA 77.10.in-addr.arpa"),
        ("1.9.240.77.10.in-addr.arpa", "nothing in SOA 77.10.in-addr.arpa"),
        ("240.77.10.in-addr.arpa", "no data in SOA 77.10.in-addr.arpa"),
        ("77.10.in-addr.arpa", "no data in SOA 77.10.in-addr.arpa"),
        ("9.8.78.10.in-addr.arpa", "web.shop.svc.clusterset.local"),
        ("8.78.10.in-addr.arpa", "no data in SOA 8.78.10.in-addr.arpa"),
        ("10.in-addr.arpa", "Refused"),
        ("78.10.in-addr.arpa", "Refused"),
        ("1.1.1.1.in-addr.arpa", "Refused"),
    ];
    for (name, wanted) in cases {
        assert_eq!(told(name, Kind::Ptr), wanted, "{name}");
    }
    let v6 = reverse::name("fd77::9".parse().unwrap());
    assert_eq!(told(&v6, Kind::Ptr), "web.shop.svc.clusterset.local");
    assert_eq!(told("77.10.in-addr.arpa", Kind::Soa), "SOA 77.10.in-addr.arpa");
    assert_eq!(told("9.240.77.10.in-addr.arpa", Kind::A), "no data in SOA 77.10.in-addr.arpa");
}

#[test]
fn an_address_of_several_slices_has_a_name_in_each() {
    let mut view = View::default();
    let address = "10.77.240.9";
    let services = [("blue", "web", true), ("blue", "zoo", true), ("green", "web", true)];
    for (of, name, exported) in services.into_iter().chain([("red", "own", false)]) {
        let prefix = if of == "red" { "10.77.240.0/20" } else { "10.77.0.0/16" };
        view.set_slice(&slice(of), &[prefix.parse().unwrap()]);
        let name = ServiceName::new("shop", name);
        view.set(&slice(of), &name, Some(with_address(exported, &[address])));
    }
    let named = |slices: Option<&BTreeSet<SliceName>>, kind| {
        let asker = Asker { slices, turn: 0 };
        let got = ask(&view, &reverse::name(address.parse().unwrap()), kind, asker);
        let names = got.records.into_iter().map(|record| match record.data {
            Data::Ptr(name) => name,
            other => panic!("{other:?}"),
        });
        names.collect::<Vec<_>>()
    };
    // Blue's and green's are one name: the standard has no slices.
    let both = ["web.shop.svc.clusterset.local", "own.shop.svc.red.slice.local"];
    assert_eq!(named(None, Kind::Ptr), both);
    assert_eq!(named(None, Kind::Any), both);
    assert_eq!(named(Some(&[slice("red")].into()), Kind::Ptr), both[1..]);
    assert_eq!(named(None, Kind::A), [""; 0]);
    // Nothing is known of this one, and the narrower zone says so.
    let got = ask(&view, "8.240.77.10.in-addr.arpa", Kind::Ptr, Asker::default());
    assert_eq!(short(&got), "nothing in SOA 240.77.10.in-addr.arpa");
}

#[test]
fn an_exports_weight_is_in_srv_records_and_with_0_its_pods_have_no_names() {
    let servers = |weights: &[(&str, u16)]| {
        let weights = weights.iter().map(|(c, weight)| (ClusterName::parse(c).unwrap(), *weight));
        let mut view = view();
        let name = ServiceName::new("shop", "db");
        view.set(&slice("blue"), &name, Some(weighing(weights.collect())));
        let name = "_db._tcp.db.shop.svc.clusterset.local";
        let records = ask(&view, name, Kind::Srv, Asker::default()).records;
        let weight = |record: Record| match record.data {
            Data::Srv { weight, target, .. } => {
                (weight, target.split('.').nth(1)?.to_owned()).into()
            }
            _ => None,
        };
        records.into_iter().filter_map(weight).collect::<std::collections::BTreeSet<_>>()
    };
    let told = |all: &[(u16, &str)]| all.iter().map(|(w, c)| (*w, (*c).to_owned())).collect();
    assert_eq!(servers(&[]), told(&[(100, "east"), (100, "west")]));
    assert_eq!(servers(&[("east", 30), ("north", 9)]), told(&[(30, "east"), (100, "west")]));
    assert_eq!(servers(&[("west", 0)]), told(&[(100, "east")]));
}

#[test]
fn the_first_address_is_turned_by_weight_and_the_own_cluster_stays_in_front() {
    let mut service = headless();
    service.hosts.iter_mut().filter(|h| h.name == "db-0").for_each(|h| h.weight = 300);
    let mut view = view();
    view.set(&slice("blue"), &ServiceName::new("shop", "db"), Some(service));
    let mut first = BTreeMap::new();
    for turn in 0..4000 {
        let asker = Asker { slices: None, turn };
        let got = ask(&view, "db.shop.svc.clusterset.local", Kind::A, asker);
        assert_eq!(got.records.len(), 3);
        assert_eq!(got.records[2].data, Data::A([10, 77, 0, 5].into()));
        *first.entry(short(&got)).or_insert(0) += 1;
    }
    let counts: Vec<i32> = first.into_values().collect();
    assert_eq!(counts.len(), 2);
    assert!((counts[0] - 3000).abs() < 20 && (counts[1] - 1000).abs() < 20, "{counts:?}");
}

#[test]
fn a_removed_service_or_slice_leaves_no_name_behind() {
    let mut view = view();
    let serial = view.serial();
    view.set(&slice("blue"), &ServiceName::new("shop", "web"), None);
    let ask = |view: &View, name| short(&ask(view, name, Kind::Any, Asker::default()));
    assert_eq!(ask(&view, "web.shop.svc.clusterset.local"), "10.78.8.9");
    assert_eq!(ask(&view, "9.240.77.10.in-addr.arpa"), "nothing in SOA 77.10.in-addr.arpa");
    assert!(view.serial() > serial);
    view.remove_slice(&slice("red"));
    view.remove_slice(&slice("blue"));
    assert_eq!(ask(&view, "shop.svc.clusterset.local"), format!("nothing in {CLUSTER_SET}"));
    assert_eq!(ask(&view, "5.0.77.10.in-addr.arpa"), "Refused");
    assert_eq!(ask(&view, "9.8.78.10.in-addr.arpa"), "Refused");
}

#[test]
fn of_very_many_pods_a_part_is_told_and_turned() {
    let mut service = headless();
    let one = service.hosts[0].clone();
    service.hosts = (0..3000u16)
        .map(|i| Host {
            name: format!("p{i}"),
            addresses: vec![IpAddr::from([10, 77, i.to_be_bytes()[0], i.to_be_bytes()[1]])],
            ..one.clone()
        })
        .collect();
    let mut view = view();
    view.set(&slice("blue"), &ServiceName::new("shop", "db"), Some(service));
    let of = |turn| ask(&view, "db.shop.svc.slice.local", Kind::A, Asker { slices: None, turn });
    assert_eq!(of(0).records.len(), MAX_ADDRESSES);
    assert_ne!(of(0).records[0], of(1).records[0]);
    let servers = ask(&view, "_db._tcp.db.shop.svc.slice.local", Kind::Srv, Asker::default());
    assert_eq!(servers.records.len(), MAX_SERVERS);
}

proptest! {
    /// Whatever is asked: records are of the type asked for, there is an SOA exactly where there
    /// are none, and nothing exists below a name that does not.
    #[test]
    fn answers_are_sound(
        labels in prop::collection::vec(prop_oneof![
            "[a-z_0-9-]{0,4}", "web|own|db|cold|shop|svc|blue|red|east|west|db-0|_http|_db|_tcp|10|77|240|9",
        ], 0..6),
        end in prop_oneof![
            Just(vec!["svc", "clusterset", "local"]), Just(vec!["slice", "local"]),
            Just(vec!["svc", "blue", "slice", "local"]), Just(vec!["77", "10", "in-addr", "arpa"]),
            Just(vec![]),
        ],
    ) {
        let view = view();
        let mut name: Vec<&str> = labels.iter().map(String::as_str).collect();
        name.extend(end);
        for kind in [Kind::A, Kind::Aaaa, Kind::Srv, Kind::Ptr, Kind::Txt, Kind::Soa, Kind::Ns, Kind::Any, Kind::Other] {
            let got = answer(&view, &Question { labels: &name, kind }, Asker::default());
            let right = |r: &Record| match r.data {
                Data::A(_) => kind == Kind::A,
                Data::Aaaa(_) => kind == Kind::Aaaa,
                Data::Srv { .. } => kind == Kind::Srv,
                Data::Ptr(_) => kind == Kind::Ptr,
                Data::Txt(_) => kind == Kind::Txt,
                Data::Soa { .. } => kind == Kind::Soa,
                Data::Ns(_) => kind == Kind::Ns,
            };
            prop_assert!(kind == Kind::Any || got.records.iter().all(right));
            prop_assert_eq!(got.authority.is_some(), got.records.is_empty() && got.code != Code::Refused);
            if got.code == Code::NxDomain {
                let mut below = vec!["x"];
                below.extend(&name);
                let deeper = answer(&view, &Question { labels: &below, kind: Kind::Any }, Asker::default());
                prop_assert!(deeper.records.is_empty());
            }
        }
    }
}
