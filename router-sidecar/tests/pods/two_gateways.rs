//! Two clusters, one gateway pod each.

use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::lab::{EAST, Lab, Side, WEST, Watch};
use slicewire_bench_report::used;
use slicewire_core::gateway::Routes;

pub(crate) const SECOND: Duration = Duration::from_secs(1);

pub(crate) fn up(routes: &Routes) -> bool {
    routes.routes.iter().any(|route| route.health.up)
}

fn down(routes: &Routes) -> bool {
    !up(routes)
}

/// Both pods run and forward.
pub(crate) fn working(what: &str) -> (Lab, Watch, Watch) {
    let mut lab = Lab::new(what);
    for (side, other) in [(&EAST, &WEST), (&WEST, &EAST)] {
        lab.plan(side, other);
        lab.attach(side);
        lab.start_gateway(side);
        lab.start_sidecar(side);
    }
    let (mut east, mut west) = (lab.watch(&EAST), lab.watch(&WEST));
    east.until("east reaches west", 15 * SECOND, up);
    west.until("west reaches east", 15 * SECOND, up);
    (lab, east, west)
}

fn ping(lab: &Lab, from: &str, to: &str, more: &str) -> bool {
    lab.try_in(from, &format!("ping -c 2 -i 0.2 -W 1 {more} {to}"))
}

#[test]
fn pods_of_two_clusters_reach_each_other_in_both_families() {
    let (lab, mut east, _west) = working("a");
    for i in [0, 1] {
        assert!(ping(&lab, "reast", WEST.app[i], ""), "{}", WEST.app[i]);
        assert!(ping(&lab, "rwest", EAST.app[i], ""), "{}", EAST.app[i]);
        assert!(ping(&lab, "reast", WEST.device[i], ""), "{}", WEST.device[i]);
    }
    assert!(ping(&lab, "reast", WEST.app[0], "-s 1372 -M do"), "as large as the MTU says");
    east.until("path MTU and figures", 10 * SECOND, |routes| {
        let route = &routes.routes[0];
        route.path_mtu == Some(1400)
            && route.health.rtt.is_some_and(|rtt| rtt < SECOND)
            && route.traffic.last_handshake_ms.is_some()
            && route.traffic.rx_bytes > 0
    });
    let routes = east.now().unwrap();
    assert_eq!((routes.slice.as_str(), routes.cluster.as_str(), routes.lane), ("blue", "east", 0));
    assert_eq!(routes.routes[0].cluster, "west");
    let metrics = lab.read_in("east", "curl -s http://127.0.0.1:8081/metrics");
    assert!(metrics.contains(
        "slicewire_gateway_receive_bytes_total{slice=\"blue\",lane=\"0\",remote=\"west\"}"
    ));
    let metrics = lab.read_in("east", "curl -s http://127.0.0.1:8082/metrics");
    assert!(metrics.contains("slicewire_tunnel_up{slice=\"blue\",lane=\"0\",remote=\"west\"} 1"));
    for port in [8081, 8082] {
        assert!(lab.try_in("east", &format!("curl -sf http://127.0.0.1:{port}/readyz")));
    }
}

#[test]
fn a_cut_tunnel_is_told_within_half_a_second_and_comes_back() {
    let (lab, mut east, mut west) = working("b");
    std::thread::sleep(3 * SECOND);
    for _ in 0..3 {
        east.now();
        west.now();
        let cut = Instant::now();
        lab.ip("wan", "link set west down");
        for (side, watch) in [("east", &mut east), ("west", &mut west)] {
            let told = watch.until("the cut", 5 * SECOND, down).duration_since(cut);
            // The last probe before the cut, the misses that make sure, and the machine's share.
            assert!(told < Duration::from_millis(650), "{side} told after {told:?}");
        }
        lab.ip("wan", "link set west up");
        let mended = Instant::now();
        let told = east.until("the mend", 10 * SECOND, up).duration_since(mended);
        assert!(told < 2 * SECOND, "told after {told:?}");
        west.until("the mend", 10 * SECOND, up);
        std::thread::sleep(SECOND);
    }
}

/// Echo requests that arrived at a namespace.
fn echoes(lab: &Lab, ns: &str) -> u64 {
    let text = lab.read_in(ns, "cat /proc/net/snmp");
    let mut lines = text.lines().filter(|line| line.starts_with("Icmp:"));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let at = names.split_whitespace().position(|name| name == "InEchos").unwrap();
    values.split_whitespace().nth(at).unwrap().parse().unwrap()
}

