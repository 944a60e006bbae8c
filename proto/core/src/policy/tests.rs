//! The compiler against the oracle, and the parts of the rules that are not policy.

mod edits;
mod guard;
mod incremental;
mod meaning;
mod oracle;
mod semantics;

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::compile::{EndpointChange, Port, Role, Situation};
use super::evaluate::Flow;
use super::interpret::Packet;
use super::sample::{self, LOCAL, World};
use super::{Compiler, PolicySet};

const VXLAN: &str = "swvx";
const GATEWAY: &str = "swpgateway";
const GATEWAY_MAC: [u8; 6] = [2, 0, 0, 0, 0, 99];

fn device(number: usize) -> String {
    format!("swp{number:012}")
}

fn mac(number: usize) -> [u8; 6] {
    [2, 0, 0, 0, 1, u8::try_from(number).unwrap()]
}

/// A node with the first few endpoints on it, and a gateway.
fn situation(policies: PolicySet) -> Situation {
    let pod = |number| {
        let addresses = sample::addresses(number).into_iter().collect();
        let port = Port { mac: mac(number), addresses, role: Role::Pod(sample::id(number)) };
        (device(number), port)
    };
    let mut ports: std::collections::BTreeMap<_, _> = (0..LOCAL).map(pod).collect();
    let addresses = BTreeSet::from([ip("10.77.255.1")]);
    let gateway = Port { mac: GATEWAY_MAC, addresses, role: Role::Gateway };
    ports.insert(GATEWAY.to_owned(), gateway);
    let far = ["10.77.100.0/24", "10.77.101.0/24", "fd77::100:0/112"];
    Situation { policies, ports, far: far.iter().map(|net| net.parse().unwrap()).collect() }
}

fn compiler(world: &World) -> Compiler {
    let mut compiler = Compiler::new(7);
    let put = |(id, e): (&super::EndpointId, &super::Endpoint)| {
        EndpointChange::Put(id.clone(), e.clone())
    };
    compiler.change_endpoints(world.endpoints.iter().map(put).collect());
    compiler.set_situation(situation(world.policies.clone()));
    compiler
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn local(address: IpAddr) -> Option<usize> {
    (0..LOCAL).find(|number| sample::addresses(*number).contains(&address))
}

/// The flow's first packet, as it comes to the node's router.
fn first(flow: &Flow) -> Packet {
    let place = |address| local(address).map_or(VXLAN.to_owned(), device);
    let mac = local(flow.source).map_or([2; 6], mac);
    Packet::first(flow, &place(flow.source), &place(flow.destination), mac)
}
