//! A slice's life: from empty clusters to packets, and back to nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use slicewire_tests::pods::manifest;
use slicewire_tests::world::{PROJECT_NS, WORKERS, World, not_yet};

const EAST: (&str, &str, &str) = ("east", "shop", "web");
const WEST: (&str, &str, &str) = ("west", "shop", "web");

pub(crate) fn join(world: &mut World) -> Result<String> {
    let begun = Instant::now();
    world.install()?;
    for cluster in WORKERS {
        let wait = "--for=condition=Ready --timeout=60s";
        world.k("hub", &format!("-n {PROJECT_NS} wait cluster/{cluster} {wait}"))?;
    }
    Ok(format!(
        "both clusters ready {:.1} s after the first command",
        begun.elapsed().as_secs_f64()
    ))
}

pub(crate) fn running_pods(world: &mut World) -> Result<String> {
    for cluster in WORKERS {
        world.namespace(cluster, "shop", "")?;
        world.pod(cluster, "shop", "web", Some(&format!("{cluster}-1")))?;
        world.pod(cluster, "shop", "far", Some(&format!("{cluster}-2")))?;
    }
    let started = containers(world)?;
    let begun = Instant::now();
    world.slice("blue", "10.77.0.0/16,fd77::/48", "shop")?;
    let west = world.addresses("west", "shop", "web", "blue")?;
    ensure!(west.len() == 2, "a dual-stack slice gives two addresses, got {west:?}");
    world.reaches(EAST, west[0], 30)?;
    let first = begun.elapsed().as_secs_f64();
    for to in &west {
        world.reaches(EAST, *to, 10)?;
        world.reaches(("east", "shop", "far"), *to, 10)?;
    }
    for to in world.addresses("east", "shop", "far", "blue")? {
        world.reaches(WEST, to, 10)?;
        world.reaches(EAST, to, 10)?;
    }
    ensure!(containers(world)? == started, "a container was started anew");
    let own = world.addresses("east", "shop", "web", "blue")?;
    for (to, own) in west.iter().zip(&own) {
        let seen = world.sh("east", "shop", "web", &format!("curl -sg -m 5 {}", url(*to)))?;
        ensure!(seen.contains(&own.to_string()), "the server saw {seen}, not {own}");
    }
    let wait = "--for=condition=Ready --timeout=30s";
    world.k("hub", &format!("-n {PROJECT_NS} wait sliceconfig/blue {wait}"))?;
    let status = world.slicectl(&["status", "--kubeconfig", &world.kubeconfig("hub")])?;
    ensure!(status.contains("blue"), "slicectl status does not show the slice: {status}");
    Ok(format!("{first:.1} s from SliceConfig to the first ping between clusters"))
}

fn url(to: IpAddr) -> String {
    match to {
        IpAddr::V4(a) => format!("http://{a}:8080/"),
        IpAddr::V6(a) => format!("http://[{a}]:8080/"),
    }
}

/// The containers of the namespace: new ones would have other names.
fn containers(world: &World) -> Result<String> {
    let path = "jsonpath={.items[*].status.containerStatuses[*].containerID}";
    world.k("east", &format!("-n shop get pods -o {path}"))
}

pub(crate) fn outsider(world: &mut World) -> Result<String> {
    world.namespace("east", "out", "")?;
    world.pod("east", "out", "lone", Some("east-1"))?;
    let east = world.addresses("east", "shop", "web", "blue")?;
    let west = world.addresses("west", "shop", "web", "blue")?;
    for to in east.iter().chain(&west) {
        ensure!(!world.reachable(("east", "out", "lone"), *to), "a pod off the slice reaches {to}");
    }
    world.k("east", "delete namespace out")?;
    Ok(format!("none of {} slice addresses answers a pod off the slice", east.len() + west.len()))
}

pub(crate) fn restricted(world: &mut World) -> Result<String> {
    let labels =
        r#""pod-security.kubernetes.io/enforce": "restricted", "slicewire.dev/slice": "blue""#;
    world.namespace("west", "strict", labels)?;
    World::wait("the webhook knows the namespace", 15, || {
        let said = world.k("west", "get mutatingwebhookconfigurations -o json")?;
        if said.contains("strict") { Ok(()) } else { not_yet("not listed") }
    })?;
    world.pod("west", "strict", "new", None)?;
    let pod = world.get("west", "-n strict pod new")?;
    let init = &pod["spec"]["initContainers"][0]["name"];
    ensure!(init == "slicewire-wait", "a new pod was not made to wait: {init}");
    let to = world.addresses("west", "strict", "new", "blue")?;
    world.reaches(EAST, to[0], 15)?;
    world.k("west", "delete namespace strict")?;
    Ok("a pod under the restricted standard waited for its NIC and is reached".to_owned())
}

