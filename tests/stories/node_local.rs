//! A cache on every node between the pods and the cluster's DNS, as NodeLocal DNSCache is.
//!
//! Its program is CoreDNS and sets up what is set up here: the cache's address and that of the DNS
//! Service on every node, and that packets to them are led nowhere else. This is CoreDNS with its
//! configuration; the addresses are on `lo`, because not every kernel has the device it makes.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use slicewire_testbed::config::COREDNS_IMAGE;
use slicewire_tests::world::{World, not_yet};

use crate::services::{EXPORT, service};

const NODES: [&str; 2] = ["east-1", "east-2"];
/// The cache's address and the DNS Service's, as in every cluster of the testbed.
const PLACES: &str = "169.254.20.10 10.96.0.10";
const URL: &str = "http://cached.shop.svc.clusterset.local/";

/// Pods of a cluster with the cache know names of slices as soon as its ConfigMap has what
/// `slicectl dns` says.
pub(crate) fn node_local(world: &mut World) -> Result<String> {
    world.pod("west", "shop", "cached", None)?;
    world.k("west", "-n shop label pod cached tier=cached")?;
    world.addresses("west", "shop", "cached", "blue")?;
    let ports = r#""ports": [{"port": 80, "targetPort": 8080}]"#;
    world.apply("west", &service("cached", ports))?;
    world.apply("west", &EXPORT.replace("\"api\"", "\"cached\""))?;
    World::wait("the name is known to CoreDNS", 20, || curl(world))?;
    let seen = with_cache(world);
    let ended = end(world);
    let seen = seen?;
    ended?;
    Ok(seen)
}

/// Takes the cache and the service away again.
fn end(world: &World) -> Result<()> {
    for node in NODES {
        let away = "nft delete table ip node-local-dns; \
                    for a in 169.254.20.10 10.96.0.10; do ip addr del $a/32 dev lo; done";
        world.testbed.exec_checked(node, &["sh", "-c", away])?;
    }
    let objects = "daemonset/node-local-dns configmap/node-local-dns service/kube-dns-upstream";
    world.k("east", &format!("-n kube-system delete {objects}"))?;
    world.k("west", "-n shop delete serviceexport,service,pod cached --now").map(drop)
}

fn with_cache(world: &World) -> Result<String> {
    let corefile = start(world)?;
    World::wait("the cache answers for the cluster", 30, || {
        lookup(world, "kubernetes.default.svc.cluster.local", "10.96.0.1")
    })?;
    ensure!(curl(world).is_err(), "the cache was not asked");
    let kubeconfig = world.kubeconfig("east");
    let (code, said) = world.slicectl_ended(&["dns", "--kubeconfig", &kubeconfig])?;
    ensure!(code == Some(2), "{code:?}: {said}");
    let (_, from) = said.split_once("NodeLocal DNSCache").context(said.clone())?;
    let (_, from) = from.split_once(":\n").context(said.clone())?;
    let (block, then) = from.split_once("\n}\n").context(said.clone())?;
    ensure!(then.contains("rollout restart"), "{said}");
    configure(world, &format!("{corefile}{block}\n}}\n"))?;
    world.k("east", "-n kube-system rollout restart daemonset/node-local-dns")?;
    rolled_out(world)?;
    World::wait("the cache asks the nodes", 20, || curl(world))?;
    let (code, said) = world.slicectl_ended(&["dns", "--kubeconfig", &kubeconfig])?;
    ensure!(code == Some(0) && said.contains("NodeLocal DNSCache: asks the nodes"), "{said}");
    let import = world.get("east", "-n shop serviceimport cached")?;
    let ip = import["spec"]["ips"][0].as_str().context("no address")?;
    World::wait("the service's address has its name", 120, || {
        lookup(world, ip, "cached.shop.svc.clusterset.local")
    })?;
    Ok("names of slices were unknown through the cache, and known with the block that slicectl dns \
        printed; names of addresses needed nothing"
        .to_owned())
}

