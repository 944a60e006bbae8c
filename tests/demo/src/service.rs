//! A Service of both clusters, used by one name, while its endpoint in one of them ends.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use slicewire_testbed::Testbed;
use slicewire_testbed::moments::{outcomes, requests, uptime};
use slicewire_testbed::process::wait_for;

use crate::clusters::{NAMESPACE, WORKERS};
use crate::pods::Pod;
use crate::show::Evidence;

const URL: &str = "http://server.shop.svc.clusterset.local/";
/// Seconds after its end began in which an endpoint may still be tried.
const SWITCH: f64 = 3.0;

const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: server, namespace: shop}
spec:
  selector: {app: server}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: multicluster.x-k8s.io/v1beta1
kind: ServiceExport
metadata: {name: server, namespace: shop}
";

/// Exports the servers of both clusters, and ends the one beside the client while it asks.
///
/// # Errors
/// The name leads nowhere, or a request fails after the switch.
pub(crate) fn by_name(
    testbed: &Testbed,
    client: &Pod<'_>,
    evidence: &Evidence,
) -> Result<((), String)> {
    for cluster in WORKERS {
        testbed.apply(cluster, SERVICE)?;
    }
    let curl = ["curl", "-sS", "--max-time", "2", URL];
    wait_for("the name to be answered", Duration::from_secs(30), || client.run(&curl).is_ok())?;
    evidence.quote(&format!("$ curl {URL}\n{}", client.run(&curl)?));
    let outcome = switch(testbed, client);
    scale(testbed, 1)?;
    outcome
}

fn scale(testbed: &Testbed, replicas: u8) -> Result<()> {
    let replicas = format!("--replicas={replicas}");
    let words = ["-n", NAMESPACE, "scale", "deployment", "server", &replicas];
    testbed.kubectl("east", &words).map(drop)
}

fn switch(testbed: &Testbed, client: &Pod<'_>) -> Result<((), String)> {
    let line = requests(URL, 10);
    let (ended, said) = std::thread::scope(|scope| -> Result<(f64, String)> {
        let asking = scope.spawn(|| client.run(&["sh", "-c", &line]));
        std::thread::sleep(Duration::from_secs(2));
        let ended = uptime()?;
        scale(testbed, 0)?;
        let Ok(said) = asking.join() else { bail!("the requests could not be run") };
        Ok((ended, said?))
    })?;
    let requests = outcomes(&said);
    let failed: Vec<f64> =
        requests.iter().filter(|(_, ok)| !ok).map(|(at, _)| at - ended).collect();
    let after = requests.iter().filter(|(at, _)| *at > ended + SWITCH).count();
    ensure!(after > 10, "there were only {after} requests after the switch:\n{said}");
    ensure!(
        failed.iter().all(|after| (0.0..SWITCH).contains(after)),
        "requests failed {failed:?} s after the endpoint's end began"
    );
    Ok((
        (),
        format!(
            "{} requests, the nearer endpoint ended meanwhile: {} failed, none after {SWITCH} s",
            requests.len(),
            failed.len()
        ),
    ))
}