pub(crate) fn families(world: &mut World) -> Result<String> {
    for (name, prefix) in [("four", "172.20.0.0/20"), ("six", "fd66:6::/56")] {
        for cluster in WORKERS {
            world.namespace(cluster, name, "")?;
            world.pod(cluster, name, "web", None)?;
        }
        world.slice(name, prefix, name)?;
        let to = world.addresses("west", name, "web", name)?;
        ensure!(to.len() == 1, "one family gives one address, got {to:?}");
        world.reaches(("east", name, "web"), to[0], 30)?;
    }
    for name in ["four", "six"] {
        world.delete_slice(name)?;
        for cluster in WORKERS {
            world.k(cluster, &format!("delete namespace {name} --wait=false"))?;
        }
    }
    Ok("slices of IPv4 only and of IPv6 only carry packets".to_owned())
}

pub(crate) fn same_prefix(world: &mut World) -> Result<String> {
    for cluster in WORKERS {
        world.namespace(cluster, "twin", "")?;
        world.pod(cluster, "twin", "web", Some(&format!("{cluster}-1")))?;
    }
    world.slice("twin", "10.77.0.0/16", "twin")?;
    let to = world.addresses("west", "twin", "web", "twin")?;
    world.reaches(("east", "twin", "web"), to[0], 30)?;
    // Twin's own gateway may have the very address that blue's pod has, and answer its pings: only
    // the pods serve HTTP.
    let blue = world.addresses("west", "shop", "web", "blue")?;
    let (both, other): (Vec<&IpAddr>, Vec<&IpAddr>) = blue.iter().partition(|a| to.contains(a));
    let asks = |a: IpAddr| world.sh("east", "twin", "web", &format!("curl -sg -m 2 {}", url(a)));
    asks(to[0]).context("twin's own server does not answer")?;
    for a in other {
        ensure!(asks(*a).is_err(), "twin reaches {a} of blue");
    }
    world.delete_slice("twin")?;
    for cluster in WORKERS {
        world.k(cluster, "delete namespace twin --wait=false")?;
    }
    Ok(format!("two slices share a prefix; {} addresses are even the same", both.len()))
}

pub(crate) fn two_slices(world: &mut World) -> Result<String> {
    world.slice("red", "10.99.0.0/16", "shop")?;
    let blue = world.addresses("west", "shop", "web", "blue")?;
    let red = world.addresses("west", "shop", "web", "red")?;
    world.reaches(EAST, red[0], 30)?;
    world.reaches(EAST, blue[0], 5)?;
    let seen = world.sh("east", "shop", "web", &format!("curl -sg -m 5 {}", url(red[0])))?;
    let own = world.addresses("east", "shop", "web", "red")?;
    ensure!(seen.contains(&own[0].to_string()), "the server on red saw {seen}");
    world.delete_slice("red")?;
    World::wait("red's NIC is gone", 20, || {
        match world.addresses_now("east", "shop", "web", "red") {
            Ok(_) => not_yet("still there"),
            Err(_) => Ok(()),
        }
    })?;
    world.reaches(EAST, blue[0], 5)?;
    Ok("a pod on two slices reaches both; losing one leaves the other".to_owned())
}

pub(crate) fn injector_down(world: &mut World) -> Result<String> {
    let scale = "-n slicewire-system scale deployment slicewire-nsm-injector";
    world.k("east", &format!("{scale} --replicas=0"))?;
    World::wait("the injector is gone", 30, || {
        let said = world.k("east", "-n slicewire-system get pods -o name")?;
        if said.contains("nsm-injector") { not_yet(said) } else { Ok(()) }
    })?;
    world.pod("east", "shop", "late", None)?;
    let to = world.addresses("east", "shop", "late", "blue")?;
    world.reaches(WEST, to[0], 15)?;
    world.k("east", "-n shop delete pod late --now")?;
    world.k("east", &format!("{scale} --replicas=1"))?;
    Ok("without the webhook a new pod starts and is attached".to_owned())
}

