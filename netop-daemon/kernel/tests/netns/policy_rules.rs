//! What packet rules do beyond verdicts on new flows: established connections, forged senders,
//! audit, and that they touch nothing of others'.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

use slicewire_core::name::ClusterName;
use slicewire_core::policy::ruleset::{Change, Field, Kind, Set};
use slicewire_core::policy::{
    Action, Because, Compiler, Counted, Default, Delta, Direction, Endpoint, EndpointChange, Flow,
    Identity, Mode, Policy, PolicySet, Port, Role, Rule, Situation, Tier, Who,
};
use slicewire_kernel::{Filter, Mac, Ns, NsId};

use crate::frame;
use crate::lab::{Lab, inside, ip};
use crate::policy_node::{FABRIC, GATEWAY, GATEWAY_MAC, Node, ROUTER_MAC, TAGS, device, mac};
use crate::sample::{self, World};
use crate::two_pods_one_router::{Place, forwarding, pod_side, router_side};

const PATIENCE: Duration = Duration::from_millis(500);
const SOON: Duration = Duration::from_millis(30);

fn endpoint(account: &str, addresses: Vec<IpAddr>) -> Endpoint {
    let identity = Identity {
        cluster: ClusterName::parse("east").unwrap(),
        namespace: "shop".to_owned(),
        service_account: account.to_owned(),
        labels: BTreeMap::new(),
        namespace_labels: BTreeMap::new(),
    };
    Endpoint { identity: identity.into(), addresses, named_ports: BTreeMap::new() }
}

fn open_world() -> World {
    let endpoints = (0..sample::ENDPOINTS)
        .map(|number| (sample::id(number), endpoint("default", sample::addresses(number))))
        .collect();
    World { policies: PolicySet::default(), endpoints }
}

fn udp(source: IpAddr, destination: IpAddr) -> Flow {
    Flow { source, destination, protocol: 17, port: 53 }
}

#[tokio::test]
async fn senders_are_who_they_say_they_are() {
    let mut node = Node::new("spoof").await;
    node.load(&open_world()).await;
    let own = sample::addresses(0);
    let other = sample::addresses(1);
    let remote = sample::addresses(9);
    let mut forged = 0;
    for family in [0, 1] {
        let mut send = |tag, from: &str, mac, source| {
            let packet = frame::first(&udp(source, remote[family]), 4000, TAGS + tag);
            node.send(from, &frame::frame(mac, ROUTER_MAC, &packet));
            node.came(TAGS + tag, FABRIC, if tag == 1 { PATIENCE } else { SOON })
        };
        let one = device(0);
        assert!(send(1, &one, mac(0), own[family]));
        assert!(!send(2, &one, mac(0), other[family]), "another pod's address");
        assert!(!send(3, &one, mac(1), own[family]), "another MAC address");
        assert!(!send(4, &one, mac(0), remote[family]), "a remote pod's address");
        assert!(!send(5, FABRIC, [2; 6], own[family]), "a local pod's address from elsewhere");
        assert!(!send(6, GATEWAY, GATEWAY_MAC, own[family]), "a local pod's through a gateway");
        forged += 5;
        node.forget();
        assert_eq!(node.filter.counters().await.unwrap()["spoofed"].packets, forged);
    }
    // A gateway speaks for other clusters, and what it brings is judged at the pod only.
    let flow = udp(ip("10.77.100.7"), own[0]);
    let packet = frame::first(&flow, 4000, TAGS + 7);
    node.send(GATEWAY, &frame::frame(GATEWAY_MAC, ROUTER_MAC, &packet));
    assert!(node.came(TAGS + 7, &device(0), PATIENCE));
    for (from, sender, claimed) in
        [(0, mac(0), [10, 77, 0, 1]), (0, mac(0), [10, 77, 1, 2]), (0, mac(1), [10, 77, 0, 1])]
    {
        node.send(&device(from), &frame::arp(sender, claimed, [169, 254, 1, 1]));
    }
    std::thread::sleep(SOON);
    assert_eq!(node.filter.arp_counters().await.unwrap()["spoofed"].packets, 2);
    // A neighbour advertisement, by which a pod would draw other pods' packets to itself.
    let claim = Flow { source: own[1], destination: ip("fe80::1"), protocol: 58, port: 0 };
    let claim = frame::packet(&claim, [&[136, 0, 0, 0][..], &[0; 24]].concat(), 58);
    node.send(&device(0), &frame::frame(mac(0), ROUTER_MAC, &claim));
    std::thread::sleep(SOON);
    assert_eq!(node.filter.counters().await.unwrap()["discovery"].packets, 1);
}

