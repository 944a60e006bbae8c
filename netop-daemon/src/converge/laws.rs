//! The laws of the loop, against the kernel in memory: it converges, does nothing twice, touches
//! nothing foreign, survives a crash at any point, and leaves nothing behind.

mod policies;

use std::collections::BTreeMap;
use std::net::IpAddr;

use nix::errno::Errno;
use proptest::prelude::*;
use slicewire_core::name::{ClusterName, SliceName};
use slicewire_core::onboarding::{GATEWAY_LABEL, SLICE_LABEL, SYSTEM_NAMESPACE};
use slicewire_core::prefix::Family;
use slicewire_core::routes::Tunnel;
use slicewire_core::selector::Labels;
use slicewire_kernel::fake::FakeNetwork;
use slicewire_kernel::{LinkChange, LinkEnd, NsId, Op};

use super::*;
use crate::world::{
    Balancing, GatewayPod, GatewayRoutes, Pod, Sandbox, Slice, SliceEntry, SliceNode, SlicePolicy,
    Source,
};

const NODE: &str = "east-1";

struct Bed {
    network: FakeNetwork,
    shared: Shared,
    state: tempfile::TempDir,
}

/// What a process of the daemon needs; dropping it is killing it.
struct Process {
    engine: Engine,
    _reports: watch::Receiver<Arc<Report>>,
    notices: mpsc::Receiver<Notice>,
    requests: mpsc::Sender<Attach>,
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn slice(name: &str, prefixes: &[&str], vni: u32) -> SliceEntry {
    let prefixes: Vec<IpNet> = prefixes.iter().map(|p| p.parse().unwrap()).collect();
    let west = prefixes.iter().map(|p| match p {
        IpNet::V4(v4) => IpNet::from(v4.subnets(17).unwrap().nth(1).unwrap()),
        IpNet::V6(v6) => IpNet::from(v6.subnets(49).unwrap().nth(1).unwrap()),
    });
    let valid = Slice {
        name: SliceName::parse(name).unwrap(),
        families: prefixes.iter().map(Family::of).collect(),
        remotes: BTreeMap::from([("west".to_owned(), west.collect())]),
        prefixes,
        rules: vec![],
        cluster: ClusterName::parse("east").unwrap(),
        policy: SlicePolicy::default(),
        vni,
        mtu: 1_380,
        qos: None,
        balancing: Balancing::default(),
    };
    SliceEntry { valid: Some(valid), deleting: false }
}

fn slice_node(slice: &str, node: &str, blocks: &[&str], underlay: &str) -> SliceNode {
    SliceNode {
        slice: slice.into(),
        node: node.into(),
        blocks: blocks.iter().map(|b| b.parse().unwrap()).collect(),
        underlay: vec![underlay.parse().unwrap()],
        pods: crate::world::Pods::default(),
        deleting: false,
        generation: Some(1),
        finalizers: vec![],
        status: None,
    }
}

fn pod_ns(uid: &str) -> NsId {
    NsId::named(&format!("cni-{uid}"))
}

impl Bed {
    /// Two slices with the same IPv4 prefix, two nodes, a local and a remote gateway of blue.
    fn new() -> Self {
        let bed = Self {
            network: FakeNetwork::new(),
            shared: Shared::default(),
            state: tempfile::tempdir().unwrap(),
        };
        bed.shared.change(|w| {
            w.listed.extend(Source::ALL);
            w.slices.insert("blue".into(), slice("blue", &["10.77.0.0/16", "fd77::/48"], 11));
            w.slices.insert("red".into(), slice("red", &["10.77.0.0/16"], 12));
            w.slices.insert("six".into(), slice("six", &["fd66::/48"], 13));
            let own = [
                ("blue", &["10.77.0.0/26", "fd77::/122"][..]),
                ("red", &["10.77.0.0/26"]),
                ("six", &["fd66::/122"]),
            ];
            for (name, blocks) in own {
                let node = slice_node(name, NODE, blocks, "192.0.2.1");
                w.slice_nodes.insert(format!("{name}.{NODE}"), Arc::new(node));
            }
            let other = &["10.77.0.64/26", "fd77::40/122"];
            let other = slice_node("blue", "east-2", other, "192.0.2.2");
            w.slice_nodes.insert("blue.east-2".into(), Arc::new(other));
            w.namespaces.insert("shop".into(), labels(&[(SLICE_LABEL, "blue.six")]));
            w.namespaces.insert("bank".into(), labels(&[(SLICE_LABEL, "red")]));
            w.namespaces.insert(SYSTEM_NAMESPACE.into(), Labels::new());
            for (uid, node) in [("gw-here", NODE), ("gw-there", "east-2")] {
                let pod = GatewayPod {
                    slice: "blue".into(),
                    node: node.into(),
                    ip: None,
                    deleting: false,
                };
                w.gateways.insert(uid.into(), pod);
                let prefixes = vec!["10.77.128.0/17".parse().unwrap()];
                let tunnels = vec![Tunnel { cluster: "west".into(), prefixes, up: true }];
                w.routes.insert(uid.into(), GatewayRoutes { tunnels, lost: None });
            }
            true
        });
        bed.start("gw-here", SYSTEM_NAMESPACE, labels(&[(GATEWAY_LABEL, "blue")]));
        bed
    }