/// Has the cache run on every node; its Corefile.
fn start(world: &World) -> Result<String> {
    world.apply("east", &upstream().to_string())?;
    let upstream = world.get("east", "-n kube-system service kube-dns-upstream")?;
    let upstream = upstream["spec"]["clusterIP"].as_str().context("no address")?;
    let block = |zone: &str, to: &str| {
        format!(
            "{zone}:53 {{\n    errors\n    cache 30\n    reload 5s\n    bind {PLACES}\n    forward . {to}\n}}\n"
        )
    };
    let cluster = format!("{upstream} {{\n        force_tcp\n    }}");
    let zones = ["cluster.local", "in-addr.arpa", "ip6.arpa"];
    let corefile: String = zones.iter().map(|zone| block(zone, &cluster)).collect();
    let corefile = corefile + &block(".", "/etc/resolv.conf");
    configure(world, &corefile)?;
    for node in NODES {
        let rules = "table ip node-local-dns {
            chain in { type filter hook prerouting priority raw;
                ip daddr { 169.254.20.10, 10.96.0.10 } th dport 53 notrack; }
            chain out { type filter hook output priority raw;
                ip saddr { 169.254.20.10, 10.96.0.10 } th sport 53 notrack;
                ip daddr { 169.254.20.10, 10.96.0.10 } th dport 53 notrack; }
        }";
        let line = format!(
            "for a in {PLACES}; do ip addr add $a/32 dev lo || exit 1; done; echo '{rules}' | nft -f -"
        );
        world.testbed.exec_checked(node, &["sh", "-c", &line])?;
    }
    world.apply("east", &daemons().to_string())?;
    rolled_out(world)?;
    Ok(corefile)
}

fn rolled_out(world: &World) -> Result<String> {
    world.k("east", "-n kube-system rollout status daemonset/node-local-dns --timeout=60s")
}

fn configure(world: &World, corefile: &str) -> Result<String> {
    let map = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": "node-local-dns", "namespace": "kube-system" },
        "data": { "Corefile": corefile },
    });
    world.apply("east", &map.to_string())
}

/// CoreDNS, at an address that the cache does not have itself.
fn upstream() -> Value {
    let port = |name: &str, protocol: &str| json!({"name": name, "port": 53, "protocol": protocol});
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": "kube-dns-upstream", "namespace": "kube-system" },
        "spec": {
            "selector": { "k8s-app": "kube-dns" },
            "ports": [port("dns", "UDP"), port("dns-tcp", "TCP")],
        },
    })
}

fn daemons() -> Value {
    let labels = json!({ "k8s-app": "node-local-dns" });
    json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet",
        "metadata": { "name": "node-local-dns", "namespace": "kube-system" },
        "spec": {
            "selector": { "matchLabels": labels },
            "updateStrategy": { "rollingUpdate": { "maxUnavailable": "100%" } },
            "template": {
                "metadata": { "labels": labels },
                "spec": {
                    "hostNetwork": true,
                    "dnsPolicy": "Default",
                    "priorityClassName": "system-node-critical",
                    "terminationGracePeriodSeconds": 1,
                    "containers": [{
                        "name": "node-cache",
                        "image": COREDNS_IMAGE,
                        "imagePullPolicy": "Never",
                        "command": ["/usr/bin/coredns", "-conf", "/etc/coredns/Corefile"],
                        "volumeMounts": [{ "name": "config", "mountPath": "/etc/coredns" }],
                    }],
                    "volumes": [{ "name": "config", "configMap": { "name": "node-local-dns" } }],
                },
            },
        },
    })
}

fn curl(world: &World) -> Result<()> {
    world.sh("east", "shop", "web", &format!("curl -s -m 2 -o /dev/null {URL}")).map(drop)
}

fn lookup(world: &World, what: &str, answer: &str) -> Result<()> {
    let said = world.sh("east", "shop", "web", &format!("nslookup {what}"))?;
    if said.contains(answer) { Ok(()) } else { not_yet(said) }
}
