//! Rules of the form that kube-proxy's nftables mode has: a map from addresses and ports to a chain
//! of each service, which chooses by chance among the chains of its endpoints.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddrV4};

use crate::service::{INNER, PORT, endpoint, virtual_address};

/// What is the same whatever services there are.
const FRAME: &str = "\
table ip kube-proxy {
  map service-ips { type ipv4_addr . inet_proto . inet_service : verdict; }
  map no-endpoint-services { type ipv4_addr . inet_proto . inet_service : verdict; }
  chain mark-for-masquerade { meta mark set meta mark or 0x4000; }
  chain services { ip daddr . meta l4proto . th dport vmap @service-ips; }
  chain endpoints-check { ip daddr . meta l4proto . th dport vmap @no-endpoint-services; }
  chain masquerading {
    meta mark and 0x4000 == 0 return
    meta mark set meta mark xor 0x4000
    masquerade fully-random
  }
  chain filter-forward {
    type filter hook forward priority -110; policy accept;
    ct state new jump endpoints-check
  }
  chain nat-prerouting { type nat hook prerouting priority -100; policy accept; jump services; }
  chain nat-postrouting {
    type nat hook postrouting priority 100; policy accept;
    jump masquerading
  }
}
";

/// Everything.
pub(crate) fn all(services: u32, endpoints: u32) -> String {
    let mut text = FRAME.to_owned();
    for service in 0..services {
        let places = (0..endpoints).map(|e| SocketAddrV4::new(endpoint(service, e), INNER));
        add(&mut text, virtual_address(service), PORT, &places.collect::<Vec<_>>());
    }
    text
}

/// A service's front.
pub(crate) fn add(text: &mut String, address: Ipv4Addr, port: u16, places: &[SocketAddrV4]) {
    for place in places {
        end(text, *place);
    }
    let name = format!("service-{address}-{port}");
    // Writing to a string never fails.
    let _ = writeln!(text, "add chain ip kube-proxy {name}");
    choose(text, &name, places);
    let _ = writeln!(
        text,
        "add element ip kube-proxy service-ips {{ {address} . tcp . {port} : goto {name} }}"
    );
}

fn chain_of(place: SocketAddrV4) -> String {
    format!("endpoint-{}-{}", place.ip(), place.port())
}

fn end(text: &mut String, place: SocketAddrV4) {
    let (name, address) = (chain_of(place), place.ip());
    let _ = writeln!(text, "add chain ip kube-proxy {name}");
    let _ = writeln!(
        text,
        "add rule ip kube-proxy {name} ip saddr {address} jump mark-for-masquerade\n\
         add rule ip kube-proxy {name} meta l4proto tcp dnat to {place}"
    );
}

fn choose(text: &mut String, name: &str, places: &[SocketAddrV4]) {
    let ways = places.iter().enumerate();
    let ways: Vec<String> = ways.map(|(n, p)| format!("{n} : goto {}", chain_of(*p))).collect();
    let _ = writeln!(
        text,
        "add rule ip kube-proxy {name} numgen random mod {} vmap {{ {} }}",
        places.len(),
        ways.join(", ")
    );
}

/// A service's first endpoint is replaced by one more.
pub(crate) fn replace(service: u32, endpoints: u32) -> String {
    let place = |e| SocketAddrV4::new(endpoint(service, e), INNER);
    let name = format!("service-{}-{PORT}", virtual_address(service));
    let mut text = String::new();
    end(&mut text, place(endpoints));
    let _ = writeln!(text, "flush chain ip kube-proxy {name}");
    choose(&mut text, &name, &(1..=endpoints).map(place).collect::<Vec<_>>());
    let old = chain_of(place(0));
    let _ = writeln!(text, "flush chain ip kube-proxy {old}\ndelete chain ip kube-proxy {old}");
    text
}
