//! Questions to the DNS server of a node.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use hickory_proto::op::{Message, Metadata, ResponseCode};
use hickory_proto::rr::RecordType;
use slicewire_core::dns::{Asker, Host, Service, View};
use slicewire_core::name::SliceName;
use slicewire_core::service::model::{Kind, Port, Protocol, ServiceName};
use slicewire_dns::{Outcome, Transport, respond};

/// Most bytes of any answer in a datagram.
const DATAGRAM: usize = 1232;
/// Labels that a made-up question is put together of, besides those of the input.
const LABELS: [&str; 22] = [
    "web",
    "many",
    "db",
    "db-0",
    "shop",
    "svc",
    "blue",
    "red",
    "slice",
    "clusterset",
    "local",
    "east",
    "west",
    "_http",
    "_tcp",
    "dns",
    "ns",
    "dns-version",
    "in-addr",
    "ip6",
    "arpa",
    "77",
];

thread_local! {
    /// What the node knows: nothing of it changes.
    static VIEW: View = view();
}

fn view() -> View {
    let mut view = View::default();
    view.set_servers(vec![
        IpAddr::from([192, 0, 2, 1]),
        "2001:db8::1".parse().expect("an address"),
    ]);
    for (slice, net) in [("blue", 77), ("red", 78)] {
        let name = slice_name(slice);
        let prefix = |text: String| text.parse().expect("a prefix");
        let prefixes = [prefix(format!("10.{net}.0.0/16")), prefix(format!("fd{net}::/48"))];
        view.set_slice(&name, &prefixes);
        for (service, addresses) in [("web", 1), ("many", 200)] {
            let address = |i: u8| IpAddr::from([10, net, 240, i]);
            let addresses = (0..addresses).map(address).collect();
            let service_name = ServiceName::new("shop", service);
            view.set(&name, &service_name, Some(named(Kind::ClusterSetIp, addresses, vec![])));
        }
        let hosts = (0..40).map(|i| host(net, i)).collect();
        let service = named(Kind::Headless, vec![], hosts);
        view.set(&name, &ServiceName::new("shop", "db"), Some(service));
    }
    view
}

fn slice_name(name: &str) -> SliceName {
    SliceName::parse(name).expect("a name")
}

fn named(kind: Kind, addresses: Vec<IpAddr>, hosts: Vec<Host>) -> Service {
    let (name, protocol) = ("http".to_owned(), Protocol::Tcp);
    let ports = vec![Port { name, protocol, port: 80, app_protocol: None }];
    Service { exported: true, kind, addresses, ports, hosts }
}

fn host(net: u8, number: u8) -> Host {
    let near = number % 2 == 0;
    Host {
        cluster: if near { "east" } else { "west" }.to_owned(),
        name: format!("db-{}", number / 2),
        addresses: vec![
            [10, net, 1, number].into(),
            [0xfd77, 0, 0, 0, 0, 0, 0, u16::from(number)].into(),
        ],
        ports: BTreeMap::from([((Protocol::Tcp, "http".to_owned()), 8080)]).into(),
        near,
        weight: 1 + u16::from(number),
    }
}

/// Messages to a DNS server. The first byte says how the message comes and what the server knows;
/// and whether the rest is it, or tells which question to make.
pub fn dns(data: &[u8]) {
    let [how, rest @ ..] = data else { return };
    let transport = if how & 1 == 0 { Transport::Udp } else { Transport::Tcp };
    let message = if how & 2 == 0 { rest.to_vec() } else { question(rest) };
    let slices = BTreeSet::from([slice_name("blue")]);
    let asker = Asker { slices: (how & 4 != 0).then_some(&slices), turn: u64::from(*how) << 7 };
    VIEW.with(|view| {
        let view = (how & 24 != 24).then_some(view);
        let mut out = b"what was here before".to_vec();
        let outcome = respond(view, asker, transport, &message, &mut out);
        check(view.is_some(), transport, &message, outcome, &out);
        // Servers that answer answers talk to each other for ever.
        let mut again = Vec::new();
        let answer = respond(view, asker, transport, &out, &mut again);
        assert!(again.is_empty() && matches!(answer, Outcome::Short | Outcome::NotQuestion));
    });
}

/// A well-formed question: type, EDNS and payload, then labels by number or as they are.
fn question(data: &[u8]) -> Vec<u8> {
    let [kind, payload, labels @ ..] = data else { return vec![] };
    let edns = payload & 1 == 1;
    let mut message = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(edns)];
    let mut rest = labels;
    while let Some((first, after)) = rest.split_first() {
        let number = usize::from(*first);
        let label = match LABELS.get(number) {
            Some(label) => label.as_bytes(),
            None => after.get(..number % 64).unwrap_or_default(),
        };
        rest = if number < LABELS.len() {
            after
        } else {
            after.get(label.len()..).unwrap_or_default()
        };
        if !label.is_empty() {
            message.push(u8::try_from(label.len()).expect("a label is short"));
            message.extend(label);
        }
    }
    message.extend([0, 0, *kind, 0, 1]);
    if edns {
        message.extend([0, 0, 41, *payload, 0, 0, payload >> 7, 0, 0, 0, 0]);
    }
    message
}

fn check(known: bool, transport: Transport, message: &[u8], outcome: Outcome, out: &[u8]) {
    if matches!(outcome, Outcome::Short | Outcome::NotQuestion) {
        return assert!(out.is_empty());
    }
    assert_eq!(out.get(..2), message.get(..2), "the question's number");
    let answer = Message::from_vec(out).expect("an answer can be read");
    let Metadata { response_code: code, truncation, .. } = answer.metadata;
    assert_eq!(truncation, outcome == Outcome::Truncated);
    if transport == Transport::Udp {
        assert!(out.len() <= DATAGRAM && (answer.edns.is_some() || out.len() <= 512));
    } else {
        assert!(!truncation);
    }
    let soa = answer.authorities.iter().any(|r| r.record_type() == RecordType::SOA);
    match outcome {
        Outcome::Answered => {
            assert!(known && code == ResponseCode::NoError && !answer.answers.is_empty())
        }
        Outcome::NoData => assert!(known && code == ResponseCode::NoError && soa),
        Outcome::NoName => assert!(known && code == ResponseCode::NXDomain && soa),
        Outcome::Refused => assert_eq!(code, ResponseCode::Refused),
        Outcome::NotReady => assert!(!known && code == ResponseCode::ServFail),
        Outcome::Malformed => {
            assert!(matches!(code, ResponseCode::FormErr | ResponseCode::ServFail));
        }
        Outcome::NotImplemented => assert_eq!(code, ResponseCode::NotImp),
        // 16 is BADVERS and, elsewhere, BADSIG.
        Outcome::BadVersion => assert_eq!(u16::from(code), 16),
        Outcome::Truncated | Outcome::Short | Outcome::NotQuestion => {}
    }
    if let (Ok(asked), Some(echo)) = (Message::from_vec(message), answer.queries.first()) {
        let asked = &asked.queries[0];
        assert!(asked.name().eq_case(echo.name()), "the question's case");
        assert_eq!(
            (asked.query_type(), asked.query_class()),
            (echo.query_type(), echo.query_class())
        );
        for record in &answer.answers {
            assert!(record.name.eq_case(asked.name()), "answers are about the question");
        }
    }
}
