//! A node of a slice: a router with four pods, a gateway and the way to other nodes, and all
//! their cables' other ends in one namespace, where frames are made and seen.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use slicewire_core::policy::{
    Compiler, EndpointChange, Flow, PolicySet, Port, Role, Situation, Verdict, evaluate,
};
use slicewire_core::policy::{Decision, Delta, Directory};
use slicewire_kernel::{Filter, LinkEnd, Mac, Neighbour, NextHops, Op, Route};

use crate::frame::{self, Wire};
use crate::lab::{Lab, ip, net};
use crate::sample::{self, LOCAL, World};

/// The way to other nodes.
pub(crate) const FABRIC: &str = "swvx";
/// The gateway's port.
pub(crate) const GATEWAY: &str = "swpgateway";
pub(crate) const GATEWAY_MAC: [u8; 6] = [2, 0, 0, 0, 0, 99];
/// MAC address of the router's end of every cable.
pub(crate) const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// Tags begin here: none is like the end of what kernels send of their own accord (a router's
/// multicast report ends with its group's address, ff02::2).
pub(crate) const TAGS: u32 = 0x5713_0000;
const FABRIC_MAC: [u8; 6] = [2, 0, 0, 0, 0, 98];
/// Prefix of another cluster.
const FAR: &str = "10.77.100.0/24";

/// A pod's port.
pub(crate) fn device(number: usize) -> String {
    format!("swp{number:012}")
}

/// A pod's MAC address.
pub(crate) fn mac(number: usize) -> [u8; 6] {
    [2, 0, 0, 0, 1, u8::try_from(number).unwrap()]
}

/// The node.
pub(crate) struct Node {
    pub(crate) filter: Filter,
    /// Other ends of cables, by the router's end.
    wires: BTreeMap<String, Wire>,
    /// Makes every packet's tag, and every flow its own connection.
    count: u32,
    arrived: BTreeSet<(u32, String)>,
    /// Protocols that two addresses have used.
    protocols: BTreeSet<([IpAddr; 2], u8)>,
    _lab: Lab,
}

impl Node {
    pub(crate) async fn new(test: &str) -> Self {
        let mut lab = Lab::new(test);
        let (router, outside) = (lab.ns("r").await, lab.ns("o").await);
        let mut devices: Vec<(String, [u8; 6])> =
            (0..LOCAL).map(|number| (device(number), mac(number))).collect();
        devices.push((GATEWAY.to_owned(), GATEWAY_MAC));
        devices.push((FABRIC.to_owned(), FABRIC_MAC));
        let mut ops = settings();
        for (device, mac) in &devices {
            ops.push(Op::AddVeth {
                end: LinkEnd::new(device).mac(Mac(ROUTER_MAC)).up(),
                peer_ns: outside.id().clone(),
                peer: LinkEnd::new(&format!("o{}", &device[2..])).mac(Mac(*mac)).up(),
            });
        }
        ops.extend(routes());
        outside.apply(quiet()).await.unwrap();
        router.sequence(ops).await.unwrap();
        let wire = |(device, _): &(String, [u8; 6])| {
            (device.clone(), Wire::open(outside.id(), &format!("o{}", &device[2..])))
        };
        let wires = devices.iter().map(wire).collect();
        let filter = Filter::open(router.id()).await.unwrap();
        let (arrived, protocols) = (BTreeSet::new(), BTreeSet::new());
        Self { filter, wires, count: 0, arrived, protocols, _lab: lab }
    }

    /// Loads a world's rules, whatever there was before.
    pub(crate) async fn load(&mut self, world: &World) -> Compiler {
        self.count += 1;
        let mut compiler = Compiler::new(self.count * 1000);
        let put = world.endpoints.iter();
        let put = put.map(|(id, e)| EndpointChange::Put(id.clone(), e.clone())).collect();
        compiler.change_endpoints(put);
        compiler.set_situation(situation(world.policies.clone()));
        self.filter.apply(Delta::whole(compiler.ruleset())).await.unwrap();
        compiler
    }

    /// Sends a frame into a port, from the pod's side.
    pub(crate) fn send(&self, device: &str, frame: &[u8]) {
        self.wires[device].send(frame);
    }

    /// Sends the first packet of a flow as its source would; its tag and its source port.
    pub(crate) fn open(&mut self, flow: &Flow) -> (u32, u16) {
        let (device, mac) = place(flow.source);
        self.count += 1;
        let port = 1024 + u16::try_from(self.count % 60_000).unwrap();
        let mut flow = flow.clone();
        if ![1, 6, 17, 58, 132].contains(&flow.protocol) {
            // Without ports a packet would belong to any other connection of the two.
            flow.protocol = self.unused_protocol(&flow);
        }
        let tag = TAGS + self.count;
        let packet = frame::first(&flow, port, tag);
        self.send(&device, &frame::frame(mac, ROUTER_MAC, &packet));
        (tag, port)
    }

    /// One of the numbers that mean no protocol yet, new to these two addresses.
    fn unused_protocol(&mut self, flow: &Flow) -> u8 {
        let ends = [flow.source.min(flow.destination), flow.source.max(flow.destination)];
        (146..=252).find(|number| self.protocols.insert((ends, *number))).unwrap()
    }

