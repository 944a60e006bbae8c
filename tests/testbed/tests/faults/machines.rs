//! Faults of machines and what runs on them.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::bed::{Bed, until};

pub(crate) fn power_off(bed: &Bed) -> Result<String> {
    bed.run("fault power-off west-1")?;
    ensure!(bed.run("status")?.contains("OFF"), "the status does not tell");
    let said = bed.refused("exec west-1 true")?;
    ensure!(said.contains("fault power-on west-1"), "no word of what to do: {said}");
    Ok("off in the status, commands refused".to_owned())
}

/// Some time after [`power_off`].
pub(crate) fn power_on(bed: &Bed) -> Result<String> {
    // A check that failed in between may have mended everything.
    bed.run("fault power-off west-1")?;
    let noticed = until("west notices that its node is off", 90, || Ok(ready(bed)? == "Unknown"))?;
    bed.run("fault power-on west-1")?;
    let back = until("west-1 is ready again", 60, || Ok(ready(bed)? == "True"))?;
    Ok(format!(
        "noticed {:.0} s after the other checks; ready {:.1} s after power-on",
        noticed.as_secs_f64(),
        back.as_secs_f64()
    ))
}

/// What west's API says of its node.
fn ready(bed: &Bed) -> Result<String> {
    let query = r#"{.status.conditions[?(@.type=="Ready")].status}"#;
    Ok(bed.run(&format!("kubectl west get node west-1 -o jsonpath={query}"))?.trim().to_owned())
}

pub(crate) fn kill(bed: &Bed) -> Result<String> {
    let before = bed.pids("east-1", "kubelet")?;
    ensure!(before.len() == 1, "not one kubelet: {before:?}");
    bed.run("fault kill east-1 kubelet")?;
    let back = until("kubelet is started again", 20, || {
        let now = bed.pids("east-1", "kubelet")?;
        Ok(now.len() == 1 && now != before)
    })?;
    let state = || bed.sh("east-1", "sed -n 's/^State:.//p' /proc/$(pgrep -x kube-proxy)/status");
    bed.run("fault kill east-1 kube-proxy --signal STOP")?;
    until("kube-proxy is stopped", 5, || Ok(state()?.starts_with('T')))?;
    bed.run("fault kill east-1 kube-proxy --signal CONT")?;
    until("kube-proxy goes on", 5, || Ok(!state()?.starts_with('T')))?;
    // In a container, too.
    bed.sh("east-1", "pgrep -x coredns")?;
    bed.run("fault kill east-1 coredns")?;
    until("the container is started again", 60, || Ok(!bed.pids("east-1", "coredns")?.is_empty()))?;
    Ok(format!("another kubelet after {:.1} s; STOP and CONT; a container", back.as_secs_f64()))
}

pub(crate) fn stop_and_start(bed: &Bed) -> Result<String> {
    bed.run("fault stop east-1 kubelet")?;
    ensure!(bed.pids("east-1", "kubelet")?.is_empty(), "kubelet still runs");
    ensure!(bed.run("status")?.contains("kubelet stopped"), "the status does not tell");
    sleep(Duration::from_secs(2));
    ensure!(bed.pids("east-1", "kubelet")?.is_empty(), "kubelet was started again");
    bed.run("fault start east-1 kubelet")?;
    let back = until("kubelet runs", 30, || Ok(bed.pids("east-1", "kubelet")?.len() == 1))?;
    Ok(format!("gone for as long as asked for, back after {:.1} s", back.as_secs_f64()))
}

pub(crate) fn api_server(bed: &Bed) -> Result<String> {
    bed.run("kubectl east create configmap -n default kept")?;
    bed.run("fault api-stop east")?;
    let said = bed.refused("kubectl east get --raw /readyz --request-timeout=5s")?;
    ensure!(bed.run("status")?.contains("NOT ready"), "the status does not tell");
    bed.run("kubectl west get --raw /readyz")?;
    bed.run("fault api-start east")?;
    bed.run("kubectl east get --raw /readyz")?;
    bed.run("kubectl east delete configmap -n default kept")?;
    Ok(format!("\"{}\", ready when the command returned, objects kept", said.trim()))
}

pub(crate) fn refusals(bed: &Bed) -> Result<String> {
    let cases = [
        ("fault cut nowhere", "west-1"),
        ("fault delay --between east nowhere --ms 1", "west-1"),
        ("fault delay --between east-1 east-1 --ms 1", "same machine"),
        ("fault delay --between east west --loss 120 --reorder=-3", "0 to 100"),
        ("fault stop east-1 etcd", "kube-proxy"),
        ("fault kill east-1 nothing", "runs no 'nothing'"),
        ("fault kill east-1 kubelet --signal FOO", "KILL"),
        ("fault shape east-1 --rate fast", "rate"),
        ("fault api-stop nowhere", "east"),
        ("up --cluster other:1", "take it down first"),
    ];
    for (words, told) in cases {
        let said = bed.refused(words)?;
        ensure!(said.contains(told), "testbed {words}: no word of '{told}' in: {said}");
    }
    ensure!(!bed.run("status")?.contains("faults:"), "a refused fault is in force");
    Ok(format!("{} of them", cases.len()))
}