/// 200 pods made and deleted on one node: no address leaks, none is given twice at a time, none
/// is given again within a minute.
pub(crate) fn churn(world: &mut World) -> Result<String> {
    const ROUNDS: usize = 10;
    const BATCH: usize = 20;
    let mut given: BTreeMap<IpAddr, Instant> = BTreeMap::new();
    let before = ports(world)?;
    for round in 0..ROUNDS {
        let names: Vec<String> = (0..BATCH).map(|i| format!("c{round}-{i}")).collect();
        let yaml: Vec<_> = names.iter().map(|n| manifest(n, "shop", Some("east-1"))).collect();
        world.apply("east", &yaml.join("\n---\n"))?;
        let mut batch = BTreeSet::new();
        for address in world.addresses_of_all("east", "shop", &names, "blue")? {
            ensure!(batch.insert(address), "{address} was given to two pods");
            if let Some(ended) = given.get(&address) {
                let age = ended.elapsed().as_secs();
                ensure!(age >= 60, "{address} was given again after {age} s");
            }
        }
        // An address is free some time after its pod is told to end, and rests from then on. The next
        // ones begin while these end.
        let ends = Instant::now();
        world.k("east", &format!("-n shop delete pod --now --wait=false {}", names.join(" ")))?;
        given.extend(batch.into_iter().map(|a| (a, ends)));
    }
    World::wait("all addresses are free again", 60, || {
        let now = ports(world)?;
        if now == before { Ok(()) } else { not_yet(format!("{} ports", now.len())) }
    })?;
    Ok(format!("{} pods, {} addresses, none leaked or given twice", ROUNDS * BATCH, given.len()))
}

/// The ports of blue's router on the first node of east.
fn ports(world: &World) -> Result<BTreeSet<String>> {
    let list = ["nsenter", "--net=/run/netns/sw-blue", "ip", "-o", "link", "show", "type", "veth"];
    let said = world.testbed.exec_checked("east-1", &list)?;
    let name = |l: &str| l.split_whitespace().nth(1).map(str::to_owned);
    Ok(said.lines().filter_map(name).collect())
}

pub(crate) fn label_removed(world: &mut World) -> Result<String> {
    world.namespace("east", "guest", "")?;
    world.pod("east", "guest", "web", Some("east-1"))?;
    let started = world.get("east", "-n guest pod web")?["status"]["containerStatuses"].clone();
    let links = |w: &World| w.sh("east", "guest", "web", "ip -o link; ip route; ip -6 route");
    let before = links(world)?;
    world.k("east", "label namespace guest slicewire.dev/slice=blue")?;
    let to = world.addresses("east", "guest", "web", "blue")?;
    world.reaches(WEST, to[0], 15)?;
    world.k("east", "label namespace guest slicewire.dev/slice-")?;
    World::wait("the NIC is gone", 20, || {
        let now = links(world)?;
        if now == before { Ok(()) } else { not_yet(now) }
    })?;
    let after = world.get("east", "-n guest pod web")?["status"]["containerStatuses"].clone();
    ensure!(started == after, "the pod was touched");
    world.k("east", "delete namespace guest")?;
    Ok("label on: attached; label off: the pod is as it was, and runs on".to_owned())
}

pub(crate) fn before_after(world: &mut World) -> Result<String> {
    world.delete_slice("blue")?;
    let before = kernels(world)?;
    world.slice("green", "10.88.0.0/16,fd88::/48", "shop")?;
    let to = world.addresses("west", "shop", "web", "green")?;
    world.reaches(EAST, to[0], 30)?;
    ensure!(kernels(world)? != before, "a slice leaves its mark while it is there");
    world.delete_slice("green")?;
    World::wait("the nodes are as before", 30, || same(&before, &kernels(world)?))?;
    for cluster in WORKERS {
        let left = world.k(cluster, "get slices,slicegateways,slicenodes -A -o name")?;
        ensure!(left.trim().is_empty(), "objects are left in {cluster}: {left}");
        world.k(cluster, "-n shop wait pod/web --for=condition=Ready --timeout=5s")?;
    }
    Ok("after the slice the nodes' links, routes, rules and tables are as before".to_owned())
}

fn kernels(world: &World) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for node in ["east-1", "east-2", "west-1", "west-2"] {
        all.extend(world.kernel(node)?.into_iter().map(|l| format!("{node}: {l}")));
    }
    Ok(all)
}

