//! A policy that cuts exactly one pair of pods, each in another cluster.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use slicewire_testbed::Testbed;
use slicewire_testbed::moments::{answered, now};
use slicewire_testbed::process::wait_for;

use crate::clusters::{Demo, NAMESPACE};
use crate::pods::Pod;
use crate::show::Evidence;

const POLICY: &str = "
apiVersion: slicewire.dev/v1alpha1
kind: SlicePolicy
metadata: {name: no-orders, namespace: slicewire-demo}
spec:
  slice: SLICE
  priority: 10
  subject: {clusters: [east], podSelector: {matchLabels: {app: client}}}
  egress:
  - {action: Deny, peers: [{clusters: [west], podSelector: {matchLabels: {app: server}}}]}
";

/// Cuts east's client off from west's server, while they talk; everybody else goes on.
pub(crate) fn cut(
    demo: &Demo,
    client: &Pod<'_>,
    server: &Pod<'_>,
    evidence: &Evidence,
) -> Result<((), String)> {
    let testbed = &demo.testbed;
    let other_client = Pod::find(testbed, "west", NAMESPACE, "client")?;
    let other_server = Pod::find(testbed, "east", NAMESPACE, "server")?;
    let (far, near) = (first(server)?, first(&other_server)?);
    let cut = watch(testbed, client, far).and_then(|took| {
        ensure!(!answers(client, far), "{} still reaches {far}", client.spell());
        for (pod, to) in [(client, near), (&other_client, far), (&other_client, near)] {
            ensure!(answers(pod, to), "{} does not reach {to}, which nobody forbade", pod.spell());
            evidence.quote(&format!("{} reaches {to}", pod.spell()));
        }
        Ok(took)
    });
    testbed.kubectl(
        "hub",
        &["-n", "slicewire-demo", "delete", "--ignore-not-found", "slicepolicy", "no-orders"],
    )?;
    let took = cut?;
    wait_for("the pair to talk again", Duration::from_secs(20), || answers(client, far))?;
    Ok((
        (),
        format!(
            "in force {took:.0} ms after kubectl began; the others went on, and so did the pair when it was deleted"
        ),
    ))
}

/// Applies the policy while the pair talks; milliseconds from then to the last answer.
fn watch(testbed: &Testbed, client: &Pod<'_>, far: IpAddr) -> Result<f64> {
    let policy = POLICY.replace("SLICE", crate::clusters::SLICE);
    let line = format!("ping -D -i 0.01 -w 8 {far} || true");
    let (applied, talked) = std::thread::scope(|scope| -> Result<(f64, String)> {
        let talking = scope.spawn(|| client.run(&["sh", "-c", &line]));
        std::thread::sleep(Duration::from_secs(2));
        let applied = now();
        testbed.apply("hub", &policy)?;
        let Ok(talked) = talking.join() else { bail!("ping could not be run") };
        Ok((applied, talked?))
    })?;
    let last = talked.lines().filter_map(answered).next_back();
    let last = last.context("the pair never talked")?;
    ensure!(last > applied, "the pair did not talk when the policy was applied");
    Ok((last - applied) * 1e3)
}

fn first(pod: &Pod<'_>) -> Result<IpAddr> {
    pod.slice_addresses()?.first().copied().context("a pod has no slice address")
}

fn answers(pod: &Pod<'_>, to: IpAddr) -> bool {
    pod.run(&["ping", "-c", "2", "-i", "0.2", "-W", "1", &to.to_string()]).is_ok()
}
