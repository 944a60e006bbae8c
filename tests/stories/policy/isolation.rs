//! A slice's namespaces keep to themselves on the clusters' own pod networks. The testbed's CNI
//! carries no NetworkPolicy out: what is seen here are the objects, and that nothing else changes.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use slicewire_tests::world::{PROJECT_NS, WORKERS, World, not_yet};

use super::{EAST, settings};

const NAME: &str = "slicewire-isolation-blue";

/// There, repaired, and gone; another's stays.
pub(crate) fn isolation(world: &mut World) -> Result<String> {
    let bad = json!({"namespaceIsolationProfile": {"isolationEnabled": true,
        "allowedNamespaces": [{"namespace": "Tools", "clusters": ["north"]}]}});
    let Err(error) = settings(world, &bad) else { anyhow::bail!("two faults were accepted") };
    let said = format!("{error:#}");
    ensure!(said.contains("Tools") && said.contains("UnknownCluster"), "{said}");
    for cluster in WORKERS {
        world.apply(cluster, &theirs())?;
    }
    let before = world.get("east", "-n shop networkpolicy theirs")?;
    let profile = json!({"namespaceIsolationProfile": {"isolationEnabled": true,
        "applicationNamespaces": [{"namespace": "late", "clusters": ["*"]}],
        "allowedNamespaces": [{"namespace": "tools", "clusters": ["east"]}]}});
    settings(world, &profile)?;
    accepts(world, "east", "shop", &["shop", "tools"])?;
    accepts(world, "west", "shop", &["shop"])?;
    world.namespace("east", "late", "")?;
    accepts(world, "east", "late", &["late", "shop", "tools"])?;
    accepts(world, "east", "shop", &["late", "shop", "tools"])?;

    repaired(world)?;
    let to = world.addresses("west", "shop", "web", "blue")?[0];
    world.reaches(EAST, to, 10)?;
    let resolves = "nslookup kubernetes.default.svc.cluster.local";
    world.sh("east", "shop", "web", resolves)?;

    world.k("east", "delete namespace late --timeout=60s")?;
    accepts(world, "east", "shop", &["shop", "tools"])?;
    settings(world, &json!({"namespaceIsolationProfile": Value::Null}))?;
    for cluster in WORKERS {
        gone(world, cluster)?;
    }
    with_the_slice(world)?;
    let after = world.get("east", "-n shop networkpolicy theirs")?;
    ensure!(after == before, "another's NetworkPolicy was {before}, and is {after}");
    for cluster in WORKERS {
        world.k(cluster, "-n shop delete networkpolicy theirs")?;
    }
    Ok("written in each namespace, repaired when edited and deleted, gone with the namespace, the profile and the slice; another's stayed".to_owned())
}

fn theirs() -> String {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "theirs", "namespace": "shop"},
        "spec": {"podSelector": {"matchLabels": {"app": "nobody"}}, "policyTypes": ["Ingress"]},
    })
    .to_string()
}

fn accepts(world: &World, cluster: &str, namespace: &str, wanted: &[&str]) -> Result<()> {
    World::wait(&format!("{cluster}/{namespace} accepts {wanted:?}"), 20, || {
        let policy = world.get(cluster, &format!("-n {namespace} networkpolicy {NAME}"))?;
        let expected = json!({
            "podSelector": {},
            "policyTypes": ["Ingress"],
            "ingress": [{"from": [{"namespaceSelector": {"matchExpressions": [
                {"key": "kubernetes.io/metadata.name", "operator": "In", "values": wanted}]}}]}],
        });
        if policy["spec"] == expected { Ok(()) } else { not_yet(&policy["spec"]) }
    })
}

/// Undoes what somebody does to it.
fn repaired(world: &World) -> Result<()> {
    let wanted = &["late", "shop", "tools"];
    for damage in [
        r#"{"spec":{"podSelector":{"matchLabels":{"app":"nobody"}}}}"#,
        r#"{"spec":{"ingress":[{}]}}"#,
        r#"{"spec":{"policyTypes":["Ingress","Egress"],"egress":[{}]}}"#,
        r#"{"metadata":{"labels":null}}"#,
    ] {
        let words = ["-n", "shop", "patch", "networkpolicy", NAME, "--type=merge", "-p", damage];
        world.testbed.kubectl("east", &words)?;
        accepts(world, "east", "shop", wanted)?;
    }
    World::wait("its labels are there again", 10, || {
        let policy = world.get("east", &format!("-n shop networkpolicy {NAME}"))?;
        let labels = &policy["metadata"]["labels"];
        if labels.as_object().is_some_and(|labels| labels.len() == 2) {
            Ok(())
        } else {
            not_yet(labels)
        }
    })?;
    world.k("east", &format!("-n shop delete networkpolicy {NAME}"))?;
    accepts(world, "east", "shop", wanted)
}

fn gone(world: &World, cluster: &str) -> Result<()> {
    World::wait(&format!("nothing of ours is left in {cluster}"), 20, || {
        let all = world.k(cluster, "get networkpolicies -A -o name")?;
        if all.contains("slicewire-isolation") { not_yet(all) } else { Ok(()) }
    })
}

/// A slice that is deleted takes them along.
fn with_the_slice(world: &World) -> Result<()> {
    world.namespace("west", "alone", "")?;
    let config = json!({
        "apiVersion": "slicewire.dev/v1alpha1", "kind": "SliceConfig",
        "metadata": {"name": "alone", "namespace": PROJECT_NS},
        "spec": {
            "prefixes": ["10.99.0.0/20"], "clusters": [{"name": "west"}],
            "namespaceIsolationProfile": {"isolationEnabled": true,
                "applicationNamespaces": [{"namespace": "alone", "clusters": ["west"]}]},
        },
    });
    world.apply("hub", &config.to_string())?;
    World::wait("the namespace is isolated", 20, || {
        world.k("west", "-n alone get networkpolicy slicewire-isolation-alone")
    })?;
    world.delete_slice("alone")?;
    gone(world, "west")?;
    world.k("west", "delete namespace alone --wait=false")?;
    Ok(())
}