#[tokio::test]
async fn audit_counts_what_it_lets_pass() {
    let mut node = Node::new("audit").await;
    let nothing = Policy {
        tier: Tier::Namespaced,
        mode: Mode::Audit,
        subject: Who::default(),
        ingress: Some(vec![]),
        egress: None,
    };
    let policies = BTreeMap::from([("shop/closed".into(), nothing.into())]);
    let policies = PolicySet { policies, ..PolicySet::default() };
    let compiler = node.load(&World { policies, ..open_world() }).await;
    let flow = udp(sample::addresses(9)[0], sample::addresses(0)[0]);
    let (tag, port) = node.open(&flow);
    assert!(node.came(tag, &device(0), PATIENCE));
    // The rest of the connection was not judged, so it does not count.
    let tag = node.more(&flow, port);
    assert!(node.came(tag, &device(0), PATIENCE));
    let why = Because::Unlisted("shop/closed".into(), Direction::Ingress);
    let names = compiler.counters();
    let name = names.iter().find(|(_, c)| **c == Counted::Audited(why.clone())).unwrap().0;
    assert_eq!(node.filter.counters().await.unwrap()[name].packets, 1);
}

fn nft(ns: &NsId, arguments: &'static [&'static str]) -> String {
    let output = inside(ns, move || Command::new("nft").args(arguments).output()).unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn others_tables_stay_as_they_are() {
    let mut lab = Lab::new("foreign");
    let router = lab.ns("r").await;
    nft(
        router.id(),
        &["add table inet other { chain c { type filter hook forward priority 0; }; }"],
    );
    let before = nft(router.id(), &["list ruleset"]);
    let filter = Filter::open(router.id()).await.unwrap();
    filter.remove().await.unwrap();
    assert!(filter.counters().await.unwrap().is_empty());
    let compiler = Compiler::new(1);
    for _ in 0..2 {
        filter.apply(Delta::whole(compiler.ruleset())).await.unwrap();
    }
    let during = nft(router.id(), &["list ruleset"]);
    assert!(during.contains("table inet slicewire") && during.contains("table inet other"));
    // Once more from another connection, as after a restart.
    let again = Filter::open(router.id()).await.unwrap();
    again.apply(Delta::whole(compiler.ruleset())).await.unwrap();
    assert_eq!(nft(router.id(), &["list ruleset"]), during);
    filter.remove().await.unwrap();
    assert_eq!(nft(router.id(), &["list ruleset"]), before);
}

#[tokio::test]
async fn a_refused_change_changes_nothing_and_says_what() {
    let mut lab = Lab::new("refused");
    let router = lab.ns("r").await;
    let filter = Filter::open(router.id()).await.unwrap();
    filter.apply(Delta::whole(Compiler::new(1).ruleset())).await.unwrap();
    let before = nft(router.id(), &["list table inet slicewire"]);
    let mark = |mark| Set::plain(&[Kind::Mark], [vec![Field::Mark(mark)]]);
    let insert = |mark_number| Change::Insert("judged".to_owned(), mark(mark_number));
    let inet = vec![insert(2), insert(1), Change::DeleteChain("nowhere".to_owned())];
    let error = filter.apply(Delta { inet, ..Delta::default() }).await.unwrap_err();
    assert_eq!(error.reason(), "Conflict", "{error}");
    assert_eq!(error.object, "elements of judged");
    let inet = vec![insert(3), Change::DeleteChain("nowhere".to_owned())];
    let error = filter.apply(Delta { inet, ..Delta::default() }).await.unwrap_err();
    assert_eq!((error.reason(), error.object.as_str()), ("NotFound", "chain nowhere"), "{error}");
    assert_eq!(nft(router.id(), &["list table inet slicewire"]), before);
    let missing = Filter::open(&lab.id("nobody")).await.err().unwrap();
    assert_eq!(missing.reason(), "NotFound");
}

const ADDRESSES: [[&str; 2]; 2] =
    [["10.20.0.2/32", "fd00:20::2/128"], ["10.20.0.3/32", "fd00:20::3/128"]];

fn addresses(pod: usize) -> Vec<IpAddr> {
    ADDRESSES[pod].iter().map(|a| a.parse::<ipnet::IpNet>().unwrap().addr()).collect()
}

/// Two pods with kernels of their own on one router, under rules.
struct Pair {
    filter: Filter,
    compiler: Compiler,
    pods: [Ns; 2],
    _lab: Lab,
}

impl Pair {
    async fn new(test: &str, policies: PolicySet) -> Self {
        let mut lab = Lab::new(test);
        let (router, a, b) = (lab.ns("r").await, lab.ns("a").await, lab.ns("b").await);
        router.apply(forwarding()).await.unwrap();
        let mut compiler = Compiler::new(5);
        for (number, pod) in [&a, &b].into_iter().enumerate() {
            let place = Self::place(number);
            router.sequence(router_side(pod.id(), &place)).await.unwrap();
            pod.sequence(pod_side(&place, ["10.20.0.0/16", "fd00:20::/48"])).await.unwrap();
            let pod = endpoint(["client", "server"][number], addresses(number));
            compiler.change_endpoints(vec![EndpointChange::Put(Self::id(number), pod)]);
        }
        compiler.set_situation(Self::situation(policies));
        let filter = Filter::open(router.id()).await.unwrap();
        filter.apply(Delta::whole(compiler.ruleset())).await.unwrap();
        Self { filter, compiler, pods: [a, b], _lab: lab }
    }

    fn place(number: usize) -> Place {
        let last = u8::try_from(number).unwrap();
        Place {
            port: ["swpa", "swpb"][number].to_owned(),
            addrs: ADDRESSES[number],
            macs: [Mac([2, 0, 0, 0, 1, last]), Mac([2, 0, 0, 0, 2, last])],
        }
    }

    fn id(number: usize) -> std::sync::Arc<str> {
        ["pod-a", "pod-b"][number].into()
    }

    fn situation(policies: PolicySet) -> Situation {
        let port = |number| {
            let place = Self::place(number);
            let addresses = addresses(number).into_iter().collect();
            let port = Port { mac: place.macs[1].0, addresses, role: Role::Pod(Self::id(number)) };
            (place.port, port)
        };
        Situation { policies, ports: [0, 1].map(port).into(), far: BTreeSet::new() }
    }

    async fn set(&mut self, policies: PolicySet) {
        let delta = self.compiler.set_situation(Self::situation(policies));
        self.filter.apply(delta).await.unwrap();
    }

    async fn is_account(&mut self, number: usize, account: &str) {
        let changed = EndpointChange::Put(Self::id(number), endpoint(account, addresses(number)));
        let delta = self.compiler.change_endpoints(vec![changed]);
        self.filter.apply(delta).await.unwrap();
    }

    fn connect(
        &self,
        from: usize,
        to: usize,
        family: usize,
    ) -> std::io::Result<(TcpStream, TcpStream)> {
        let server = SocketAddr::new(addresses(to)[family], 0);
        let listener = inside(self.pods[to].id(), move || TcpListener::bind(server)).unwrap();
        let server = listener.local_addr().unwrap();
        let client =
            inside(self.pods[from].id(), move || TcpStream::connect_timeout(&server, PATIENCE))?;
        let (served, _) = listener.accept()?;
        for stream in [&client, &served] {
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(Duration::from_millis(300)))?;
        }
        Ok((client, served))
    }
}

