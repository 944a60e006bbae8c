use std::collections::BTreeMap;
use std::iter;
use std::net::IpAddr;

use hickory_proto::op::Message;
use hickory_proto::rr::RData;
use hickory_proto::rr::rdata::A;
use proptest::prelude::*;
use slicewire_core::dns::{Host, NEGATIVE_TTL, Service};
use slicewire_core::name::SliceName;
use slicewire_core::service::model::{Kind as How, Port, Protocol, ServiceName};

use super::*;

fn service(addresses: u32) -> Service {
    Service {
        exported: true,
        kind: How::ClusterSetIp,
        addresses: (0..addresses).map(|i| IpAddr::from((0x0a4d_0000 + i).to_be_bytes())).collect(),
        ports: vec![Port {
            name: "http".into(),
            protocol: Protocol::Tcp,
            port: 80,
            app_protocol: None,
        }],
        hosts: vec![],
    }
}

fn view() -> View {
    let mut view = View::default();
    let blue = SliceName::parse("blue").unwrap();
    view.set_slice(&blue, &["10.77.0.0/16".parse().unwrap()]);
    view.set(&blue, &ServiceName::new("shop", "web"), Some(service(1)));
    view.set(&blue, &ServiceName::new("shop", "many"), Some(service(200)));
    view
}

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(0x1234, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn with_edns(mut message: Message, payload: u16, version: u8) -> Message {
    let mut edns = Edns::new();
    edns.set_max_payload(payload).set_version(version).set_dnssec_ok(true);
    message.set_edns(edns);
    message
}

fn bytes(message: &[u8], transport: Transport) -> (Outcome, Vec<u8>) {
    let mut out = vec![1, 2, 3];
    let outcome = respond(Some(&view()), Asker::default(), transport, message, &mut out);
    (outcome, out)
}

fn ask(message: &Message, transport: Transport) -> (Outcome, Message) {
    let (outcome, out) = bytes(&message.to_vec().unwrap(), transport);
    (outcome, Message::from_vec(&out).unwrap())
}

#[test]
fn an_answer_has_the_questions_id_and_case_and_says_who_it_is_from() {
    let name = "wEb.ShOp.SVC.clusterset.LOCAL.";
    let (outcome, got) = ask(&query(name, RecordType::A), Transport::Udp);
    assert_eq!(outcome, Outcome::Answered);
    assert_eq!(got.metadata.id, 0x1234);
    assert!(got.metadata.authoritative && got.metadata.recursion_desired);
    assert!(!got.metadata.recursion_available && !got.metadata.truncation);
    assert_eq!(got.queries[0].name().to_ascii(), name);
    assert_eq!(got.answers[0].name.to_ascii(), name);
    assert_eq!(got.answers[0].data, RData::A(A::new(10, 77, 0, 0)));
    assert_eq!(got.edns, None);
}

#[test]
fn nothing_and_no_data_come_with_the_zones_soa() {
    let cases = [
        (
            "web.shop.svc.clusterset.local.",
            RecordType::AAAA,
            Outcome::NoData,
            ResponseCode::NoError,
        ),
        ("web.shop.svc.clusterset.local.", RecordType::MX, Outcome::NoData, ResponseCode::NoError),
        ("nix.shop.svc.clusterset.local.", RecordType::A, Outcome::NoName, ResponseCode::NXDomain),
    ];
    for (name, kind, wanted, code) in cases {
        let (outcome, got) = ask(&query(name, kind), Transport::Udp);
        assert_eq!((outcome, got.metadata.response_code), (wanted, code), "{name}");
        let soa = &got.authorities[0];
        assert_eq!(soa.name.to_ascii(), "clusterset.local.");
        let RData::SOA(data) = &soa.data else { panic!("{soa}") };
        assert_eq!((soa.ttl, data.minimum), (NEGATIVE_TTL, NEGATIVE_TTL));
    }
    let (outcome, got) = ask(&query("example.org.", RecordType::A), Transport::Udp);
    assert_eq!((outcome, got.metadata.response_code), (Outcome::Refused, ResponseCode::Refused));
    assert!(!got.metadata.authoritative);
}

#[test]
fn labels_of_any_bytes_are_names_that_are_not_there() {
    for odd in [&b"web.shop"[..], b"\0", b"w\xc3\xa9b", b"\xff\xfe"] {
        let name = Name::from_labels([odd, b"svc", b"clusterset", b"local"]).unwrap();
        let mut message = query("local.", RecordType::A);
        message.queries = vec![Query::query(name, RecordType::A)];
        let (outcome, got) = ask(&message, Transport::Udp);
        assert_eq!((outcome, &got.queries), (Outcome::NoName, &message.queries));
    }
}

#[test]
fn what_does_not_fit_is_truncated_and_comes_whole_over_tcp() {
    let many = query("many.shop.svc.clusterset.local.", RecordType::A);
    for (message, room) in [
        (many.clone(), 512),
        (with_edns(many.clone(), 100, 0), 512),
        (with_edns(many.clone(), 4096, 0), 1232),
    ] {
        let (outcome, out) = bytes(&message.to_vec().unwrap(), Transport::Udp);
        let got = Message::from_vec(&out).unwrap();
        assert_eq!(outcome, Outcome::Truncated);
        assert!(got.metadata.truncation && out.len() <= room);
        assert_eq!(got.queries, message.queries);
        assert_eq!(got.edns.is_some(), message.edns.is_some());
    }
    let (outcome, got) = ask(&many, Transport::Tcp);
    assert_eq!((outcome, got.answers.len()), (Outcome::Answered, 200));
    let few = query("web.shop.svc.clusterset.local.", RecordType::A);
    assert_eq!(ask(&few, Transport::Udp).0, Outcome::Answered);
}

/// `db` with pods `db-0` and up, each with an address of both families.
fn headless(pods: u16) -> Service {
    let host = |i: u16| Host {
        cluster: "east".into(),
        name: format!("db-{i}"),
        addresses: vec![
            IpAddr::from([10, 77, i.to_be_bytes()[0], i.to_be_bytes()[1]]),
            IpAddr::from([0xfd77, 0, 0, 0, 0, 0, 0, i]),
        ],
        ports: [((Protocol::Tcp, "http".to_owned()), 8080)]
            .into_iter()
            .collect::<BTreeMap<_, _>>()
            .into(),
        near: true,
        weight: 1,
    };
    Service { kind: How::Headless, hosts: (0..pods).map(host).collect(), ..service(0) }
}

#[test]
fn servers_come_with_their_addresses() {
    let blue = SliceName::parse("blue").unwrap();
    let message = query("_http._tcp.DB.shop.svc.slice.local.", RecordType::SRV).to_vec().unwrap();
    for pods in [1, 3, 250] {
        let mut view = view();
        view.set(&blue, &ServiceName::new("shop", "db"), Some(headless(pods)));
        let mut out = Vec::new();
        let outcome = respond(Some(&view), Asker::default(), Transport::Tcp, &message, &mut out);
        let got = Message::from_vec(&out).unwrap();
        assert_eq!((outcome, got.answers.len()), (Outcome::Answered, usize::from(pods)));
        let targets: Vec<Name> = got
            .answers
            .iter()
            .map(|r| match &r.data {
                RData::SRV(srv) => srv.target.clone(),
                other => panic!("{other}"),
            })
            .collect();
        assert!(targets.iter().all(|t| t.to_ascii().ends_with(".east.db.shop.svc.slice.local.")));
        let of_targets = targets.iter().flat_map(|target| [target, target]);
        assert!(got.additionals.iter().map(|r| &r.name).eq(of_targets), "{:?}", got.additionals);
        // A name is written once: its two addresses point to it.
        let server = 12 + 6 + targets[0].len() + 12 + 4 + 12 + 16;
        assert!(out.len() < 60 + usize::from(pods) * (server + 3), "{} bytes", out.len());
    }
}

#[test]
fn names_that_end_as_the_question_point_to_it() {
    let size =
        |name: &str, kind| bytes(&query(name, kind).to_vec().unwrap(), Transport::Udp).1.len();
    let asked = |name: &str| 12 + name.len() + 1 + 4;
    let name = "web.shop.svc.clusterset.local.";
    assert_eq!(size(name, RecordType::A), asked(name) + 12 + 4);
    // An SOA: its owner, and `hostmaster.` of it; the server's name has only its last label there.
    let server = "ns.dns.slice.".len() + 2;
    assert_eq!(size(name, RecordType::AAAA), asked(name) + 12 + server + 13 + 20);
    let reverse = "0.0.77.10.in-addr.arpa.";
    let pointed = "many.shop.svc.clusterset.local.".len() + 1;
    assert_eq!(size(reverse, RecordType::PTR), asked(reverse) + 12 + pointed);
}

#[test]
fn edns_is_answered_with_edns() {
    let plain = query("web.shop.svc.clusterset.local.", RecordType::A);
    let (_, got) = ask(&with_edns(plain.clone(), 1400, 0), Transport::Udp);
    let edns = got.edns.unwrap();
    assert_eq!((edns.version(), edns.max_payload(), edns.flags().dnssec_ok), (0, 1232, true));
    let (outcome, got) = ask(&with_edns(plain, 1400, 1), Transport::Udp);
    // 16 is a signature's error, too, and read as that.
    assert_eq!((outcome, u16::from(got.metadata.response_code)), (Outcome::BadVersion, 16));
    assert_eq!(got.answers.len(), 0);
}

#[test]
fn what_is_no_query_of_one_question_is_answered_as_the_rfcs_ask() {
    let good = query("web.shop.svc.clusterset.local.", RecordType::A).to_vec().unwrap();
    let changed = |at: usize, byte: u8| {
        let mut message = good.clone();
        message[at] = byte;
        message
    };
    let cases = [
        (changed(2, 0x81), Outcome::NotQuestion, None),
        (changed(2, 0x29), Outcome::NotImplemented, Some(ResponseCode::NotImp)),
        (changed(5, 0), Outcome::Malformed, Some(ResponseCode::FormErr)),
        (changed(5, 2), Outcome::Malformed, Some(ResponseCode::FormErr)),
        (changed(7, 1), Outcome::Malformed, Some(ResponseCode::FormErr)),
        (changed(11, 1), Outcome::Malformed, Some(ResponseCode::FormErr)),
        (changed(10, 255), Outcome::Malformed, Some(ResponseCode::FormErr)),
        (good[..11].to_vec(), Outcome::Short, None),
        (good[..20].to_vec(), Outcome::Malformed, Some(ResponseCode::FormErr)),
        (changed(good.len() - 1, 3), Outcome::Refused, Some(ResponseCode::Refused)),
    ];
    for (message, wanted, code) in cases {
        let (outcome, out) = bytes(&message, Transport::Udp);
        assert_eq!(outcome, wanted, "{message:02x?}");
        let got = (!out.is_empty()).then(|| Message::from_vec(&out).unwrap());
        assert_eq!(got.as_ref().map(|m| m.metadata.response_code), code, "{message:02x?}");
        assert!(got.is_none_or(|m| m.metadata.id == 0x1234));
    }
}

#[test]
fn names_that_point_at_themselves_and_names_too_long_are_malformed() {
    let header = [0x12, 0x34, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    let ends = [0, 1, 0, 1];
    let itself = [&header[..], &[0xc0, 12], &ends].concat();
    let forward = [&header[..], &[0xc0, 14, 0], &ends].concat();
    let long: Vec<u8> =
        (0..5).flat_map(|_| iter::once(63).chain(iter::repeat_n(b'a', 63))).collect();
    let long = [&header[..], &long, &[0], &ends].concat();
    for message in [itself, forward, long] {
        assert_eq!(bytes(&message, Transport::Udp).0, Outcome::Malformed);
    }
}

#[test]
fn before_anything_is_known_nothing_is_denied() {
    let question = query("web.shop.svc.clusterset.local.", RecordType::A).to_vec().unwrap();
    let mut out = Vec::new();
    let outcome = respond(None, Asker::default(), Transport::Udp, &question, &mut out);
    let got = Message::from_vec(&out).unwrap();
    assert_eq!((outcome, got.metadata.response_code), (Outcome::NotReady, ResponseCode::ServFail));
    assert_eq!(got.authorities, []);
}

proptest! {
    /// A real question with bytes changed: no more than the room is used, and what is sent is an
    /// answer to that message.
    #[test]
    fn any_message_gets_a_sound_answer_or_none(
        changes in prop::collection::vec((0usize..64, any::<u8>()), 0..6),
        cut in 0usize..80,
        tail in prop::collection::vec(any::<u8>(), 0..16),
    ) {
        let good = with_edns(query("many.shop.svc.clusterset.local.", RecordType::A), 1000, 0);
        let mut message = good.to_vec().unwrap();
        for (at, byte) in changes {
            let len = message.len();
            message[at % len] = byte;
        }
        message.truncate(cut.max(1));
        message.extend(tail);
        for (transport, room) in [(Transport::Udp, 1232), (Transport::Tcp, 65_535)] {
            let (_, out) = bytes(&message, transport);
            prop_assert!(out.len() <= room);
            if !out.is_empty() {
                let got = Message::from_vec(&out).unwrap();
                prop_assert_eq!(got.metadata.id.to_be_bytes(), [message[0], message[1]]);
                prop_assert_eq!(got.metadata.message_type, MessageType::Response);
            }
        }
    }
}