#[test]
fn nothing_passes_between_the_slice_and_the_clusters_network() {
    let (lab, ..) = working("c");
    // A pod of the slice that tries to use the gateway as its way out.
    lab.ip("reast", &format!("route add 198.51.100.0/24 via {} dev port0 onlink", EAST.nic[0]));
    let before = echoes(&lab, "wan");
    assert!(!ping(&lab, "reast", "198.51.100.1", &format!("-I {}", EAST.app[0])));
    assert_eq!(echoes(&lab, "wan"), before, "a slice's packet reached the cluster's network");
    // A neighbour on the cluster's network that tries to use the gateway as its way in.
    lab.ip("wan", &format!("route add 10.20.0.0/16 via {}", EAST.wan));
    for (ns, app) in [("reast", EAST.app[0]), ("rwest", WEST.app[0])] {
        let before = echoes(&lab, ns);
        assert!(!ping(&lab, "wan", app, ""));
        assert_eq!(echoes(&lab, ns), before, "a foreign packet reached {app}");
    }
    // From a tunnel on into the cluster's network of the other side.
    let route = "198.51.100.0/24";
    lab.ip("rwest", &format!("route add {route} via {} dev port0 onlink", WEST.nic[0]));
    let before = echoes(&lab, "wan");
    assert!(!ping(&lab, "rwest", "198.51.100.1", &format!("-I {}", WEST.app[0])));
    assert_eq!(echoes(&lab, "wan"), before);
    // The counters do count: the wan's neighbours reach it.
    assert!(ping(&lab, "east", "198.51.100.1", ""));
    assert!(echoes(&lab, "wan") > before);
    // And the route stream is the cluster's, not the slice's.
    let (shown, name) = (lab.node_files(), "blue.gateway.slicewire.internal");
    let stream = |ns: &str, to: &str| {
        let asked = format!("--resolve {name}:5580:{to} https://{name}:5580/");
        lab.try_in(ns, &format!("curl -s --http2 -m 2 -o /dev/null {shown} {asked}"))
    };
    assert!(stream("wan", EAST.wan));
    assert!(!stream("reast", EAST.nic[0]));
    assert!(!stream("rwest", EAST.device[0]));
}

#[test]
fn a_gateway_waits_for_its_nic_and_tells_no_route_before() {
    let mut lab = Lab::new("d");
    for (side, other) in [(&EAST, &WEST), (&WEST, &EAST)] {
        lab.plan(side, other);
        lab.start_gateway(side);
        lab.start_sidecar(side);
    }
    lab.attach(&WEST);
    let (mut east, mut west) = (lab.watch(&EAST), lab.watch(&WEST));
    west.until("west reaches east", 15 * SECOND, up);
    east.until("probes come back", 15 * SECOND, |r| r.routes[0].health.rtt.is_some());
    assert!(!up(east.now().unwrap()), "east has no NIC yet");
    assert!(!lab.try_in("east", "curl -sf http://127.0.0.1:8082/readyz"));
    let attached = Instant::now();
    lab.attach(&EAST);
    let told = east.until("east has its NIC", 10 * SECOND, up).duration_since(attached);
    assert!(told < 2 * SECOND, "told after {told:?}");
    assert!(ping(&lab, "reast", WEST.app[0], ""));
}

#[test]
fn killed_containers_come_back_to_a_working_tunnel() {
    let (mut lab, mut east, mut west) = working("e");
    lab.kill(&EAST, "slice-gateway");
    west.until("east's gateway is gone", 5 * SECOND, down);
    east.until("the own gateway is gone", 5 * SECOND, down);
    lab.start_gateway(&EAST);
    let started = Instant::now();
    let told = east.until("the tunnel is back", 10 * SECOND, up).duration_since(started);
    assert!(told < 5 * SECOND, "told after {told:?}");
    west.until("the tunnel is back", 10 * SECOND, up);
    assert!(ping(&lab, "reast", WEST.app[0], ""));

    // The sidecar's end and its beginning interrupt nothing: routes and rules stay.
    let line = format!("ping -q -i 0.002 -c 2000 -W 2 {}", WEST.app[0]);
    let mut pings = lab.begin("reast", &line, Stdio::piped());
    for _ in 0..5 {
        std::thread::sleep(SECOND / 2);
        lab.kill(&EAST, "router-sidecar");
        lab.start_sidecar(&EAST);
    }
    let said = std::io::read_to_string(pings.stdout.take().unwrap()).unwrap();
    assert!(pings.wait().unwrap().success() && said.contains(" 2000 received"), "{said}");
    let mut east = lab.watch(&EAST);
    east.until("the sidecar is back", 10 * SECOND, up);
    assert!(ping(&lab, "reast", WEST.app[1], ""));
}

#[test]
fn a_changed_plan_is_followed_without_touching_what_stays() {
    let (lab, mut east, _west) = working("f");
    east.until("a handshake", 10 * SECOND, |r| r.routes[0].traffic.last_handshake_ms.is_some());
    let before = east.now().unwrap().routes[0].traffic.last_handshake_ms;
    let narrower = Side { prefixes: ["10.20.64.0/19", "fd00:20:0:1::/64"], ..WEST };
    lab.plan(&EAST, &narrower);
    let new = "10.20.64.0/19".parse().unwrap();
    east.until("the new prefix", 5 * SECOND, |r| r.routes[0].prefixes.contains(&new) && up(r));
    let after = east.now().unwrap().routes[0].traffic.last_handshake_ms;
    assert_eq!(before, after, "the session was kept");
    assert!(ping(&lab, "reast", WEST.app[0], ""));
}

/// What the containers may use when nothing but probes runs, built without optimisation: that makes
/// them a third larger than `make bench-memory` finds them.
#[test]
fn idle_containers_are_small_and_quiet() {
    let (lab, ..) = working("g");
    std::thread::sleep(2 * SECOND);
    let programs = [("router-sidecar", 21.0), ("slice-gateway", 42.0)];
    let before: Vec<_> =
        programs.iter().map(|(name, _)| used::process(lab.pid(&EAST, name)).unwrap()).collect();
    let span = 10 * SECOND;
    std::thread::sleep(span);
    for ((name, limit), before) in programs.iter().zip(before) {
        let pid = lab.pid(&EAST, name);
        let memory = used::resident(pid).unwrap();
        let cpu = (used::process(pid).unwrap() - before).div_duration_f64(span) * 100.0;
        println!("{name}: {memory:.1} MB, {cpu:.1} % of a core");
        assert!(memory < *limit, "{name} uses {memory:.1} MB");
        assert!(cpu < 3.0, "{name} uses {cpu:.1} % of a core");
    }
}
