//! Who may talk to whom, across clusters.

mod identity;
mod isolation;
mod preview;
mod standard;

use std::net::IpAddr;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use slicewire_testbed::moments::{answered, now};
use slicewire_tests::world::{PROJECT_NS, WORKERS, World, not_yet};

pub(crate) use identity::{first_packet, spoofing};
pub(crate) use isolation::isolation;
pub(crate) use preview::preview;
pub(crate) use standard::standard;

const EAST: (&str, &str, &str) = ("east", "shop", "web");
const FAR: (&str, &str, &str) = ("east", "shop", "far");

/// A policy that cuts exactly one pair, audit, a daemon that restarts under it, and its end.
pub(crate) fn policy(world: &mut World) -> Result<String> {
    let web = world.addresses("west", "shop", "web", "blue")?;
    let far = world.addresses("west", "shop", "far", "blue")?;
    for to in web.iter().chain(&far) {
        world.reaches(EAST, *to, 20)?;
        world.reaches(FAR, *to, 20)?;
    }
    let flow = Flow::start(world, EAST, web[0], 15)?;
    std::thread::sleep(Duration::from_secs(1));
    let applied = now();
    world.apply("hub", &cut("enforce"))?;
    let others = world.traffic(FAR, ("west", "shop", "web"), web[0], 8)?;
    programmed(world)?;
    let last = flow.last_answer()?;
    ensure!(last > applied, "the pair did not talk before");
    let took = last - applied;
    ensure!(took < 5.0, "the last answer came {took:.1} s after the policy");
    let lost = others.lost()?;
    ensure!(lost == 0, "{lost} packets of another pair were lost");
    pair_is_cut(world, &web, &far)?;

    hits(world, "hits")?;
    world.apply("hub", &cut("audit"))?;
    programmed(world)?;
    world.reaches(EAST, web[0], 10)?;
    hits(world, "wouldDrop")?;

    world.apply("hub", &cut("enforce"))?;
    programmed(world)?;
    World::wait("the pair is cut again", 10, || match world.reachable(EAST, web[0]) {
        true => not_yet("it talks"),
        false => Ok(()),
    })?;
    let kept = world.traffic(FAR, ("west", "shop", "web"), web[0], 20)?;
    let closed = Flow::start(world, EAST, web[0], 20)?;
    for cluster in WORKERS {
        let daemons = "-n slicewire-system rollout restart daemonset/slicewire-netop-daemon";
        world.k(cluster, daemons)?;
    }
    let lost = kept.lost()?;
    ensure!(lost == 0, "{lost} packets were lost while daemons restarted");
    ensure!(closed.last_answer().is_err(), "a cut pair talked while daemons restarted");

    world.k("hub", &format!("-n {PROJECT_NS} delete slicepolicy cut"))?;
    world.reaches(EAST, web[0], 15)?;
    for cluster in WORKERS {
        World::wait("the policy is gone from the clusters", 15, || {
            let left =
                world.k(cluster, "-n slicewire-system get slicerules,sliceendpoints -o name")?;
            if left.trim().is_empty() { Ok(()) } else { not_yet(left) }
        })?;
    }
    Ok(format!(
        "one pair cut {:.0} ms after kubectl began to apply it, no packet of another lost; audit counts; daemons restart under it",
        took * 1e3
    ))
}

/// What is refused, with every fault.
pub(crate) fn refusals(world: &mut World) -> Result<String> {
    let bad = format!(
        r#"{{"apiVersion": "slicewire.dev/v1alpha1", "kind": "SlicePolicy",
        "metadata": {{"name": "bad", "namespace": "{PROJECT_NS}"}},
        "spec": {{"slice": "blue", "priority": 5, "subject": {{"clusters": ["north"]}},
        "egress": [{{"peers": [{{"cidr": "10.0.0.0/8", "except": ["192.168.0.0/16"]}}],
                    "ports": [{{"port": 70000}}]}}]}}}}"#
    );
    let Err(error) = world.apply("hub", &bad) else { bail!("three faults were accepted") };
    let said = format!("{error:#}");
    for part in ["north", "192.168.0.0/16", "70000"] {
        ensure!(said.contains(part), "{part} is missing in one answer: {said}");
    }
    let neither = format!(
        r#"{{"apiVersion": "slicewire.dev/v1alpha1", "kind": "SlicePolicy",
        "metadata": {{"name": "bad", "namespace": "{PROJECT_NS}"}}, "spec": {{"slice": "blue"}}}}"#
    );
    let Err(error) = world.apply("hub", &neither) else { bail!("an empty policy was accepted") };
    let said = format!("{error:#}");
    ensure!(said.contains("either a priority") && said.contains("needs ingress"), "{said}");
    Ok("faults of policies are refused, all at once".to_owned())
}

