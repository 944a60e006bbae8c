//! The cluster's own DNS, when what is added to it does not work.

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use slicewire_tests::world::World;

/// Serves a zone of ours in a way that nobody can read off the Corefile.
const HIDDEN: &str = "{$ZONE}:53 {\n    errors\n}\n";

/// CoreDNS does not start with our block in its Corefile: joining says so, the Corefile is as it was
/// before, and names are answered all the time. With the obstacle gone, joining again succeeds.
pub(crate) fn rollback(world: &mut World) -> Result<String> {
    let whole = corefile(world)?;
    let (usual, _) = whole.split_once("# slicewire: begin").context("no block of ours")?;
    let hidden = format!("{usual}{HIDDEN}");
    write(world, &hidden, "ZONE=slice.local")?;
    let token = world.token(&["--cluster", "west"])?;
    let joined = world.join("west", &token, &["--timeout", "45"]);
    let left = corefile(world)?;
    let names = "nslookup kubernetes.default.svc.cluster.local";
    let answered = world.sh("west", "shop", "web", names);

    write(world, usual, "ZONE-")?;
    world.join("west", &world.token(&["--cluster", "west"])?, &[])?;
    let Err(error) = joined else { bail!("CoreDNS serves slice.local twice") };
    let said = format!("{error:#}");
    ensure!(said.contains("the Corefile is as it was before"), "{said}");
    ensure!(left == hidden, "the Corefile was left as:\n{left}");
    answered.context("the cluster's own names")?;
    let kubeconfig = world.kubeconfig("west");
    let (code, said) = world.slicectl_ended(&["dns", "--kubeconfig", &kubeconfig])?;
    ensure!(code == Some(0) && said.contains("CoreDNS: asks the nodes"), "{said}");
    Ok("CoreDNS did not start with the block: taken back and told; joined again without obstacle"
        .to_owned())
}

fn corefile(world: &World) -> Result<String> {
    let map = world.get("west", "-n kube-system configmap coredns")?;
    map["data"]["Corefile"].as_str().map(str::to_owned).context("no Corefile")
}

/// Has CoreDNS run with this Corefile and environment.
fn write(world: &World, corefile: &str, environment: &str) -> Result<()> {
    let patch: Value = json!({"data": {"Corefile": corefile}});
    let words = ["-n", "kube-system", "patch", "configmap", "coredns", "--type=merge", "-p"];
    world.testbed.kubectl("west", &[&words[..], &[&patch.to_string()]].concat())?;
    world.k("west", &format!("-n kube-system set env deployment/coredns {environment}"))?;
    world.k("west", "-n kube-system rollout status deployment/coredns --timeout=60s")?;
    Ok(())
}
