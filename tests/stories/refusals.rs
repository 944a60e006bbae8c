//! What is refused, and how it is told.

use anyhow::{Result, bail, ensure};
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