fn same(before: &[String], after: &[String]) -> Result<()> {
    let (b, a): (BTreeSet<_>, BTreeSet<_>) = (before.iter().collect(), after.iter().collect());
    let gone: Vec<_> = b.difference(&a).collect();
    let new: Vec<_> = a.difference(&b).collect();
    ensure!(gone.is_empty() && new.is_empty(), "new: {new:#?}\ngone: {gone:#?}");
    Ok(())
}

/// A Service of the pod `web`, exported.
const EXPORTED: &str = r#"{"apiVersion": "v1", "kind": "Service",
    "metadata": {"name": "kept", "namespace": "shop"},
    "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}}
---
{"apiVersion": "multicluster.x-k8s.io/v1beta1", "kind": "ServiceExport",
    "metadata": {"name": "kept", "namespace": "shop"}}"#;
/// The EndpointSlices made of exports.
const IMPORTED_SLICES: &str = "endpointslices -l multicluster.kubernetes.io/service-name";

pub(crate) fn uninstall(world: &mut World) -> Result<String> {
    world.slice("last", "10.66.0.0/16", "shop")?;
    let to = world.addresses("west", "shop", "web", "last")?;
    world.reaches(EAST, to[0], 30)?;
    world.apply("west", EXPORTED)?;
    for cluster in WORKERS {
        World::wait("the export is imported", 20, || {
            world.k(cluster, "-n shop get serviceimport kept")?;
            let slices = world.k(cluster, &format!("-n shop get {IMPORTED_SLICES} -o name"))?;
            if slices.trim().is_empty() { not_yet("no EndpointSlice") } else { Ok(()) }
        })?;
    }
    by_hand(world)?;
    for (role, cluster) in [("worker", "east"), ("worker", "west"), ("hub", "hub")] {
        let kubeconfig = world.kubeconfig(cluster);
        let (code, said) =
            world.slicectl_ended(&["uninstall", role, "--kubeconfig", &kubeconfig])?;
        ensure!(code == Some(0), "{cluster}: {said}");
        let told = said.contains("kube-system/node-local-dns (zones slice.local)");
        ensure!(told == (cluster == "east"), "{cluster}: {said}");
    }
    for cluster in ["hub", "east", "west"] {
        let kinds = "crd,clusterrole,clusterrolebinding,namespace,mutatingwebhookconfiguration,\
                     validatingwebhookconfiguration,priorityclass";
        let left = world.k(cluster, &format!("get {kinds} -o name"))?;
        let ours: Vec<_> = left.lines().filter(|l| l.contains("slicewire")).collect();
        ensure!(ours.is_empty(), "{cluster} still has {ours:?}");
        let standard = left.lines().filter(|l| l.contains("multicluster.x-k8s.io")).count();
        // Where somebody's export is, its definition stays; nothing of his is lost.
        ensure!(standard == usize::from(cluster == "west"), "{cluster}: {left}");
        let slices = world.k(cluster, &format!("get -A {IMPORTED_SLICES} -o name"))?;
        ensure!(slices.trim().is_empty(), "{cluster} still has {slices}");
    }
    world.k("west", "-n shop get serviceexport kept")?;
    for node in ["east-1", "east-2", "west-1", "west-2"] {
        let left = world.kernel(node)?;
        let ours: Vec<_> =
            left.iter().filter(|l| l.contains("sw-") || l.contains("swvx")).collect();
        ensure!(ours.is_empty(), "{node} still has {ours:?}");
    }
    let nics = world.sh("east", "shop", "web", "ip -o link").context("the pod runs on")?;
    ensure!(!nics.contains("slice0"), "the pod still has its NIC: {nics}");
    Ok("nothing of ours is left in three clusters and on four nodes; the pods run on, and what a \
        user had exported is still there"
        .to_owned())
}

/// Somebody has written a block for names of slices, which is not ours to take away.
fn by_hand(world: &World) -> Result<()> {
    let service = world.get("east", "-n slicewire-system service slicewire-dns")?;
    let server = service["spec"]["clusterIP"].as_str().context("no address")?;
    let map = format!(
        r#"{{"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {{"name": "node-local-dns", "namespace": "kube-system"}},
        "data": {{"Corefile": "slice.local:53 {{\n    forward . {server}\n}}\n"}}}}"#
    );
    world.apply("east", &map).map(drop)
}