    /// Sends a packet of a connection; its tag.
    pub(crate) fn more(&mut self, flow: &Flow, own_port: u16) -> u32 {
        let (device, mac) = place(flow.source);
        self.count += 1;
        let tag = TAGS + self.count;
        let packet = frame::first(flow, own_port, tag);
        self.send(&device, &frame::frame(mac, ROUTER_MAC, &packet));
        tag
    }

    /// Whether a packet has come out at a device, within a while.
    pub(crate) fn came(&mut self, tag: u32, device: &str, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        loop {
            self.collect();
            if self.arrived.contains(&(tag, device.to_owned())) {
                return true;
            }
            if Instant::now() >= until {
                return false;
            }
            std::thread::yield_now();
        }
    }

    fn collect(&mut self) {
        for (device, wire) in &self.wires {
            while let Some(frame) = wire.receive() {
                self.arrived.extend(frame::tag(&frame).map(|tag| (tag, device.clone())));
            }
        }
    }

    /// Forgets what has arrived.
    pub(crate) fn forget(&mut self) {
        self.collect();
        self.arrived.clear();
    }

    /// Whether a packet has come out anywhere so far.
    pub(crate) fn leaked(&mut self, tag: u32) -> bool {
        self.collect();
        self.arrived.iter().any(|(one, _)| *one == tag)
    }
}

fn setting(key: &str, value: &str) -> Op {
    Op::SetSysctl { key: key.to_owned(), value: value.to_owned() }
}

/// No kernel sends anything of its own accord.
fn quiet() -> Vec<Op> {
    ["ipv6/conf/all/disable_ipv6", "ipv6/conf/default/disable_ipv6"].map(|k| setting(k, "1")).into()
}

fn settings() -> Vec<Op> {
    vec![
        setting("ipv4/ip_forward", "1"),
        setting("ipv6/conf/all/forwarding", "1"),
        setting("ipv4/conf/all/rp_filter", "0"),
        setting("ipv4/conf/default/rp_filter", "0"),
        // Frames made here have no checksums beyond IP's.
        setting("netfilter/nf_conntrack_checksum", "0"),
    ]
}

fn neighbour(dev: &str, addr: IpAddr, mac: [u8; 6]) -> Op {
    Op::ReplaceNeighbour(Neighbour { dev: dev.to_owned(), addr, mac: Mac(mac) })
}

fn routes() -> Vec<Op> {
    let mut ops = Vec::new();
    for number in 0..LOCAL {
        for address in sample::addresses(number) {
            let route = Route::new(address.into(), NextHops::dev(&device(number)));
            ops.push(Op::ReplaceRoute(route));
            ops.push(neighbour(&device(number), address, mac(number)));
        }
    }
    for (via, everywhere) in [("169.254.9.9", "0.0.0.0/0"), ("fe80::99", "::/0")] {
        ops.push(neighbour(FABRIC, ip(via), FABRIC_MAC));
        let route = Route::new(net(everywhere), NextHops::via(ip(via), FABRIC));
        ops.push(Op::ReplaceRoute(route));
    }
    ops.push(neighbour(GATEWAY, ip("10.77.255.1"), GATEWAY_MAC));
    let route = Route::new(net(FAR), NextHops::via(ip("10.77.255.1"), GATEWAY));
    ops.push(Op::ReplaceRoute(route));
    ops
}

/// The node's ports under some policies.
pub(crate) fn situation(policies: PolicySet) -> Situation {
    let pod = |number| {
        let addresses = sample::addresses(number).into_iter().collect();
        let port = Port { mac: mac(number), addresses, role: Role::Pod(sample::id(number)) };
        (device(number), port)
    };
    let mut ports: BTreeMap<_, _> = (0..LOCAL).map(pod).collect();
    let addresses = BTreeSet::from([ip("10.77.255.1")]);
    let gateway = Port { mac: GATEWAY_MAC, addresses, role: Role::Gateway };
    ports.insert(GATEWAY.to_owned(), gateway);
    Situation { policies, ports, far: BTreeSet::from([net(FAR)]) }
}

fn local(address: IpAddr) -> Option<usize> {
    (0..LOCAL).find(|number| sample::addresses(*number).contains(&address))
}

/// The port an address is behind, and who sends there.
pub(crate) fn place(address: IpAddr) -> (String, [u8; 6]) {
    local(address).map_or((FABRIC.to_owned(), FABRIC_MAC), |n| (device(n), mac(n)))
}

/// What the oracle has the node's ends of a flow say, in the order they are asked.
pub(crate) fn expected(world: &World, directory: &Directory<'_>, flow: &Flow) -> Vec<Decision> {
    let outcome = evaluate(&world.policies, directory, flow);
    let egress = outcome.egress.filter(|_| local(flow.source).is_some());
    let denied = egress.as_ref().is_some_and(|d| d.verdict == Verdict::Deny);
    let ingress = outcome.ingress.filter(|_| local(flow.destination).is_some() && !denied);
    egress.into_iter().chain(ingress).collect()
}