    /// A sandbox comes up, with the NIC its CNI gave it.
    fn start(&self, uid: &str, namespace: &str, labels: Labels) {
        let NsId::Path(netns) = pod_ns(uid) else { panic!() };
        self.network.add_namespace(&pod_ns(uid));
        let sandbox = Sandbox {
            id: format!("sandbox-{uid}"),
            namespace: namespace.into(),
            name: uid.into(),
            labels,
            netns: Some(netns),
            seen: Instant::now(),
        };
        self.shared.change(|w| w.sandboxes.insert(uid.into(), Arc::new(sandbox)).is_none());
    }

    fn end(&self, uid: &str) {
        self.network.remove_namespace(&pod_ns(uid));
        self.shared.change(|w| w.sandboxes.remove(uid).is_some());
    }

    async fn process(&self) -> Process {
        let (requests, received) = mpsc::channel(8);
        let (reports, _reports) = watch::channel(Arc::new(Report::default()));
        let (noticed, notices) = mpsc::channel(1_024);
        let node = Node {
            name: NODE.into(),
            underlay: vec!["192.0.2.1".parse().unwrap()],
            started: Instant::now(),
        };
        let wiring = Wiring {
            requests: received,
            reports,
            notices: noticed,
            metrics: Arc::new(Metrics::default()),
        };
        let allocations = Allocations::load(self.state.path());
        let network = Arc::new(self.network.clone());
        let mut engine =
            Engine::new(node, self.shared.clone(), allocations, network, wiring).await.unwrap();
        engine.adopt().await;
        Process { engine, _reports, notices, requests }
    }

    /// A daemon that starts, and works until nothing is left to do.
    async fn settled(&self) -> Process {
        let mut process = self.process().await;
        process.settle().await;
        process
    }

    fn state(&self, id: &NsId) -> State {
        self.network.state(id).unwrap()
    }

    fn everything(&self, pods: &[&str]) -> Vec<Option<Comparable>> {
        let routers = ["sw-blue", "sw-red", "sw-six"].map(NsId::named);
        let pods = pods.iter().map(|p| pod_ns(p));
        let all = [NsId::Current].into_iter().chain(routers).chain(pods);
        all.map(|id| self.network.state(&id).map(Comparable::from)).collect()
    }
}

/// A namespace without its loopback and the numbers that the kernel draws.
#[derive(Debug, PartialEq)]
struct Comparable(State);

impl From<State> for Comparable {
    fn from(mut state: State) -> Self {
        let plain =
            |l: slicewire_kernel::Link| slicewire_kernel::Link { index: 0, peer: None, ..l };
        state.links = state.links.into_iter().filter(|l| l.name != "lo").map(plain).collect();
        Self(state)
    }
}

impl Process {
    /// As after a tick: every router is compared with the kernel.
    async fn settle(&mut self) {
        self.engine.clean.clear();
        for _ in 0..5 {
            if !self.engine.round().await {
                return;
            }
        }
        panic!("does not come to rest");
    }

    async fn attach(&mut self, uid: &str) -> bool {
        let (done, answer) = oneshot::channel();
        self.engine.serve(Attach { uid: uid.into(), done }).await;
        answer.await.unwrap()
    }

