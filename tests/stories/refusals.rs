//! What is refused, and how it is told.

use anyhow::{Context, Result, bail, ensure};
use slicewire_tests::world::{PROJECT_NS, World};

pub(crate) fn bad_input(world: &mut World) -> Result<String> {
    let running = world.get("hub", &format!("-n {PROJECT_NS} sliceconfig blue"))?;
    let refusals = [
        ("overlapping prefixes", "a", r#""10.1.0.0/16", "10.1.2.0/24""#, "east", "overlap"),
        ("a malformed prefix", "a", r#""10.1.0.0/33""#, "east", "CIDR"),
        ("host bits", "a", r#""10.1.2.3/16""#, "east", "bits set"),
        ("an unknown cluster", "a", r#""10.1.0.0/16""#, "north", "north"),
        ("a name too long", &"n".repeat(41), r#""10.1.0.0/16""#, "east", "40"),
        ("a prefix too small", "a", r#""10.1.0.0/32""#, "east", "10.1.0.0/32"),
    ];
    for (what, name, prefixes, cluster, expected) in refusals {
        match world.apply("hub", &config(name, prefixes, &[cluster])) {
            Ok(_) => bail!("{what} was accepted"),
            Err(error) => {
                let said = format!("{error:#}");
                ensure!(said.contains(expected), "{what}: the refusal does not say why: {said}");
            }
        }
    }
    // All faults of one object come in one answer.
    let yaml = config("many", r#""10.1.0.0/32""#, &["north", "south"]);
    let Err(error) = world.apply("hub", &yaml) else { bail!("three faults were accepted") };
    let said = format!("{error:#}");
    for part in ["north", "south", "10.1.0.0/32"] {
        ensure!(said.contains(part), "{part} is missing in one answer: {said}");
    }
    // A forbidden change leaves the slice as it is.
    let Err(_) = world.apply("hub", &config("blue", r#""10.55.0.0/16""#, &["east", "west"])) else {
        bail!("taking away a prefix in use was accepted")
    };
    let still = world.get("hub", &format!("-n {PROJECT_NS} sliceconfig blue"))?;
    ensure!(still["spec"] == running["spec"], "the running slice was changed");
    Ok(format!("{} kinds of bad input refused with their reasons", refusals.len() + 2))
}

fn config(name: &str, prefixes: &str, clusters: &[&str]) -> String {
    let clusters: Vec<_> = clusters.iter().map(|c| format!(r#"{{"name": "{c}"}}"#)).collect();
    format!(
        r#"{{"apiVersion": "slicewire.dev/v1alpha1", "kind": "SliceConfig",
        "metadata": {{"name": "{name}", "namespace": "{PROJECT_NS}"}},
        "spec": {{"prefixes": [{prefixes}], "clusters": [{}]}}}}"#,
        clusters.join(", ")
    )
}

/// What east's credential opens on the hub, asked with that credential.
pub(crate) fn credential(world: &mut World) -> Result<String> {
    let template = "go-template={{.data.token|base64decode}}";
    let token =
        world.k("east", &format!("-n slicewire-system get secret slicewire-hub -o {template}"))?;
    let server =
        world.k("hub", "config view --minify -o jsonpath={.clusters[0].cluster.server}")?;
    let may = |words: &str| -> Result<bool> {
        let mut command = std::process::Command::new(world.testbed.tools.program("kubectl"));
        command.args(["--kubeconfig", "/dev/null", "--insecure-skip-tls-verify"]);
        command.args(["--server", server.trim(), "--token", token.trim()]);
        let said = command.args(words.split_whitespace()).output().context("kubectl")?;
        Ok(said.status.success())
    };
    let own = "slicewire-demo--east";
    ensure!(may(&format!("-n {own} get workerslices"))?, "it cannot read its own namespace");
    let refused = [
        "get workerslices -A".to_owned(),
        "get projects".to_owned(),
        "get namespaces".to_owned(),
        "get secrets -A".to_owned(),
        format!("-n {PROJECT_NS} get sliceconfigs"),
        format!("-n {PROJECT_NS} get clusters"),
        "-n slicewire-demo--west get workerslices".to_owned(),
        "-n slicewire-demo--west get workergateways".to_owned(),
        "-n slicewire-demo--west get clusters".to_owned(),
        "-n slicewire-demo--west create token worker".to_owned(),
        format!("-n {own} get secrets"),
        format!("-n {own} delete workerslice blue"),
        format!("-n {own} patch workerslice blue --type=merge -p {{\"spec\":{{\"mtu\":1300}}}}"),
        format!("-n {own} create serviceaccount intruder"),
    ];
    for words in &refused {
        ensure!(!may(words)?, "a worker's credential may: kubectl {words}");
    }
    Ok(format!("its own namespace opens; {} other requests are refused", refused.len()))
}
