//! The pods of the slice on one node.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use slicewire_testbed::config::PAUSE_IMAGE;
use slicewire_tests::World;
use slicewire_tests::bench;
use slicewire_tests::world::not_yet;

/// Where everything is measured.
pub(crate) const NODE: &str = "east-1";
/// Its cluster.
pub(crate) const CLUSTER: &str = "east";
/// The pods' namespace.
pub(crate) const NAMESPACE: &str = "bench-attach";
const SLICE: &str = "attach";
const CROWD: &str = "crowd";

/// Has a slice and so many of its pods on the node; one pod's address on the slice.
pub(crate) fn crowd(world: &World, pods: usize) -> Result<Ipv4Addr> {
    bench::namespaces(world, NAMESPACE)?;
    world.slice(SLICE, "10.92.0.0/16,fd92::/48", NAMESPACE)?;
    let deployment = json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": CROWD, "namespace": NAMESPACE},
        "spec": {
            "replicas": pods,
            "selector": {"matchLabels": {"app": CROWD}},
            "template": {"metadata": {"labels": {"app": CROWD}}, "spec": spec()},
        },
    });
    world.apply(CLUSTER, &deployment.to_string())?;
    let words = format!("-n {NAMESPACE} pods -l app={CROWD}");
    World::wait(&format!("{pods} pods run on {NODE} and are attached"), 280, || {
        let list = world.get(CLUSTER, &words)?;
        let items = list["items"].as_array().context("no list")?;
        let attached: Vec<Ipv4Addr> = items.iter().filter_map(address).collect();
        match attached.first() {
            Some(first) if attached.len() >= pods => Ok(*first),
            _ => not_yet(format!("{} are", attached.len())),
        }
    })
}

/// A pod of the measured kind.
pub(crate) fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": {"app": "measured"}},
        "spec": spec(),
    })
}

fn spec() -> Value {
    json!({
        // Put there without the scheduler, which has no part in this.
        "nodeName": NODE,
        "terminationGracePeriodSeconds": 0,
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "containers": [{"name": "main", "image": PAUSE_IMAGE, "imagePullPolicy": "Never"}],
    })
}

/// A running pod's IPv4 address on the slice.
fn address(pod: &Value) -> Option<Ipv4Addr> {
    if pod["status"]["phase"] != "Running" {
        return None;
    }
    let status = pod["metadata"]["annotations"]["k8s.v1.cni.cncf.io/network-status"].as_str()?;
    let list: Value = serde_json::from_str(status).ok()?;
    let name = format!("slicewire.dev/{SLICE}");
    let entry = list.as_array()?.iter().find(|e| e["name"] == name.as_str())?;
    let ips = entry["ips"].as_array()?;
    ips.iter().find_map(|ip| match ip.as_str()?.parse().ok()? {
        IpAddr::V4(v4) => Some(v4),
        IpAddr::V6(_) => None,
    })
}

/// Removes pods and slice.
pub(crate) fn clear(world: &World) -> Result<()> {
    world.k(CLUSTER, &format!("-n {NAMESPACE} delete deployment {CROWD} --wait=false"))?;
    world.k(CLUSTER, &format!("-n {NAMESPACE} delete pods --all --grace-period=0 --wait=false"))?;
    World::wait("the pods are gone", 200, || {
        let left = world.k(CLUSTER, &format!("-n {NAMESPACE} get pods -o name"))?;
        if left.trim().is_empty() { Ok(()) } else { not_yet(left.lines().count()) }
    })?;
    world.delete_slice(SLICE)?;
    bench::remove_namespaces(world, NAMESPACE);
    Ok(())
}