/// Changes blue's settings.
fn settings(world: &World, spec: &Value) -> Result<String> {
    let patch = json!({"spec": spec}).to_string();
    let words = ["-n", PROJECT_NS, "patch", "sliceconfig", "blue", "--type=merge", "-p", &patch];
    world.testbed.kubectl("hub", &words)
}

fn cut(enforce: &str) -> String {
    format!(
        r#"{{"apiVersion": "slicewire.dev/v1alpha1", "kind": "SlicePolicy",
        "metadata": {{"name": "cut", "namespace": "{PROJECT_NS}"}},
        "spec": {{"slice": "blue", "priority": 10, "enforce": "{enforce}",
        "subject": {{"clusters": ["east"], "podSelector": {{"matchLabels": {{"app": "web"}}}}}},
        "egress": [{{"action": "Deny", "peers": [{{"clusters": ["west"],
            "podSelector": {{"matchLabels": {{"app": "web"}}}}}}]}}]}}}}"#
    )
}

fn programmed(world: &World) -> Result<()> {
    World::wait("the policy is carried out everywhere", 20, || {
        let policy = world.get("hub", &format!("-n {PROJECT_NS} slicepolicy cut"))?;
        let generation = &policy["metadata"]["generation"];
        let conditions = policy["status"]["conditions"].as_array().context("no conditions")?;
        let done = conditions.iter().any(|c| {
            c["type"] == "Programmed"
                && c["status"] == "True"
                && c["observedGeneration"] == *generation
        });
        if done { Ok(()) } else { not_yet(&policy["status"]) }
    })
}

fn hits(world: &World, field: &str) -> Result<()> {
    World::wait(&format!("{field} in the policy's status"), 40, || {
        let policy = world.get("hub", &format!("-n {PROJECT_NS} slicepolicy cut"))?;
        let count = policy["status"][field].as_i64().unwrap_or_default();
        ensure!(
            count > 0 && policy["status"]["unusedRules"] == Value::Null,
            "{}",
            policy["status"]
        );
        Ok(())
    })
}

fn pair_is_cut(world: &World, web: &[IpAddr], far: &[IpAddr]) -> Result<()> {
    for to in web {
        ensure!(!world.reachable(EAST, *to), "east's web still reaches {to}");
        world.reaches(FAR, *to, 1)?;
    }
    for to in far {
        world.reaches(EAST, *to, 1)?;
    }
    // The other way round nobody forbade it.
    for to in world.addresses("east", "shop", "web", "blue")? {
        world.reaches(("west", "shop", "web"), to, 1)?;
    }
    Ok(())
}

/// Pings that go on whatever comes back.
struct Flow(Child);

impl Flow {
    fn start(world: &World, from: (&str, &str, &str), to: IpAddr, seconds: u32) -> Result<Self> {
        let (cluster, ns, pod) = from;
        let line = format!("ping -D -i 0.01 -w {seconds} {to} || true");
        let child = world
            .testbed
            .kubectl_command(cluster)
            .args(["-n", ns, "exec", pod, "--", "sh", "-c", &line])
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start kubectl")?;
        Ok(Self(child))
    }

    /// When the last answer came, in seconds since 1970.
    fn last_answer(self) -> Result<f64> {
        let said = self.0.wait_with_output()?;
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        said.lines().filter_map(answered).next_back().context("no answer came at all")
    }
}