/// Only the client may begin, and only with the server.
fn one_way() -> PolicySet {
    let account =
        |name: &str| Who { service_accounts: BTreeSet::from([name.to_owned()]), ..Who::default() };
    let rule = |peer| Rule {
        action: Action::Allow,
        peers: vec![slicewire_core::policy::Peer::Endpoints(peer)],
        ports: Vec::new(),
    };
    let policy = |subject, ingress, egress| Policy {
        tier: Tier::Namespaced,
        mode: Mode::Enforce,
        subject,
        ingress,
        egress,
    };
    let outward = policy(account("client"), None, Some(vec![rule(account("server"))]));
    let inward = policy(account("server"), Some(vec![rule(account("client"))]), None);
    let policies = [("shop/out".into(), outward.into()), ("shop/in".into(), inward.into())];
    PolicySet { default: Default::Deny, policies: policies.into(), ..PolicySet::default() }
}

fn passes(from: &mut TcpStream, to: &mut TcpStream) -> bool {
    from.write_all(b"x").unwrap();
    let mut byte = [0];
    to.read_exact(&mut byte).is_ok()
}

/// Whether what was held up arrives within a few retransmissions.
fn arrives(to: &mut TcpStream) -> bool {
    to.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let arrived = to.read_exact(&mut [0]).is_ok();
    to.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    arrived
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replies_pass_and_only_they() {
    let pair = Pair::new("replies", one_way()).await;
    for family in [0, 1] {
        let (mut client, mut server) = pair.connect(0, 1, family).unwrap();
        assert!(passes(&mut client, &mut server) && passes(&mut server, &mut client));
        assert!(pair.connect(1, 0, family).is_err(), "the server began a connection");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_ends_with_the_change_that_forbids_it() {
    let mut pair = Pair::new("cut", one_way()).await;
    for family in [0, 1] {
        let (mut client, mut server) = pair.connect(0, 1, family).unwrap();
        assert!(passes(&mut client, &mut server) && passes(&mut server, &mut client));

        // A change that forbids nothing of it. The server speaks first: its packet is judged by
        // who opened the connection, not by who sent the packet.
        let mut other = one_way();
        other.policies.insert("shop/more".into(), other.policies["shop/in"].clone());
        pair.set(other).await;
        assert!(passes(&mut server, &mut client) && passes(&mut client, &mut server));

        let closed = PolicySet { default: Default::Deny, ..PolicySet::default() };
        pair.set(closed).await;
        assert!(!passes(&mut server, &mut client), "the server's end was not cut");
        assert!(!passes(&mut client, &mut server), "the client's end was not cut");

        pair.set(one_way()).await;
        assert!(arrives(&mut client) && arrives(&mut server));

        // The same by what a pod is: no rule changes then.
        pair.is_account(0, "stranger").await;
        assert!(!passes(&mut client, &mut server), "a stranger's packet passed");
        pair.is_account(0, "client").await;
        assert!(arrives(&mut server));
    }
}
