//! What a change would open and close, told before it is made.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use slicewire_tests::world::{PROJECT_NS, WORKERS, World};

use super::{cut, programmed};

/// A file that goes when the story ends.
struct File(PathBuf);

impl File {
    fn new(name: &str, text: &str) -> Result<Self> {
        let path = std::env::temp_dir().join(format!("slicewire-{}-{name}", std::process::id()));
        std::fs::write(&path, text).with_context(|| path.display().to_string())?;
        Ok(Self(path))
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A policy is compared before it is there, while it is in audit mode, and before it goes.
pub(crate) fn preview(world: &mut World) -> Result<String> {
    let (wanted, audit) = (File::new("cut", &cut("enforce"))?, File::new("audit", &cut("audit"))?);
    let told = differs(world, &wanted, &[], 2)?;
    ensure!(told.contains("the label app") && told.contains("--cluster"), "{told}");

    let workers: Vec<String> = WORKERS
        .iter()
        .flat_map(|name| ["--cluster".to_owned(), format!("{name}={}", world.kubeconfig(name))])
        .collect();
    let workers: Vec<&str> = workers.iter().map(String::as_str).collect();
    let told = differs(world, &wanted, &workers, 1)?;
    one_pair(&told, "closes")?;
    one_pair(&differs(world, &audit, &workers, 1)?, "audits")?;

    world.apply("hub", &cut("audit"))?;
    programmed(world)?;
    let told = World::wait("the hub is told of the pods", 20, || {
        let told = differs(world, &wanted, &[], 1)?;
        one_pair(&told, "closes").map(|()| told)
    })?;
    world.apply("hub", &cut("enforce"))?;
    programmed(world)?;
    differs(world, &wanted, &[], 0)?;
    let hub = world.kubeconfig("hub");
    let (code, gone) =
        world.slicectl_ended(&["policy", "diff", "--delete", "demo/cut", "--kubeconfig", &hub])?;
    ensure!(code == Some(1), "ended with {code:?}: {gone}");
    one_pair(&gone, "opens")?;
    let (code, listed) = world.slicectl_ended(&["policy", "list", "--kubeconfig", &hub])?;
    ensure!(code == Some(0), "ended with {code:?}: {listed}");
    for part in ["cut", "admin 10", "egress Deny", "enforce", "east", "west", "yes"] {
        ensure!(listed.contains(part), "{part} is not in {listed}");
    }
    refused(world)?;
    world.k("hub", &format!("-n {PROJECT_NS} delete slicepolicy cut"))?;
    let row = told.lines().find(|line| line.starts_with("closes")).unwrap_or_default();
    Ok(format!("told before it was so: {}", row.split_whitespace().collect::<Vec<_>>().join(" ")))
}

/// `slicectl policy diff` of a file; what it says when it ends as expected.
fn differs(world: &World, file: &File, more: &[&str], expected: i32) -> Result<String> {
    let (hub, path) = (world.kubeconfig("hub"), file.0.display().to_string());
    let words = [&["policy", "diff", "--kubeconfig", &hub, "-f", &path], more].concat();
    let (code, said) = world.slicectl_ended(&words)?;
    ensure!(code == Some(expected), "ended with {code:?}, not {expected}: {said}");
    Ok(said)
}

fn one_pair(said: &str, effect: &str) -> Result<()> {
    let rows: Vec<&str> = said.lines().filter(|line| line.contains(" -> ")).collect();
    let pair = ["east/shop/web", "west/shop/web", "every protocol and port"];
    let right = rows.len() == 1
        && rows[0].starts_with(effect)
        && pair.iter().all(|part| rows[0].contains(part));
    ensure!(right, "not one pair that {effect}: {said}");
    Ok(())
}

/// What the hub would refuse is refused, with all faults, and nothing is stored.
fn refused(world: &World) -> Result<()> {
    let bad = cut("enforce").replace("\"east\"", "\"north\"").replace("\"west\"", "\"south\"");
    let told = differs(world, &File::new("bad", &bad)?, &[], 2)?;
    ensure!(told.contains("north") && told.contains("south"), "{told}");
    let typo = cut("enforce").replace("\"peers\"", "\"peer\"");
    let told = differs(world, &File::new("typo", &typo)?, &[], 2)?;
    ensure!(told.contains("spec.egress[0].peer"), "{told}");
    let stored = world.k("hub", &format!("-n {PROJECT_NS} get slicepolicy cut -o yaml"))?;
    ensure!(stored.contains("- east") && !stored.contains("north"), "{stored}");
    Ok(())
}
