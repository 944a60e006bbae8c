//! The WireGuard device as a network device: its MTU, its addresses, that it is up.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use slicewire_kernel::{Address, LinkChange, Op, State};

use super::plan::Plan;

/// The operations that make the device what the plan says; none if it is. Link-local addresses
/// are the kernel's and stay.
pub(super) fn changes(name: &str, plan: &Plan, found: &State) -> Vec<Op> {
    let Some(link) = found.link(name) else { return Vec::new() };
    let dev = || name.to_owned();
    let mut ops = Vec::new();
    let change = LinkChange {
        mtu: (link.mtu != u32::from(plan.mtu)).then_some(u32::from(plan.mtu)),
        up: (!link.up).then_some(true),
        ..LinkChange::default()
    };
    if change != LinkChange::default() {
        ops.push(Op::SetLink { dev: dev(), change });
    }
    let wanted: BTreeSet<_> = plan.addresses.iter().map(|a| Address::host(name, *a)).collect();
    let has: BTreeSet<_> = found
        .addresses
        .iter()
        .filter(|address| address.dev == name && !link_local(&address.net))
        .cloned()
        .collect();
    ops.extend(wanted.difference(&has).cloned().map(Op::ReplaceAddress));
    ops.extend(has.difference(&wanted).cloned().map(Op::DeleteAddress));
    ops
}

fn link_local(net: &IpNet) -> bool {
    matches!(net.addr(), IpAddr::V6(address) if address.is_unicast_link_local())
}

#[cfg(test)]
mod tests {
    use slicewire_core::name::SliceName;
    use slicewire_kernel::{Link, LinkKind};

    use super::*;

    fn plan() -> Plan {
        Plan {
            slice: SliceName::parse("blue").unwrap(),
            cluster: "east".into(),
            lane: 0,
            mtu: 1400,
            addresses: vec!["10.20.0.1".parse().unwrap(), "fd00:20::1".parse().unwrap()],
            prefixes: vec![],
            generations: vec![],
            qos: None,
        }
    }

    fn state(mtu: u32, up: bool, addresses: &[&str]) -> State {
        let link = Link {
            name: "swwg0".into(),
            index: 7,
            kind: LinkKind::Tun,
            alias: None,
            mac: None,
            mtu,
            up,
            peer: None,
        };
        let mut state = State::default();
        state.links.insert(link);
        for text in addresses {
            state.addresses.insert(Address::new("swwg0", text.parse().unwrap()));
        }
        state.addresses.insert(Address::new("eth0", "172.16.0.9/24".parse().unwrap()));
        state
    }

    #[test]
    fn a_new_device_gets_everything() {
        let ops = changes("swwg0", &plan(), &state(1500, false, &["fe80::1/64"]));
        let change = LinkChange { mtu: Some(1400), up: Some(true), ..LinkChange::default() };
        assert_eq!(
            ops,
            [
                Op::SetLink { dev: "swwg0".into(), change },
                Op::ReplaceAddress(Address::new("swwg0", "10.20.0.1/32".parse().unwrap())),
                Op::ReplaceAddress(Address::new("swwg0", "fd00:20::1/128".parse().unwrap())),
            ]
        );
    }

    #[test]
    fn what_is_right_is_left_alone_and_what_is_old_goes() {
        let right = ["10.20.0.1/32", "fd00:20::1/128", "fe80::1/64"];
        assert_eq!(changes("swwg0", &plan(), &state(1400, true, &right)), []);
        let old = [&right[..], &["10.20.0.9/32"]].concat();
        let address = Address::new("swwg0", "10.20.0.9/32".parse().unwrap());
        assert_eq!(
            changes("swwg0", &plan(), &state(1400, true, &old)),
            [Op::DeleteAddress(address)]
        );
    }
}