    /// Looks at every NIC again, as it does now and then.
    async fn look_again(&mut self) {
        self.engine.done.clear();
        self.settle().await;
    }
}

fn addresses(state: &State, dev: &str) -> Vec<IpAddr> {
    state.addresses.iter().filter(|a| a.dev == dev).map(|a| a.net.addr()).collect()
}

#[tokio::test]
async fn pods_get_their_nics_and_the_second_round_does_nothing() {
    let bed = Bed::new();
    bed.start("web", "shop", Labels::new());
    bed.start("vault", "bank", Labels::new());
    bed.start("other", "elsewhere", Labels::new());
    let mut process = bed.settled().await;

    let web = bed.state(&pod_ns("web"));
    let (blue, six) = (web.link("slice0").unwrap(), web.link("slice1").unwrap());
    assert_eq!(blue.alias.as_deref(), Some("slicewire/blue"));
    assert_eq!(six.alias.as_deref(), Some("slicewire/six"));
    assert_eq!(addresses(&web, "slice0").len(), 2);
    assert!(addresses(&web, "slice1").iter().all(IpAddr::is_ipv6));
    let vault = bed.state(&pod_ns("vault"));
    assert_eq!(vault.link("slice0").unwrap().alias.as_deref(), Some("slicewire/red"));
    assert!(bed.state(&pod_ns("other")).links.iter().all(|l| l.kind != LinkKind::Veth));

    let router = bed.state(&NsId::named("sw-blue"));
    let west: IpNet = "10.77.128.0/17".parse().unwrap();
    let routes: Vec<_> = router.routes.iter().filter(|r| r.dst == west).collect();
    let lanes = routes.iter().find(|r| r.table == slicewire_kernel::MAIN_TABLE).unwrap();
    assert!(matches!(&lanes.next, NextHops::Multi(hops) if hops.len() == 2), "{lanes:?}");
    let fabric = routes.iter().find(|r| r.table == 100).unwrap();
    assert!(matches!(&fabric.next, NextHops::One(hop) if hop.dev.starts_with("swp")));

    bed.network.take_done();
    process.look_again().await;
    assert_eq!(bed.network.take_done(), []);
}

#[tokio::test]
async fn the_router_is_there_before_the_pod() {
    let bed = Bed::new();
    let pod = |namespace: &str, deleting| Pod {
        namespace: namespace.into(),
        name: "web".into(),
        labels: Labels::new(),
        service_account: "default".into(),
        ports: BTreeMap::new(),
        host_network: false,
        finished: false,
        deleting,
        network_status: None,
        resource_version: "1".into(),
    };
    bed.shared.change(|w| w.pods.insert("red-1".into(), Arc::new(pod("bank", true))).is_none());
    let mut process = bed.settled().await;
    assert!(bed.network.state(&NsId::named("sw-red")).is_none());
    bed.shared.change(|w| w.pods.insert("red-2".into(), Arc::new(pod("bank", false))).is_none());
    process.settle().await;
    assert!(process._reports.borrow().wanted.contains("red"));
    assert!(bed.state(&NsId::named("sw-red")).link("swvx").is_some());
    assert!(!process._reports.borrow().wanted.contains("six"));
}

#[tokio::test]
async fn the_alias_comes_last() {
    let bed = Bed::new();
    bed.start("web", "shop", Labels::new());
    let mut process = bed.process().await;
    assert!(process.attach("web").await);
    let done = bed.network.take_done();
    let of_nic: Vec<&Op> =
        done.iter().filter(|(id, _)| *id == pod_ns("web")).map(|(_, op)| op).collect();
    let ready = |op: &&Op| matches!(op, Op::SetLink { dev, change } if dev == "slice0" && change.alias.is_some());
    let at = of_nic.iter().position(ready).unwrap();
    let about = |op: &&&Op| op.object().contains("slice0");
    assert_eq!(of_nic[at + 1..].iter().filter(about).count(), 0, "{of_nic:?}");
    // Both ends are asked about when both are up, or first packets are lost.
    let [.., (woken, wake), (named, alias)] = done.as_slice() else { panic!("{done:?}") };
    assert!(*woken == NsId::named("sw-blue") || *woken == NsId::named("sw-six"), "{done:?}");
    assert!(matches!(wake, Op::SetLink { change, .. } if change.up == Some(true)), "{done:?}");
    assert!(*named == pod_ns("web") && matches!(alias, Op::SetLink { .. }), "{done:?}");
}

#[tokio::test]
async fn a_restart_rebuilds_nothing() {
    let bed = Bed::new();
    for pod in ["a", "b", "c"] {
        bed.start(pod, "shop", Labels::new());
    }
    drop(bed.settled().await);
    let before = bed.everything(&["a", "b", "c", "gw-here"]);
    bed.network.take_done();
    // Even the file may be lost.
    std::fs::remove_file(bed.state.path().join("addresses.json")).unwrap();
    let mut process = bed.settled().await;
    assert_eq!(bed.network.take_done(), []);
    assert_eq!(bed.everything(&["a", "b", "c", "gw-here"]), before);
    assert!(process.notices.try_recv().is_err(), "nobody is told what has not happened");
}

#[tokio::test]
async fn a_restart_keeps_remote_routes_until_the_gateways_are_heard() {
    let bed = Bed::new();
    bed.start("web", "shop", Labels::new());
    drop(bed.settled().await);
    let router = bed.state(&NsId::named("sw-blue"));
    bed.shared.change(|w| {
        w.routes.clear();
        true
    });
    let _process = bed.settled().await;
    assert_eq!(bed.state(&NsId::named("sw-blue")).routes, router.routes);
}

#[tokio::test]
async fn leaving_restores_what_was_before() {
    let bed = Bed::new();
    bed.start("web", "shop", Labels::new());
    let foreign = Op::AddVeth {
        end: LinkEnd::new("vethcni0"),
        peer_ns: pod_ns("web"),
        peer: LinkEnd::new("eth0").up(),
    };
    bed.network.open(&NsId::Current).await.unwrap().apply(vec![foreign]).await.unwrap();
    let before = bed.everything(&["web", "gw-here"]);
    let mut process = bed.settled().await;
    assert_ne!(bed.everything(&["web", "gw-here"]), before);
    // The label goes, one slice is deleted, the other's router lingers and then goes, too.
    bed.shared.change(|w| {
        w.namespaces.insert("shop".into(), Labels::new());
        w.slices.values_mut().for_each(|s| s.deleting = true);
        true
    });
    process.settle().await;
    assert_eq!(bed.everything(&["web", "gw-here"]), before);
}

#[tokio::test]
async fn a_pod_without_the_label_leaves_alone() {
    let bed = Bed::new();
    bed.start("web", "shop", Labels::new());
    bed.start("api", "shop", Labels::new());
    let mut process = bed.settled().await;
    let api = bed.everything(&["api"]).pop();
    bed.shared.change(|w| {
        let web = Arc::make_mut(w.sandboxes.get_mut("web").unwrap());
        web.labels = labels(&[(SLICE_LABEL, "six")]);
        true
    });
    process.settle().await;
    let web = bed.state(&pod_ns("web"));
    assert!(web.link("slice0").is_none());
    assert_eq!(
        web.link("slice1").unwrap().alias.as_deref(),
        Some("slicewire/six"),
        "keeps its name"
    );
    assert_eq!(bed.everything(&["api"]).pop(), api);
}

#[tokio::test]
async fn a_device_that_is_not_ours_is_left_alone_and_told_of() {
    let bed = Bed::new();
    bed.start("web", "bank", Labels::new());
    let foreign = Op::AddVeth {
        end: LinkEnd::new("vethx"),
        peer_ns: pod_ns("web"),
        peer: LinkEnd::new("slice0"),
    };
    bed.network.open(&NsId::Current).await.unwrap().apply(vec![foreign]).await.unwrap();
    let before = bed.everything(&["web"]).pop();
    let mut process = bed.process().await;
    assert!(!process.attach("web").await);
    assert_eq!(bed.everything(&["web"]).pop(), before);
}

#[tokio::test]
async fn a_nic_whose_mac_address_was_changed_is_made_whole_in_one_go() {
    let bed = Bed::new();
    bed.start("web", "shop", Labels::new());
    let mut process = bed.settled().await;
    let before = bed.everything(&["web"]);
    let port = bed.state(&NsId::named("sw-blue"));
    let port = port.links.iter().find(|link| link.name.starts_with("swp")).unwrap();
    for (ns, dev) in [(pod_ns("web"), "slice0"), (NsId::named("sw-blue"), port.name.as_str())] {
        let change = LinkChange { mac: Some([2, 0, 0, 0, 9, 9].into()), ..LinkChange::default() };
        // And gave the device its neighbours back, which the kernel forgets with a MAC address.
        let known = bed.state(&ns).neighbours.into_iter().filter(|entry| entry.dev == dev);
        let mut ops = vec![Op::SetLink { dev: dev.to_owned(), change }];
        ops.extend(known.map(Op::ReplaceNeighbour));
        bed.network.open(&ns).await.unwrap().sequence(ops).await.unwrap();
        assert_ne!(bed.everything(&["web"]), before);
        process.engine.done.clear();
        process.engine.round().await;
        assert_eq!(bed.everything(&["web"]), before);
    }
}

#[tokio::test]
async fn two_hundred_pods_leak_nothing_and_share_nothing() {
    let bed = Bed::new();
    bed.shared.change(|w| {
        Arc::make_mut(w.slice_nodes.get_mut("red.east-1").unwrap()).blocks =
            vec!["10.77.0.0/24".parse().unwrap()];
        true
    });
    let mut process = bed.settled().await;
    let mut seen = BTreeSet::new();
    for i in 0..200 {
        let uid = format!("pod-{i}");
        bed.start(&uid, "bank", Labels::new());
        assert!(process.attach(&uid).await, "{uid}");
        let got = addresses(&bed.state(&pod_ns(&uid)), "slice0");
        assert!(seen.insert(got[0]), "{} was given again within a minute", got[0]);
        bed.end(&uid);
        if i % 7 == 0 {
            process.settle().await;
        }
    }
    process.settle().await;
    assert!(!process.engine.allocations.is_idle("red"), "addresses rest");
    process.engine.allocations.slice("red").expire(u64::MAX);
    assert!(process.engine.allocations.is_idle("red"), "addresses leaked");
}

#[tokio::test]
async fn a_pod_that_is_being_started_comes_first() {
    let bed = Bed::new();
    for i in 0..10 {
        bed.start(&format!("old-{i}"), "bank", Labels::new());
    }
    bed.start("urgent", "shop", Labels::new());
    let mut process = bed.process().await;
    let (done, mut answer) = oneshot::channel();
    process.requests.send(Attach { uid: "urgent".into(), done }).await.unwrap();
    assert!(process.engine.round().await, "the round begins anew");
    assert!(answer.try_recv().unwrap());
    assert!(process.engine.done.len() < 10, "it waited for all the others");
    process.settle().await;
    assert_eq!(process.engine.done.len(), 10 + 2 + 1);
}

#[tokio::test]
async fn a_router_without_news_is_not_compared_and_nothing_is_left_undone() {
    let bed = Bed::new();
    bed.start("first", "shop", Labels::new());
    let mut process = bed.settled().await;
    assert!(!process.engine.clean.is_empty(), "a router that is right is known to be");
    let before = process.engine.clean.clone();
    bed.start("second", "shop", Labels::new());
    assert!(process.attach("second").await);
    assert_ne!(process.engine.clean, before, "an attached pod's port is part of what is known");
    bed.network.take_done();
    process.engine.round().await;
    process.look_again().await;
    assert_eq!(bed.network.take_done(), []);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    /// However far a process got before it was killed, the next one ends where one that was never
    /// killed ends, and then has nothing left to do.
    #[test]
    fn a_crash_at_any_point_heals(after in 0..120usize, again in 0..60usize) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let pods = ["a", "b", "gw-here"];
            let make = || {
                let bed = Bed::new();
                bed.start("a", "shop", Labels::new());
                bed.start("b", "bank", Labels::new());
                bed
            };
            let whole = make();
            drop(whole.settled().await);
            let crashed = make();
            for n in [after, again] {
                crashed.network.fail_after(n, Errno::EIO);
                let mut process = crashed.process().await;
                process.engine.round().await;
                crashed.network.heal();
            }
            let mut process = crashed.settled().await;
            assert_eq!(crashed.everything(&pods), whole.everything(&pods));
            crashed.network.take_done();
            process.look_again().await;
            assert_eq!(crashed.network.take_done(), []);
        });
    }
}
